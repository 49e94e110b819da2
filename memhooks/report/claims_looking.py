"""Verdicts on two claims from what a run looks at: where gradients lie, and which heads attend to rare tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from memhooks.localize.profile import centre_of_mass, layer_shares
from memhooks.localize.profile_contrasts import MIN_COMMON
from memhooks.report.claim import ATTENTION, GRADIENTS, Claim, Verdict, sentence
from memhooks.report.estimates import Estimate, Results, Values, difference, mean, values_of
from memhooks.report.theme import name_of

LEVEL = 0.05
"""Shared by all contrasts of one kind that a verdict rests on (Bonferroni)."""

NEGLIGIBLE = 0.25
"""A difference below this share of the effect does not explain it."""

WEAK = 0.2
"""A rank correlation below this leaves 96 % of the ranks to something else."""

_LOWER = "Gradients of memorized text lie in lower layers"
_HEAD = "One head in a low layer looks at rare tokens, and does so because the text is memorized"
MAIN = ("control_own", "twin", "control")
"""The controls that a study shows everywhere."""

_ALSO_MEMORIZED = ("natural", "partly")  # no controls: the model knows them, too
_CENTRE = ("centre of mass of the largest |gradient|", "layers")
_POOLINGS = {"max_gradient": "largest |gradient|", "l2_gradient": "L2 norm"}


@dataclass(frozen=True)
class _Contrast:
    memorized: str
    control: str
    pooling: str
    at_equal_loss: bool
    ends: tuple[float, float, float]
    p: float
    n: str

    def sign(self, level: float) -> str:
        _, low, high = self.ends
        if not (low * high > 0 and self.p <= level):
            return "none"
        return "lower" if high < 0 else "higher"


def gradients_claim(results: Results, *, seed: int = 0) -> Claim:
    """Do gradients of memorized text lie lower, by every pooling, raw and at equal loss?"""
    every = [one for table in results.get("gradient_contrasts", {}).values() for one in _contrasts(table)]
    if not every:
        return Claim(_LOWER, "not run", "The gradients stage was not run, or had no control.", GRADIENTS)
    raw, equal = (_signs([one for one in every if one.at_equal_loss is kind]) for kind in (False, True))
    full = {key: sign for key, sign in equal.items() if key[0] == "memorized"}
    found = {*raw.values(), *equal.values()}
    estimates = (*_centres(results, seed), *_at_equal_loss(every))
    if full and found == {"lower"}:
        why = "lower than every control, raw and at equal loss, by every pooling"
        return Claim(_LOWER, "holds", sentence(why), GRADIENTS, estimates)
    if found <= {"higher"} or (not found & {"lower", "opposite", "one pooling"} and "higher" in found):
        return Claim(
            _LOWER, "does not hold", sentence("nowhere lower, and higher where it differs"), GRADIENTS, estimates
        )
    reasons = [*_raw_reasons(raw), *_equal_reasons(equal)]
    if not full:
        reasons.append("text recited in full has no control of equal loss here")
    return Claim(_LOWER, "undecided", sentence("; ".join(reasons)), GRADIENTS, estimates)


def _contrasts(table: xr.Dataset) -> Iterator[_Contrast]:
    """The differences of one table that have a test: raw, with the loss taken out, and of pairs of equal loss."""
    memorized, matched = str(table.attrs["memorized"]), bool(table.attrs.get("matched"))
    if memorized not in ("memorized", "partly") or "p" not in table:
        return
    for one in (table.isel(row=row) for row in range(table.sizes["row"])):
        control = str(one["row"].values)
        own = (memorized, control, _POOLINGS.get(str(table.attrs["pooling"]), str(table.attrs["pooling"])))
        n = [int(one["n_memorized"]), int(one["n_control"])]
        if control in _ALSO_MEMORIZED or (matched and min(n) < MIN_COMMON):
            continue
        raw = _Contrast(*own, matched, _ends(one, "difference"), float(one["p"]), f"{n[0]} / {n[1]}")
        yield raw
        if not matched and np.isfinite(one["adjusted"]):
            common = f"{int(one['n_common_memorized'])} / {int(one['n_common_control'])}"
            yield replace(raw, at_equal_loss=True, ends=_ends(one, "adjusted"), p=float(one["p_adjusted"]), n=common)


def _ends(one: xr.Dataset, name: str) -> tuple[float, float, float]:
    return float(one[name]), float(one[f"{name}_low"]), float(one[f"{name}_high"])


def _signs(contrasts: Sequence[_Contrast]) -> dict[tuple[str, str], str]:
    """By set and control: lower, higher or none by every pooling; "opposite", or sure by "one pooling" alone."""
    level = LEVEL / max(1, len(contrasts))
    grouped: dict[tuple[str, str], set[str]] = {}
    for one in contrasts:
        grouped.setdefault((one.memorized, one.control), set()).add(one.sign(level))
    named = {}
    for key, signs in grouped.items():
        mixed = "opposite" if {"lower", "higher"} <= signs else "one pooling" if "lower" in signs else "none"
        named[key] = next(iter(signs)) if len(signs) == 1 else mixed
    return named


def _raw_reasons(raw: dict[tuple[str, str], str]) -> list[str]:
    words = {
        "lower": "raw, lower than {}",
        "higher": "raw, higher than {}",
        "opposite": "raw, the sign depends on how gradients are pooled (beside {})",
        "one pooling": "raw, lower by one pooling alone (beside {})",
        "none": "raw, no sure difference from {}",
    }
    shown = {control: sign for (_, control), sign in raw.items() if control in MAIN}
    return [f"{words[sign].format(_listed(shown, sign))}" for sign in words if sign in shown.values()]


def _equal_reasons(equal: dict[tuple[str, str], str]) -> list[str]:
    words = {
        "one pooling": "lower by one pooling alone",
        "none": "not surely different",
        "opposite": "lower or higher by pooling",
    }
    whose = {"memorized": "text recited in full", "partly": "text recited in part"}
    reasons = []
    for memorized, name in whose.items():
        shown = {control: sign for (one, control), sign in equal.items() if one == memorized}
        reasons += [
            f"at equal loss, {name} is {words.get(sign, sign)} beside {_listed(shown, sign)}"
            for sign in dict.fromkeys(shown.values())
        ]
    return reasons


def _listed(signs: dict[str, str], sign: str) -> str:
    return " and ".join(name_of(control) for control, own in signs.items() if own == sign)


def _centres(results: Results, seed: int) -> list[Estimate]:
    """The centre of mass of each set's gradients, pooled as published."""
    found = []
    for name in ("memorized", *MAIN):
        one = results.get("gradients", {}).get(name)
        if one is not None:
            values = values_of(results, one, centre_of_mass(layer_shares(one)).values)
            role = "effect" if name == "memorized" else "control"
            found.append(mean(name_of(name), values, _CENTRE, role=role, seed=seed))
    return found


