"""What is forgotten, what is kept and what gives it away: one call before unlearning, one after.

1. `untouched` measures the model while it is as it was, and stores what later comparisons need.
2. The weights change: in place, by any method.
3. `evaluate` measures the same again and puts both side by side, with intervals over clusters of near-duplicates.

`measures="core"` takes four passes over the sets, for comparisons that call it a thousand times; `"all"` also asks for
shallow forgetting, speaks, and attacks membership (`forgotten`, `kept`, `privacy`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from memhooks.errors import InputError
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import model_hash, tensor_hash
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import check_apart, clusters
from memhooks.unlearn.evaluation_checks import check_bare, check_same, check_sets, check_twin, shape_of
from memhooks.unlearn.forgotten import Measures, check_measures, forgotten, forgotten_rows
from memhooks.unlearn.kept import (
    HELD_OUT_ROWS,
    OTHERS_ROWS,
    HeldOutReference,
    continuation_log_probabilities,
    generation_health,
    health_rows,
    held_out_kept,
    held_out_reference,
    others_kept,
    pooled_rows,
)
from memhooks.unlearn.privacy import DISTANCE_ROWS, SCORES, distance_to_twin, membership_rows, membership_scores
from memhooks.unlearn.rows import Estimated, Row, mean_rows, ratio_row, table

Nodes = dict[str, xr.Dataset]

_TO_TWIN = Row("forget: NLL over the twin's", "forgotten", "ratio of means, 1 = as surprised as the twin", "1")


@dataclass(frozen=True, repr=False)
class Untouched:
    """The model as it was, measured: what `untouched` returns and `evaluate` compares with.

    Attributes:
        sets: the paragraphs `forget`, `others` and `held_out`.
        clusters: of each set's near-duplicates.
        reference: what the model said of the held-out text.
        before: its measures, by set.
        twin: the twin's, by set; empty without one.
        twin_log_probabilities: of the forget set's continuations, if there is a twin and `measures` is `all`.
        measures: `core` or `all`.
        seed: of prompts and intervals.
        shape: layers, width and vocabulary of the model.
        model_hash: of its weights.
    """

    sets: Mapping[str, Paragraphs]
    clusters: Mapping[str, np.ndarray]
    reference: HeldOutReference
    before: Nodes
    twin: Nodes
    twin_log_probabilities: Float[Tensor, "paragraph scored d_vocab"] | None
    measures: Measures
    seed: int
    shape: tuple[int, int, int]
    model_hash: str

    def of_forget(self, rows: Sequence[int]) -> "Untouched":
        """The same for some of the forget set alone, without measuring anything again."""
        chosen = list(rows)
        sets = {**self.sets, "forget": self.sets["forget"].select(chosen)}
        nodes = [
            {**one, "forget": one["forget"].isel(paragraph=chosen)} if one else one for one in (self.before, self.twin)
        ]
        theirs = None if self.twin_log_probabilities is None else self.twin_log_probabilities[chosen]
        return replace(
            self,
            sets=sets,
            clusters={**self.clusters, "forget": self.clusters["forget"][chosen]},
            before=nodes[0],
            twin=nodes[1],
            twin_log_probabilities=theirs,
        )

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(one)} {name}" for name, one in self.sets.items())
        return f"Untouched(model {self.model_hash}, {sizes}, {self.measures}, {'with' if self.twin else 'no'} twin)"


def untouched(  # noqa: PLR0913 - three sets, and one word each on how they are measured
    model: HookedModel,
    forget: Paragraphs,
    *,
    others: Paragraphs,
    held_out: Paragraphs,
    twin: HookedModel | None = None,
    seed: int = 0,
    measures: Measures = "core",
    allow_shared: bool = False,
) -> Untouched:
    """Measure the model before it is changed, and keep what later comparisons need.

    Args:
        model: a hooked GPT-Neo, as it was.
        forget: the paragraphs to forget.
        others: other memorized paragraphs, which should stay; none of them may be used to unlearn.
        held_out: text that the model never read and that is not used to unlearn either.
        twin: a model that never read the forget set: what forgetting should end in.
        seed: of changed prompts and of intervals.
        measures: `core` or `all`; an evaluation may ask for less later, not for more.
        allow_shared: let the forget set share near-duplicates with the others.

    Raises:
        InputError: sets of other lengths or that share near-duplicates, paragraphs that the model cannot read, a model
            with hooks or in train mode, a twin of another vocabulary, or unknown `measures`.

    Example:
        >>> import memhooks
        >>> model = memhooks.load_model("organism")
        >>> forget, others = memhooks.load_planted("A", at_least=128).select(slice(0, 2)).parts(1, 1)
        >>> held_out = memhooks.load_controls("held_out").select(slice(0, 1))
        >>> memhooks.untouched(model, forget, others=others, held_out=held_out)
        Untouched(model 38091dc2511e4d78, 1 forget, 1 others, 1 held_out, core, no twin)
    """
    check_measures(measures)
    sets = {"forget": forget, "others": others, "held_out": held_out}
    check_sets(model, sets)
    check_apart(sets, allow_shared=allow_shared)
    check_bare(model)
    if twin is not None:
        check_twin(twin, model, sets)
    reference = held_out_reference(model, held_out)
    theirs = continuation_log_probabilities(twin, forget) if twin is not None and measures == "all" else None
    about = Untouched(
        sets,
        {name: clusters(one).numpy() for name, one in sets.items()},
        reference,
        {},
        {} if twin is None else _of_twin(twin, sets, measures=measures, seed=seed),
        theirs,
        measures,
        seed,
        shape_of(model),
        model_hash(model),
    )
    return replace(about, before=_measured(model, about, measures))


def evaluate(model: HookedModel, before: Untouched, *, measures: Measures | None = None) -> xr.DataTree:
    """Measure the model as it is now, beside what it was.

    Args:
        model: the model that `before` is of, changed.
        before: what `untouched` returned.
        measures: `core` or `all`; by default what `before` measured.

    Returns:
        Tree of four results. `summary`, over `row` (such as "forget: exact match"): `before`, `after`, `change` and
        `twin`, each with the ends of its 95 % interval (`_low`, `_high`; NaN for a set of one cluster), and `about`
        (forgotten, kept or privacy), `unit` and `ideal`. `forget`, `others` and `held_out`, over `paragraph`: each
        measure with `_before`, `_after` and, of the forget set, `_twin`.

    Raises:
        InputError: unknown `measures` or more than were measured before, another model, or one with hooks or in
            train mode.

    Example:
        >>> import memhooks
        >>> model = memhooks.load_model("organism")
        >>> forget, others = memhooks.load_planted("A", at_least=128).select(slice(0, 2)).parts(1, 1)
        >>> held_out = memhooks.load_controls("held_out").select(slice(0, 1))
        >>> before = memhooks.untouched(model, forget, others=others, held_out=held_out)
        >>> found = memhooks.evaluate(model, before)  # nothing was unlearned yet
        >>> sorted(found.children)
        ['forget', 'held_out', 'others', 'summary']
        >>> found["summary"].to_dataset()[["before", "after"]].sel(row="forget: exact match").to_array().values
        array([50., 50.])
    """
    asked: Measures = before.measures if measures is None else measures
    check_measures(asked)
    if asked == "all" and before.measures == "core":
        raise InputError("only 'core' was measured before the change; call untouched(..., measures='all') first")
    check_bare(model)
    check_same(model, before.shape)
    after = _measured(model, before, asked)
    about = {
        "model_hash_before": before.model_hash,
        "model_hash": model_hash(model),
        "measures": asked,
        "seed": before.seed,
    } | {f"{name}_hash": tensor_hash(one.tokens) for name, one in before.sets.items()}
    nodes = {name: _beside(name, before, after) for name in before.sets}
    return xr.DataTree.from_dict({"summary": table(_rows(before, after), about)} | nodes)


def summary_row(tree: xr.DataTree) -> dict[str, float]:
    """The point values of an evaluation for one row of a larger table: each measure after, and its change.

    A measure's key is its label in `summary`, such as "forget: exact match"; its change is at "<label>, change".
    """
    rows = tree["summary"].to_dataset()
    labels = [str(label) for label in rows["row"].values]
    after = dict(zip(labels, map(float, rows["after"].values), strict=True))
    change = {f"{label}, change": float(value) for label, value in zip(labels, rows["change"].values, strict=True)}
    return after | change


def _measured(model: HookedModel, before: Untouched, measures: Measures) -> Nodes:
    sets = before.sets
    found = {
        "forget": forgotten(model, sets["forget"], measures=measures, seed=before.seed),
        "others": others_kept(model, sets["others"]),
        "held_out": held_out_kept(model, before.reference),
    }
    if measures == "core":
        return found
    for name in ("forget", "held_out"):
        more = [generation_health(model, sets[name]), membership_scores(model, sets[name])]
        found[name] = found[name].merge(xr.merge(more, combine_attrs="drop"))
    if before.twin_log_probabilities is not None:
        apart = distance_to_twin(model, sets["forget"], before.twin_log_probabilities)
        found["forget"] = found["forget"].merge(apart)
    return found


def _of_twin(twin: HookedModel, sets: Mapping[str, Paragraphs], *, measures: Measures, seed: int) -> Nodes:
    own = forgotten(twin, sets["forget"], measures=measures, seed=seed)
    if measures == "core":
        return {"forget": own}
    scores = {name: membership_scores(twin, sets[name]) for name in ("forget", "held_out")}
    return {"forget": own.merge(scores["forget"]), "held_out": scores["held_out"]}


def _beside(name: str, before: Untouched, after: Nodes) -> xr.Dataset:
    """One set's measures under each model, told apart by suffix; those asked for now."""
    models = {"before": before.before[name], "after": after[name]}
    if name in before.twin:
        models["twin"] = before.twin[name]
    chosen = {
        column: result[[key for key in after[name] if key in result]].rename(
            {key: f"{key}_{column}" for key in after[name] if key in result}
        )
        for column, result in models.items()
    }
    merged = xr.merge(list(chosen.values()), combine_attrs="drop")
    return merged.assign_attrs(after[name].attrs | {"model_hash_before": before.model_hash})


