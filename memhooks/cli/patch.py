"""`memhooks patch`."""

# Heavy imports stay inside the functions, so that --help answers at once.
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from memhooks.cli.options import Model
from memhooks.cli.sets import AnyRows, Control, Memorized, Seed, Size, load_sets
from memhooks.cli.tables import Row, check_outputs, intervals, save_tree, shown, sources, stacked, write_page
from memhooks.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from memhooks.model.loading import HookedModel
    from memhooks.paragraphs.paragraphs import Paragraphs

_LAYER_SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_pre", "mlp_post")
_HEAD_SITES = ("q", "k", "v", "z", "pattern")
_N_CELLS = 5  # printed per site
At = Literal["perturbed", "prefix"]
Direction = Literal["denoising", "noising"]


@dataclass(frozen=True)
class _Setting:
    sites: tuple[str, ...]
    at: At
    direction: Direction
    impact: bool
    seed: int

    @property
    def variable(self) -> str:
        return "logit_effect" if self.impact else "effect"


@dataclass(frozen=True)
class _Patched:
    """One set's result, the paragraphs that it is of, and how many had to be dropped."""

    result: "xr.Dataset"
    rows: "Paragraphs"
    unchanged: int


def patch(
    paragraphs: Memorized = "A",
    control: Control = "C",
    model: Model = "organism",
    n: Size = 16,
    seed: Seed = 0,
    any_rows: AnyRows = False,
    sites: Annotated[
        str,
        typer.Option(
            help=f"What is patched, a comma list: either of whole layers ({', '.join(_LAYER_SITES)}) or head by head "
            f"({', '.join(_HEAD_SITES)})."
        ),
    ] = "resid_pre,attn_out,mlp_out",
    at: Annotated[
        At,
        typer.Option(help="Patch each paragraph where its token was replaced, or every prefix position in turn."),
    ] = "perturbed",
    direction: Annotated[
        Direction,
        typer.Option(help="Put the clean activation into the perturbed run, or the perturbed one into the clean run."),
    ] = "denoising",
    impact: Annotated[
        bool,
        typer.Option(
            "--impact",
            help="Score the first token that the replacement changes, not the whole continuation's NLL; the replaced "
            "token is then, as published, the one with the largest EM drop, the earliest of equals.",
        ),
    ] = False,
    figure: Annotated[Path | None, typer.Option(help="Write the figures to this .html file.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the labelled results to this .nc file, a tree: memorized, control.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all cells as JSON, every number as [mean, low, high].")
    ] = False,
) -> None:
    """Which layers and heads carry the information from the replaced token?

    In each paragraph the one prefix token is replaced (by a random one) that damages the continuation most. Now there
    are two runs: the clean one and the perturbed one. Patching copies one activation at a time from one run into the
    other, and the effect is the share of the damage that this undoes, or does: 0 = none, 100 % = all.

    Denoising (clean into perturbed) finds what is enough to carry some of it; noising (perturbed into clean) finds
    what is needed. They need not agree: where two parts do the same work, neither is needed.

    The control is text that the model does not recite, treated alike: what looks the same there is how any token
    matters to the text after it. Each set's effect is a share of its own damage, which is printed above the table;
    where that is small, shares are noisy; their intervals draw damage and effect together. With `--impact` the
    control (and with `--any` all rows) is held to what the model itself says after the untouched prefix, as there is
    no recitation to break, and paragraphs whose continuation the replacement does not
    change are dropped and counted.

    Caveats: at the replaced position, resid_pre of layer 0 is the token itself and gives 100 % by construction; the
    question is up to which layer it stays so. Positions before the replaced token are alike in both runs and do
    nothing. The cells printed are the largest of many.

    Examples: `memhooks patch --figure patch.html`;
    `memhooks patch --sites z --direction noising`; `memhooks patch --at prefix --sites resid_pre --n 8`
    """
    setting = _Setting(_checked(sites, at), at, direction, impact, seed)
    check_outputs({".nc": (out,), ".html": (figure,)})

    loaded, sets = load_sets(model, paragraphs, control, n=n, seed=seed, any_rows=any_rows)
    names = {"memorized": paragraphs, "control": control}
    if impact:
        from memhooks.measure.recitation import with_own_continuation

        if any_rows:
            sets["memorized"] = with_own_continuation(loaded, sets["memorized"])
        if "control" in sets:
            sets["control_own"] = with_own_continuation(loaded, sets.pop("control"))
            names["control_own"] = control
    patched = {name: _patched(loaded, name, rows, setting) for name, rows in sets.items()}
    spelt = {_spelt(name): rows for name, rows in sets.items()}
    about = sources(model, {_spelt(name): one for name, one in names.items()}, spelt) + f"; {direction}"
    found = {"damage": _damage(patched, seed), "cells": _cells(patched, setting)}
    save_tree(out, {name: one.result for name, one in patched.items()})
    _draw(figure, about, {name: one.result for name, one in patched.items()}, setting)
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        _print(about, found, setting)


