"""Exact match after each prefix token was replaced: dropping rows that miss against decoding all of them."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.floor import Cost, measured
from benchmarks.outcome import Outcome, Peer
from benchmarks.setting import N_PREFIX, Setting
from benchmarks.sweeps import scaled
from memhooks.measure.perturbation import perturb_exact_match
from memhooks.measure.recitation import recitation, with_own_continuation
from memhooks.measure.replacements import drawn, uniform
from memhooks.paragraphs.paragraphs import Paragraphs

BATCH = 30


def recited(at: Setting) -> Outcome:
    """Paragraphs that the model recites: what it says itself, or planted ones."""
    some = at.recited.select(slice(0, at.size.n_perturbed))
    rows = with_own_continuation(at.model, some) if at.shape == "125M" else some
    aims = {"batch 1": 20.0, "batch 30": 5.0, "teacher": 3.0}
    return perturbation(at, rows, "recited" if at.shape == "organism" else "the model's own continuation", aims)


def control(at: Setting) -> Outcome:
    """Paragraphs whose continuation the model misses at once."""
    return perturbation(at, at.control.select(slice(0, at.size.n_perturbed)), "controls", {"batch 30": 10.0})


def perturbation(at: Setting, rows: Paragraphs, what: str, aims: dict[str, float]) -> Outcome:
    """All positions of all rows by memhooks; a part of them by each peer."""
    variants = _variants(at, rows)
    others, counts = _decoded(at, rows, variants, aims), _teacher_forced(at, rows, variants, aims)
    found, ours = measured(lambda: perturb_exact_match(at.model, rows, seed=0), at.device)
    untouched = torch.from_numpy(recitation(at.model, rows)["exact_match"].values)
    em = untouched[:, None] - torch.from_numpy(found["em_drop"].values)[:, 0]
    n_equal = int((em[: len(counts[1])] == counts[1]).sum())
    rate = at.rate()
    return Outcome(
        f"EM after each of {N_PREFIX} tokens is replaced, {len(rows)} paragraphs, {what}",
        at.name,
        ours,
        "all",
        rate,
        found.attrs["flops_floor"] / rate if int(em.sum()) > em.numel() else None,  # rows that miss: uncounted
        [*others, counts[0]],
        f"EM equal in {n_equal} of {counts[1].numel()} teacher-forced; "
        f"mean {float(untouched.float().mean()):.0f} untouched, {float(em.float().mean()):.0f} after",
    )


def _variants(at: Setting, rows: Paragraphs) -> Tensor:
    """[paragraph position token], as the sweep replaces them."""
    others = drawn(at.model, rows, uniform, seed=0, n_draws=1)[:, 0]
    each = torch.arange(N_PREFIX)
    variants = rows.tokens[:, None].repeat(1, N_PREFIX, 1)
    variants[:, each, each] = others
    return variants.to(at.device)


def _decoded(at: Setting, rows: Paragraphs, variants: Tensor, aims: dict[str, float]) -> list[Peer]:
    n_all, n_tokens = len(rows) * N_PREFIX, rows.n_continuation
    found = []
    for name, n, batch in (("batch 1", at.size.n_decoded, 1), ("batch 30", BATCH, BATCH)):
        if name not in aims:
            continue
        prefixes = variants[0, :n, :N_PREFIX]

        def decode(prefixes: Tensor = prefixes, batch: int = batch) -> Tensor:
            return peers.generated(at.model, prefixes, n_tokens=n_tokens, batch_size=batch)

        cost = measured(decode, at.device)[1]
        sample = f"{n} rows of {n_tokens} steps"
        found.append(Peer(f"TransformerLens generate, {name}", scaled(cost, n_all / n), sample, aims[name]))
    return found


def _teacher_forced(at: Setting, rows: Paragraphs, variants: Tensor, aims: dict[str, float]) -> tuple[Peer, Tensor]:
    n = min(len(rows), 4 if at.shape == "organism" else 1)
    em, cost = [], Cost(0.0, 0.0)
    for own in variants[:n]:
        counted, one = measured(_pass(at, own), at.device)
        em.append(counted.cpu())
        cost = Cost(cost.seconds + one.seconds, max(cost.peak or 0.0, one.peak or 0.0) or None)
    peer = Peer("TransformerLens, full passes of 50 rows", cost, f"{n} paragraphs", aims.get("teacher"))
    return replace(peer, cost=scaled(cost, len(rows) / n)), torch.stack(em)


def _pass(at: Setting, rows: Tensor) -> Callable[[], Tensor]:
    return lambda: peers.teacher_forced(at.model, rows, first=N_PREFIX)
