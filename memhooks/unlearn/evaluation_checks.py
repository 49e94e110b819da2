"""Checks of an evaluation's models and sets, before any pass is run."""

from collections.abc import Mapping

from memhooks.errors import InputError
from memhooks.model.loading import HookedModel
from memhooks.model.watched import check_eval, has_hooks
from memhooks.paragraphs.paragraphs import Paragraphs


def shape_of(model: HookedModel) -> tuple[int, int, int]:
    """Layers, width and vocabulary."""
    return model.cfg.n_layers, model.cfg.d_model, model.cfg.d_vocab


def check_sets(model: HookedModel, sets: Mapping[str, Paragraphs]) -> None:
    """Refuse sets that differ in length, or that the model cannot read.

    Raises:
        InputError: they do, or it cannot.
    """
    if len({(one.n_prefix, one.n_continuation) for one in sets.values()}) > 1:
        said = ", ".join(f"{name} {one.n_prefix} + {one.n_continuation}" for name, one in sets.items())
        raise InputError(f"the sets must have prefixes and continuations of equal lengths, got {said} tokens")
    for one in sets.values():
        one.check(model)


def check_bare(model: HookedModel, what: str = "the model") -> None:
    """Refuse a model that does something else than its weights say.

    Raises:
        InputError: it has hooks, or is in train mode.
    """
    check_eval(model)
    if has_hooks(model):
        name = next(name for name, point in model.hook_dict.items() if point.fwd_hooks)
        raise InputError(
            f"an evaluation is of the weights alone, and {what} has a hook at {name}; "
            "leave its block or remove it first"
        )


def check_twin(twin: HookedModel, model: HookedModel, sets: Mapping[str, Paragraphs]) -> None:
    """Refuse a twin that cannot be compared with the model.

    Raises:
        InputError: another vocabulary, hooks or train mode, or paragraphs that it cannot read.
    """
    check_bare(twin, "the twin")
    if twin.cfg.d_vocab != model.cfg.d_vocab:
        raise InputError(
            f"the twin must have the model's vocabulary of {model.cfg.d_vocab} tokens, it has {twin.cfg.d_vocab}"
        )
    for one in sets.values():
        one.check(twin)


def check_same(model: HookedModel, shape: tuple[int, int, int]) -> None:
    """Refuse another model than the one that was measured before its change.

    Raises:
        InputError: other layers, width or vocabulary.
    """
    layers, width, vocabulary = shape_of(model)
    if (layers, width, vocabulary) != shape:
        raise InputError(
            f"another model was measured before: {shape[0]} layers of width {shape[1]} and {shape[2]} tokens, "
            f"this one has {layers}, {width} and {vocabulary}; call untouched on this one"
        )
