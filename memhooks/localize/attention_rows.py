"""Where do chosen positions look? Their attention in all layers and heads, from one pass.

Where nobody's hooks are on the model, blocks are replayed: the softmax is computed for the asking positions
alone, nothing after the last of them is run, and the pass ends at the last layer's scores. Where hooks are,
TransformerLens runs, so that what they do is seen.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memhooks.errors import InputError
from memhooks.model.checks import check_tokens
from memhooks.model.hooks import hooked, recorded
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel, HookPoint, layer_type, window_of
from memhooks.model.provenance import provenance
from memhooks.model.replay.block import attended, projected, reachable, split_heads, visible
from memhooks.model.replay.layouts import Layer, layouts
from memhooks.model.watched import has_hooks
from memhooks.paragraphs.paragraphs import Paragraphs


@torch.no_grad()
def query_attention(
    model: HookedModel, tokens: Int[Tensor, "batch pos"], queries: Sequence[int], *, layers: Sequence[int] | None = None
) -> Float[Tensor, "batch layer head query key"]:
    """Attention of the positions `queries`, after the softmax, on every key up to the last of them.

    Args:
        model: a hooked GPT-Neo.
        tokens: rows; what comes after the last query is not run.
        queries: positions from 0.
        layers: which layers, in this order; all by default.

    Returns:
        Shares of attention, which sum to 1 over keys; 0 on keys that a query cannot see. In float32, on the CPU.

    Raises:
        InputError: tokens that the model cannot read, queries outside them, layers that it does not have, or
            attention that is not a number, because weights are not.
    """
    check_tokens(model, tokens)
    chosen = checked_layers(model, layers)
    if not queries or min(queries) < 0 or max(queries) >= tokens.shape[1]:
        raise InputError(f"queries must be positions in 0..{tokens.shape[1] - 1}, got {list(queries)}")
    seen = tokens[:, : max(queries) + 1].to(model.cfg.device)
    rows = _recorded if has_hooks(model) else _replayed
    found = rows(model, seen, torch.tensor(list(queries), device=seen.device), chosen)
    wrong = found.isnan().flatten(2).any(-1).any(0).tolist()
    _check_numbers([layer for layer, bad in zip(chosen, wrong, strict=True) if bad])
    return found


def reachable_keys(model: HookedModel, query: int) -> Bool[Tensor, "layer pos"]:
    """Which keys each layer's heads can see from `query`: all before it, or those in the local window."""
    windows = [window_of(model, layer) for layer in range(model.cfg.n_layers)]
    return torch.cat([reachable(window, query, 1, 0, query + 1) for window in windows])


def attention_of(model: HookedModel, paragraph: Paragraphs, *, query: int | None = None) -> xr.Dataset:
    """Where one position of one paragraph looks: the key-query view of every layer and head.

    Args:
        model: a hooked GPT-Neo.
        paragraph: a single one, such as `paragraphs.select([3])`.
        query: the position that asks; by default the last prefix token, which predicts the first continuation token.

    Returns:
        Dataset over `layer`, `head`, `key`: `attention` (shares of 1; NaN where the layer cannot see the key);
        over `key`: `token` (its id); over `layer`: `local`.

    Raises:
        InputError: not one paragraph, a query outside it, or attention that is not a number.
    """
    paragraph.check(model)
    if len(paragraph) != 1:
        raise InputError(f"one paragraph is shown at a time, got {len(paragraph)}; pass paragraphs.select([row])")
    query = paragraph.n_prefix - 1 if query is None else query
    seen = query_attention(model, paragraph.tokens, [query])[0, :, :, 0]
    unseen = ~reachable_keys(model, query)[:, None]
    about = {"query": query, "n_prefix": paragraph.n_prefix, "paragraph": paragraph.ids[0]}
    places = {"layer": range(len(seen)), "head": range(seen.shape[1]), "key": range(query + 1)}
    return labelled(
        provenance(model, paragraph.tokens) | about,
        attention=Variable(
            seen.masked_fill(unseen, torch.nan), tuple(places), "share of the query's attention, NaN = not seen", places
        ),
        token=Variable(paragraph.tokens[0, : query + 1], ("key",), "token id"),
        local=Variable(local_layers(model, range(len(seen))), ("layer",), "whether the layer sees only a window"),
    )


