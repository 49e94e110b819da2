"""What the paper says in words, as rows of yes and no, each with its number, its control and the published number.

Which layers are low follows the model's depth: the first third (0 to 3 of 12), and the stretch from a half to three
quarters (6 to 8 of 12). A claim holds where the interval says so; without an interval nothing is claimed.

Layers' shares are raw, as published, though the sets differ in loss; `memhooks gradients` compares at equal loss.
Left out: what heads other than L1H2 look at (punctuation, stop words), which needs classes of tokens.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch

from memhooks.localize.attention_statistics import rank_rows
from memhooks.measure.intervals import Interval, bootstrap_difference, interval_ends
from memhooks.truth.published.claim import Claim, above, shown
from memhooks.truth.published.claims_of_trials import editing, random, sparse
from memhooks.truth.published.gradients import part_name as gradients_of
from memhooks.truth.published.parts import Found
from memhooks.truth.published.setting import Setting
from memhooks.truth.published.targets import BINS, LAYER_SUMS, MP, NMP


def claims(setting: Setting, found: Found) -> list[Claim]:
    """Every claim whose parts have been measured."""
    made: list[Callable[[Setting, Found], list[Claim]]] = [_layers, _smooth, _top_cell]
    made += [_position, _sturdy, _rare, _patterns, sparse, random, editing]
    return [one for make in made for one in make(setting, found)]


def _layers(setting: Setting, found: Found) -> list[Claim]:
    if not {f"shares-{MP}", f"shares-{NMP}"} <= set(found):
        return []
    memorized, other = (np.array(found[f"shares-{of}"]["shares"]) for of in (MP, NMP))
    near = (np.array(found[f"shares-{MP}"]["clusters"]), np.array(found[f"shares-{NMP}"]["clusters"]))
    n = memorized.shape[1]
    rows = []
    for text, where, sign in (
        ("memorized text has more of its gradient in the first third of the layers", low_layers(n), 1),
        ("other text has more of it between a half and three quarters", middle_layers(n), -1),
    ):
        one, two = memorized[:, where].sum(1), other[:, where].sum(1)
        mean, low, high = bootstrap_difference(one, two, clusters=near, seed=setting.seed)
        theirs = [_published_share(of, where=middle_layers(12) if sign < 0 else low_layers(12)) for of in (MP, NMP)]
        holds = above(low) if sign > 0 else above(-high)
        rows.append(
            Claim(
                text, holds, f"share {one.mean():.2f}, difference {shown((mean, low, high), '+.2f')}",
                f"other text {two.mean():.2f}", f"{theirs[0]:.2f} and {theirs[1]:.2f}",
            )
        )  # fmt: skip
    return rows


def low_layers(n_layers: int) -> slice:
    """The first third."""
    return slice(0, max(1, n_layers // 3))


def middle_layers(n_layers: int) -> slice:
    """From a half to three quarters."""
    return slice(n_layers // 2, max(n_layers // 2 + 1, 3 * n_layers // 4))


def _published_share(of: str, *, where: slice) -> float:
    return sum(LAYER_SUMS[of][where]) / sum(LAYER_SUMS[of])


def _smooth(setting: Setting, found: Found) -> list[Claim]:
    if not all(gradients_of(of) in found for of in BINS):
        return []
    ours = []
    for of in BINS:
        sums = np.array(found[gradients_of(of)]["layers"])
        ours.append(float(sums[low_layers(len(sums))].sum() / sums.sum()))
    theirs = [_published_share(of, where=low_layers(12)) for of in BINS]
    ours_said, published = (", ".join(f"{one:.2f}" for one in shares) for shares in (ours, theirs))
    text = "the first third's share rises smoothly with EM (0-10, 11-29, 30-49, 50)"
    losses = ", ".join(f"{found[gradients_of(of)]['nll']:.2f}" for of in BINS)
    order = "rises" if np.all(np.diff(ours) > 0) else "does not rise"
    return [Claim(text, None, f"{ours_said}: {order} (one batch, no interval)", f"NLL {losses}", published)]


def _top_cell(setting: Setting, found: Found) -> list[Claim]:
    if not {gradients_of(MP), gradients_of(NMP)} <= set(found):
        return []
    ours, other = (str(found[gradients_of(of)]["top_cell"]) for of in (MP, NMP))
    text = "the largest cell of memorized text is one low head's W_V, and not that of other text"
    return [Claim(text, None, f"{ours} (one batch, no interval)", f"other text {other}", "L1 W_V 2")]


def _position(setting: Setting, found: Found) -> list[Claim]:
    if f"perturbed-{MP}" not in found:
        return []
    ends = {of: _growth(found[name], setting.seed) for of in (MP, NMP) if (name := f"perturbed-{of}") in found}
    text = "the effect of a replaced token grows towards the end of the prefix"
    control = f"other text {shown(ends[NMP], '+.2f')}" if NMP in ends else "none"
    return [Claim(text, above(ends[MP][1]), f"rank correlation {shown(ends[MP], '+.2f')}", control, "yes (Fig. 3)")]


def _growth(part: Mapping, seed: int) -> Interval:
    """Rank correlation of position (from 1) and mean drop, resampled by clusters."""
    drop, label = np.array(part["drop"], float)[:, 1:], np.array(part["clusters"])
    n = int(label.max()) + 1
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=1000)[:, label]
    low, high = interval_ends(_with_order(times @ drop), n, 0.95)
    return np.asarray(_with_order(drop.sum(0, keepdims=True))[0]), low, high


def _with_order(curves: np.ndarray) -> np.ndarray:
    ranks = rank_rows(torch.from_numpy(curves))
    order = rank_rows(torch.arange(curves.shape[1], dtype=torch.float64))
    return (ranks * order).mean(-1).numpy()


def _sturdy(setting: Setting, found: Found) -> list[Claim]:
    if not {f"perturbed-{MP}", f"perturbed-{NMP}"} <= set(found):
        return []
    drops = [np.array(found[f"perturbed-{of}"]["drop"], float)[:, 1:].mean(1) for of in (MP, NMP)]
    near = (np.array(found[f"perturbed-{MP}"]["clusters"]), np.array(found[f"perturbed-{NMP}"]["clusters"]))
    ends = bootstrap_difference(drops[0], drops[1], clusters=near, seed=setting.seed)
    text = "memorized text is harder to corrupt"
    measured = f"EM drop {drops[0].mean():.1f}, difference {shown(ends, '+.1f')}"
    return [Claim(text, above(-ends[2]), measured, f"other text {drops[1].mean():.1f}", "12.2 and 33.1")]


def _rare(setting: Setting, found: Found) -> list[Claim]:
    one = found.get("attention")
    if one is None or not one["corrected of MP"]:
        return []
    who = f"L{one['head'][0]}H{one['head'][1]}"
    if not setting.published_shape:
        who += f" (chosen on {one['n_pool'] - one['n']} other rows)"
    chosen_apart = setting.published_shape or one["n_pool"] > one["n"]
    own, other = one["corrected of MP"], one["corrected of NMP"]
    control = f"other text {shown(other, '+.2f')}" if other else "none"
    rows = [
        Claim(
            "a low head attends to rare tokens (corrected, per paragraph)",
            above(None if own[2] is None or not chosen_apart else -own[2]),
            f"{who}: {shown(own, '+.2f')}", f"uniform attention 0; {control}", "-0.97 (summed)",
        )
    ]  # fmt: skip
    if (gap := one.get("corrected difference")) is not None:
        text = "and more so in memorized text"
        rows.append(
            Claim(
                text, above(None if gap[2] is None else -gap[2]), f"difference {shown(gap, '+.2f')}", control,
                "implied",
            )
        )  # fmt: skip
    return rows


def _patterns(setting: Setting, found: Found) -> list[Claim]:
    one = found.get("attention")
    if one is None:
        return []
    text = "heads of layer 2 attend entirely otherwise than those of layer 1"
    if "apart" not in one:
        n = setting.loaded.cfg.n_layers
        return [Claim(text, None, f"not measured: the model has {n} layers", "none", "yes")] if n < 3 else []
    across, within, (_, low, high) = one["alike in L1 and L2"], one["alike in L1"], one["apart"]
    holds = None if low is None else bool(low > 0 and one["alike in L1, least"] > 0)
    measured = f"correlation of mean rows {across:+.2f}"
    control = f"heads of layer 1 among themselves {within:+.2f}; half of it minus the first"
    return [Claim(text, holds, measured, f"{control} {shown([within / 2 - across, low, high], '+.2f')}", "yes")]
