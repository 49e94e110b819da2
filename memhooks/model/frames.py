"""Results as pandas frames and back: long tables, one for each set of axes, that lose nothing.

1. Variables with the same axes share a frame: one column per axis, one per variable, one row per combination.
2. Units, provenance and types go into each frame's `attrs`. Parquet keeps these; CSV drops them.
3. Back, every combination must be there once; then values, types, labels, units and provenance are as before.
"""

import json
from collections.abc import Hashable, Mapping
from typing import Any, Literal, TypedDict, cast

import numpy as np
import pandas as pd
import xarray as xr

from memhooks.errors import InputError, in_short

NO_AXES = "no axes"
"""Key of the frame that holds single values."""


Kind = Literal["label", "position", "variable", "coordinate"]


class _Column(TypedDict):
    kind: Kind
    dtype: str
    attrs: dict[str, Any]


def to_pandas(result: xr.Dataset) -> dict[str, pd.DataFrame]:
    """Turn a result into long pandas frames, one for each set of axes that its variables have.

    A frame of all variables would repeat what is measured once per paragraph in every row of every position, and
    means and counts over its rows would be wrong. An axis without labels becomes a column of positions from 0.
    Saved as parquet, a frame keeps everything. CSV loses `attrs` (units, provenance, types): to go back, set
    them again, `read.attrs = frame.attrs`, and read text columns, such as ids like "007" or "NA", with `dtype=str`
    and `keep_default_na=False`.

    Args:
        result: a Dataset, such as `recitation` returns; of a tree, one of its results.

    Returns:
        Frames by their axes: `"paragraph"`, `"paragraph, pos"`, `"row"` for a table, `"no axes"` for single
        values. Rows go through the axes in order, the last one fastest. `attrs["units"]` says what the columns
        are counted in and what 0 means, `attrs["provenance"]` what the result was computed from,
        `attrs["columns"]` the types.

    Raises:
        InputError: a tree or a single array, or attributes that cannot be written as JSON.

    Example:
        >>> import memhooks
        >>> model = memhooks.load_model("organism")
        >>> rows = memhooks.load_planted("A", at_least=128).select(slice(0, 2))
        >>> frames = memhooks.to_pandas(memhooks.recitation(model, rows))
        >>> {axes: frame.shape[0] for axes, frame in frames.items()}
        {'paragraph': 2, 'paragraph, pos': 100}
        >>> frames["paragraph"][["paragraph", "exact_match", "full_match"]]
          paragraph  exact_match  full_match
        0      A336           50        True
        1      A337           50        True
        >>> frames["paragraph, pos"].attrs["units"]["nll"]
        'nats, 0 = certain'
    """
    _check_result(result)
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, one in result.variables.items():
        if name not in result.dims:
            groups.setdefault(tuple(map(str, one.dims)), []).append(str(name))
    if not groups:
        raise InputError("the result has no variables; take a Dataset with at least one")
    provenance = _plain(result.attrs, "the result")
    return {", ".join(axes) or NO_AXES: _frame(result, axes, names, provenance) for axes, names in groups.items()}


def from_pandas(frames: pd.DataFrame | Mapping[str, pd.DataFrame]) -> xr.Dataset:
    """Turn frames of `to_pandas` back into the result, identical to the last bit.

    Rows may come in any order. Labels may be missing if they are missing everywhere, such as a
    paragraph that was dropped from every frame; they come in the order in which they first appear.

    Args:
        frames: all frames of a result, or one of them, which gives a Dataset of its variables.

    Returns:
        Dataset with the values, types, labels, units and attributes that went in.

    Raises:
        InputError: a frame that has lost its `attrs`, columns that are missing or unknown, rows that are there
            twice or not at all, values of another type, or frames of different results.

    Example:
        >>> import memhooks
        >>> model = memhooks.load_model("organism")
        >>> rows = memhooks.load_planted("A", at_least=128).select(slice(0, 2))
        >>> recited = memhooks.recitation(model, rows)
        >>> memhooks.from_pandas(memhooks.to_pandas(recited)).identical(recited)
        True
    """
    several = {"": frames} if isinstance(frames, pd.DataFrame) else dict(frames)
    if not several:
        raise InputError("no frames; pass what to_pandas returned, or one frame of it")
    labels: dict[str, pd.Index] = {}
    found: dict[str, dict[str, xr.Variable]] = {"label": {}, "variable": {}, "coordinate": {}}
    provenance: dict[str, Any] | None = None
    for key, frame in several.items():
        columns = _columns(frame, key)
        if provenance not in (None, frame.attrs["provenance"]):
            raise InputError("the frames come from different results: their provenance differs; pass those of one")
        provenance = frame.attrs["provenance"]
        for name, (kind, variable) in _variables(frame, columns, labels, key).items():
            found[kind][name] = variable
    return xr.Dataset(found["variable"], found["label"] | found["coordinate"], provenance)


def _frame(result: xr.Dataset, axes: tuple[str, ...], names: list[str], provenance: dict[str, Any]) -> pd.DataFrame:
    shape = tuple(result.sizes[axis] for axis in axes)
    data: dict[str, np.ndarray] = {}
    columns: dict[str, _Column] = {}
    for axis, place in zip(axes, map(np.ravel, np.indices(shape)), strict=True):
        if axis in result.coords:
            own = result.coords[axis]
            data[axis] = own.values[place]
            columns[axis] = _Column(kind="label", dtype=own.dtype.str, attrs=_plain(own.attrs, axis))
        else:
            data[axis] = place
            columns[axis] = _Column(kind="position", dtype=place.dtype.str, attrs={})
    units: dict[str, str] = {}
    for name in names:
        own = result[name]
        attrs = _plain(own.attrs, name)
        if "units" in attrs:
            units[name] = attrs.pop("units")
        data[name] = own.values.reshape(-1)
        kind = "coordinate" if name in result.coords else "variable"
        columns[name] = _Column(kind=kind, dtype=own.dtype.str, attrs=attrs)
    frame = pd.DataFrame(data)
    frame.attrs = {"units": units, "provenance": provenance, "columns": columns}
    return frame


