"""Verdicts on three claims from what a run changes: prefix tokens replaced, weights moved."""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from memhooks.localize.common_losses import in_both_ranges
from memhooks.localize.profile_contrasts import LEAST_LOSS, MIN_COMMON
from memhooks.measure.membership import adjusted_difference
from memhooks.measure.perturbation_statistics import spread_of_drop
from memhooks.report.claim import PREFIX, UNLEARNING, Claim, Verdict, sentence
from memhooks.report.claims_looking import MAIN, NEGLIGIBLE, WEAK
from memhooks.report.estimates import Estimate, Results, Role, Values, difference, mean, share, values_of
from memhooks.report.theme import name_of

KEPT = 0.1
"""Share of their EM that other memorized paragraphs may lose while one is removed."""

_FEW = "A few distinctive prefix tokens carry the continuation"
_HARDER = "Memorized text is harder to corrupt and harder to unlearn"
_ENOUGH = "Fine-tuning only the weights with the largest gradients is enough to remove a paragraph"
_LEFT = ("EM of the target afterwards", "tokens")
_RARITY = "the same, position partialled out"
_POSITION = "Spearman of drop with position"


def prefix_claim(results: Results, *, seed: int = 0) -> Claim:
    """Do few prefix tokens hold the drop, fewer than in text that is not memorized, and are they the rare ones?"""
    effects = results.get("perturbation", {})
    if "memorized" not in effects:
        return Claim(_FEW, "not run", "The perturbation stage was not run.", PREFIX)
    halves = {
        name: values_of(results, one, spread_of_drop(_per_token(one, "nll_rise"))[0]) for name, one in effects.items()
    }
    n_prefix, of = effects["memorized"].sizes["pos"], ("positions that hold half of the NLL rise", "tokens")
    own = mean(name_of("memorized"), halves["memorized"], of, role="effect", seed=seed)
    there = [name for name in MAIN if name in halves]
    others = [mean(name_of(name), halves[name], of, seed=seed) for name in there]
    differences = _differences(halves, there, of, seed)
    rare = _statistic(
        results, _RARITY, "correlation of a token's drop with its count, position taken out (negative: rare tokens)"
    )
    verdict, why = _few_verdict(own, n_prefix, differences, rare)
    late = next(iter(_statistic(results, _POSITION, "")), None)
    if late and late.low * late.high > 0:
        why += f"; {'late' if late.mean > 0 else 'early'} tokens carry more (Spearman with position {late.mean:+.2f})"
    return Claim(_FEW, verdict, sentence(why), PREFIX, (own, *others, *differences.values(), *rare))


def _few_verdict(
    own: Estimate, n_prefix: int, differences: dict[str, Estimate], rare: list[Estimate]
) -> tuple[Verdict, str]:
    few = f"{own.mean:.1f} of {n_prefix} tokens hold half of the drop"
    if not own.high <= n_prefix / 4:  # evenly spread, half of them would
        return ("does not hold" if own.low > n_prefix / 4 else "undecided"), f"the drop is spread: {few}"
    if not rare:
        return "undecided", f"{few}; whether these are the rare tokens was not measured"
    if rare[0].low > -WEAK:
        return (
            "does not hold",
            f"few tokens, yes: {few}; but they are hardly the rare ones (Spearman {rare[0].words()})",
        )
    if not {"control_own", "twin"} <= set(differences):
        return "undecided", f"{few}, but text that the model says by itself, or a twin, was not measured"
    as_few = [name_of(name) for name, one in differences.items() if not one.high < 0]
    if as_few:
        return "undecided", f"{few}; so few, or nearly, also in {' and '.join(as_few)}"
    beyond = all(rare[0].high < one.low for one in rare[1:])
    if rare[0].high < 0 and beyond:
        return "holds", f"{few}, fewer than in every control, and rare tokens carry more than they do there"
    return (
        "undecided",
        f"{few}, fewer than in every control; whether rare tokens carry more these paragraphs do not tell",
    )


