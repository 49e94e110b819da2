"""The sets that the localizing commands compare: paragraphs the model recites beside ones it does not."""

# Heavy imports stay inside the functions, so that --help answers at once.
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from memhooks.cli.options import MODELS, SETS
from memhooks.errors import InputError

if TYPE_CHECKING:
    from memhooks.model.loading import HookedModel
    from memhooks.paragraphs.paragraphs import Paragraphs

_TWINS = {("organism", "A"): "organism-twin", ("organism-twin", "B"): "organism"}


def load_sets(
    model: str, paragraphs: str, control: str, *, n: int, seed: int, any_rows: bool = False
) -> "tuple[HookedModel, dict[str, Paragraphs]]":
    """The model and up to `n` rows of each set, by the names that tables and figures use: memorized, control.

    Raises:
        InputError: no such set or file, sets that do not belong to the model, or nothing recited in full.
    """
    for name in (paragraphs, control):
        check_set(name, model)

    from memhooks.measure.recitation import recitation
    from memhooks.model.loading import load_model

    loaded = load_model(model)
    rows = load_set(loaded, paragraphs)
    if not any_rows:
        recited = recitation(loaded, rows)["full_match"].values
        if not recited.any():
            raise InputError(
                f"{model} recites none of the {len(rows)} paragraphs of {paragraphs} in full; pass --any to use them"
            )
        rows = rows.select(recited)
    sets = {"memorized": rows.sample(n, seed=seed)}
    if control != "none":
        same = cut(load_set(loaded, control), rows, control, beside=paragraphs)
        sets["control"] = _unrecited(loaded, same.sample(n, seed=seed), control)
    return loaded, sets


def _unrecited(model: "HookedModel", rows: "Paragraphs", name: str) -> "Paragraphs":
    """The rows that the model does not recite: what it recites is no control.

    Raises:
        InputError: it recites all of them.
    """
    from memhooks.measure.recitation import recitation

    recited = recitation(model, rows)["full_match"].values
    if recited.all():
        raise InputError(f"all {len(rows)} control paragraphs drawn from {name} are recited in full; give other text")
    return rows.select(~recited)


def load_set(model: "HookedModel", name: str) -> "Paragraphs":
    """A bundled set, or a file's paragraphs."""
    from memhooks.organism.paragraphs import load_bundled
    from memhooks.paragraphs.files import load_paragraphs

    return load_bundled(name) or load_paragraphs(name, tokenizer=model.tokenizer)


def cut(
    rows: "Paragraphs", like: "Paragraphs", name: str, *, beside: str = "--paragraphs", same_prefix: bool = True
) -> "Paragraphs":
    """The rows cut to the length of others: more text is more NLL, more bits and other positions.

    Args:
        rows: what is cut.
        like: what it is compared with.
        name: of `rows`, as the user calls them.
        beside: of `like`.
        same_prefix: give them the prefix of `like`, too.

    Raises:
        InputError: they are shorter.
    """
    length, there = like.tokens.shape[1], rows.tokens.shape[1]
    if there < length:
        raise InputError(f"{name} has paragraphs of {there} tokens, {beside} of {length}; they must match")
    n_prefix = like.n_prefix if same_prefix else rows.n_prefix
    if (there, rows.n_prefix) == (length, n_prefix):
        return rows
    return replace(rows, tokens=rows.tokens[:, :length], n_prefix=n_prefix, text=None)


def check_set(name: str, model: str) -> None:
    """Refuse a set that is not there, or that belongs to other models, before torch is loaded.

    Raises:
        InputError: as said.
    """
    if name == "none":
        return
    if name not in SETS and not Path(name).exists():
        raise InputError(f"no paragraph file at {name}; bundled sets are {', '.join(SETS)}")
    if name in SETS and model not in MODELS:
        raise InputError(
            f"the bundled set {name} belongs to {' and '.join(MODELS)}; give {model} files of its own, "
            "or `none` for a control"
        )


def twin_name(twin: str | None, model: str, paragraphs: str) -> str | None:
    """Which model is the twin, if there is one, before torch is loaded.

    Raises:
        InputError: it is the model itself.
    """
    if twin == model:
        raise InputError(f"--twin must be another model than --model, one that never read the paragraphs; got {twin}")
    if twin is None:
        return _TWINS.get((model, paragraphs))
    return None if twin == "none" else twin


def load_twin(name: str, model: "HookedModel", rows: "Paragraphs") -> "HookedModel":
    """The twin, if part by part it can stand beside the model, and does not recite all of the rows.

    Raises:
        InputError: it has other layers, heads or tokens than the model, or recites every row.
    """
    from memhooks.measure.recitation import recitation
    from memhooks.model.loading import load_model

    twin = load_model(name)
    shapes = [
        f"{one.cfg.n_layers} layers of {one.cfg.n_heads} heads, {one.cfg.d_vocab} tokens" for one in (twin, model)
    ]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"the twin differs from the model by what it read alone; {name} has {shapes[0]}, not {shapes[1]}"
        )
    if recitation(twin, rows)["full_match"].values.all():
        raise InputError(
            f"{name} recites all {len(rows)} paragraphs in full, so it has read them; give another --twin or `none`"
        )
    return twin
