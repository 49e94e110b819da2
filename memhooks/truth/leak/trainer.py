"""AdamW on all weights that a GPT-Neo has, in place, and its state as plain tensors.

TransformerLens keeps the embedding twice and biases that GPT-Neo lacks. A tied embedding is moved once, by the sum of
both gradients, and copied; biases of queries, keys, values and logits stay as they are. So what was fine-tuned here can
be exported, and is what Hugging Face's own model would have become.
"""

from collections.abc import Mapping
from contextlib import ExitStack

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional

from memhooks.errors import InputError
from memhooks.model.decoding import scored_logits
from memhooks.model.loading import HookedModel
from memhooks.truth.leak.recipe import LeakRecipe
from memhooks.unlearn.run import NotFiniteError

_LACKED = ("b_Q", "b_K", "b_V", "b_U")
_STATE = ("step", "exp_avg", "exp_avg_sq")


class Trainer:
    """The weights that move, and their optimizer; `.grad` and `requires_grad` are as before after each step."""

    def __init__(self, model: HookedModel, recipe: LeakRecipe) -> None:
        self._model, self._recipe = model, recipe
        self._tied = torch.equal(model.W_E, model.W_U.T)
        lacked = (*_LACKED, "unembed.W_U") if self._tied else _LACKED
        self.weights = {name: one for name, one in model.named_parameters() if not name.endswith(lacked)}
        decay = {"weight_decay": recipe.weight_decay, "foreach": False}
        self._optimizer = torch.optim.AdamW(self.weights.values(), lr=recipe.lr, **decay)

    def step_(self, rows: Int[Tensor, "row pos"], step: int) -> float:
        """One update on rows of text, every token but the first predicted; returns the loss before it, in nats.

        Raises:
            NotFiniteError: loss or gradients are infinite or no numbers; this update is not made.
        """
        with torch.inference_mode(mode=False), ExitStack() as before:
            for weight in self._model.parameters():
                before.callback(weight.requires_grad_, weight.requires_grad)
                weight.requires_grad_()
            with torch.enable_grad():
                loss = next_token_loss(self._model, rows)
                # Named apart, so that a tied matrix gets the gradients of both its uses.
                used = list(self.weights.values()) + ([self._model.W_U] if self._tied else [])
                found = list(torch.autograd.grad(loss, used))
        if self._tied:
            at = list(self.weights).index("embed.W_E")
            found[at] = found[at] + found.pop().T
        gradients = dict(zip(self.weights, found, strict=True))
        norm = torch.stack([one.square().sum() for one in gradients.values()]).sum().sqrt()
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise NotFiniteError(
                f"loss or gradients are not finite at step {step}; the weights are back as they were before the first, "
                f"use a smaller lr than {self._recipe.lr}"
            )
        scale = min(1.0, self._recipe.clip / max(float(norm), 1e-12))
        self._update_({name: one * scale for name, one in gradients.items()}, step)
        return loss.item()

    def _update_(self, gradients: Mapping[str, Tensor], step: int) -> None:
        rise = min(1.0, (step + 1) / (self._recipe.warmup + 1))
        self._optimizer.param_groups[0]["lr"] = self._recipe.lr * rise
        before = {name: weight.grad for name, weight in self.weights.items()}
        try:
            for name, weight in self.weights.items():
                weight.grad = gradients[name]
            with torch.inference_mode(mode=False):
                self._optimizer.step()
        finally:
            for name, weight in self.weights.items():
                weight.grad = before[name]
        self._tie_()

    @torch.no_grad()
    def _tie_(self) -> None:
        if self._tied:
            self._model.unembed.W_U.copy_(self._model.W_E.T)

    def state(self) -> dict[str, Tensor]:
        """Weights and the optimizer's state, all that a resumed run needs."""
        found = {f"weight.{name}": weight.detach().clone() for name, weight in self.weights.items()}
        for name, weight in self.weights.items():
            own = self._optimizer.state.get(weight, {})
            found |= {f"{part}.{name}": own[part].clone() for part in own}
        return found

    @torch.no_grad()
    def resume_(self, state: Mapping[str, Tensor]) -> None:
        """Go on as the trainer that `state` was taken from.

        Raises:
            InputError: it is of another run.
        """
        fits = all(
            f"weight.{name}" in state and state[f"weight.{name}"].shape == weight.shape
            for name, weight in self.weights.items()
        )
        started = any(name.startswith("exp_avg.") for name in state)
        whole = all(f"{part}.{name}" in state for part in _STATE for name in self.weights) if started else True
        if not fits or not whole:
            raise InputError("the checkpoint does not fit this run; delete it to start anew")
        for name, weight in self.weights.items():
            weight.copy_(state[f"weight.{name}"])
            if started:  # the step count stays where torch keeps it, on the CPU
                own = {part: state[f"{part}.{name}"].clone() for part in _STATE}
                self._optimizer.state[weight] = {
                    part: one if part == "step" else one.to(weight.device) for part, one in own.items()
                }
        self._tie_()


def next_token_loss(model: HookedModel, rows: Int[Tensor, "row pos"]) -> Tensor:
    """Mean NLL of every token but the first, in nats."""
    rows = rows.to(model.cfg.device)
    residual = model(rows, stop_at_layer=model.cfg.n_layers)[:, :-1]
    logits = scored_logits(model, residual)
    return functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


def check_trainable(model: HookedModel) -> None:
    """Refuse weights that cannot be fine-tuned step by step.

    Raises:
        InputError: half precision, in which small steps round to nothing.
    """
    if model.cfg.dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"fine-tuning needs weights in float32, in {model.cfg.dtype} small steps round to nothing; "
            "load the model with dtype=torch.float32"
        )
