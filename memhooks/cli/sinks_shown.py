"""What `memhooks sinks` shows: its tables, the verdict and the page of figures."""

# Heavy imports stay inside the functions, as in the commands.
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memhooks.cli.tables import Row, plain, rows_of, shown, stacked, token_texts, write_page

if TYPE_CHECKING:
    import xarray as xr

    from memhooks.cli.sinks import Found
    from memhooks.model.loading import HookedModel

_N_HEADS = 8
_NAMED = ("rare tokens", "worth to memorized")


def as_tables(found: "Found", model: "HookedModel", *, seed: int) -> dict[str, Any]:
    """Everything as JSON has it, and the verdict."""
    heads = rows_of(found.heads, name="head_name")
    for column, values in found.columns.items():
        for row, value in zip(heads, plain(values), strict=True):
            row[column] = value
    for row, change in zip(heads, _changes(found, seed), strict=True):
        row |= change
    heads.sort(key=lambda row: -_mean(row["memorized"]))
    tables = {
        "massive": [row for name, one in found.massive.items() for row in _massive(name, one, model)],
        "heads": heads,
        "coincidence": found.coincidences,
        "rare_token_heads": found.verdicts,
        "held": {site: rows_of(one, name="set") for site, one in found.held.items()},
        "units": found.units,
    }
    return tables | {"verdict": _verdict(tables)}


def _massive(name: str, one: "xr.Dataset", model: "HookedModel") -> list[Row]:
    rows = []
    for site in one["site"].values.tolist():
        for layer in one["layer"].values.tolist():
            cell = one.sel(layer=layer, site=site)
            rows.append(
                Row(set=name, site=site, layer=layer)
                | {key: float(cell[key]) for key in ("largest", "median", "ratio", "share_first")}
                | {"unit": int(cell["unit"]), "position": int(cell["at_pos"])}
                | {"token": token_texts(model, [int(cell["token"])])[0], "n_massive": int(cell["n_massive"])}
            )
    return rows


def _changes(found: "Found", seed: int) -> list[Row]:
    """By how much each head's rare-token correlation changes without a key, paired, with intervals."""
    from memhooks.measure.intervals import bootstrap_mean

    own, columns = found.without["memorized"], {}
    for drop in ("position 0", "massive", "strongest"):
        for short, name in (("", "spearman"), (", distance out", "partial_spearman")):
            change = (own[drop][name] - own["nothing"][name]).values
            ends = bootstrap_mean(change.reshape(len(change), -1), seed=seed)
            columns[f"change without {drop}{short}"] = stacked(*ends)
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def _verdict(tables: Mapping[str, Any]) -> str:
    own = [row for row in tables["massive"] if row["set"] == "memorized"]
    n = sum(row["n_massive"] for row in own)
    top = max(own, key=lambda row: row["ratio"])
    words = [
        f"{n or 'No'} massive activation{'' if n == 1 else 's'} by the published definition; the largest is "
        f"{top['largest']:.1f}, {top['ratio']:.0f} times the median ({top['site']} L{top['layer']}, "
        f"unit {top['unit']})."
    ]
    sinks = [row for row in tables["heads"] if row["is_sink"]]
    far = [row["head_name"] for row in sinks if not row["local"]]
    words.append(
        f"Sink heads (more than 0.3 on position 0): {len(sinks)} of {len(tables['heads'])}, {len(far)} of them in "
        f"global layers{': ' + ', '.join(far[:10]) if far else ''}."
    )
    with_it, without = (set(tables["rare_token_heads"][key]) for key in ("all keys", "without position 0"))
    changed = sorted(with_it ^ without)
    words.append(
        f"Rare-token heads: {len(with_it)} with position 0, {len(without)} without it; {len(changed)} change "
        f"({', '.join(changed[:10]) or 'none'})."
    )
    significant = [row["pair"] for row in tables["coincidence"] if row["p_within_layer"] <= 0.05]
    words.append(
        f"Sink strength goes with, within layers (p <= .05): {'; '.join(significant) or 'nothing asked here'}."
    )
    for site, rows in tables["held"].items():
        ends = {row["set"]: row for row in rows}
        lost = "; ".join(
            f"{name} {_mean(row['nll_rise']):+.2f} (random {_mean(row['nll_rise_random']):+.2f})"
            for name, row in ends.items()
        )
        words.append(f"Outstanding units of {site} held at their mean, NLL rise: {lost}.")
    return " ".join(words)


