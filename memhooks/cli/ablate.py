"""`memhooks ablate`."""

# Heavy imports stay inside the functions, so that --help answers at once.
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from memhooks.cli.options import MODELS, Model
from memhooks.cli.sets import AnyRows, Control, Memorized, Seed, Size, check_set, load_set, load_sets
from memhooks.cli.tables import Row, check_outputs, plain, save_tree, shown, sources, stacked, write_page
from memhooks.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from memhooks.model.loading import HookedModel
    from memhooks.model.means import ActivationMeans
    from memhooks.paragraphs.paragraphs import Paragraphs

What = Literal["heads", "layers", "both"]
How = Literal["zero", "mean", "resample"]
Sets = Mapping[str, "Paragraphs"]
Results = Mapping[str, "xr.Dataset"]
_N_PARTS = 10  # printed
_N_SOURCE = 64  # rows that means or other activations are taken from


@dataclass(frozen=True)
class _Filling:
    """What comes in place of a part, as `ablate_each` takes it."""

    how: How
    seed: int
    means: "ActivationMeans | None" = None
    source: "Paragraphs | None" = None
    about: str = ""

    @property
    def arguments(self) -> dict[str, Any]:
        return {"how": self.how, "seed": self.seed, "means": self.means, "source": self.source}


@dataclass(frozen=True)
class _Found:
    """Results by kind of part and set, their comparison by kind, and the heads ablated together."""

    results: dict[str, Results] = field(default_factory=dict)
    compared: "dict[str, xr.Dataset]" = field(default_factory=dict)
    cumulative: "xr.Dataset | None" = None

    @property
    def groups(self) -> "dict[str, xr.Dataset]":
        each = {f"{name}/{kind}": one for kind, ones in self.results.items() for name, one in ones.items()}
        groups = each | {f"specificity/{kind}": one for kind, one in self.compared.items()}
        return groups if self.cumulative is None else groups | {"cumulative": self.cumulative}


def ablate(
    paragraphs: Memorized = "A",
    control: Control = "C",
    held_out: Annotated[
        str | None,
        typer.Option(
            help="More text that is not recited, of any kind, to judge language by: a set or a file, or `none`. By "
            "default held_out for bundled models, none for others."
        ),
    ] = None,
    model: Model = "organism",
    n: Size = 16,
    seed: Seed = 0,
    any_rows: AnyRows = False,
    what: Annotated[What, typer.Option(help="Single heads; whole attention layers and MLPs; or both.")] = "both",
    how: Annotated[
        How,
        typer.Option(
            help="What comes in place of a part's output: zero; its mean over other texts; or what it gives on another "
            "text. The texts are rows of --held-out (or of --control) that are not measured."
        ),
    ] = "zero",
    cumulative: Annotated[
        int, typer.Option(min=0, help="Also ablate so many heads together, best first; 0: do not.")
    ] = 3,
    figure: Annotated[Path | None, typer.Option(help="Write the figures to this .html file.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the labelled results to this .nc file, a tree: memorized/heads, ...")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the tables, all parts, as JSON, every mean as [mean, low, high].")
    ] = False,
) -> None:
    """Does recitation, and only recitation, need a head or a layer?

    Each part alone is taken out of action, and the continuation scored without it: its worth is by how much NLL
    rises (nats per token). A part that any text needs is no store of a paragraph, so the same is measured on
    controls: text like the memorized that the model does not recite, and held-out prose. What speaks for recitation
    is memorized minus control; p is how often the largest difference of all parts is as large when the sets' names are
    dealt anew to the paragraphs (2000 deals), so that the best of many parts does not pass for special.

    Then heads are ablated together. Their order is chosen on one half of the memorized paragraphs and judged on
    the other half, beside as many random heads: an order that is judged where it was chosen always looks good.

    Caveats: zero ablation leaves what later layers ever saw, so that damage may be shock rather than loss of
    information; mean and resample stay closer. Two parts that do the same work both look worthless alone. EM, the
    number of tokens before the first miss, is decided by the first broken token. In the first tables parts are
    sorted by the numbers shown, so the top ones are flattered.

    Examples: `memhooks ablate --figure ablate.html`;
    `memhooks ablate --model path/to/gpt-neo --paragraphs mine.pt --control other.pt --held-out none --how mean`
    """
    prose = _prose(held_out, control, model)
    check_outputs({".nc": (out,), ".html": (figure,)})

    loaded, sets = load_sets(model, paragraphs, control, n=n, seed=seed, any_rows=any_rows)
    names = {"memorized": paragraphs, "control": control, "held_out": prose}
    pools = _pools(loaded, {"control": control, "held_out": prose}, sets["memorized"])
    if "held_out" in pools:
        sets["held_out"] = pools["held_out"].sample(n, seed=seed)
    halves = None if what == "layers" or how == "resample" else _halves(loaded, sets["memorized"], cumulative, seed)
    filling = _filling(loaded, how, seed, sets, pools)
    found = _measured(loaded, sets, what, filling, halves, cumulative)
    about = sources(model, names, sets) + f"; ablation: {how}{filling.about}"
    save_tree(out, found.groups)
    _draw(figure, about, found)
    tables = {
        "parts": {kind: _parts(one) for kind, one in found.compared.items()},
        "cumulative": [] if found.cumulative is None else _cumulative(found.cumulative),
    }
    if as_json:
        sys.stdout.write(json.dumps(tables) + "\n")
    else:
        _print(about, tables, sets, halves)
        if how == "resample" and cumulative and what != "layers":
            _say("Heads are not ablated together with --how resample; pass --how mean or zero for that.")


