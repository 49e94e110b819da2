"""`memhooks apply` and `memhooks revert`."""

# Heavy imports stay inside the functions, so that --help answers at once.
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from memhooks.cli.options import MODELS, Json, Model
from memhooks.errors import InputError

if TYPE_CHECKING:
    from memhooks.localize.masks.weight_mask import WeightMask
    from memhooks.model.loading import HookedModel
    from memhooks.unlearn.delta import Delta

Change = Annotated[Path, typer.Argument(metavar="DELTA", help="A file that `memhooks unlearn --delta` saved.")]
Folder = Annotated[Path, typer.Option(metavar="FOLDER", help="A new folder, in Hugging Face's format.")]
_NAMED = 8  # paragraphs and settings that fit a line


def apply(delta: Change, out: Folder, model: Model = "organism", as_json: Json = False) -> None:
    """How do I get the unlearned model as a folder?

    It is written as a new Hugging Face folder.

    The model must be, bit for bit, the one that the change was made from. The chosen weights get their new values;
    every other weight is compared bit by bit, and the folder is read back and compared, too.

    Example:
    - `memhooks apply change.safetensors --model organism --out unlearned`
    """
    _exchange("apply", delta, model, out, as_json=as_json)


def revert(
    delta: Change,
    out: Folder,
    model: Annotated[str, typer.Option(help="The folder that `memhooks apply` wrote with the same change.")],
    as_json: Json = False,
) -> None:
    """How do I take an unlearning back, bit for bit?

    The model as it was before is written as a new Hugging Face folder.

    The old values are in the file, so the result is bit for bit the model that the change was made from.

    Example:
    - `memhooks revert change.safetensors --model unlearned --out organism-again`
    """
    _exchange("revert", delta, model, out, as_json=as_json)


def _exchange(what: Literal["apply", "revert"], path: Path, name: str, out: Path, *, as_json: bool) -> None:
    """Load both, write one set of values into the other, export and compare.

    Raises:
        InputError: a file or folder that is missing, in the way or something else, or a change of another model.
    """
    _check(path, name, out)

    from memhooks.localize.masks.weight_mask import frozen_outside
    from memhooks.model.export import check_writable, export_model
    from memhooks.model.loading import load_model
    from memhooks.terminal import say
    from memhooks.unlearn.delta import load_delta

    change = load_delta(path)
    check_writable(out.parent)
    loaded = load_model(name)
    with frozen_outside(loaded, _mask(change, loaded)):
        (change.apply_ if what == "apply" else change.revert_)(loaded)
    export_model(loaded, out)
    _read_back(out, change.after if what == "apply" else change.before)
    if as_json:
        sys.stdout.write(json.dumps(_plain(what, change) | {"model": name, "folder": str(out)}) + "\n")
        return
    for line in _said(what, change, loaded):
        say(line)
    say(f"{name} -> {out}")


def _plain(what: str, change: "Delta") -> dict[str, Any]:
    hashes = (change.before, change.after) if what == "apply" else (change.after, change.before)
    moved = {"moved": change.moved, "matrices": len(change.indices), "norm": change.norm}
    return moved | {"from": hashes[0], "to": hashes[1], "about": change.about}


def _check(path: Path, name: str, out: Path) -> None:
    """Refuse what can be refused before torch is loaded.

    Raises:
        InputError: no file, or a folder that exists or is the model's own.
    """
    if not path.is_file():
        raise InputError(f"no delta file at {path}; memhooks unlearn --delta {path.name} makes one")
    if out.exists():
        raise InputError(f"{out} exists already; give a new folder as --out")
    if name not in MODELS and not Path(name).exists() and name.count("/") != 1:
        raise InputError(f"no model folder at {name}; bundled models are {' and '.join(MODELS)}")


def _mask(change: "Delta", model: "HookedModel") -> "WeightMask":
    from memhooks.localize.masks.weight_mask import WeightMask

    sizes = {name: weight.numel() for name, weight in model.named_parameters()}
    return WeightMask(change.indices, sizes)


def _read_back(folder: Path, expected: str) -> None:
    """Compare the folder's weights with those that it must hold.

    Raises:
        RuntimeError: they differ.
    """
    from memhooks.model.loading import load_model
    from memhooks.model.provenance import model_hash

    if (found := model_hash(load_model(folder))) != expected:
        raise RuntimeError(f"{folder} holds the weights {found}, not {expected}")


def _said(what: str, change: "Delta", model: "HookedModel") -> list[str]:
    from memhooks.model.components import component_parameters

    done = {"apply": "applied", "revert": "reverted"}[what]
    n_weights = sum(weight.numel() for weight in component_parameters(model).values())
    hashes = (change.before, change.after) if what == "apply" else (change.after, change.before)
    return [
        f"{done}: {change.moved:,} of {n_weights:,} weights of all layers, in {len(change.indices)} matrices, moved by "
        f"{change.norm:.3g} in all (Euclidean); every other weight is bit-identical",
        *_origin(change),
        f"weights {hashes[0]} -> {hashes[1]}; the folder was read back and holds them",
    ]


def _origin(change: "Delta") -> list[str]:
    """From which run the change comes, as far as the file says so."""
    from memhooks.terminal import printable

    recipe, forget = change.about.get("recipe"), change.about.get("forget")
    lines = []
    if isinstance(forget, list):
        more = f" and {len(forget) - _NAMED} more" if len(forget) > _NAMED else ""
        lines.append(f"made to forget: {', '.join(map(str, forget[:_NAMED]))}{more}")
    if isinstance(recipe, dict):
        settings = ("objective", "retain", "retain_weight", "optimizer", "lr", "n_steps", "seed")
        lines.append("recipe: " + ", ".join(f"{name} {recipe[name]}" for name in settings if name in recipe))
    return [printable(line) for line in lines]