def _statistic(results: Results, row: str, what: str) -> list[Estimate]:
    """A row of the drop's statistics: of memorized text first, then of the controls."""
    tables = results.get("drop_statistics", {})
    found = []
    for name in ("memorized", *MAIN):
        if name in tables and row in tables[name]["row"].values:
            one = tables[name].sel(row=row)
            middle, low, high = (float(one[end]) for end in ("estimate", "low", "high"))
            n = str(results.get("perturbation", {})[name].sizes["paragraph"]) if name in results["perturbation"] else ""
            role = "effect" if name == "memorized" else "control"
            found.append(Estimate(what, name_of(name), middle, low, high, "Spearman", n, role))
    return found if found and found[0].role == "effect" else []


def corruption_claim(results: Results, *, seed: int = 0) -> Claim:
    """Does a replaced prefix token cost memorized text less, also at equal loss? Unlearning has no control here."""
    effects = results.get("perturbation", {})
    if "memorized" not in effects:
        return Claim(_HARDER, "not run", "The perturbation stage was not run.", PREFIX)
    lost = {name: values_of(results, one, _per_token(one, "em_drop").mean(1)) for name, one in effects.items()}
    of = ("EM lost per replaced prefix token", "tokens")
    own = mean(name_of("memorized"), lost["memorized"], of, role="effect", seed=seed)
    if "control_own" not in lost:
        why = "only text that the model itself says has an EM to lose, and it was not measured"
        return Claim(_HARDER, "undecided", sentence(why), PREFIX, (own,))
    other = mean(name_of("control_own"), lost["control_own"], of, seed=seed)
    raw = difference(f"A minus {name_of('control_own')}", lost["memorized"], lost["control_own"], of, seed=seed)
    equal = _at_equal_loss(effects, lost, seed)
    losses = [float(effects[name]["nll"].mean()) for name in ("memorized", "control_own")]
    verdict, why = _harder_verdict(raw, equal, other, losses)
    why += "; how hard it is to unlearn has no control in this run (`memhooks equal-loss` measures one)"
    return Claim(_HARDER, verdict, sentence(why), PREFIX, (own, other, raw, *([equal] if equal else [])))


def _harder_verdict(raw: Estimate, equal: Estimate | None, other: Estimate, losses: list[float]) -> tuple[Verdict, str]:
    if raw.low > 0:
        return "does not hold", "a replaced token costs memorized text more than the model's own words"
    if not raw.high < 0:
        return "undecided", "a replaced token costs memorized text no surely different number of tokens"
    surer = f"the model is surer of it (NLL {losses[0]:.2g} against {losses[1]:.2g} nats)"
    if equal is None:
        return (
            "undecided",
            f"harder to corrupt than the model's own words, but {surer}, and no losses are common to compare at",
        )
    if equal.high < 0:
        return "undecided", "harder to corrupt than the model's own words, at equal loss too"
    if equal.low > -NEGLIGIBLE * other.mean:
        return "does not hold", f"harder to corrupt only as {surer}: at equal loss it is not"
    return "undecided", f"harder to corrupt, but {surer}, and at equal loss these paragraphs do not tell"


def _at_equal_loss(effects: Mapping[str, xr.Dataset], lost: Mapping[str, Values], seed: int) -> Estimate | None:
    """The difference in EM lost with the loss taken out, among losses that both sets have; None if these are few."""
    names = ("memorized", "control_own")
    losses = [effects[name]["nll"].values.astype(float) for name in names]
    common = in_both_ranges(*losses, paired=False)
    chosen = [(lost[name].values[row], lost[name].label[row]) for name, row in zip(names, common, strict=True)]
    if min(len(np.unique(label)) for _, label in chosen) < MIN_COMMON:
        return None
    (one, own), (other, others) = chosen
    covariate = [np.log(loss[row] + LEAST_LOSS) for loss, row in zip(losses, common, strict=True)]
    found = adjusted_difference(one, other, covariate=(covariate[0], covariate[1]), clusters=(own, others), seed=seed)
    middle, low, high = map(float, found)
    name, n = f"A minus {name_of(names[1])}", f"{len(one)} / {len(other)}"
    return Estimate("the same at equal loss", name, middle, low, high, "tokens", n, "difference")


