"""`memhooks perturb`."""

# Heavy imports stay inside the functions, so that --help answers at once.
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from memhooks.cli.options import MODELS, Model, check_ending
from memhooks.cli.sets import AnyRows, Control, Memorized, Seed, Size, load_sets
from memhooks.cli.tables import Row, check_outputs, intervals, plain, save_tree, shown, sources, stacked, write_page
from memhooks.errors import InputError

if TYPE_CHECKING:
    import xarray as xr
    from torch import Tensor

    from memhooks.measure.replacements import Replacement
    from memhooks.model.loading import HookedModel
    from memhooks.paragraphs.paragraphs import Paragraphs

Kind = Literal["uniform", "first2sec", "frequency", "control"]
Results = Mapping[str, "xr.Dataset"]
Sets = Mapping[str, "Paragraphs"]
_N_POSITIONS, _N_WORST = 10, 5
_OWN = "control_own"
_FORMS = {"mean drop": "+.3f", "positions": ".1f", "share": ".0%"}  # of the statistics that are no correlations
_SHORT = {  # the order in which correlations are printed
    "Spearman of drop with position": "position",
    "Spearman of drop with position, token count partialled out": "  given count",
    "Spearman of drop with token count": "token count",
    "the same, position partialled out": "  given position",
    "mean drop per replaced token": "mean drop, nats per token",
    "positions that hold half of the drop": "positions with half of it",
    "share of the drop held by the 5 worst positions": "share of the 5 worst",
}


def perturb(
    paragraphs: Memorized = "A",
    control: Control = "C",
    model: Model = "organism",
    n: Size = 16,
    seed: Seed = 0,
    any_rows: AnyRows = False,
    replace: Annotated[
        Kind,
        typer.Option(
            help="What is put there: any other token; the model's own best guess (`first2sec`); a token of similar "
            "corpus frequency; or the one that another control paragraph has at this position."
        ),
    ] = "uniform",
    draws: Annotated[int, typer.Option(min=1, help="Replacements per position, averaged.")] = 1,
    cumulative: Annotated[
        bool, typer.Option("--cumulative", help="Replace all tokens up to the position, not it alone.")
    ] = False,
    decode: Annotated[
        bool, typer.Option("--decode", help="Also let the model write on after each paragraph's worst replacement.")
    ] = False,
    counts: Annotated[
        Path | None,
        typer.Option(
            help="Corpus count of every token id, a .npy array. Bundled models bring theirs; without any, what "
            "needs counts is left out."
        ),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            help="Save the memorized paragraphs beside their perturbed twins (MP/PMP) to this .nc file, to be read by "
            "`memhooks.load_pairs`. As published, the position is that of the largest EM drop, the earliest of equals: "
            "not always the one whose NLL rises most, which the tables show."
        ),
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="Write the figures to this .html file.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the labelled results to this .nc file, a tree: memorized/effect, ...")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the tables as JSON, every mean as [mean, low, high].")
    ] = False,
) -> None:
    """Which prefix tokens carry the continuation?

    Each prefix token in turn is replaced, and the same continuation is scored again, the true tokens before the
    model's eyes at every step. The drop of a token is by how much the continuation's NLL rises (nats per token;
    0 = it does not matter). A drop that goes with position means that late or early tokens carry more; one that
    goes with token count, that rare or common ones do; "given" one of them, its ranks are regressed out first.
    p compares with drops in random order within each paragraph, and the spread with tokens that all matter alike.
    "By chance up to": below it lie 97.5 % of the memorized means at a position if drops are in random order
    (position by position: of fifty, one or two exceed it by chance).

    The control is text that the model does not recite: any text is predicted from some tokens more than from
    others, and only what differs from the control tells of recitation.

    Caveats: the worst of many replacements is chosen on the same numbers that are then shown. Exact match (EM)
    is decided by the first broken token, so it may fall to 0 while all later tokens are still right; NLL does not
    have this fault. `--decode` shows what the model says instead: recitation dies if under a fifth of the tokens
    stand where the original has them, and resumes if a fifth of the text comes again in a row, at any offset; text
    that only lost its place does both. There the control is held to what the model itself says after the
    untouched prefix. A uniformly random token is mostly an absurd one; see `--replace`.

    Examples: `memhooks perturb --decode --figure perturb.html`;
    `memhooks perturb --model path/to/gpt-neo --paragraphs mine.pt --control other.pt --counts counts.npy`
    """
    _check_options(replace, control, model, counts, one_at_a_time=decode or pairs is not None, cumulative=cumulative)
    check_ending(counts, ".npy")
    check_outputs({".nc": (out, pairs), ".html": (figure,)})

    from memhooks.measure import perturbation

    loaded, sets = load_sets(model, paragraphs, control, n=n, seed=seed, any_rows=any_rows)
    known = _counts(model, counts, loaded)
    put = _replacement(replace, known, sets)

    def replaced(rows: "Paragraphs") -> "xr.Dataset":
        return perturbation.perturb(loaded, rows, seed=seed, replace=put, n_draws=draws, cumulative=cumulative)

    effects = {name: replaced(rows) for name, rows in sets.items()}
    found, profiles, results = _analysed(loaded, sets, effects, known, seed)
    if decode:
        results["decoded"] = _decode(loaded, sets, effects, replaced)
        found["decoded"] = _shares(results["decoded"], sets, seed)
    about = f"{sources(model, {'memorized': paragraphs, 'control': control}, sets)}; replacement: {replace}"
    _save_pairs(pairs, loaded, sets, effects)
    save_tree(out, {f"{name}/{kind}": one for kind, ones in results.items() for name, one in ones.items()})
    _draw(figure, about, profiles, results.get("by_rarity", {}), cumulative=cumulative)
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        _print(about, found, counted=known is not None)


