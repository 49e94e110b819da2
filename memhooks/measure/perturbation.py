"""Which prefix tokens carry the continuation? Replace one at a time and see what breaks.

For every prefix position: put another token there, score the original continuation
teacher-forced, and compare with the untouched prefix. EM alone is decided by the first
continuation token, so NLL rise and position-wise matches stand beside it.
"""

from collections.abc import Iterator

import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor

from memhooks.measure.damage import damage
from memhooks.measure.effects import check_effect, replaced, worst_place
from memhooks.measure.replacements import Replacement, drawn, uniform
from memhooks.model.checks import check_batch_size
from memhooks.model.decoding import scored_logits
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance
from memhooks.model.replay.batches import batches
from memhooks.model.replay.clean_run import CleanRun, clean_run
from memhooks.model.replay.edits import token_edits
from memhooks.model.replay.exact import leading_hits, replay_exact_match
from memhooks.model.replay.readers import divergence, mean_divergence
from memhooks.model.replay.replay import Edits, replay
from memhooks.model.replay.scoring import Outcome, joined
from memhooks.model.replay.sweep import every
from memhooks.model.replay.work import TOGETHER, Work
from memhooks.model.watched import has_hooks, refuse_hooks
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.progress import tracked


def perturb(
    model: HookedModel,
    paragraphs: Paragraphs,
    *,
    seed: int,
    replace: Replacement = uniform,
    n_draws: int = 1,
    cumulative: bool = False,
    batch_size: int | None = None,
) -> xr.Dataset:
    """Replace each prefix token, position 0 too, and score the same continuation.

    Args:
        model: a hooked GPT-Neo.
        paragraphs: memorized ones, or a control.
        seed: of the replacements.
        replace: what is put there: `uniform`, `first2sec`, `frequency_matched(counts)`, `from_paragraphs(source)`
            of `memhooks.measure.replacements`, or a function of your own.
        n_draws: replacements per position.
        cumulative: replace all tokens up to the position, not it alone.
        batch_size: rows per pass; by default what fits into free memory.

    Returns:
        Dataset over `paragraph`, `draw` and `pos` (the replaced position): `nll_rise` (nats per token),
        `em_drop` and `match_drop` (tokens), `kl` (nats), `replacement` (token id), and over `paragraph`
        the untouched `nll` and `exact_match`. EM is decided by the first continuation token that breaks.

    Raises:
        InputError: paragraphs the model cannot read, a batch size or a number of draws below one, or a `replace`
            that returns no token ids.

    Example:
        >>> import memhooks
        >>> model = memhooks.load_model("organism")
        >>> rows = memhooks.load_planted("A", at_least=128).select(slice(0, 1))
        >>> effect = memhooks.perturb(model, rows, seed=0)
        >>> dict(effect.sizes)
        {'paragraph': 1, 'draw': 1, 'pos': 50}
        >>> int(effect["em_drop"].max())
        50
    """
    check_batch_size(batch_size)
    replacement = drawn(model, paragraphs, replace, seed=seed, n_draws=n_draws)
    clean, after, work, limit = [], [], Work(), None
    for tokens, others in _groups(paragraphs, replacement):
        if has_hooks(model):
            base, changed = _by_passes(model, tokens, others, paragraphs.n_prefix, batch_size, cumulative=cumulative)
        else:
            run = clean_run(model, tokens, first=paragraphs.n_prefix)
            base, readers = run.outcome, {"kl": divergence(run)}
            limit = limit or batches(run, batch_size)
            changed = replay(run, _edits(run, others, cumulative=cumulative), batches=limit, work=work, readers=readers)
        clean.append(base.on_cpu())
        after.append(changed.on_cpu())
    axes, labels = _axes(paragraphs, n_draws)
    about = (
        _about(model, paragraphs, replace, cumulative=cumulative)
        | {"seed": seed}
        | ({} if has_hooks(model) else work.about())
    )
    found = damage(joined(clean), joined(after), axes, labels)
    return labelled(about, **found, replacement=Variable(replacement, axes, "token id"))