def _at_equal_loss(every: Sequence[_Contrast]) -> list[Estimate]:
    return [
        Estimate(
            f"the same at equal loss: {name_of(one.memorized)}",
            f"minus {name_of(one.control)}, {one.pooling}",
            *one.ends,
            "layers",
            one.n,
            "difference",
        )
        for one in every
        if one.at_equal_loss
    ]


def attention_claim(results: Results, *, seed: int = 0) -> Claim:
    """Does a low head look at rare tokens, more so than in never-seen text and under the twin?"""
    attention = results.get("attention", {})
    if "memorized" not in attention:
        return Claim(_HEAD, "not run", "The attention stage was not run.", ATTENTION)
    # The head is chosen on one half of the paragraphs and judged on the other: the best of many is best by selection.
    own = attention["memorized"]
    correlation = own["spearman"].isel(query=0).transpose("paragraph", "layer", "head")
    n_layers = correlation.sizes["layer"]
    layer, head = divmod(int(correlation[::2].mean("paragraph").values.argmin()), correlation.sizes["head"])
    judged = {
        name: _judged(results, one, layer, head, slice(None) if name == "control" else slice(1, None, 2))
        for name, one in attention.items()
        if name in ("memorized", "control", "twin")
    }
    name = f"L{layer}H{head}"
    of = (f"correlation of {name}'s attention with token counts (negative: rare tokens)", "Spearman")
    effect = mean(name_of("memorized"), judged["memorized"], of, role="effect", seed=seed)
    others = [mean(name_of(key), judged[key], of, seed=seed) for key in judged if key != "memorized"]
    differences = {
        key: difference(
            f"A minus {name_of(key)}", judged["memorized"], judged[key], of, paired=key == "twin", seed=seed
        )
        for key in judged
        if key != "memorized"
    }
    verdict, why = _head_verdict(results, name, effect, differences, low=layer < n_layers / 2)
    return Claim(_HEAD, verdict, sentence(why), ATTENTION, (effect, *others, *differences.values()))


def _judged(results: Results, one: xr.Dataset, layer: int, head: int, rows: slice) -> Values:
    values = one["spearman"].isel(query=0, layer=layer, head=head)
    every = values_of(results, one, values.values)
    return Values(every.values[rows], every.label[rows])


def _is_rare(table: xr.Dataset | None, name: str) -> bool:
    """Whether rarity explains the head's attention beyond chance and distance; unknown heads pass."""
    return table is None or name not in table["row"].values or bool(table.sel(row=name)["is_rare_token_head"])


def _head_verdict(
    results: Results, name: str, effect: Estimate, differences: dict[str, Estimate], *, low: bool
) -> tuple[Verdict, str]:
    table = results.get("attention_heads", {}).get("memorized")
    confirmed = [] if table is None else [str(one) for one in table["row"].values[table["is_confirmed"].values]]
    rare = effect.high < 0 and _is_rare(table, name)
    if name in confirmed and low:
        return "holds", f"{name} does so more than in every control, and its loss costs memorized text more"
    if not rare:
        sure = effect.low > -WEAK
        return (
            "does not hold" if sure else "undecided"
        ), f"{name} comes nearest, and rarity explains it no better than chance"
    if not low:
        return "does not hold", f"the head that looks most at rare tokens, {name}, is in the upper half of the network"
    if not differences:
        return "undecided", f"{name} looks at rare tokens, but no control was measured"
    margin = NEGLIGIBLE * abs(effect.mean)
    alike = [key for key, one in differences.items() if one.low > -margin]
    more = [key for key, one in differences.items() if one.high < 0]
    words = " and ".join(name_of(key) for key in alike)
    if alike and not confirmed and not set(alike) & set(more):
        return "does not hold", f"{name} looks at rare tokens, and does so just as well for {words}"
    if len(more) == len(differences):
        return "undecided", f"{name} looks at rare tokens more in memorized text, but its ablation has not confirmed it"
    return "undecided", f"{name} looks at rare tokens; whether more so in memorized text these paragraphs do not tell"