def _check_options(
    replace: Kind, control: str, model: str, counts: Path | None, *, one_at_a_time: bool, cumulative: bool
) -> None:
    """Refuse options that do not go together.

    Raises:
        InputError: as said, or there is no file of counts.
    """
    if cumulative and one_at_a_time:
        raise InputError("--decode and --pairs need one replaced token at a time; leave --cumulative away")
    if replace == "control" and control == "none":
        raise InputError("--replace control takes tokens from the control; --control none leaves it without any")
    if replace == "frequency" and counts is None and model not in MODELS:
        raise InputError(f"--replace frequency needs --counts FILE.npy: the corpus counts of {model} are not known")
    if counts is not None and not counts.is_file():
        raise InputError(f"no counts file at {counts}")


def _counts(model: str, path: Path | None, loaded: "HookedModel") -> "Tensor | None":
    from memhooks.organism.paragraphs import load_unigram_counts
    from memhooks.paragraphs.counts import load_counts

    if path is not None:
        return load_counts(path, d_vocab=loaded.cfg.d_vocab)
    return load_unigram_counts(loaded.cfg.d_vocab) if model in MODELS else None


def _replacement(kind: Kind, counts: "Tensor | None", sets: Sets) -> "Replacement":
    from memhooks.measure import replacements

    if kind == "frequency" and counts is not None:
        return replacements.frequency_matched(counts)
    if kind == "control":
        return replacements.from_paragraphs(sets["control"])
    return replacements.first2sec if kind == "first2sec" else replacements.uniform


def _analysed(
    model: "HookedModel", sets: Sets, effects: Results, counts: "Tensor | None", seed: int
) -> tuple[dict[str, Any], Results, dict[str, Results]]:
    """The tables, the profile of each set over positions, and all results by what they are."""
    if effects["memorized"].attrs["cumulative"]:
        profiles: Results = {name: _cumulative(one, sets[name], seed) for name, one in effects.items()}
        return {"cumulative": _by_number(profiles)}, profiles, {"effect": effects, "by_position": profiles}
    tables, profiles = _statistics(effects, sets, counts, seed), _profiles(effects, sets, seed)
    results = {"effect": effects, "by_position": profiles, "statistics": tables}
    if counts is not None:
        results["by_rarity"] = _rarity(effects, sets, counts, seed)
    found = {"statistics": _rows(tables), "positions": _positions(profiles), "worst": _worst(model, sets, effects)}
    return found, profiles, results


def _statistics(effects: Results, sets: Sets, counts: "Tensor | None", seed: int) -> "dict[str, xr.Dataset]":
    """What the drop goes with; without counts the rows that need none."""
    from memhooks.measure.perturbation_statistics import perturbation_statistics

    return {name: perturbation_statistics(effects[name], rows, counts, seed=seed) for name, rows in sets.items()}


def _rows(tables: Results) -> list[Row]:
    names = tables["memorized"]["row"].values.tolist()
    rows: list[Row] = [{"statistic": name} for name in names]
    for condition, table in tables.items():
        ends = stacked(*(table[end].values for end in ("estimate", "low", "high")))
        for row, one, p in zip(rows, ends, plain(table["p"].values), strict=True):
            row[condition] = one
            row[f"p {condition}"] = p
    for row, null in zip(rows, plain(tables["memorized"]["null"].values), strict=True):
        row["by chance"] = null
    return rows


def _profiles(effects: Results, sets: Sets, seed: int) -> "dict[str, xr.Dataset]":
    from memhooks.measure.perturbation_statistics import drop_by_position

    return {name: drop_by_position(effect, sets[name], seed=seed) for name, effect in effects.items()}


