"""The report's sections on gradients and attention: what differs from which control, and what the loss explains."""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from memhooks.report.attention_plots import plot_attention_by_rank, plot_rare_token_attention
from memhooks.report.findings import Results
from memhooks.report.gradient_profile_plots import plot_centre_against_loss, plot_layer_shares, plot_profile_contrasts
from memhooks.report.page import Section
from memhooks.report.plots import plot_weight_scores
from memhooks.report.theme import NAMES

MAIN = ("memorized", "control", "control_own", "twin")
Row = dict[str, str]


def looking_sections(results: Results) -> list[Section]:
    """Gradients of weights, and attention to rare tokens."""
    return [_gradients(results), _attention(results)]


def _gradients(results: Results) -> Section:
    text = [
        "Gradients are as large as the loss is, so memorized text has small ones everywhere; shares of layers remove "
        "the size. The published claim is that memorized text has more of its gradient in lower layers. The profile "
        "may follow the loss, too: so the table has the difference of the centres of mass (layers, negative = "
        "memorized is lower) raw, with the loss as covariate, and between pairs of equal loss.",
        "Licence text that was never read is predictable in the model's own words; paragraphs planted 8 to 16 "
        "times are recited in part, at losses in between. Where losses do not overlap nothing can be adjusted ('-'). "
        "Pooled by the largest |gradient| of each component, as published, and by its Euclidean norm.",
    ]
    scores = results["gradients"]
    main = {name: scores[name] for name in MAIN if name in scores}
    return Section(
        "Which weights move it?",
        text,
        contrast_rows(results["gradient_contrasts"]),
        figures=[
            plot_layer_shares(main),
            plot_centre_against_loss(scores),
            plot_profile_contrasts(results["gradient_contrasts"]["A"]),
            plot_weight_scores(main),
        ],
    )


def contrast_rows(contrasts: Mapping[str, xr.Dataset]) -> list[Row]:
    """One row per control: raw, adjusted and matched differences of the centre of mass, and what survives."""
    rows = []
    for name, table in contrasts.items():
        for control in table["row"].values:
            one, matched = table.sel(row=control), "matched" in name
            memorized = str(table.attrs["memorized"])
            rows.append(
                {
                    "lower in the network?": f"{_name(memorized)} minus {_name(str(control))}"
                    + (", pairs of equal loss" if matched else ""),
                    "NLL": f"{float(one['nll_memorized']):.2f} / {float(one['nll_control']):.2f}",
                    "difference, layers": _interval(one, "difference"),
                    "p": _number(one["p"], ".4f"),
                    "at equal loss (regression)": "-" if matched else _interval(one, "adjusted"),
                    "survives": _survives(one, matched=matched),
                }
            )
    return rows


def _name(condition: str) -> str:
    return NAMES.get(condition, condition)


def _survives(one: xr.Dataset, *, matched: bool) -> str:
    if not one["survives"]:
        return "no"
    if matched:
        return "yes, at equal loss"
    if np.isnan(one["adjusted"]):
        return "raw only; losses do not overlap"
    return "raw and at equal loss" if one["survives_adjusted"] else "raw only"


def _attention(results: Results) -> Section:
    table = results["attention_heads"]["memorized"]
    text = [
        str(table.attrs["verdict"]),
        "Rank correlation, per paragraph, of the last prefix token's attention with corpus counts (planted copies left "
        "out); uniform attention gives 0. p: counts dealt anew to the token types; p within: counts shuffled in each "
        "paragraph; both of the most negative of all heads. The partial correlation has the distance taken out. "
        "The published statistic sums attention by rarity rank over paragraphs: "
        f"{_published(results, strongest(table))}.",
    ]
    best, main = strongest(table), results["attention"]
    return Section(
        "Does a head look at rare tokens?",
        text,
        head_rows(table),
        figures=[plot_rare_token_attention(main), plot_attention_by_rank(main, head=best)],
    )


def strongest(table: xr.Dataset) -> tuple[int, int]:
    """Layer and head of the most negative rank correlation."""
    one = table.isel(row=int(table["spearman"].values.argmin()))
    return int(one["layer"]), int(one["head"])


def head_rows(table: xr.Dataset, *, n: int = 5) -> list[Row]:
    """The heads that look most at rare tokens in memorized text, beside the controls and nulls."""
    rows = []
    for place in table["spearman"].values.argsort(kind="stable")[:n]:
        one = table.isel(row=int(place))
        controls = [name for name in ("control", "twin") if f"spearman_{name}" in table]
        rows.append(
            {"head": str(one["row"].values), NAMES["memorized"]: _interval(one, "spearman")}
            | {NAMES[name]: _number(one[f"spearman_{name}"], "+.2f") for name in controls}
            | {"without distance": _interval(one, "partial_spearman")}
            | {"p": _number(one["p_value"], ".3f"), "p within": _number(one["p_within"], ".3f")}
            | {f"p, more than {NAMES[name]}": _number(one[f"p_less_than_{name}"], ".3f") for name in controls}
        )
    return rows


def _published(results: Results, head: tuple[int, int]) -> str:
    one = results["attention_published"]["memorized"].isel(query=0).sel(layer=head[0])
    own, uniform = float(one["summed_spearman"].sel(head=head[1])), float(one["uniform_spearman"])
    return f"L{head[0]}H{head[1]} has {own:+.2f} (Spearman) by it, but uniform attention in its place {uniform:+.2f}"


def _interval(one: xr.Dataset, name: str) -> str:
    mean, low, high = (float(one[f"{name}{end}"]) for end in ("", "_low", "_high"))
    return "-" if np.isnan(mean) else f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def _number(value: xr.DataArray, form: str) -> str:
    return "-" if np.isnan(value) else f"{float(value):{form}}"
