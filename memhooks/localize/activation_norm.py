"""Which MLP neurons are most active while a text is recited? "Act" of Chang et al. (2024), arXiv:2311.09060."""

import torch
from torch import Tensor

from memhooks.model.components import component_parameters, components
from memhooks.model.hooks import recorded
from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.progress import tracked

_ROWS = 8  # whose activations are held at once


@torch.no_grad()
def activation_norm(model: HookedModel, forget: Paragraphs, retain: Paragraphs, *, seed: int = 0) -> dict[str, Tensor]:
    """|Mean activation| of a neuron where the continuation is predicted, times the length of its row of W_out.

    What the neuron writes into the residual stream on average, in the stream's own units. The mean is over
    positions and paragraphs. All weights of a neuron, its column of W_in and its row of W_out, share its score;
    attention has 0. Neither `retain` nor `seed` is used.

    Raises:
        InputError: paragraphs that the model cannot read.
    """
    forget.check(model)
    layers = range(model.cfg.n_layers)
    totals = dict.fromkeys(layers, torch.zeros((), dtype=torch.float64))
    for tokens in tracked(forget.tokens.split(_ROWS), "activations"):
        with recorded(model, [("post", layer) for layer in layers]) as seen:
            model(tokens.to(model.cfg.device), stop_at_layer=model.cfg.n_layers)
        for layer in layers:
            predicting = seen[f"blocks.{layer}.mlp.hook_post"][:, forget.n_prefix - 1 : -1]
            totals[layer] = totals[layer] + predicting.double().sum((0, 1)).cpu()
    weights = component_parameters(model)
    scores = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for cell in components(model):
        if cell.matrix == "W_out":
            lengths = weights[cell.parameter_name].norm(dim=1)
            mean = totals[cell.layer] / (len(forget) * forget.n_continuation)
            neuron = mean.abs().to(lengths) * lengths
            scores[cell.parameter_name] += neuron[:, None]
            scores[cell.parameter_name.replace("W_out", "W_in")] += neuron
    return scores