def _rarity(effects: Results, sets: Sets, counts: "Tensor", seed: int) -> "dict[str, xr.Dataset]":
    from memhooks.measure.perturbation_statistics import drop_by_rarity

    n_bins = min(5, sets["memorized"].n_prefix)
    if n_bins < 2:
        return {}
    return {name: drop_by_rarity(one, sets[name], counts, seed=seed, n_bins=n_bins) for name, one in effects.items()}


def _cumulative(effect: "xr.Dataset", rows: "Paragraphs", seed: int) -> "xr.Dataset":
    """The columns of `drop_by_position` for all tokens up to the position; no shuffle is meaningful here."""
    import numpy as np

    from memhooks.model.labelled import Variable, labelled

    rise = effect["nll_rise"].mean("draw").transpose("paragraph", "pos")
    ends = np.array(intervals(rise.values, rows, seed), dtype=float).T
    unit, labels = str(effect["nll_rise"].attrs["units"]), {"pos": range(rows.n_prefix)}
    columns = zip(("mean", "low", "high"), ends, strict=True)
    return labelled(
        {"seed": seed, "cumulative": 1}, **{name: Variable(one, ("pos",), unit, labels) for name, one in columns}
    )


def _by_number(profiles: Results) -> list[Row]:
    n_prefix = profiles["memorized"].sizes["pos"]
    ends = {name: stacked(*(one[end].values for end in ("mean", "low", "high"))) for name, one in profiles.items()}
    return [Row(replaced=pos + 1) | {name: one[pos] for name, one in ends.items()} for pos in range(n_prefix)]


def _positions(profiles: Results) -> list[Row]:
    """The positions whose replacement hurts memorized text most."""
    memorized = profiles["memorized"]
    ends = {name: stacked(*(one[end].values for end in ("mean", "low", "high"))) for name, one in profiles.items()}
    worst = (-memorized["mean"].values).argsort(kind="stable")[:_N_POSITIONS].tolist()
    above = plain(memorized["shuffled_high"].values)
    return [
        Row(position=pos) | {name: one[pos] for name, one in ends.items()} | {"by chance up to": above[pos]}
        for pos in worst
    ]


def _worst(model: "HookedModel", sets: Sets, effects: Results) -> list[Row]:
    """The memorized paragraphs that lose most from one replacement, and which it is."""
    import numpy as np

    from memhooks.measure.effects import worst_place

    rows, effect = sets["memorized"], effects["memorized"]
    draw, pos = (one.numpy() for one in worst_place(effect))
    each = np.arange(len(rows))
    rise, em_drop, other = (effect[name].values[each, draw, pos] for name in ("nll_rise", "em_drop", "replacement"))
    em = effect["exact_match"].values

    def token(number: int) -> str:
        return str(number) if model.tokenizer is None else str(model.tokenizer.decode([number]))

    return [
        {
            "paragraph": rows.ids[row],
            "position": int(pos[row]),
            "token": token(int(rows.tokens[row, pos[row]])),
            "replaced by": token(int(other[row])),
            "NLL rise": float(rise[row]),
            "EM before": int(em[row]),
            "EM after": int(em[row] - em_drop[row]),
        }
        for row in np.argsort(-rise, kind="stable")[:_N_WORST].tolist()
    ]


def _decode(model: "HookedModel", sets: Sets, effects: Results, replaced: Any) -> "dict[str, xr.Dataset]":  # noqa: ANN401
    """What the model says after the worst replacement; the control is held to what the model says untouched."""
    from memhooks.measure.continuations import perturbed_continuations
    from memhooks.measure.recitation import with_own_continuation

    found = {"memorized": perturbed_continuations(model, sets["memorized"], effects["memorized"])}
    if "control" in sets:
        own = with_own_continuation(model, sets["control"])
        found[_OWN] = perturbed_continuations(model, own, replaced(own))
    return found


def _shares(decoded: Results, sets: Sets, seed: int) -> list[Row]:
    rows = {"memorized": sets["memorized"]} | ({_OWN: sets["control"]} if _OWN in decoded else {})
    names = {
        "dies": "share that die (under a fifth of the tokens stay)",
        "resumes": "share that resume (a fifth in a row comes again)",
        "match": "share of tokens that stay",
    }
    return [
        Row({"after the worst replacement": words})
        | {name: intervals(one[variable].values.astype(float), rows[name], seed) for name, one in decoded.items()}
        for variable, words in names.items()
    ]


