"""From which layer on is the next token decided? The logit lens (nostalgebraist, 2020).

1. One pass keeps the residual stream before the first block and after each.
2. Final norm and unembedding are applied to each of them, as if the model ended there.
3. A token is decided at the depth from which on every lens names the model's final choice.

What a lens reads early is what the final unembedding happens to understand, not all that
the model knows by then: compare depths and sets of text, and measure a control the same way.
"""

import torch
import torch.nn.functional as F
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from memhooks.model.checks import check_batch_size
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance
from memhooks.model.replay.clean_run import CleanRun, clean_run
from memhooks.model.replay.layouts import Layouts
from memhooks.model.watched import refuse_hooks
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.progress import tracked

_DEPTH = "layer = blocks that have run: 0 is the embeddings alone, the last is the model's output"


def logit_lens(model: HookedModel, paragraphs: Paragraphs, *, batch_size: int = 16) -> xr.Dataset:
    """What the model would predict for each continuation token if it ended after so many blocks.

    Args:
        model: a hooked GPT-Neo.
        paragraphs: memorized ones, or a control.
        batch_size: paragraphs per pass.

    Returns:
        Dataset over `paragraph`, `layer` and `pos` (index of the predicted continuation token). `layer` counts
        the blocks that have run, so it has one label more than the model has blocks: 0 is what enters block 0,
        the embeddings alone; the last is the model's own output. Over all three: `nll` (nats) and `rank`
        (0 = top; of equal logits the smaller id comes first) of the true token, and `hit` (rank 0). Over
        `paragraph` and `pos`: `decided` (blocks after which the model's final choice is on top and stays there)
        and `recited` (that choice is the true token).

    Raises:
        InputError: a batch size below one, paragraphs that the model cannot read, or hooks on the model.

    Example:
        >>> import memhooks
        >>> model = memhooks.load_model("organism")
        >>> rows = memhooks.load_planted("A", at_least=128).select(slice(0, 2))
        >>> lens = memhooks.logit_lens(model, rows)
        >>> dict(lens.sizes)
        {'paragraph': 2, 'layer': 9, 'pos': 50}
        >>> lens["hit"].mean("pos").sel(layer=[0, 8]).values.round(1)
        array([[0., 1.],
               [0., 1.]])
    """
    paragraphs.check(model)
    check_batch_size(batch_size)
    refuse_hooks(model)
    batches = tracked(paragraphs.tokens.split(batch_size), "reading the stream")
    found = [_read(clean_run(model, tokens, first=paragraphs.n_prefix)) for tokens in batches]
    nll, rank, top = (torch.cat(one) for one in zip(*found, strict=True))
    n_layers, n_pos = model.cfg.n_layers, paragraphs.tokens.shape[1]
    axes, tokens = ("paragraph", "layer", "pos"), ("paragraph", "pos")
    labels = {
        "paragraph": paragraphs.ids,
        "layer": range(n_layers + 1),
        "pos": range(paragraphs.n_prefix, n_pos),
    }
    return labelled(
        provenance(model, paragraphs.tokens) | {"n_prefix": paragraphs.n_prefix},
        nll=Variable(nll, axes, f"nats of the true token, 0 = certain; {_DEPTH}", labels),
        rank=Variable(rank, axes, f"tokens ranked above the true one, 0 = top; {_DEPTH}"),
        hit=Variable(rank == 0, axes, f"whether the true token is on top; {_DEPTH}"),
        decided=Variable(
            decided(top),
            tokens,
            f"blocks after which the model's final choice is on top and stays there, 0..{n_layers}; "
            "0 = the embeddings alone name it",
        ),
        recited=Variable(top[:, -1] == paragraphs.continuation, tokens, "whether the model's final choice is true"),
    )


def decided(top: Int[Tensor, "paragraph depth pos"]) -> Int[Tensor, "paragraph pos"]:
    """The first depth from which on the most likely token is the last depth's, there and ever after."""
    agrees = (top == top[:, -1:]).long()
    return top.shape[1] - agrees.flip(1).cumprod(1).sum(1)


def share_decided(result: xr.Dataset) -> xr.DataArray:
    """Share of each paragraph's tokens whose final choice is decided at each depth, from 0 to 1, of a `logit_lens`."""
    share = (result["decided"] <= result["layer"]).mean("pos").transpose("paragraph", "layer")
    return share.assign_attrs(units=f"share of continuation tokens that are decided, 0 = none; {_DEPTH}")


def _read(run: CleanRun) -> tuple[Tensor, Tensor, Tensor]:
    """The true token's NLL and rank, and the most likely token, each [paragraph depth scored]."""
    streams = [*(layer.pre for layer in run.layers), run.final]
    depths = [_score(run.weights, stream[:, run.first - 1 : -1], run.targets) for stream in streams]
    nll, rank, top = (torch.stack(one, 1).cpu() for one in zip(*depths, strict=True))
    return nll, rank, top


def _score(
    weights: Layouts, stream: Float[Tensor, "paragraph scored d_model"], targets: Int[Tensor, "paragraph scored"]
) -> tuple[Tensor, Tensor, Tensor]:
    logits = F.linear(weights.norm(stream), weights.unembed, weights.unembed_bias)
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()  # a sum over the vocabulary needs more than half precision
    true = logits.gather(-1, targets[..., None])
    ids = torch.arange(logits.shape[-1], device=logits.device)
    above = (logits > true) | ((logits == true) & (ids < targets[..., None]))
    return logits.logsumexp(-1) - true[..., 0], above.sum(-1), logits.argmax(-1)