def _prose(held_out: str | None, control: str, model: str) -> str:
    """The held-out set.

    Raises:
        InputError: there is no such set or file, or nothing to compare with.
    """
    prose = held_out or ("held_out" if model in MODELS else "none")
    if control == "none" and prose == "none":
        raise InputError("whether only recitation needs a part cannot be said without a control or --held-out text")
    check_set(prose, model)
    return prose


def _pools(model: "HookedModel", names: Mapping[str, str], like: "Paragraphs") -> "dict[str, Paragraphs]":
    """All rows of each control, cut to the memorized paragraphs' length.

    Raises:
        InputError: they are shorter.
    """
    pools = {}
    for kind, name in names.items():
        if name == "none":
            continue
        rows, length = load_set(model, name), like.tokens.shape[1]
        if rows.tokens.shape[1] < length:
            raise InputError(f"{name} has paragraphs of {rows.tokens.shape[1]} tokens, --paragraphs of {length}")
        pools[kind] = replace(rows, tokens=rows.tokens[:, :length], n_prefix=like.n_prefix, text=None)
    return pools


def _halves(
    model: "HookedModel", rows: "Paragraphs", n_heads: int, seed: int
) -> "tuple[Paragraphs, Paragraphs] | None":
    """One half to choose heads on and one to judge them on; near-duplicates stay together.

    Raises:
        InputError: too many heads to have as many random ones beside them, or too few paragraphs.
    """
    from memhooks.paragraphs.splits import split

    if not n_heads:
        return None
    there = model.cfg.n_layers * model.cfg.n_heads
    if 2 * n_heads > there:
        raise InputError(
            f"--cumulative {n_heads} needs as many other heads beside it, and the model has {there}; "
            f"at most {there // 2}"
        )
    try:
        return split(rows, share=0.5, seed=seed)
    except InputError as error:
        raise InputError(f"heads are chosen on one half and judged on the other: {error}; or --cumulative 0") from error


def _filling(model: "HookedModel", how: How, seed: int, sets: Sets, pools: Sets) -> _Filling:
    """What replaces the parts' outputs, from rows that are not measured.

    Raises:
        InputError: fewer than two rows are left.
    """
    if how == "zero":
        return _Filling(how, seed)
    name = "held_out" if "held_out" in pools else "control"
    measured = {tuple(row) for rows in sets.values() for row in rows.tokens.tolist()}
    others = [number for number, row in enumerate(pools[name].tokens.tolist()) if tuple(row) not in measured]
    if len(others) < 2:
        raise InputError(
            f"--how {how} takes rows of --{name.replace('_', '-')} that are not measured, and {len(others)} are left; "
            "give a larger file or a smaller --n"
        )
    source = pools[name].select(others).sample(_N_SOURCE, seed=seed)
    about = f" over {len(source)} other rows of {name}"
    if how == "resample":
        return _Filling(how, seed, source=source, about=about)
    from memhooks.model.means import activation_means

    return _Filling(how, seed, means=activation_means(model, source), about=about)


def _measured(
    model: "HookedModel",
    sets: Sets,
    what: What,
    filling: _Filling,
    halves: "tuple[Paragraphs, Paragraphs] | None",
    n_heads: int,
) -> _Found:
    from memhooks.localize.cumulative import ablate_cumulatively
    from memhooks.localize.each_part import ablate_each, every_layer, silence_heads
    from memhooks.localize.specificity import specificity

    results: dict[str, Results] = {}
    if what != "layers":
        results["heads"] = {name: silence_heads(model, rows, **filling.arguments) for name, rows in sets.items()}
    if what != "heads":
        layers = every_layer(model)
        results["layers"] = {
            name: ablate_each(model, rows, **filling.arguments, **layers) for name, rows in sets.items()
        }
    compared = {kind: specificity(ones, sets=sets, seed=filling.seed) for kind, ones in results.items()}
    if halves is None or filling.how == "resample":
        return _Found(results, compared)
    chosen_on, judged_on = halves
    order = _best_heads(results["heads"]["memorized"], chosen_on, n_heads)
    judged = dict(sets) | {"memorized": judged_on}
    together = ablate_cumulatively(model, judged, order, how=filling.how, means=filling.means, seed=filling.seed)
    return _Found(results, compared, together)


