"""What `memhooks patch` measures: the damage of one replaced token, and how much of it each cell undoes or does."""

# Heavy imports stay inside the functions, as in the commands.
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from memhooks.cli.tables import Row, intervals, stacked
from memhooks.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from memhooks.model.loading import HookedModel
    from memhooks.paragraphs.paragraphs import Paragraphs

LAYER_SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_pre", "mlp_post")
HEAD_SITES = ("q", "k", "v", "z", "pattern")
At = Literal["perturbed", "prefix"]
Direction = Literal["denoising", "noising"]


@dataclass(frozen=True)
class Setting:
    """What is patched where, in which direction, and how it is scored."""

    sites: tuple[str, ...]
    at: At
    direction: Direction
    impact: bool
    seed: int

    @property
    def variable(self) -> str:
        """The effect that is asked for, by its name in the result."""
        return "logit_effect" if self.impact else "effect"


@dataclass(frozen=True)
class Patched:
    """One set's result, the paragraphs that it is of, and how many had to be dropped."""

    result: "xr.Dataset"
    rows: "Paragraphs"
    unchanged: int


def patched_rows(model: "HookedModel", name: str, rows: "Paragraphs", setting: Setting) -> Patched:
    """Perturb, take each paragraph's worst replacement, and patch.

    Raises:
        InputError: `--impact`, and no replacement changes what the model says.
    """
    from memhooks.localize.patch_pairs import patch_pairs
    from memhooks.localize.patching import patch as patch_rows
    from memhooks.measure.pairs import make_pairs
    from memhooks.measure.perturbation import corrupted, perturb

    effect = perturb(model, rows, seed=setting.seed)
    sites = cast(Any, setting.sites)
    if not setting.impact:
        tokens, position = corrupted(rows, effect)
        where = position if setting.at == "perturbed" else None
        result = patch_rows(model, rows, tokens, sites=sites, at=where, direction=setting.direction)
        return Patched(result, rows, 0)
    pairs = make_pairs(model, rows, effect)
    if not pairs.changed.any():
        raise InputError(f"no replacement changes what the model says after {name} text; leave --impact away")
    changed = pairs.select(pairs.changed)
    where = "perturbed" if setting.at == "perturbed" else None
    result = patch_pairs(model, changed, sites=sites, at=where, direction=setting.direction)
    return Patched(result, changed.clean, len(pairs) - len(changed))


def damage(patched: Mapping[str, Patched], seed: int) -> list[Row]:
    """NLL of the continuation after both prefixes: the gap that effects are shares of."""
    rows = []
    for name, one in patched.items():
        clean, other = (one.result[variable].values for variable in ("clean_nll", "other_nll"))
        rows.append(
            Row(set=name, used=len(one.rows), unchanged=one.unchanged)
            | {"NLL clean": intervals(clean, one.rows, seed), "NLL perturbed": intervals(other, one.rows, seed)}
        )
    return rows


def cells_of(patched: Mapping[str, Patched], setting: Setting) -> list[Row]:
    """Every cell with its mean effect for each set, those that matter most to memorized text first."""
    some = patched["memorized"].result[setting.variable]
    axes = [str(axis) for axis in some.dims if axis != "paragraph"]
    ends = {name: _ends(one, setting, axes) for name, one in patched.items()}
    labels = some.isel(paragraph=0, drop=True).transpose(*axes).stack(cell=axes)["cell"].values.tolist()
    cells = [
        dict(zip(axes, label, strict=True)) | {name: one[number] for name, one in ends.items()}
        for number, label in enumerate(labels)
    ]
    order = sorted(range(len(cells)), key=lambda number: -ends["memorized"][number][0])
    return [cells[number] for number in order]


def _ends(one: Patched, setting: Setting, axes: list[str]) -> list:
    """[mean, low, high] of every cell."""
    from memhooks.localize.patch_result import patch_interval
    from memhooks.paragraphs.splits import clusters

    values = one.result[setting.variable].transpose("paragraph", *axes)
    ends = patch_interval(one.result, values, seed=setting.seed, clusters=clusters(one.rows).numpy())
    return stacked(*(end.reshape(-1) for end in ends))
