"""Fine-tune on a user's text, and see what of it comes out: at which repetition, at which step, and for how long.

1. Paragraphs are dealt at random to levels of repetition. Level 0 is never read: the
   counterfactual, from the same file.
2. They are read among background text, in an order that is a pure function of the seed.
3. Before some updates, the first among them, all paragraphs are measured: those to come, those read, those never
   read; and other text, on which language is judged.
As chance alone decides who is read how often, a difference between levels is due to reading.
"""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from memhooks.errors import InputError
from memhooks.measure.recitation import exact_match, longest_run, score_tokens
from memhooks.model.export import check_writable, export_model
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel, is_processed
from memhooks.model.provenance import provenance, tensor_hash
from memhooks.model.watched import refuse_hooks
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import check_apart
from memhooks.progress import tracked
from memhooks.truth.leak.recipe import LeakRecipe
from memhooks.truth.leak.schedule import Schedule, schedule
from memhooks.truth.leak.state import check_checkpoint, load_state, save_state
from memhooks.truth.leak.trainer import Trainer, check_trainable
from memhooks.unlearn.unlearning import restored

_UNITS = {
    "exact_match": "tokens before the first miss, 0 = none",
    "longest_run": "tokens in a row from any start, 0 = none",
    "nll": "nats per continuation token, 0 = certain",
    "log_probability": "nats of the whole continuation at temperature 1, 0 = every sample says it",
}


class Leak(NamedTuple):
    """What `leak` found.

    Attributes:
        paragraphs: over `step` and `paragraph`: `exact_match`, `longest_run`, `nll`, `log_probability`, `recited`,
            `read` (readings so far), `since` (updates since the last reading so far, NaN = not read yet). Over
            `paragraph`: `level` (readings in all), `cluster`, `last_reading` (updates made by then, 0 = never read).
        held_out: over `step` and `paragraph` (of the held-out text): `nll`.
        losses: of each update on its own rows, over `row`: `loss`, in nats.
    """

    paragraphs: xr.Dataset
    held_out: xr.Dataset
    losses: xr.Dataset

    @property
    def groups(self) -> dict[str, xr.Dataset]:
        """Every result by its place in a saved tree."""
        return {"paragraphs": self.paragraphs, "held_out": self.held_out, "losses": self.losses}


def leak(
    model: HookedModel,
    paragraphs: Paragraphs,
    *,
    recipe: LeakRecipe | None = None,
    background: Paragraphs | None = None,
    held_out: Paragraphs | None = None,
    checkpoint: Path | None = None,
    save: Path | None = None,
) -> Leak:
    """Fine-tune a model on paragraphs that are read 0, 1, 2, 4, ... times, and measure what it recites of each.

    Args:
        model: in float32; it is put back bit for bit, also after an error.
        paragraphs: the user's text; none may share near-duplicates with background or held-out text.
        recipe: levels of repetition, step size and so on.
        background: other text, read beside the paragraphs, in rows cut to their length. Without it each step reads
            paragraphs alone, and there are no steps after the last reading.
        held_out: more text, never read: does language suffer?
        checkpoint: a .safetensors file to go on from if it is there, and to write to at every evaluation. The resumed
            run equals an uninterrupted one bit for bit.
        save: a new folder for the fine-tuned model (`export_model`).

    Returns:
        `Leak`; `leak_table` and `leak_onset` say what it means.

    Raises:
        InputError: a model in half precision, processed or with hooks, paragraphs that it cannot read or that are too
            few, background shorter than they are, text that is shared between the sets, a checkpoint of another run,
            or a folder that exists.
        NotFiniteError: loss or gradients are no longer numbers.
    """
    recipe = (recipe or LeakRecipe()).check()
    _check(model, paragraphs, background, held_out, save)
    check_checkpoint(checkpoint)
    plan = schedule(paragraphs, recipe, n_background=0 if background is None else len(background))
    config = provenance(model, paragraphs.tokens) | {
        "n_prefix": paragraphs.n_prefix,
        "recipe": asdict(recipe),
        "background": None if background is None else tensor_hash(background.tokens),
        "held_out": None if held_out is None else tensor_hash(held_out.tokens),
    }
    run = _Run(model, paragraphs, plan, background, held_out)
    with restored(model):
        trainer = Trainer(model, recipe)
        start, resumed = 0, False
        if checkpoint is not None and (found := load_state(checkpoint, config)) is not None:
            start, state, run.measured = found
            trainer.resume_(state)
            resumed = True
        for step in tracked(range(start, plan.n_steps + 1), "fine-tuning"):
            if step in plan.evaluated and not (resumed and step == start):
                run.measure_()
                if checkpoint is not None:
                    save_state(checkpoint, step, config, trainer.state(), run.measured)
            if step < plan.n_steps:
                run.add_("losses", torch.tensor([trainer.step_(run.rows(step), step)], dtype=torch.float64))
        if save is not None:
            export_model(model, save)
    return run.result(config)