def _checked(sites: str, at: At) -> tuple[str, ...]:
    """The sites of the comma list.

    Raises:
        InputError: unknown ones, one twice, or kinds that do not go together.
    """
    chosen = tuple(one.strip() for one in sites.split(","))
    unknown = [one for one in chosen if one not in _LAYER_SITES + _HEAD_SITES]
    if unknown or len(set(chosen)) < len(chosen):
        raise InputError(
            f"--sites is a comma list of different ones among {', '.join(_LAYER_SITES + _HEAD_SITES)}; got {sites!r}"
        )
    by_head = [one in _HEAD_SITES for one in chosen]
    if any(by_head) != all(by_head):
        raise InputError(f"--sites must be all of whole layers or all by head ({', '.join(_HEAD_SITES)}); got {sites}")
    if by_head[0] and at == "prefix":
        raise InputError(f"--at prefix goes with sites of whole layers: {', '.join(_LAYER_SITES)}")
    return chosen


def _patched(model: "HookedModel", name: str, rows: "Paragraphs", setting: _Setting) -> _Patched:
    """Perturb, take each paragraph's worst replacement, and patch.

    Raises:
        InputError: `--impact`, and no replacement changes what the model says.
    """
    from memhooks.localize.patch_pairs import patch_pairs
    from memhooks.localize.patching import patch as patch_rows
    from memhooks.measure.pairs import make_pairs
    from memhooks.measure.perturbation import corrupted, perturb

    effect = perturb(model, rows, seed=setting.seed)
    sites = cast(Any, setting.sites)
    if not setting.impact:
        tokens, position = corrupted(rows, effect)
        where = position if setting.at == "perturbed" else None
        result = patch_rows(model, rows, tokens, sites=sites, at=where, direction=setting.direction)
        return _Patched(result, rows, 0)
    pairs = make_pairs(model, rows, effect)
    if not pairs.changed.any():
        raise InputError(f"no replacement changes what the model says after {name} text; leave --impact away")
    changed = pairs.select(pairs.changed)
    where = "perturbed" if setting.at == "perturbed" else None
    result = patch_pairs(model, changed, sites=sites, at=where, direction=setting.direction)
    return _Patched(result, changed.clean, len(pairs) - len(changed))


def _damage(patched: Mapping[str, _Patched], seed: int) -> list[Row]:
    """NLL of the continuation after both prefixes: the gap that effects are shares of."""
    rows = []
    for name, one in patched.items():
        clean, other = (one.result[variable].values for variable in ("clean_nll", "other_nll"))
        rows.append(
            Row(set=name, used=len(one.rows), unchanged=one.unchanged)
            | {"NLL clean": intervals(clean, one.rows, seed), "NLL perturbed": intervals(other, one.rows, seed)}
        )
    return rows