def checked_layers(model: HookedModel, layers: Sequence[int] | None) -> tuple[int, ...]:
    """The layers asked for, all by default.

    Raises:
        InputError: none, one twice, or one that the model does not have.
    """
    n_layers = model.cfg.n_layers
    chosen = tuple(range(n_layers)) if layers is None else tuple(layers)
    if not chosen or len(set(chosen)) < len(chosen) or min(chosen) < 0 or max(chosen) >= n_layers:
        raise InputError(f"layers must be different numbers in 0..{n_layers - 1}, got {list(chosen)}")
    return chosen


def local_layers(model: HookedModel, layers: Sequence[int]) -> Bool[Tensor, " layer"]:
    """Which of the layers see only a window."""
    return torch.tensor([layer_type(model, layer) == "local" for layer in layers])


def _check_numbers(wrong: Sequence[int]) -> None:
    """Refuse layers whose attention is not a number.

    Raises:
        InputError: there are any; the first is named.
    """
    if wrong:
        raise InputError(f"the attention of layer {min(wrong)} is not a number; are the weights?")


def _recorded(
    model: HookedModel, tokens: Int[Tensor, "batch pos"], queries: Int[Tensor, " query"], layers: tuple[int, ...]
) -> Float[Tensor, "batch layer head query key"]:
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in layers]
    scores = [f"blocks.{layer}.attn.hook_attn_scores" for layer in range(max(layers) + 1)]
    wrong = []

    def note(activation: Tensor, hook: HookPoint) -> None:
        # TransformerLens puts 0 for attention that is not a number, so it must be seen before that.
        if activation.isnan().any():
            wrong.append(hook.layer())

    with hooked(model, [(scores, note)]), recorded(model, names) as store:
        model(tokens, stop_at_layer=max(layers) + 1)
        _check_numbers(wrong)
        return torch.stack([store.pop(name)[:, :, queries].float().cpu() for name in names], dim=1)


def _replayed(
    model: HookedModel, tokens: Int[Tensor, "batch pos"], queries: Int[Tensor, " query"], layers: tuple[int, ...]
) -> Float[Tensor, "batch layer head query key"]:
    weights, last, found = layouts(model), max(layers), {}
    x = F.embedding(tokens, weights.embed) + weights.positions[: tokens.shape[1]]
    for number, layer in enumerate(weights.layers[: last + 1]):
        if number == last:  # its values, what it writes and all above it are not wanted
            found[number] = _softmax(layer, *_queries_and_keys(layer, x, queries), queries)
            break
        q, keys, values = projected(layer, x)
        if number in layers:
            found[number] = _softmax(layer, q[:, :, queries], keys, queries)
        mid = F.linear(attended(layer, q, keys, values, start=0, low=0), layer.out, layer.out_bias).add_(x)
        x = layer.mlp(mid).add_(mid)
    return torch.stack([found[number] for number in layers], dim=1)


def _queries_and_keys(
    layer: Layer, x: Float[Tensor, "batch pos d_model"], queries: Int[Tensor, " query"]
) -> tuple[Float[Tensor, "batch head query d_head"], Float[Tensor, "batch head key d_head"]]:
    normed, width = layer.norm1(x), layer.qkv.shape[0] // 3
    q = F.linear(normed[:, queries], layer.qkv[:width], layer.qkv_bias[:width])
    keys = F.linear(normed, layer.qkv[width : 2 * width], layer.qkv_bias[width : 2 * width])
    return split_heads(q, layer.n_heads), split_heads(keys, layer.n_heads)


def _softmax(
    layer: Layer,
    q: Float[Tensor, "batch head query d_head"],
    keys: Float[Tensor, "batch head key d_head"],
    queries: Int[Tensor, " query"],
) -> Float[Tensor, "batch head query key"]:
    seen = visible(queries, torch.arange(keys.shape[2], device=keys.device), layer.window)
    scores = (q @ keys.transpose(-1, -2)) * layer.scale
    return scores.masked_fill_(~seen, -torch.inf).softmax(-1).float().cpu()