def _per_token(effect: xr.Dataset, variable: str) -> np.ndarray:
    """Drops of every paragraph and position, draws averaged."""
    drop = effect[variable]
    return (drop.mean("draw") if "draw" in drop.dims else drop).transpose("paragraph", "pos").values.astype(float)


def _differences(values: dict[str, Values], names: list[str], of: tuple[str, str], seed: int) -> dict[str, Estimate]:
    own = values["memorized"]
    return {
        name: difference(f"A minus {name_of(name)}", own, values[name], of, paired=name == "twin", seed=seed)
        for name in names
    }


def unlearning_claim(results: Results, *, seed: int = 0) -> Claim:
    """Is the text forgotten when only the top weights move, does other text stay, and do random weights do it?"""
    table = results.get("unlearning", {}).get("all")
    if table is None:
        return Claim(_ENOUGH, "not run", "The unlearning stage was not run.", UNLEARNING)
    masks = list(dict.fromkeys(str(one) for one in table["mask"].values))
    top = next((one for one in masks if one.startswith("top")), None)
    if top is None:
        return Claim(_ENOUGH, "not run", "No trial moved the top weights alone.", UNLEARNING)
    order = [top, *(name for name in masks if name not in (top, "untouched"))]
    roles: dict[str, Role] = {name: "effect" if name == top else "control" for name in order}
    em = [
        mean(name, _alone(_trials(table, name, "target", "exact_match")), _LEFT, role=roles[name], seed=seed)
        for name in order
    ]
    reached = {name: _trials(table, name, "target", "reached").astype(bool) for name in order}
    shares = [share(name, reached[name], "forgotten by EM, longest run and NLL", role=roles[name]) for name in order]
    cost = _cost(table, top, seed)
    estimates = (*shares, *em, *([cost] if cost else []))
    verdict, why = _enough_verdict(shares[0], cost, _trials(table, "untouched", "other memorized", "exact_match"))
    done = {name: f"{int(own.sum())} of {len(own)}" for name, own in reached.items()}
    why = f"{top}: {done[top]} forgotten by EM, longest run and NLL{why}"
    rest = ", ".join(f"{name} {done[name]}" for name in order[1:])
    why += f"; {rest}: that some weights suffice does not say that the text is kept there" if rest else ""
    return Claim(_ENOUGH, verdict, sentence(why), UNLEARNING, estimates)


def _enough_verdict(done: Estimate, cost: Estimate | None, before: np.ndarray) -> tuple[Verdict, str]:
    if done.high < 0.5:
        return "does not hold", ""
    if not done.low > 0.5:
        return "undecided", ", too few trials to tell"
    if cost is None:
        return "undecided", ", what other memorized text loses was not measured"
    most = KEPT * float(before.mean())
    if cost.low > most:
        return "does not hold", f", but other memorized text loses {cost.mean:.1f} tokens of EM"
    if not cost.high <= most:
        return "undecided", f", what other memorized text loses is not sure ({cost.words()} tokens)"
    return "holds", f", other memorized text loses {max(0.0, cost.mean):.1f} tokens of EM"


def _cost(table: xr.Dataset, mask: str, seed: int) -> Estimate | None:
    before, after = (_trials(table, one, "other memorized", "exact_match") for one in ("untouched", mask))
    if not len(before) or len(before) != len(after):
        return None
    of = ("EM that other memorized text loses", "tokens")
    return mean(mask, _alone(before - after), of, role="difference", seed=seed)


def _trials(table: xr.Dataset, mask: str, rows: str, column: str) -> np.ndarray:
    """One value per target, in the order of the targets."""
    chosen = (table["mask"].values == mask) & (table["set"].values == rows)
    one = table.isel(row=chosen)
    return one[column].values[np.argsort(one["target"].values, kind="stable")]


def _alone(values: np.ndarray) -> Values:
    return Values(values.astype(float), np.arange(len(values)))
