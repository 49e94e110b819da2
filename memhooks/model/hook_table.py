"""What can be hooked: every hook point with its shape, size, layer type, flag, and when it fires."""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from math import prod

import pandas as pd
import torch
from torch import Tensor

from memhooks.errors import InputError
from memhooks.model.hook_names import gate, layer_of
from memhooks.model.html_table import html_table
from memhooks.model.loading import HookedModel, HookPoint, layer_type, window_of
from memhooks.model.watched import paused

_PER_HEAD = "batch pos head d_head"
_INPUT = "batch pos head d_model"
_STREAM = "batch pos d_model"
_AXES = {
    "hook_scale": "batch pos one",
    "hook_q": _PER_HEAD,
    "hook_k": _PER_HEAD,
    "hook_v": _PER_HEAD,
    "hook_z": _PER_HEAD,
    "hook_attn_scores": "batch head query key",
    "hook_pattern": "batch head query key",
    "hook_result": _INPUT,
    "hook_attn_in": _INPUT,
    "hook_q_input": _INPUT,
    "hook_k_input": _INPUT,
    "hook_v_input": _INPUT,
    "hook_pre": "batch pos d_mlp",
    "hook_post": "batch pos d_mlp",
    "hook_out": "batch pos d_vocab",
}


@dataclass(frozen=True)
class HookRow:
    """One hook point.

    Attributes:
        name: full hook name.
        place: what the helpers take for it: a short name with its layer, or the name itself.
        layer: block it belongs to, if any.
        attention: `global`, or `local` with its window in tokens.
        axes: what the axes of the activation are.
        shape: length of each.
        megabytes: size of one activation (10^6 bytes).
        flag: configuration flag it needs, "" for none.
        fires: how often it fires in one forward pass as the model is set now.
        order: place among the points that fire, from 1; 0 = does not fire.
    """

    name: str
    place: str
    layer: int | None
    attention: str
    axes: str
    shape: tuple[int, ...]
    megabytes: float
    flag: str
    fires: int
    order: int