def _save_pairs(path: Path | None, model: "HookedModel", sets: Sets, effects: Results) -> None:
    if path is None:
        return
    from memhooks.measure.pairs import make_pairs, save_pairs

    made = make_pairs(model, sets["memorized"], effects["memorized"])
    save_pairs(made, path)
    sys.stderr.write(f"written: {path} ({int(made.changed.sum())} of {len(made)} pairs with another continuation)\n")


def _print(about: str, found: Mapping[str, Any], *, counted: bool) -> None:
    from rich.box import SIMPLE_HEAD

    from memhooks.terminal import print_table, say

    say(f"{about}; means [95 % interval over paragraphs]")
    if "cumulative" in found:
        n = len(found["cumulative"])
        some = [row for row in found["cumulative"] if row["replaced"] in (1, 2, 5, n) or row["replaced"] % 10 == 0]
        print_table(
            "NLL rise by number of tokens replaced from the start",
            [_printable(row) for row in some],
            box=SIMPLE_HEAD,
        )
        return
    print_table(
        "Rank correlation of the drop (NLL rise of one replaced token) with ...",
        _correlations(found["statistics"]),
        box=SIMPLE_HEAD,
    )
    if not counted:
        say("Without corpus counts of this model, correlations with token count are left out; see --counts.")
    spread = [_spread(row) for row in found["statistics"] if row["statistic"].startswith(tuple(_FORMS))]
    print_table("How large the drop is, and over how many tokens it is spread", spread, box=SIMPLE_HEAD)
    print_table(
        "NLL rise (nats per token) by replaced position, worst first",
        [_printable(row) for row in found["positions"]],
        box=SIMPLE_HEAD,
    )
    print_table(
        "Memorized paragraphs that lose most from one token",
        [row | {name: repr(row[name]) for name in ("token", "replaced by")} for row in found["worst"]],
        box=SIMPLE_HEAD,
    )
    if "decoded" in found:
        rows = [
            {key.replace(_OWN, "control, own words"): _cell(value, ".0%") for key, value in row.items()}
            for row in found["decoded"]
        ]
        print_table("What the model writes after each paragraph's worst replacement", rows, box=SIMPLE_HEAD)


def _cell(value: object, form: str) -> object:
    return shown(value, form) if isinstance(value, list) else value


def _printable(row: Row) -> Row:
    return {key: f"{value:+.3f}" if isinstance(value, float) else _cell(value, "+.3f") for key, value in row.items()}


def _correlations(rows: Sequence[Row]) -> list[Row]:
    """The correlations, in few words and with p behind each."""
    by_name = {str(row["statistic"]): row for row in rows}
    lines = []
    for name in (name for name in _SHORT if name in by_name and not name.startswith(tuple(_FORMS))):
        line, row = Row({"": _SHORT[name]}), by_name[name]
        for condition in (one for one in ("memorized", "control") if one in row):
            p = row[f"p {condition}"]
            line[condition] = f"{_cell(row[condition], '+.2f')}{'' if p is None else f' p={p:.2g}'}"
        lines.append(line)
    return lines


def _spread(row: Row) -> Row:
    """The row of a statistic that is no correlation, in few words."""
    name, chance = str(row["statistic"]), row["by chance"]
    form = next(form for start, form in _FORMS.items() if name.startswith(start))
    line: Row = {"": _SHORT.get(name, name)}
    line |= {condition: _cell(row[condition], form) for condition in ("memorized", "control") if condition in row}
    return line | {"if all alike": f"{chance:{form}}" if isinstance(chance, float) else ""}


def _draw(path: Path | None, about: str, profiles: Results, rarity: Results, *, cumulative: bool) -> None:
    if path is None:
        return
    from memhooks.report.page import Section
    from memhooks.report.perturbation_plots import plot_position_profile, plot_rarity

    rise = (
        "By how much the continuation's NLL rises, with 95 % intervals over paragraphs (bands). The control is text "
        "that the model does not recite: what looks the same there is how the model predicts any text. "
    )
    shuffled = "Dotted lines: where 95 % of means lie if the drops within each paragraph are put in random order."
    by_position = plot_position_profile(profiles)
    if cumulative:
        by_position.update_layout(title="Replacing all prefix tokens up to a position")
        by_position.update_xaxes(title_text="last replaced prefix position")
    heading = "How many tokens must go?" if cumulative else "Which positions carry the continuation?"
    sections = [Section(heading, [rise if cumulative else rise + shuffled], figures=[by_position])]
    if rarity:
        words = "Tokens of each prefix, sorted by how often they occur in the corpus. " + shuffled
        sections.append(Section("Do rare tokens carry more?", [words], figures=[plot_rarity(rarity)]))
    write_page(path, "memhooks perturb", about, sections)