class _Run:
    """What is read, and what was measured so far."""

    def __init__(
        self,
        model: HookedModel,
        paragraphs: Paragraphs,
        plan: Schedule,
        background: Paragraphs | None,
        held_out: Paragraphs | None,
    ) -> None:
        self._model, self._paragraphs, self._plan, self._held_out = model, paragraphs, plan, held_out
        self._background = None if background is None else background.tokens[:, : paragraphs.tokens.shape[1]]
        self.measured: dict[str, Tensor] = {}

    def rows(self, step: int) -> Int[Tensor, "row pos"]:
        """What this update reads."""
        own = [self._paragraphs.tokens[list(self._plan.readings[step])]]
        if self._background is not None:
            own.append(self._background[list(self._plan.background[step])])
        return torch.cat(own)

    def add_(self, name: str, values: Tensor) -> None:
        """Add a row to what was measured."""
        before = [self.measured[name]] if name in self.measured else []
        self.measured[name] = torch.cat([*before, values])

    def measure_(self) -> None:
        """Measure all paragraphs and the held-out text under the weights as they are."""
        rows = self._paragraphs
        scores = list(score_tokens(self._model, rows.tokens, first=rows.n_prefix))
        hits = torch.cat([one.predicted for one in scores]) == rows.continuation
        nll = torch.cat([one.nll for one in scores]).double()
        found = {"exact_match": exact_match(hits), "longest_run": longest_run(hits)}
        found |= {"nll": nll.mean(-1), "log_probability": -nll.sum(-1)}
        for name, values in found.items():
            self.add_(name, values.double()[None])
        if self._held_out is not None:
            tokens = self._held_out.tokens
            passes = score_tokens(self._model, tokens, first=self._held_out.n_prefix)
            self.add_("held_out", torch.cat([one.nll for one in passes]).double().mean(-1)[None])

    def result(self, about: dict[str, object]) -> Leak:
        """All of it, labelled."""
        plan, n = self._plan, self._paragraphs.n_continuation
        steps = {"step": plan.evaluated}
        both, labels = ("step", "paragraph"), {**steps, "paragraph": self._paragraphs.ids}
        found = {name: Variable(self.measured[name], both, unit, labels) for name, unit in _UNITS.items()}
        whole = self.measured["exact_match"] == n
        own = labelled(
            about | {"n_steps": plan.n_steps, "n_continuation": n},
            **found,
            recited=Variable(whole, both, "whether the whole continuation is recited"),
            read=Variable(np.stack(list(self._read())), both, "readings so far, 0 = none"),
            since=Variable(
                np.stack(list(self._since())), both, "updates made after the last reading so far; NaN = not read yet"
            ),
            level=Variable(plan.level, ("paragraph",), "readings in all, 0 = the control"),
            cluster=Variable(plan.cluster, ("paragraph",), "near-duplicates"),
            last_reading=Variable(
                plan.last_reading(), ("paragraph",), "updates until the last reading, 0 = never read"
            ),
        )
        held = steps
        if self._held_out is not None:
            held = {**steps, "paragraph": self._held_out.ids}
        nll = self.measured.get("held_out", torch.empty(len(plan.evaluated), 0, dtype=torch.float64))
        held_out = labelled(about, nll=Variable(nll, both, "nats per continuation token, 0 = certain", held))
        losses = Variable(self.measured["losses"], ("row",), "nats per token of the update's own rows, before it")
        return Leak(own, held_out, labelled(about, loss=losses))

    def _read(self) -> Iterator[Int[np.ndarray, " paragraph"]]:
        return (self._plan.read_before(step) for step in self._plan.evaluated)

    def _since(self) -> Iterator[Float[np.ndarray, " paragraph"]]:
        for step in self._plan.evaluated:
            last = np.full(len(self._plan.level), np.nan)
            for done, own in enumerate(self._plan.readings[:step], start=1):
                last[list(own)] = done
            yield step - last


def _check(
    model: HookedModel,
    paragraphs: Paragraphs,
    background: Paragraphs | None,
    held_out: Paragraphs | None,
    save: Path | None,
) -> None:
    refuse_hooks(model)
    check_trainable(model)
    if is_processed(model):
        raise InputError("a processed model has its layer norms folded away; load it with processed=False to fine-tune")
    paragraphs.check(model)
    sets = {"paragraphs": paragraphs}
    if background is not None:
        background.check(model)
        length, there = paragraphs.tokens.shape[1], background.tokens.shape[1]
        if there < length:
            raise InputError(
                f"background rows have {there} tokens and paragraphs {length}; give longer background rows"
            )
        sets["background"] = background
    if held_out is not None:
        held_out.check(model)
        sets["held_out"] = held_out
    check_apart(sets)
    if background is not None and held_out is not None:
        check_apart({"held_out": held_out, "background": background})
    if save is not None:
        if Path(save).exists():
            raise InputError(f"{save} exists already; give a new folder to save the fine-tuned model in")
        check_writable(Path(save).parent)