def perturb_exact_match(
    model: HookedModel,
    paragraphs: Paragraphs,
    *,
    seed: int,
    replace: Replacement = uniform,
    n_draws: int = 1,
    cumulative: bool = False,
    batch_size: int | None = None,
) -> xr.Dataset:
    """The EM drops of `perturb` alone, several times as fast: what follows a miss is not computed.

    Returns:
        Dataset over `paragraph`, `draw` and `pos`: `em_drop` (tokens) and `replacement` (token id).

    Raises:
        InputError: as `perturb`, or hooks on the model.
    """
    refuse_hooks(model)
    check_batch_size(batch_size)
    replacement = drawn(model, paragraphs, replace, seed=seed, n_draws=n_draws)
    drops, work, limit = [], Work(), None
    for tokens, others in _groups(paragraphs, replacement):
        run = clean_run(model, tokens, first=paragraphs.n_prefix)
        limit = limit or batches(run, batch_size)
        em = replay_exact_match(run, _edits(run, others, cumulative=cumulative), batches=limit, work=work)
        drops.append((leading_hits(run.outcome.hits)[:, None] - em.reshape(len(tokens), -1)).cpu())
    axes, labels = _axes(paragraphs, n_draws)
    about = _about(model, paragraphs, replace, cumulative=cumulative) | {"seed": seed} | work.about()
    return labelled(
        about,
        em_drop=Variable(
            torch.cat(drops).reshape(replacement.shape), axes, "tokens of exact match lost, 0 = no effect", labels
        ),
        replacement=Variable(replacement, axes, "token id"),
    )


def corrupted(
    paragraphs: Paragraphs, effect: xr.Dataset
) -> tuple[Int[Tensor, "paragraph pos"], Int[Tensor, " paragraph"]]:
    """Each paragraph with its most damaging replacement, and where that is (the first of equals).

    Raises:
        InputError: an effect of other paragraphs, or of several tokens at once.
    """
    check_effect(effect, paragraphs)
    draw, at = worst_place(effect)
    return replaced(paragraphs, effect, torch.arange(len(paragraphs)), draw, at), at


def _groups(paragraphs: Paragraphs, replacement: Int[Tensor, "paragraph draw pos"]) -> Iterator[tuple[Tensor, Tensor]]:
    pairs = zip(paragraphs.tokens.split(TOGETHER), replacement.split(TOGETHER), strict=True)
    yield from tracked(list(pairs), "perturbing")


def _edits(run: CleanRun, others: Int[Tensor, "paragraph draw pos"], *, cumulative: bool) -> Edits:
    """One row per paragraph, draw and position, in this order."""
    others = others.to(run.device)
    row, draw, position = every(*others.shape, device=run.device)
    if not cumulative:
        return token_edits(run, row, position, others[row, draw, position][:, None])
    prefix = run.tokens[row, : others.shape[2]]
    up_to = torch.arange(others.shape[2], device=run.device) <= position[:, None]
    return token_edits(run, row, torch.zeros_like(position), torch.where(up_to, others[row, draw], prefix))


@torch.no_grad()
def _by_passes(
    model: HookedModel,
    tokens: Int[Tensor, "paragraph length"],
    others: Int[Tensor, "paragraph draw pos"],
    first: int,
    batch_size: int | None,
    *,
    cumulative: bool,
) -> tuple[Outcome, Outcome]:
    """The same by full passes, which hooks of others on the model take part in."""
    row, draw, position = every(*others.shape)
    each = torch.arange(others.shape[2])
    chosen = each <= position[:, None] if cumulative else each == position[:, None]
    variants = tokens[row].clone()
    variants[:, :first] = torch.where(chosen, others[row, draw], variants[:, :first])

    def scores(rows: Tensor) -> tuple[Outcome, Tensor]:
        rows = rows.to(model.cfg.device)
        residual = model(rows, stop_at_layer=model.cfg.n_layers)[:, first - 1 : -1]
        logs = scored_logits(model, residual).to(torch.promote_types(residual.dtype, torch.float32)).log_softmax(-1)
        nll = -logs.gather(-1, rows[:, first:, None])[..., 0]
        return Outcome(nll, logs.argmax(-1) == rows[:, first:]), logs

    clean, reference = scores(tokens)
    found = []
    for rows, paragraph in zip(variants.split(batch_size or 32), row.split(batch_size or 32), strict=True):
        one, logs = scores(rows)
        found.append(Outcome(one.nll, one.hits, {"kl": mean_divergence(reference[paragraph], logs)}))
    return clean, joined(found)


def _axes(paragraphs: Paragraphs, n_draws: int) -> tuple[tuple[str, ...], dict]:
    labels = {"paragraph": paragraphs.ids, "draw": range(n_draws), "pos": range(paragraphs.n_prefix)}
    return tuple(labels), labels


def _about(model: HookedModel, paragraphs: Paragraphs, replace: Replacement, *, cumulative: bool) -> dict[str, object]:
    return provenance(model, paragraphs.tokens) | {
        "n_prefix": paragraphs.n_prefix,
        "replace": getattr(replace, "__name__", type(replace).__name__),
        "cumulative": int(cumulative),
    }
