"""Every measure of every paragraph under one model: the table that curves, tests and thresholds are made of.

1. Recitation and the probability of the whole continuation come from one pass.
2. Gradients of each paragraph alone: their size, and the centre of mass of the layers' shares under two poolings.
3. Attention of one head, chosen on other text, to rare prefix tokens; and of the head that has most.
4. On some paragraphs of each level: the damage of replacing each prefix token, and the steps to unlearn.
"""

from dataclasses import asdict, dataclass

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Num
from torch import Tensor

from memhooks.errors import InputError
from memhooks.localize.attention import rare_token_attention
from memhooks.localize.attribution import weight_scores
from memhooks.localize.profile import centre_of_mass, layer_shares
from memhooks.measure.perturbation import perturb
from memhooks.measure.recitation import recitation
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance, tensor_hash
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters
from memhooks.truth.dose.levels import counts_of, drawn_of_each, levels
from memhooks.truth.dose.measures import MEASURES
from memhooks.truth.dose.reading_times import ReadingTimes, unknown_times
from memhooks.unlearn.breaking import steps_to_break

Values = dict[str, Float[np.ndarray, " paragraph"]]


@dataclass(frozen=True)
class DoseSettings:
    """How the dear measures are taken.

    Attributes:
        n_per_level: paragraphs of each level that are perturbed and unlearned; 0 leaves these measures out.
        n_steps: updates of unlearning, at most; what is not unlearned by then counts with all of them.
        lr: step size of unlearning.
        fraction: of the weights that may move: those with the paragraph's own largest gradient.
        seed: of everything random.
    """

    n_per_level: int = 4
    n_steps: int = 32
    lr: float = 4e-4
    fraction: float = 0.001
    seed: int = 0

    def check(self) -> "DoseSettings":
        """These settings, if they can be used.

        Raises:
            InputError: a number below 0, or no steps.
        """
        if self.n_per_level < 0 or self.n_steps < 1:
            raise InputError(
                f"n_per_level must be at least 0 and n_steps at least 1, got {self.n_per_level} and {self.n_steps}"
            )
        return self


@dataclass(frozen=True)
class RareHead:
    """The head whose attention is followed, chosen on other text, and the counts that say what is rare."""

    layer: int
    head: int
    counts: Num[Tensor, " d_vocab"]

    @property
    def name(self) -> str:
        """Such as L0H6."""
        return f"L{self.layer}H{self.head}"


def rare_head(model: HookedModel, control: Paragraphs, counts: Num[Tensor, " d_vocab"]) -> RareHead:
    """The head whose attention goes with rarity most, on average over text that is not part of the dose response.

    Raises:
        InputError: as `rare_token_attention`.
    """
    found = rare_token_attention(model, control, counts, seed=0, n_shuffles=1)["spearman"].isel(query=0)
    mean = found.mean("paragraph").transpose("layer", "head").values
    layer, head = np.unravel_index(mean.argmin(), mean.shape)
    return RareHead(int(layer), int(head), counts)


