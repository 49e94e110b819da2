"""The report's sections on gradients and attention: what differs from which control, and what the loss explains."""

from collections.abc import Iterator, Mapping

import numpy as np
import xarray as xr

from memhooks.localize.profile_contrasts import MIN_COMMON
from memhooks.report.attention_plots import plot_attention_by_rank, plot_rare_token_attention
from memhooks.report.claim import ATTENTION, GRADIENTS
from memhooks.report.findings import Results, most_negative_head
from memhooks.report.gradient_profile_plots import plot_centre_against_loss, plot_layer_shares, plot_profile_contrasts
from memhooks.report.page import Section
from memhooks.report.plots import plot_weight_scores
from memhooks.report.theme import NAMES

MAIN = ("memorized", "control", "control_own", "twin")
Row = dict[str, str]

_RAW = ("paragraphs", "difference, layers", "p", "memorized is")
_ADJUSTED = ("losses in common (paragraphs)", "at equal loss, layers", "p at equal loss", "at equal loss it is")


def looking_sections(results: Results) -> list[Section]:
    """Gradients of weights, and attention to rare tokens, as far as they were run."""
    return [
        *([_gradients(results)] if "memorized" in results.get("gradients", {}) else ()),
        *([_attention(results)] if "memorized" in results.get("attention", {}) else ()),
    ]


def _gradients(results: Results) -> Section:
    contrasts = results.get("gradient_contrasts", {})
    text = [
        "Gradients are as large as the loss is, so memorized text has small ones everywhere; shares of layers remove "
        "the size. The published claim is that memorized text has more of its gradient in lower layers. The profile "
        "may follow the loss, too: so the table has the difference of the centres of mass (in layers; negative = "
        "memorized is lower) raw, with log loss as covariate among paragraphs of losses that both sets have, and "
        "between pairs of equal loss. 'Lower' and 'higher' stand where the 95 % interval excludes 0 and p is at most "
        "0.05; 'no difference' means none was found.",
        "Licence text that was never read is predictable in the model's own words; paragraphs planted 8 to 16 "
        "times are recited in part, at losses in between. Where too few losses are common nothing can be adjusted "
        "('-'). Pooled by the largest |gradient| of each component, as published, and by its Euclidean norm (L2).",
        *(contrast_notes(contrasts) if contrasts else ()),
    ]
    scores = results["gradients"]
    main = {name: scores[name] for name in MAIN if name in scores}
    return Section(
        GRADIENTS,
        text,
        contrast_table(contrasts),
        figures=[
            plot_layer_shares(main),
            plot_centre_against_loss(scores),
            *([plot_profile_contrasts(contrasts["A"])] if "A" in contrasts else ()),
            plot_weight_scores(main),
        ],
    )


def contrast_rows(contrasts: Mapping[str, xr.Dataset]) -> list[Row]:
    """One row per control and pooling: raw, adjusted and matched differences of the centre of mass, each in words.

    Args:
        contrasts: of `profile_contrasts`; those of pairs of equal loss have the attribute `matched`.
    """
    return [_row(one) for one in _contrasts(contrasts)]


def contrast_table(contrasts: Mapping[str, xr.Dataset]) -> list[Row]:
    """The same for a page: one row for each comparison, what the poolings say side by side."""
    table: dict[str, Row] = {}
    for row in contrast_rows(contrasts):
        title, pooling = row["memorized minus control"], row["pooling"]
        line = table.setdefault(title, {name: row[name] for name in ("memorized minus control", "NLL", "paragraphs")})
        line[f"{pooling}: layers"] = _said(row, "difference, layers", "p", "memorized is")
        line[f"{pooling}, at equal loss"] = _said(
            row, "at equal loss, layers", "p at equal loss", "at equal loss it is"
        )
    columns = list(dict.fromkeys(name for line in table.values() for name in line))
    shown = [name for name in columns if any(line.get(name, "-") != "-" for line in table.values())]
    order = sorted(shown, key=lambda name: name.endswith("at equal loss"))
    return [{name: line.get(name, "-") for name in order} for line in table.values()]


def _said(row: Row, difference: str, p: str, verdict: str) -> str:
    if row[difference] == "-":
        return row[verdict] if verdict == "memorized is" else "-"
    return f"{row[difference]}, p {row[p]}: {row[verdict]}"


def contrast_notes(contrasts: Mapping[str, xr.Dataset]) -> list[str]:
    """What to keep in mind with the rows: where the sign depends on the pooling, and how many tests there are."""
    every = list(_contrasts(contrasts))
    n_raw = sum(map(_compared, every))
    n_adjusted = sum(not one.attrs.get("matched") and bool(one["p_adjusted"].notnull()) for one in every)
    n = n_raw + n_adjusted
    many = (
        f"The table holds {n} tests ({n_raw} raw or matched, {n_adjusted} adjusted), and each has 5 % of its own: "
        f"about {0.05 * n:.1f} would pass by chance alone. To hold for all of them (Bonferroni), p must be at most "
        f"{0.05 / n:.2g}."
        if n
        else "The table holds no test."
    )
    return [*_pooling_notes(every), many]