@dataclass(frozen=True, repr=False)
class HookTable:
    """Every hook point of a model; a notebook shows it as a table with a search box."""

    rows: tuple[HookRow, ...]
    caption: str

    def __iter__(self) -> Iterator[HookRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def find(self, text: str = "", *, layer: int | None = None, fires: bool | None = None) -> "HookTable":
        """The rows of one layer, that fire (or do not), and that have every word of `text`.

        Words are looked for in name, axes, layer type and flag; those of one or two letters or digits must be
        whole there: `"z 3"` finds what `("z", 3)` does.

        Raises:
            InputError: nothing is left.
        """
        words = text.lower().split()
        left = tuple(
            row
            for row in self.rows
            if all(_has(searched(row), word) for word in words)
            and layer in (None, row.layer)
            and fires in (None, row.fires > 0)
        )
        if not left:
            raise InputError(self._why_none(words, layer))
        return HookTable(left, self.caption)

    def _why_none(self, words: list[str], layer: int | None) -> str:
        layers = [row.layer for row in self.rows if row.layer is not None]
        if layer is not None and layer not in layers:
            return f"layer must lie in {min(layers)}..{max(layers)}, got {layer}"
        known = sorted({part for row in self.rows for part in re.findall(r"[a-z_]+", searched(row))})
        for word in words:
            if not any(_has(searched(row), word) for row in self.rows):
                near = get_close_matches(word, known, n=1, cutoff=0.5)
                return f"no hook point has {word!r}" + (f"; did you mean {near[0]!r}?" if near else "")
        return f"no hook point of {len(self)} has all of {words}, layer and firing asked for; ask for less"

    def to_dataframe(self) -> pd.DataFrame:
        """One line per hook point, by full name."""
        return pd.DataFrame([asdict(row) for row in self.rows]).set_index("name")

    def __repr__(self) -> str:
        columns = ["shape", "megabytes", "attention", "flag", "fires", "order"]
        return f"{self.caption}: {len(self)} hook points\n{self.to_dataframe()[columns].to_string()}"

    def _repr_html_(self) -> str:
        caption = f"{self.caption}: {len(self)} hook points"
        return html_table([shown(row) for row in self.rows], caption=caption, searched=[searched(r) for r in self.rows])


def searched(row: HookRow) -> str:
    """The text in which a search looks for words."""
    return f"{row.name} {row.axes} {row.attention} {row.flag}".lower()


def _has(text: str, word: str) -> bool:
    return word in (text if len(word) > 2 else re.split(r"[^a-z0-9]+", text))


def shown(row: HookRow) -> dict[str, object]:
    """A row as people read it in a notebook."""
    return {
        "order": row.order or "",
        "hook point": row.name,
        "short": row.place,
        "axes": row.axes,
        "shape": _sizes(row),
        "MB": f"{row.megabytes:.3f}",
        "attention": row.attention,
        "fires": row.fires or "no",
        "needs": f"cfg.{row.flag}" if row.flag else "",
    }


def shown_narrow(row: HookRow) -> dict[str, object]:
    """A row for the eighty columns of a terminal, under a heading that names the layer."""
    order = f"{row.order}" if row.fires < 2 else f"{row.order} ({row.fires} times)"
    return {
        "hook point": row.name.removeprefix(f"blocks.{row.layer}."),
        "short": _short(row),
        "shape": _sizes(row),
        "MB": f"{row.megabytes:.3f}",
        "order": order if row.fires else f"no: {row.flag}",
    }


def _short(row: HookRow) -> str:
    if row.layer is None:
        return ""
    norm = next((f", {norm}" for norm in ("ln1", "ln2") if f".{norm}." in row.name), "")
    return row.name.rsplit("hook_", 1)[-1] + norm


def _sizes(row: HookRow) -> str:
    return "x".join(map(str, row.shape))


def hook_table(model: HookedModel, *, batch: int = 1, length: int | None = None) -> HookTable:
    """List every hook point as it would be for `batch` rows of `length` tokens.

    One forward pass over a single row finds out what fires. Length is the context's, at most 100, by default.

    Raises:
        InputError: a batch below one, or a length the model cannot read.

    Example:
        >>> import memhooks
        >>> table = memhooks.hook_table(memhooks.load_model("organism"), batch=8, length=100)
        >>> len(table)
        190
        >>> [row.name for row in table.find("pattern", layer=1)]
        ['blocks.1.attn.hook_pattern']
        >>> next(iter(table.find("pattern", layer=1))).shape
        (8, 8, 100, 100)
    """
    length = min(100, model.cfg.n_ctx) if length is None else length
    if batch < 1:
        raise InputError(f"batch must be at least 1, got {batch}")
    if not 1 <= length <= model.cfg.n_ctx:
        raise InputError(f"length must lie in 1..{model.cfg.n_ctx} (the model's context), got {length}")
    seen = _fired(model, length)
    order = {name: number for number, name in enumerate(seen, start=1)}
    rows = []
    for name in model.hook_dict:
        axes, shape, itemsize = _kind(model, name, seen.get(name, []), length)
        layer = layer_of(name)
        rows.append(
            HookRow(
                name=name,
                place=_place(name),
                layer=layer,
                attention="" if layer is None else _attention(model, layer),
                axes=axes,
                shape=(batch, *shape[1:]),
                megabytes=batch * prod(shape[1:]) * itemsize / 1e6,
                flag=gate(name) or "",
                fires=len(seen.get(name, [])),
                order=order.get(name, 0),
            )
        )
    rows.sort(key=_reading_order)
    return HookTable(tuple(rows), f"batch {batch}, {length} tokens, {str(model.W_E.dtype).removeprefix('torch.')}")


def _reading_order(row: HookRow) -> tuple[int, bool, int]:
    """Layer by layer, embeddings before and the final norm after; in a layer as they fire, then those that do not."""
    outside = -1 if "embed" in row.name.split(".")[0] and not row.name.startswith("unembed") else 10**6
    return (outside if row.layer is None else row.layer), row.order == 0, row.order


def _fired(model: HookedModel, length: int) -> dict[str, list[Tensor]]:
    """What each hook point saw (without the data), by name in the order in which they first fired."""
    seen: dict[str, list[Tensor]] = {}

    def note(activation: Tensor, hook: HookPoint) -> None:
        seen.setdefault(str(hook.name), []).append(activation.to("meta"))

    tokens = torch.zeros((1, length), dtype=torch.long, device=model.cfg.device)
    with torch.no_grad(), paused(model):  # TransformerLens's own: a point that does not fire is no error here
        model.run_with_hooks(tokens, fwd_hooks=[(lambda name: True, note)])
    return seen


def _kind(model: HookedModel, name: str, seen: list[Tensor], length: int) -> tuple[str, tuple[int, ...], int]:
    """Axes, shape of one row and bytes per number: as it fired, or as it would if its flag were on."""
    axes = _AXES.get(name.rsplit(".", 1)[-1], _STREAM)
    if seen:
        # With split inputs, norms see one stream per head.
        return (axes if seen[0].ndim == len(axes.split()) else _INPUT), tuple(seen[0].shape), seen[0].itemsize
    cfg = model.cfg
    sizes = {"batch": 1, "one": 1, "head": cfg.n_heads, "d_head": cfg.d_head, "d_model": cfg.d_model}
    return axes, tuple(sizes.get(axis, length) for axis in axes.split()), model.W_E.itemsize


def _place(name: str) -> str:
    layer = layer_of(name)
    if layer is None:
        return f'"{name}"'
    short = name.rsplit("hook_", 1)[-1]
    norm = next((f', "{norm}"' for norm in ("ln1", "ln2") if f".{norm}." in name), "")
    return f'("{short}", {layer}{norm})'


def _attention(model: HookedModel, layer: int) -> str:
    window = window_of(model, layer)
    return layer_type(model, layer) if window is None else f"local, window {window}"