def dose_table(
    model: HookedModel,
    paragraphs: Paragraphs,
    *,
    head: RareHead | None = None,
    times: ReadingTimes | None = None,
    settings: DoseSettings | None = None,
) -> xr.Dataset:
    """All measures of all paragraphs under one model.

    Args:
        model: that read them, or a twin that did not.
        paragraphs: with counts.
        head: whose attention to rare tokens is followed; without it there are no measures of attention.
        times: when they were read; without it the gap is NaN.
        settings: of the dear measures.

    Returns:
        Dataset over `paragraph`: `k` (readings), `level` (the power of two below), `gap` (updates after the last
        reading), `spacing` (updates between readings), `cluster` (of near-duplicates), `recited` (in full), `drawn`
        (whether the dear measures were taken), `unbroken` (whether unlearning took all steps and was not done), and
        every measure of `MEASURES`, NaN where it was not taken or is not defined.

    Raises:
        InputError: as `counts_of`, `DoseSettings.check` and the measures themselves; times of other paragraphs, or
            measures that are not numbers, because weights are not.
    """
    settings = (settings or DoseSettings()).check()
    k = counts_of(paragraphs)
    times = times or unknown_times(len(paragraphs))
    if len(times.gap) != len(paragraphs) or len(times.spacing) != len(paragraphs):
        raise InputError(f"times must hold one number for each of {len(paragraphs)} paragraphs, got {len(times.gap)}")
    recited = recitation(model, paragraphs)
    if not np.isfinite(recited["log_probability"].values).all():
        raise InputError("the model's log-probabilities are not finite; are its weights numbers?")
    values = _recited(recited) | _gradients(model, paragraphs)
    values |= {} if head is None else _attention(model, paragraphs, head)
    level = levels(k)
    drawn = drawn_of_each(level, n=settings.n_per_level, seed=settings.seed)
    if drawn.any():
        values |= _spread(_dear(model, paragraphs.select(drawn), settings), drawn)
    about = provenance(model, paragraphs.tokens) | {"settings": asdict(settings)}
    about |= {} if head is None else {"head": head.name, "counts_hash": tensor_hash(head.counts)}
    column = ("paragraph",)
    known = {
        "k": Variable(k, column, "readings", {"paragraph": paragraphs.ids}),
        "level": Variable(level, column, "largest power of two that is at most k"),
        "gap": Variable(times.gap, column, "updates after the last reading, 0 = the last update read it"),
        "spacing": Variable(times.spacing, column, "mean updates between readings, NaN = one reading"),
        "cluster": Variable(clusters(paragraphs), column, "near-duplicates"),
        "recited": Variable(recited["full_match"].values, column, "whether the whole continuation is recited"),
        "drawn": Variable(drawn, column, "whether the dear measures were taken"),
    }
    unbroken = values.pop("unbroken", np.full(len(k), np.nan))
    known["unbroken"] = Variable(unbroken, column, "1 = not unlearned within the steps, NaN = not tried")
    taken = {name: Variable(one, column, MEASURES[name].unit) for name, one in values.items()}
    return labelled(about, **known, **taken)


def _recited(recited: xr.Dataset) -> Values:
    names = ("exact_match", "longest_run", "log_probability")
    found = {name: recited[name].values.astype(float) for name in names}
    return found | {"nll": recited["nll"].mean("pos").values.astype(float)}


def _gradients(model: HookedModel, paragraphs: Paragraphs) -> Values:
    scores = weight_scores(model, paragraphs)
    size = (scores["l2_gradient"].astype(float) ** 2).sum(("layer", "component")).values
    return {
        "centre_max": centre_of_mass(layer_shares(scores, pooling="max_gradient")).values,
        "centre_l2": centre_of_mass(layer_shares(scores, pooling="l2_gradient")).values,
        "log_gradient": np.log(size) / 2,
    }


def _attention(model: HookedModel, paragraphs: Paragraphs, head: RareHead) -> Values:
    found = rare_token_attention(model, paragraphs, head.counts, seed=0, n_shuffles=1)["spearman"].isel(query=0)
    return {
        "attention_head": found.sel(layer=head.layer, head=head.head).values,
        "attention_most": found.min(("layer", "head")).values,
    }


def _dear(model: HookedModel, some: Paragraphs, settings: DoseSettings) -> dict[str, Float[np.ndarray, " some"]]:
    effect = perturb(model, some, seed=settings.seed)
    rise = effect["nll_rise"].mean("draw").transpose("paragraph", "pos").values.astype(float)
    harm = rise.clip(0)
    with np.errstate(invalid="ignore"):
        worst = harm.max(1) / harm.sum(1)  # NaN where no replacement does harm
    how = {"weights": settings.fraction, "lr": settings.lr, "n_steps": settings.n_steps, "seed": settings.seed}
    steps = steps_to_break(model, {"all": some}, **how)["steps_nat"].values
    return {
        "perturbed_nll": rise.mean(1),
        "perturbed_em": effect["em_drop"].mean(("draw", "pos")).values.astype(float),
        "worst_share": worst,
        "steps_to_unlearn": np.where(np.isnan(steps), settings.n_steps, steps),
        "unbroken": np.isnan(steps).astype(float),
    }


def _spread(values: dict[str, Float[np.ndarray, " some"]], drawn: Bool[np.ndarray, " paragraph"]) -> Values:
    """The same over all paragraphs, NaN for those that were not drawn."""
    found = {}
    for name, own in values.items():
        found[name] = np.full(len(drawn), np.nan)
        found[name][drawn] = own
    return found
