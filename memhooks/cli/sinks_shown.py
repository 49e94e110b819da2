"""What `memhooks sinks` shows: its tables, the verdict and the page of figures."""

# Heavy imports stay inside the functions, as in the commands.
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memhooks.cli.sinks_measured import DROPS, changes
from memhooks.cli.sinks_verdict import mean_of, verdict
from memhooks.cli.tables import Row, plain, rows_of, shown, token_texts, write_page

if TYPE_CHECKING:
    import xarray as xr

    from memhooks.cli.sinks_measured import Found
    from memhooks.model.loading import HookedModel

_N_HEADS = 8


def as_tables(found: "Found", model: "HookedModel", *, seed: int) -> dict[str, Any]:
    """Everything as JSON has it, and the verdict."""
    heads = rows_of(found.heads, name="head_name")
    for column, values in found.columns.items():
        for row, value in zip(heads, plain(values), strict=True):
            row[column] = value
    for row, change in zip(heads, changes(found, seed), strict=True):
        row |= change
    heads.sort(key=lambda row: -mean_of(row["memorized"]))
    own = found.massive["memorized"]
    tables = {
        "massive": [row for name, one in found.massive.items() for row in _massive(name, one, model)],
        "heads": heads,
        "coincidence": found.coincidences,
        "rare_token_heads": found.verdicts,
        "n_massive": {site: int(own["n_distinct"].sel(site=site)) for site in own["site"].values.tolist()},
        "held": {site: rows_of(one["held"], name="set") for site, one in found.held.items()},
        "contrast": {
            site: rows_of(one["contrast"], name="reference") for site, one in found.held.items() if "contrast" in one
        },
        "units": found.units,
    }
    return tables | {"verdict": verdict(tables)}


def finite(value: object) -> object:
    """The same with None for numbers that JSON lacks: NaN and infinity (a layer's median may be 0)."""
    if isinstance(value, Mapping):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not isfinite(value) else value


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
        {"over heads": row["pair"], "rho": f"{row['spearman']:+.2f}", "p": f"{row['p']:.2g}"}
        | {"within layers": f"{row['spearman_within']:+.2f}", "p ": f"{row['p_within_layer']:.2g}"}
        | {"corrected": f"{row['p_corrected']:.2g}"}
        for row in tables["coincidence"]
    ]
    print_table("Do sinks coincide with what other commands find?", pairs, box=SIMPLE_HEAD)
    say("rare tokens: negative correlations mean rare tokens, so a negative rho means that sink heads have more of it.")
    print_table("Rare-token correlation without a key: change (null)", _change_rows(tables), box=SIMPLE_HEAD)
    say(
        "null: the change without the key of the mirrored rank, which pulls as hard and is no sink. Changes are told "
        f"from it (*) at p <= .05, times {len(tables['heads'])} heads; all others are nothing."
    )
    for site, rows in tables["held"].items():
        held = [
            {"text at mean of": str(row["set"]).replace(" at ", ", ")}
            | {"NLL rise": shown(row["nll_rise"]), "matched": f"{mean_of(row['nll_rise_matched']):+.2f}"}
            | {"random": f"{mean_of(row['nll_rise_random']):+.2f}", "beyond random": shown(row["more_than_random"])}
            | {"EM lost": f"{mean_of(row['em_drop']):.1f}", "matched ": f"{mean_of(row['em_drop_matched']):.1f}"}
            for row in rows
        ]
        print_table(f"{site}: {', '.join(tables['units'][site])} held at a mean", held, box=SIMPLE_HEAD)
        contrast = [
            {"both at the mean of": row["reference"], "NLL rise": shown(row["nll_rise"])}
            | {"beyond matched units": shown(row["more_than_matched"])}
            for row in tables["contrast"].get(site, [])
        ]
        if contrast:
            print_table(f"{site}: memorized minus control (own: each at its own)", contrast, box=SIMPLE_HEAD)


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
        | {f"without {drop} (null)": _beside_null(row, drop) for drop in DROPS}
        for row in heads
    ]


def _beside_null(row: Mapping[str, Any], drop: str) -> str:
    p = row[f"p beyond null without {drop}"]
    mark = "*" if p is not None and p <= 0.05 else ""
    return f"{mean_of(row[f'change without {drop}']):+.3f} ({mean_of(row[f'null without {drop}']):+.3f}){mark}"


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
