"""What interventions cost the continuation: the same variables for perturbation, patching and ablation."""

from collections.abc import Mapping, Sequence

from memhooks.measure.recitation import exact_match
from memhooks.model.labelled import Variable
from memhooks.model.replay.scoring import Outcome


def damage(
    clean: Outcome, after: Outcome, axes: tuple[str, ...], labels: Mapping[str, Sequence]
) -> dict[str, Variable]:
    """NLL rise, EM drop, match drop (and KL, where it was read) of every intervention, beside the untouched scores.

    Args:
        clean: one row per paragraph, without any intervention.
        after: one row per paragraph and intervention, paragraph by paragraph.
        axes: `paragraph` and those of the interventions.
        labels: of all axes.
    """
    shape = tuple(len(labels[axis]) for axis in axes)
    per_paragraph = (shape[0], *[1] * (len(shape) - 1))
    nll, matches, em = (one.reshape(shape) for one in (after.nll.mean(-1), after.hits.sum(-1), exact_match(after.hits)))
    clean_nll, clean_matches, clean_em = clean.nll.mean(-1), clean.hits.sum(-1), exact_match(clean.hits)
    found = {
        "nll_rise": Variable(
            nll - clean_nll.reshape(per_paragraph), axes, "nats per continuation token, 0 = no effect", labels
        ),
        "em_drop": Variable(clean_em.reshape(per_paragraph) - em, axes, "tokens of exact match lost, 0 = no effect"),
        "match_drop": Variable(
            clean_matches.reshape(per_paragraph) - matches, axes, "matching tokens lost, 0 = no effect"
        ),
        "nll": Variable(clean_nll, ("paragraph",), "nats per continuation token, untouched"),
        "exact_match": Variable(clean_em, ("paragraph",), "tokens before the first miss, untouched"),
    }
    if "kl" in after.read:
        unit = "nats, KL of the next-token distribution from the untouched one, mean over the continuation; 0 = same"
        found["kl"] = Variable(after.read["kl"].reshape(shape), axes, unit)
    return found