def _rows(before: Untouched, after: Nodes) -> list[Estimated]:
    own, seed = before.clusters, before.seed

    def means(name: str, rows: Mapping[str, Row], *, twin: bool = False) -> list[Estimated]:
        measured = {"before": before.before[name], "after": after[name]}
        if twin and name in before.twin:
            measured["twin"] = before.twin[name]
        return mean_rows(rows, measured, clusters=own[name], seed=seed)

    found = means("forget", forgotten_rows(twin=bool(before.twin)), twin=True)
    if before.twin:
        nll = [result["forget"]["nll"].values for result in (before.before, after, before.twin)]
        found.insert(3, ratio_row(_TO_TWIN, *nll, clusters=own["forget"], seed=seed))  # beside the NLL itself
    found += means("others", OTHERS_ROWS) + means("held_out", HELD_OUT_ROWS)
    found += pooled_rows(before.before["held_out"], after["held_out"], clusters=own["held_out"], seed=seed)
    if "entropy" not in after["forget"]:
        return found
    for name in ("forget", "held_out"):
        found += means(name, health_rows(name.replace("_", " ")))
    models = {"before": before.before, "after": after} | ({"twin": before.twin} if before.twin else {})
    scores = [
        {column: nodes[name][list(SCORES)] for column, nodes in models.items()} for name in ("forget", "held_out")
    ]
    found += membership_rows(*scores, clusters=(own["forget"], own["held_out"]), seed=seed)
    return found + (means("forget", DISTANCE_ROWS) if before.twin else [])
