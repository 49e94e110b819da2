"""What `memhooks gradients` shows: its tables in 80 columns, and its page of figures."""

# Heavy imports stay inside the functions, as in the commands.
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from memhooks.cli.tables import Row, shown, write_page

if TYPE_CHECKING:
    import xarray as xr

    from memhooks.paragraphs.paragraphs import Paragraphs

# The names of memhooks.localize.pooling.POOLED, which would load torch.
Pooling = Literal["max_gradient", "l1_gradient", "l2_gradient", "mean_gradient", "rms_gradient", "max_over_expected"]
Results = Mapping[str, "xr.Dataset"]
Sets = Mapping[str, "Paragraphs"]
OWN = "control_own"


def shares(scores: "xr.Dataset", pooling: Pooling) -> "xr.DataArray":
    """Share of each component in the paragraph's own sum, over `paragraph`, `layer`, `component`."""
    values = scores[pooling].transpose("paragraph", "layer", "component").astype(float)
    return values / values.sum(("layer", "component"))


def print_tables(about: str, found: Mapping[str, Any], pooling: Pooling, top: int) -> None:
    """Print layers, differences and components."""
    from rich.box import SIMPLE_HEAD

    from memhooks.terminal import print_table, say

    say(f"{about}; pooling: {pooling}; means [95 % interval over paragraphs]")
    print_table("Share of each layer in a paragraph's gradient, %", _profile(found), box=SIMPLE_HEAD)
    say("depth: centre of mass, the mean layer weighted by the shares; loss: nats per token.")
    for name, rows in found["contrasts"].items():
        print_table(f"Depth, memorized minus ... ({name})", [_contrast(row) for row in rows], box=SIMPLE_HEAD)
    if found["contrasts"]:
        say(
            "Negative: memorized gradients lie lower; *: survives. Shares take out the size, which follows the loss, "
            "but may follow it, too. In common: memorized and control paragraphs of losses that both have, compared at "
            "equal loss if there are 8 of each. Largest weight (max) and norm (l2) can disagree."
        )
    else:
        say("Without a control or a twin there is nothing to compare with.")
    rows = [_printable("component", row["component"], row) for row in found["components"][:top]]
    print_table("Components with the largest share of memorized gradients, %", rows, box=SIMPLE_HEAD)


def _printable(name: str, label: str, row: Row) -> Row:
    """A row's label, and its shares in per cent."""
    ends = {key: value for key, value in row.items() if isinstance(value, list)}
    return Row({name: label}) | {
        _short(key): shown([None if end is None else 100 * end for end in value], ".1f") for key, value in ends.items()
    }


def _short(condition: str) -> str:
    return condition.replace(OWN, "own words")


def _profile(found: Mapping[str, Any]) -> list[Row]:
    """Layer shares, and below them each condition's centre of mass and loss."""
    rows = [_printable("", f"L{row['layer']}", row) for row in found["layers"]]
    for name, what in (("depth", "centre"), ("loss", "loss")):
        cells = {_short(one["condition"]): shown(one[what], ".2f") for one in found["conditions"]}
        rows.append(Row({"": name}) | cells)
    return rows


def _contrast(row: Mapping[str, Any]) -> Row:
    cells = {"raw": ("difference", "p", "survives"), "at equal loss": ("adjusted", "p_adjusted", "survives_adjusted")}
    line = Row(minus=_short(row["minus"]))
    for title, (name, p, survives) in cells.items():
        chance = "too few" if row[p] is None else "p<0.001" if row[p] < 0.001 else f"p={row[p]:.3f}"
        line[title] = chance if row[p] is None else f"{shown(row[name])} {chance}{'*' * row[survives]}"
    return line | {"in\ncommon": f"{row['n_common_memorized']}, {row['n_common_control']}"}


def draw(path: Path | None, about: str, scores: Results, sets: Sets, contrasts: Results, pooling: Pooling) -> None:
    """Write the page, if there is a path."""
    if path is None:
        return
    from memhooks.report.gradient_profile_plots import (
        plot_centre_against_loss,
        plot_layer_shares,
        plot_profile_contrasts,
    )
    from memhooks.report.looking_sections import contrast_notes, contrast_table
    from memhooks.report.page import Section
    from memhooks.report.plots import plot_weight_scores

    size = (
        "Each paragraph's own gradient of its NLL, pooled over the weights of every component. Its size follows the "
        "loss, so every number is a share of the paragraph's own sum. Bands: 95 % intervals over paragraphs."
    )
    lower = (
        "Difference of the centres of mass, in layers: raw, and among paragraphs of losses that both sets have, with "
        "log loss as covariate, for the profile may follow the loss. Largest weight (max) and norm (l2) can disagree."
    )
    maps = {name: (100 * shares(one, pooling)).to_dataset(name="max_gradient") for name, one in scores.items()}
    components = plot_weight_scores(maps).for_each_annotation(
        lambda one: one.update(text=one.text.replace(", ", ",<br>"))
    )
    components.update_layout(title=f"Which components? {pooling}, % of each paragraph's map", margin={"t": 100})
    layers = [plot_layer_shares(scores, pooling=pooling, sets=sets), plot_centre_against_loss(scores, pooling=pooling)]
    sections = [Section("In which layers do the gradients lie?", [size], figures=layers)]
    if contrasts:
        heading, text = "Do memorized gradients lie lower?", [lower, *contrast_notes(contrasts)]
        forests = [plot_profile_contrasts(table) for table in contrasts.values()]
        sections.append(Section(heading, text, contrast_table(contrasts), figures=forests))
    sections.append(
        Section("In which components?", ["Means over paragraphs of each one's shares."], figures=[components])
    )
    write_page(path, "memhooks gradients", about, sections)