def print_tables(about: str, tables: Mapping[str, Any]) -> None:
    """Print the verdict and five short tables."""
    from rich.box import SIMPLE_HEAD

    from memhooks.terminal import print_table, say

    say(f"{about}; means [95 % interval over paragraphs]")
    say(tables["verdict"])
    for site in ("resid_post", "post"):
        rows = [row for row in tables["massive"] if row["site"] == site]
        by_layer: dict[int, Row] = {}
        for row in rows:
            line = by_layer.setdefault(row["layer"], Row(layer=f"L{row['layer']}"))
            line[row["set"]] = f"{row['largest']:.1f} ({row['ratio']:.0f}x)"
            if row["set"] == "memorized":
                line |= {"unit": row["unit"], "pos": row["position"], "token": repr(row["token"])}
        print_table(f"{site}: largest magnitude (times the median)", list(by_layer.values()), box=SIMPLE_HEAD)
    print_table("Attention on position 0, mean over those that see it", _sink_rows(tables), box=SIMPLE_HEAD)
    pairs = [
        {"over heads": row["pair"], "rho": f"{row['spearman']:+.2f}"}
        | {"p": f"{row['p']:.2g}", "p within layers": f"{row['p_within_layer']:.2g}"}
        for row in tables["coincidence"]
    ]
    print_table("Do sinks coincide with what other commands find?", pairs, box=SIMPLE_HEAD)
    say("rare tokens: negative correlations mean rare tokens, so a negative rho means that sink heads have more of it.")
    print_table("Rare-token correlation without a key (change [95 %])", _change_rows(tables), box=SIMPLE_HEAD)
    for site, rows in tables["held"].items():
        held = [
            {"set": row["set"]}
            | {"NLL rise": shown(row["nll_rise"]), "random": shown(row["nll_rise_random"])}
            | {"EM lost": shown(row["em_drop"], ".1f"), "random ": shown(row["em_drop_random"], ".1f")}
            for row in rows
        ]
        print_table(f"{site}: {', '.join(tables['units'][site])} held at their mean", held, box=SIMPLE_HEAD)


def _leading(tables: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The strongest sinks, the head most on rare tokens and the one that recitation needs most."""
    heads = tables["heads"]
    rare = min(heads, key=lambda row: row["rare tokens"])
    needed = max(heads, key=lambda row: row["worth to memorized"])
    chosen = [*heads[:_N_HEADS], rare, needed]
    return list({row["head_name"]: row for row in chosen}.values())


def _sink_rows(tables: Mapping[str, Any]) -> list[Row]:
    return [
        Row({"head": f"{row['head_name']}{' local' if row['local'] else ''}"})
        | {name: shown(row[name], ".2f") for name in ("memorized", "control", "twin") if name in row}
        | {"uniform": f"{row['uniform']:.2f}", "most at": f"{row['strongest']} ({row['on_strongest']:.2f})"}
        for row in _leading(tables)
    ]


def _change_rows(tables: Mapping[str, Any]) -> list[Row]:
    heads = sorted(tables["heads"], key=lambda row: row["rare tokens"])[:_N_HEADS]
    return [
        Row({"head": row["head_name"], "rho": f"{row['rare tokens']:+.2f}"})
        | {f"without {drop}": shown(row[f"change without {drop}"]) for drop in ("position 0", "massive", "strongest")}
        for row in heads
    ]


def _mean(value: object) -> float:
    """The first of [mean, low, high]."""
    return float(value[0]) if isinstance(value, list) else 0.0


def draw(path: Path | None, about: str, found: "Found") -> None:
    """Write the page, if there is a path."""
    if path is None:
        return
    from memhooks.report.page import Section
    from memhooks.report.sink_plots import plot_massive, plot_rare_tokens_without, plot_sinks

    sections = [
        Section("Are there massive activations?", figures=[plot_massive(found.massive)]),
        Section("Which heads look at position 0?", figures=[plot_sinks(found.sinks)]),
        Section("Is it the sink?", figures=[plot_rare_tokens_without(found.without["memorized"])]),
    ]
    write_page(path, "memhooks sinks", about, sections)