def _pooling_notes(every: list[xr.Dataset]) -> list[str]:
    """Of the contrasts shown by two poolings or more, those whose verdicts disagree."""
    verdicts: dict[str, dict[str, str]] = {}
    for one in every:
        if _compared(one):
            verdicts.setdefault(_title(one, "against"), {})[_pooling(one)] = _verdict(one, "difference", "survives")
    several = {title: words for title, words in verdicts.items() if len(words) > 1}
    if not several:
        return []
    opposite = {title: words for title, words in several.items() if {"lower", "higher"} <= set(words.values())}
    partly = {t: words for t, words in several.items() if t not in opposite and len(set(words.values())) > 1}
    notes = []
    if opposite:
        notes.append(f"The sign depends on the pooling: {_listed(opposite)}.")
    if partly:
        notes.append(f"Found by one pooling alone: {_listed(partly)}.")
    return notes or [f"All {len(several)} contrasts shown by several poolings have the same verdict by each."]


def _listed(verdicts: Mapping[str, Mapping[str, str]]) -> str:
    each = [
        f"{title} is " + ", ".join(f"{word} by {pooling}" for pooling, word in words.items())
        for title, words in verdicts.items()
    ]
    return "; ".join(each)


def _contrasts(contrasts: Mapping[str, xr.Dataset]) -> Iterator[xr.Dataset]:
    for table in contrasts.values():
        for place in range(table.sizes["row"]):
            yield table.isel(row=place)


def _row(one: xr.Dataset) -> Row:
    row = {
        "memorized minus control": _title(one),
        "pooling": _pooling(one),
        "NLL": f"{float(one['nll_memorized']):.2f} / {float(one['nll_control']):.2f}",
    }
    n = f"{int(one['n_memorized'])} / {int(one['n_control'])}" if "p" in one else "0 / 0"
    raw = [n, "-", "-", "too few of equal loss" if "p" in one else "no paragraph of equal loss"]
    if _compared(one):
        verdict = _verdict(one, "difference", "survives")
        raw = [n, _interval(one, "difference"), _number(one["p"], ".4f"), verdict]
    if one.attrs.get("matched"):
        return row | dict(zip((*_RAW, *_ADJUSTED), raw + ["-"] * len(_ADJUSTED), strict=True))
    adjusted = [
        f"{float(one['overlap']):.0%} ({int(one['n_common_memorized'])} / {int(one['n_common_control'])})",
        _interval(one, "adjusted"),
        _number(one["p_adjusted"], ".4f"),
        _verdict(one, "adjusted", "survives_adjusted"),
    ]
    return row | dict(zip((*_RAW, *_ADJUSTED), raw + adjusted, strict=True))


def _compared(one: xr.Dataset) -> bool:
    """Whether there is enough to compare: matching may leave no pair, or too few to say anything."""
    if not one.attrs.get("matched"):
        return True
    return "p" in one and min(int(one["n_memorized"]), int(one["n_control"])) >= MIN_COMMON


def _title(one: xr.Dataset, word: str = "minus") -> str:
    names = f"{_name(str(one.attrs['memorized']))} {word} {_name(str(one['row'].values))}"
    return names + (", pairs of equal loss" if one.attrs.get("matched") else "")


def _name(condition: str) -> str:
    return NAMES.get(condition, condition)


def _pooling(one: xr.Dataset) -> str:
    pooling = str(one.attrs["pooling"])
    return {"max_gradient": "largest |gradient|", "l2_gradient": "L2 norm"}.get(pooling, pooling)


def _verdict(one: xr.Dataset, name: str, survives: str) -> str:
    """Where memorized text lies in the network, if that is sure."""
    if np.isnan(one[name]):
        return "too few of equal loss"
    if not one[survives]:
        return "no difference"
    return "lower" if one[name] < 0 else "higher"


def _attention(results: Results) -> Section:
    main, table = results["attention"], results.get("attention_heads", {}).get("memorized")
    best = most_negative_head(main["memorized"]) if table is None else strongest(table)
    verdict = [] if table is None else [str(table.attrs["verdict"])]
    text = [
        *verdict,
        "Rank correlation, per paragraph, of the last prefix token's attention with corpus counts (planted copies left "
        "out); uniform attention gives 0. p: of the correlation over token types, counts permuted; p within: "
        "counts shuffled in each paragraph; both of the most negative of all heads. The partial correlation has the "
        f"distance taken out.{_published(results, best)}",
    ]
    return Section(
        ATTENTION,
        text,
        [] if table is None else head_rows(table),
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
            | {"p": _number(one["p_value"], ".4f"), "p within": _number(one["p_within"], ".4f")}
            | {f"p, more than {NAMES[name]}": _number(one[f"p_less_than_{name}"], ".4f") for name in controls}
        )
    return rows


def _published(results: Results, head: tuple[int, int]) -> str:
    found = results.get("attention_published", {}).get("memorized")
    if found is None:
        return ""
    one = found.isel(query=0).sel(layer=head[0])
    own, uniform = float(one["summed_spearman"].sel(head=head[1])), float(one["uniform_spearman"])
    return (
        " The published statistic sums attention by rarity rank over paragraphs: "
        f"L{head[0]}H{head[1]} has {own:+.2f} (Spearman) by it, but uniform attention in its place {uniform:+.2f}."
    )


def _interval(one: xr.Dataset, name: str) -> str:
    mean, low, high = (float(one[f"{name}{end}"]) for end in ("", "_low", "_high"))
    return "-" if np.isnan(mean) else f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def _number(value: xr.DataArray, form: str) -> str:
    return "-" if np.isnan(value) else f"{float(value):{form}}"