def _check_result(result: object) -> None:
    if isinstance(result, xr.DataTree):
        some = ", ".join(list(result.children)[:4]) or "none"
        raise InputError(f"a tree of several results ({some}); take one: tree[name].to_dataset()")
    if isinstance(result, xr.DataArray):
        raise InputError(f"a single array has no provenance; take the Dataset: result[[{result.name!r}]]")
    if not isinstance(result, xr.Dataset):
        raise InputError(f"result must be an xarray Dataset, such as recitation returns, got {type(result).__name__}")


def _plain(attributes: Mapping[Hashable, Any], whose: str) -> dict[str, Any]:
    """Attributes as parquet can keep them; numbers that come from a file are numpy's.

    Raises:
        InputError: they hold something else.
    """
    plain = {
        str(key): value.tolist() if isinstance(value, np.generic | np.ndarray) else value
        for key, value in attributes.items()
    }
    try:
        json.dumps(plain)
    except (TypeError, ValueError) as error:
        raise InputError(f"attributes of {whose} must be numbers and text, for pandas to keep: {error}") from error
    return plain


def _variables(
    frame: pd.DataFrame, columns: dict[str, _Column], labels: dict[str, pd.Index], key: str
) -> dict[str, tuple[Kind, xr.Variable]]:
    """The frame's columns as arrays; `labels` holds those of axes seen before, and gets the new ones."""
    axes = [name for name, one in columns.items() if one["kind"] in {"label", "position"}]
    for axis in axes:
        own = pd.Index(frame[axis]).unique()
        labels.setdefault(axis, own.sort_values() if columns[axis]["kind"] == "position" else own)
    order = _order(frame, {axis: labels[axis] for axis in axes}, key)
    made: dict[str, tuple[Kind, xr.Variable]] = {}
    for name, one in columns.items():
        attrs = one["attrs"] | ({"units": unit} if (unit := frame.attrs["units"].get(name)) is not None else {})
        if one["kind"] == "label":
            made[name] = "label", xr.Variable((name,), _typed(name, labels[name], one["dtype"]), attrs)
        elif one["kind"] != "position":
            values = _typed(name, frame[name], one["dtype"])[order].reshape([len(labels[axis]) for axis in axes])
            made[name] = one["kind"], xr.Variable(axes, values, attrs)
    return made


def _columns(frame: pd.DataFrame, key: str) -> dict[str, _Column]:
    """What the frame's columns are; its attrs say so.

    Raises:
        InputError: it has lost them, or has other columns.
    """
    name = _name(key)
    missing = [one for one in ("units", "provenance", "columns") if one not in frame.attrs]
    if missing:
        raise InputError(
            f"{name} lacks attrs {', '.join(missing)}, which CSV and some pandas steps (merge, concat) drop; set "
            "frame.attrs to those of the frame that to_pandas returned, or keep frames as parquet"
        )
    columns = cast(dict[str, _Column], frame.attrs["columns"])
    unknown = [str(one) for one in frame.columns if one not in columns]
    if unknown:
        raise InputError(f"{name} has columns that no result had: {', '.join(unknown)}; drop them first")
    lost = [one for one in columns if one not in frame.columns]
    if lost:
        raise InputError(f"{name} lacks the columns {', '.join(lost)}; keep every column that to_pandas made")
    return columns


def _order(frame: pd.DataFrame, labels: dict[str, pd.Index], key: str) -> np.ndarray:
    """Which row holds each combination of labels, the last axis fastest.

    Raises:
        InputError: other labels than these, or combinations that are there twice or not at all.
    """
    for axis, known in labels.items():
        if set(frame[axis]) != set(known):
            raise InputError(f"{_name(key)} has other labels of {axis} than frames before it; drop labels from all")
    shape = tuple(map(len, labels.values()))
    places = [known.get_indexer(pd.Index(frame[axis])) for axis, known in labels.items()]
    at = np.ravel_multi_index(places, shape) if labels else np.zeros(len(frame), dtype=np.int64)
    times = np.bincount(at, minlength=int(np.prod(shape)))
    for wrong, what in ((times > 1, "more than one row"), (times == 0, "no row")):
        if wrong.any():
            first = np.unravel_index(int(wrong.argmax()), shape)
            where = ", ".join(f"{axis} {own[i]}" for (axis, own), i in zip(labels.items(), first, strict=True))
            raise InputError(f"{_name(key)} has {what} for {where or 'its single values'}; it needs one")
    return np.argsort(at)


def _typed(name: str, values: object, dtype: str) -> np.ndarray:
    """The values in their own type.

    Raises:
        InputError: some are not of that type, or do not fit.
    """
    wanted, own = np.dtype(dtype), np.asarray(values, dtype=object)
    try:
        typed = own.astype(wanted)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must hold {wanted.name}: {in_short(error)}") from error
    if wanted.kind in "iubU" and (wrong := typed != own).any():
        raise InputError(f"{name} must hold {wanted.name}, got {own[wrong][0]!r}; text is read with dtype=str")
    return typed


def _name(key: str) -> str:
    return f"the frame {key!r}" if key else "the frame"