def _cells(patched: Mapping[str, _Patched], setting: _Setting) -> list[Row]:
    """Every cell with its mean effect for each set, those that matter most to memorized text first."""
    some = patched["memorized"].result[setting.variable]
    axes = [str(axis) for axis in some.dims if axis != "paragraph"]
    ends = {name: _ends(one, setting, axes) for name, one in patched.items()}
    labels = some.isel(paragraph=0, drop=True).transpose(*axes).stack(cell=axes)["cell"].values.tolist()
    cells = [
        dict(zip(axes, label, strict=True)) | {name: one[number] for name, one in ends.items()}
        for number, label in enumerate(labels)
    ]
    order = sorted(range(len(cells)), key=lambda number: -ends["memorized"][number][0])
    return [cells[number] for number in order]


def _ends(one: _Patched, setting: _Setting, axes: list[str]) -> list:
    """[mean, low, high] of every cell."""
    from memhooks.localize.patch_result import patch_interval
    from memhooks.paragraphs.splits import clusters

    values = one.result[setting.variable].transpose("paragraph", *axes)
    ends = patch_interval(one.result, values, seed=setting.seed, clusters=clusters(one.rows).numpy())
    return stacked(*(end.reshape(-1) for end in ends))


def _print(about: str, found: Mapping[str, Any], setting: _Setting) -> None:
    from rich.box import SIMPLE_HEAD

    from memhooks.terminal import print_table, say

    say(f"{about}; means [95 % interval over paragraphs]")
    for row in found["damage"]:
        dropped = f"; {row['unchanged']} dropped, as nothing they say changes" if row["unchanged"] else ""
        say(
            f"{_spelt(row['set'])}: NLL per token {shown(row['NLL clean'], '.2f')} after the own prefix, "
            f"{shown(row['NLL perturbed'], '.2f')} after the perturbed one{dropped}"
        )
    done = "undone" if setting.direction == "denoising" else "done"
    what = "the fall of the logit difference at the impact token" if setting.impact else "the rise in NLL"
    say(f"Share of the damage ({what}) {done} by patching one cell, largest for memorized text first:")
    for site in setting.sites:
        cells = [cell for cell in found["cells"] if cell["site"] == site]
        rows = [_printable(cell) for cell in cells[:_N_CELLS]]
        print_table(f"{site}: share of the damage {done}", rows, box=SIMPLE_HEAD)
    if "resid_pre" in setting.sites and setting.at == "perturbed":
        say("resid_pre of layer 0 is the replaced token itself: all of the damage by construction.")


def _spelt(name: str) -> str:
    return "control, own words" if name == "control_own" else name


def _printable(cell: Row) -> Row:
    place = f"L{cell['layer']}" + (f"H{cell['head']}" if "head" in cell else "")
    where = f", position {cell['pos']}" if "pos" in cell else ""
    return Row(cell=place + where) | {
        _spelt(name): shown(ends, "+.1%")
        for name, ends in cell.items()
        if isinstance(ends, Sequence) and name != "site"
    }


def _draw(path: Path | None, about: str, results: "Mapping[str, xr.Dataset]", setting: _Setting) -> None:
    if path is None:
        return
    from memhooks.report.intervention_plots import (
        plot_early_prefix,
        plot_patch_heads,
        plot_patch_layers,
        plot_patch_map,
    )
    from memhooks.report.page import Section

    how = (
        "One activation of the clean run is put into the perturbed run: what is undone shows what it was enough for."
        if setting.direction == "denoising"
        else "One activation of the perturbed run is put into the clean run: what is done shows what it was needed for."
    )
    scored = (
        "Damage is the logit difference at the impact token, the first that the replacement changes."
        if setting.impact
        else "Damage is the rise of the continuation's NLL."
    )
    text = [f"{how} {scored} Each set's effect is a share of its own mean damage: 0 = none, 1 = all of it."]
    variable = setting.variable
    if setting.at == "prefix":
        figures = [plot_patch_map(results, variable=variable)]
        figures += [plot_early_prefix(results, site=site, variable=variable) for site in setting.sites]
    elif setting.sites[0] in _HEAD_SITES:
        figures = [plot_patch_heads(results, variable=variable)]
    else:
        figures = [plot_patch_layers(results, variable=variable)]
    title = "Which layers and heads carry the information from the replaced token?"
    write_page(path, "memhooks patch", about, [Section(title, text, figures=figures)])
