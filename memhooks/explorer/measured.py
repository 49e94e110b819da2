"""What the model makes of a paragraph in a given state, through the project's own public functions.

1. One teacher-forced pass scores every token; exact match (EM) is the number of leading hits.
2. Until the first miss, greedy decoding sees the very tokens of the text. So only what follows
   the first miss is decoded.
3. The control is other text with the same heads silenced and the same positions replaced.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memhooks.errors import InputError
from memhooks.explorer.state import State
from memhooks.measure.recitation import exact_match, recitation, score_tokens
from memhooks.model.ablated import ablated
from memhooks.model.decoding import at_least_float32, greedy_continuation, scored_logits
from memhooks.model.loading import HookedModel
from memhooks.model.means import ActivationMeans
from memhooks.paragraphs.paragraphs import Paragraphs


@dataclass(frozen=True)
class Measured:
    """One paragraph in one state; entry t of `nll` and `predicted` is about token t + 1.

    Attributes:
        tokens: as the model reads them, replaced ones included.
        nll: surprise at each token but the first, in nats; 0 = certain.
        predicted: what the model finds most likely in each place.
        exact_match: continuation tokens before the first miss.
        mean_nll: over the continuation, in nats per token.
    """

    tokens: Int[Tensor, " pos"]
    nll: Float[Tensor, " scored"]
    predicted: Int[Tensor, " scored"]
    exact_match: int
    mean_nll: float


@dataclass(frozen=True)
class Suggestion:
    """A token for one place, and how likely the model finds it there (None if it was not asked)."""

    token: int
    probability: float | None


def silenced(model: HookedModel, state: State, means: ActivationMeans | None) -> AbstractContextManager[None]:
    """A block inside which the state's heads are silenced."""
    if not state.heads:
        return nullcontext()
    return ablated(model, how=state.how, means=means if state.how == "mean" else None, heads=state.heads)


def measure(
    model: HookedModel, paragraph: Paragraphs, state: State, *, means: ActivationMeans | None = None
) -> Measured:
    """Score the first paragraph in this state; `means` serve `how="mean"`."""
    changed = state.on(paragraph.select([0]))
    with silenced(model, state, means):
        (scores,) = score_tokens(model, changed.tokens, first=1)
    hits = scores.predicted == changed.tokens[:, 1:]
    return Measured(
        tokens=changed.tokens[0],
        nll=scores.nll[0],
        predicted=scores.predicted[0],
        exact_match=int(exact_match(hits[0, paragraph.n_prefix - 1 :])),
        mean_nll=float(scores.nll[0, paragraph.n_prefix - 1 :].mean()),
    )


def free_continuation(
    model: HookedModel,
    state: State,
    found: Measured,
    *,
    n_prefix: int,
    means: ActivationMeans | None = None,
) -> Int[Tensor, " n_continuation"]:
    """What the model itself says after the prefix, greedily; `found` is what `measure` returned."""
    known = min(n_prefix + found.exact_match + 1, len(found.tokens))  # the first miss is known too
    said = found.tokens[:known].clone()
    said[-1] = found.predicted[known - 2]
    if (missing := len(found.tokens) - known) > 0:
        with silenced(model, state, means):
            rest = greedy_continuation(model, said[None], n_tokens=missing)[0].cpu()
        said = torch.cat([said, rest])
    return said[n_prefix:]


def control_nll(
    model: HookedModel, control: Paragraphs, state: State, *, means: ActivationMeans | None = None
) -> Float[Tensor, " paragraph"]:
    """Mean NLL of each control paragraph's continuation in this state, in nats per token."""
    with silenced(model, state, means):
        found = recitation(model, state.on(control))
    return torch.from_numpy(found["nll"].mean("pos").values)


@torch.no_grad()
def suggestions(
    model: HookedModel,
    state: State,
    found: Measured,
    position: int,
    *,
    means: ActivationMeans | None,
    n: int,
    seed: int,
) -> list[Suggestion]:
    """Other tokens for one place: the `n` that the model finds most likely there, then `n` random ones.

    Nothing precedes position 0, which the model thus does not predict: it gets random ones alone.
    """
    others = torch.arange(model.cfg.d_vocab) != found.tokens[position]
    likely: list[Suggestion] = []
    if position:
        before = found.tokens[None, :position].to(model.cfg.device)
        with silenced(model, state, means):
            residual = model(before, stop_at_layer=model.cfg.n_layers)[:, -1:]
        share = at_least_float32(scored_logits(model, residual))[0, 0].softmax(-1).cpu()
        order = share.argsort(descending=True, stable=True)
        likely = [Suggestion(token, float(share[token])) for token in order[others[order]][:n].tolist()]
    others[[one.token for one in likely]] = False
    free = others.nonzero()[:, 0]
    generator = torch.Generator().manual_seed(seed + position)
    chosen = free[torch.randperm(len(free), generator=generator)[:n]].tolist()
    return likely + [Suggestion(token, None) for token in chosen]


def token_of(model: HookedModel, text: str) -> int:
    """The one token that this text is; without a tokenizer, the number that it spells.

    Raises:
        InputError: it is no token, or more than one.
    """
    if model.tokenizer is None:
        if not text.strip().isdecimal() or int(text) >= model.cfg.d_vocab:
            raise InputError(
                f"{text!r:.60} is no token id; without a tokenizer type a number in 0..{model.cfg.d_vocab - 1}"
            )
        return int(text)
    found = _encoded(model, text)
    if len(found) == 1:
        return found[0]
    if not found:
        raise InputError("type the text of one token; a leading space counts")
    parts = ", ".join(repr(text_of(model, token)) for token in found[:4])
    spaced = _encoded(model, f" {text}")
    hint = f"with a space before it ({' ' + text!r}) it is one" if len(spaced) == 1 else "type text that is one token"
    raise InputError(f"{text!r:.60} is {len(found)} tokens ({parts}{', ...' if len(found) > 4 else ''}); {hint}")


def text_of(model: HookedModel, token: int) -> str:
    """A token's text; without a tokenizer its id."""
    return str(token) if model.tokenizer is None else str(model.tokenizer.decode([token]))


def _encoded(model: HookedModel, text: str) -> list[int]:
    return [] if model.tokenizer is None else list(model.tokenizer.encode(text, add_special_tokens=False))