def _best_heads(result: "xr.Dataset", rows: "Paragraphs", n: int) -> list[tuple[int, int]]:
    """The heads that these paragraphs need most, the largest mean worth first."""
    import numpy as np

    chosen = np.isin(result["paragraph"].values, rows.ids)
    worth = result["nll_rise"].isel(paragraph=chosen).mean("paragraph").transpose("layer", "head").values
    best = np.argsort(-worth, axis=None, kind="stable")[:n]
    return [(int(layer), int(head)) for layer, head in zip(*np.unravel_index(best, worth.shape), strict=True)]


def _parts(table: "xr.Dataset") -> list[Row]:
    """All parts, those that memorized text needs most first."""
    names = [str(name) for name in table if f"{name}_low" in table]
    columns: dict[str, list] = {
        name: stacked(*(table[f"{name}{end}"].values for end in ("", "_low", "_high"))) for name in names
    }
    columns |= {str(name): plain(table[name].values) for name in table if str(name).startswith("p_more_than")}
    parts = table["row"].values.tolist()
    rows = [Row(part=part) | {name: one[i] for name, one in columns.items()} for i, part in enumerate(parts)]
    order = (-table["memorized"].values).argsort(kind="stable").tolist()
    return [rows[number] for number in order]


def _cumulative(table: "xr.Dataset") -> list[Row]:
    heads = json.loads(table.attrs["heads"])
    columns = {str(name): plain(table[name].values) for name in table}
    added = ["none", *(f"L{layer}H{head}" for layer, head in heads)]
    return [
        Row(heads=number, added=name) | {column: one[number] for column, one in columns.items()}
        for number, name in enumerate(added)
    ]


def _say(line: str) -> None:
    from memhooks.terminal import say

    say(line)


def _print(about: str, tables: Mapping[str, Any], sets: Sets, halves: "tuple[Paragraphs, Paragraphs] | None") -> None:
    from rich.box import SIMPLE_HEAD

    from memhooks.terminal import print_table

    _say(f"{about}; NLL rise in nats per token, means [95 % interval over paragraphs]")
    controls = [name for name in sets if name != "memorized"]
    for kind, rows in tables["parts"].items():
        worth = [
            {"part": row["part"]} | {name: shown(row[name]) for name in ("memorized", *controls)}
            for row in rows[:_N_PARTS]
        ]
        print_table(f"{kind}: NLL rise without it", worth, box=SIMPLE_HEAD)
        first = f"more_than_{controls[0]}"
        more = sorted(rows, key=lambda row, first=first: -row[first][0])[: _N_PARTS // 2]
        differences = [
            {"part": row["part"]}
            | {
                f"minus {name}": f"{shown(row[f'more_than_{name}'])} p={row[f'p_more_than_{name}']:.2g}"
                for name in controls
            }
            for row in more
        ]
        print_table(f"{kind}: memorized minus control (p: largest of {len(rows)} {kind})", differences, box=SIMPLE_HEAD)
    if halves is None:
        return
    _say(
        f"Heads ablated together: chosen on {len(halves[0])} memorized paragraphs, judged on the other "
        f"{len(halves[1])}; in brackets as many random heads. Means:"
    )
    for short, form, title in (
        ("em", ".1f", "EM, tokens before the first miss"),
        ("nll", ".2f", "NLL, nats per token"),
    ):
        together = [
            {"heads": row["heads"], "added": row["added"]}
            | {name: f"{row[f'{name}_{short}']:{form}} ({row[f'{name}_{short}_random']:{form}})" for name in sets}
            for row in tables["cumulative"]
        ]
        print_table(title, together, box=SIMPLE_HEAD)


def _draw(path: Path | None, about: str, found: _Found) -> None:
    if path is None:
        return
    from memhooks.report.intervention_plots import plot_ablation, plot_cumulative, plot_specificity
    from memhooks.report.page import Section

    worth = (
        "Each part alone is taken out of action; its worth is by how much the continuation's NLL rises. Only what "
        "memorized text loses and the controls do not speaks for recitation. Bars: 95 % intervals over paragraphs."
    )
    judged = (
        "The order was chosen on one half of the memorized paragraphs; here is the other half. EM counts the tokens "
        "before the first miss. Dashed: as many random heads."
    )
    sections = []
    for kind, table in found.compared.items():
        figures = [plot_specificity(table)]
        if kind == "heads":
            figures.append(plot_ablation(found.results[kind]))
        sections.append(Section(f"Which {kind} does recitation need, and only recitation?", [worth], figures=figures))
    if found.cumulative is not None:
        sections.append(Section("How many heads must go?", [judged], figures=[plot_cumulative(found.cumulative)]))
    write_page(path, "memhooks ablate", about, sections)
