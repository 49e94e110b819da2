"""What `memhooks attention` shows: its tables in 80 columns, and its page of figures."""

# Heavy imports stay inside the functions, as in the commands.
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memhooks.cli.tables import Row, shown, write_page

if TYPE_CHECKING:
    from memhooks.cli.attention_found import Found
    from memhooks.paragraphs.paragraphs import Paragraphs

_N_HEADS = 6  # shown, and all candidates besides
_COMPARED = ("control", "twin")


def print_tables(about: str, found: Mapping[str, Any]) -> None:
    """Print the verdict, the strongest heads beside controls, tests and nulls, and what ablation costs."""
    from rich.box import SIMPLE_HEAD

    from memhooks.terminal import print_table, say

    say(f"{about}; means [95 % interval over paragraphs]")
    say(found["verdict"])
    rows = _leading(found)
    title = f"Rank correlation (Spearman) of attention from token {found['query']} with counts"
    print_table(title, [_correlations(row) for row in rows], box=SIMPLE_HEAD)
    print_table("The same, distance taken out", [_tested(row) for row in rows], box=SIMPLE_HEAD)
    say(
        "types: over token types, which p tests; p within: within paragraphs; p >: more negative in memorized text. "
        "All p are of the most negative of all heads."
    )
    nulls = [_beside_uniform(row, found["n_rarest"]) for row in rows]
    print_table("The same heads on memorized text, beside uniform attention", nulls, box=SIMPLE_HEAD)
    say("published: correlation of rarity rank with attention summed over paragraphs, not 0 for uniform attention.")
    if found["ablation"]:
        worth = [
            {"head": row["head"]}
            | {name: shown(row[name], "+.3f") for name in ("memorized", "control")}
            | {"p, more for memorized": f"{row['p_more_than_control']:.2g}"}
            for row in found["ablation"]
        ]
        print_table("NLL rise (nats per token) without the candidate", worth, box=SIMPLE_HEAD)


def _leading(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The heads to show: the most negative, and candidates wherever they stand."""
    heads = found["heads"]
    return heads[:_N_HEADS] + [row for row in heads[_N_HEADS:] if row["head"] in found["candidates"]]


def _correlations(row: Mapping[str, Any]) -> Row:
    cells = {name: row.get(f"spearman {name}") for name in ("memorized", *_COMPARED)}
    return (
        Row(head=row["head"])
        | {name: shown(ends) for name, ends in cells.items() if ends is not None}
        | {"p": f"{row['p_value memorized']:.2g}"}
    )


def _tested(row: Mapping[str, Any]) -> Row:
    there = [name for name in _COMPARED if f"spearman {name}" in row]
    compared = {name: row.get(f"p_less_than_{name}") for name in there}
    return (
        Row(head=row["head"], memorized=shown(row["partial_spearman memorized"]))
        | {name: f"{row[f'partial_spearman {name}'][0]:+.2f}" for name in there}
        | {"types": f"{row['type_spearman memorized']:+.2f}", "p\nwithin": f"{row['p_within memorized']:.2g}"}
        | {f"p >\n{name}": f"{p:.2g}" for name, p in compared.items() if p is not None}
    )


def _beside_uniform(row: Mapping[str, Any], n_rarest: int) -> Row:
    return Row(
        {
            "head": row["head"],
            f"on {n_rarest} rarest": shown(row["share_on_rarest memorized"], ".0%"),
            "uniform": f"{row['uniform_share']:.0%}",
            "entropy, nats": shown(row["entropy memorized"], ".2f"),
            "uniform ": f"{row['uniform_entropy']:.2f}",
            "published": f"{row['published_spearman memorized']:+.2f}",
            "uniform  ": f"{row['published_uniform_spearman memorized']:+.2f}",
        }
    )


def draw(
    path: Path | None, about: str, found: "Found", sets: "Mapping[str, Paragraphs]", tokens: list[str] | None
) -> None:
    """Write the page, if there is a path; `sets` are those probed, `tokens` those of the paragraph asked for."""
    if path is None:
        return
    from memhooks.cli.attention_found import tables
    from memhooks.report import attention_plots as plots
    from memhooks.report.looking_sections import head_rows
    from memhooks.report.page import Section

    summary = tables(found)
    leading = found.heads.sel(row=[row["head"] for row in _leading(summary)])
    first = summary["heads"][0]["head"]
    drawn = list(dict.fromkeys([first, *summary["candidates"][:1]]))
    places = [(int(one["layer"]), int(one["head"])) for one in (found.heads.sel(row=name) for name in drawn)]
    text = [
        summary["verdict"],
        "Rank correlation, per paragraph, of a position's attention with corpus counts; uniform attention gives 0. p: "
        "counts permuted among the token types; p within: counts shuffled in each paragraph; both of the most negative "
        f"of all heads. The published statistic sums attention by rarity rank over paragraphs: {_published(summary)}.",
    ]
    figures = [
        plots.plot_rare_token_attention(found.probed),
        plots.plot_heads(found.probed, sets=sets),
        *(plots.plot_attention_by_rank(found.probed, head=place) for place in places),
    ]
    rows = head_rows(leading, n=leading.sizes["row"])
    sections = [
        Section("Does a head look at rare tokens?", text, rows, figures=figures),
        Section("How spread out is attention?", figures=[plots.plot_entropy(found.probed)]),
    ]
    if found.view is not None and tokens is not None:
        layer, head = places[-1]
        views = [
            plots.plot_attention_of(found.view, tokens, layer=layer),
            plots.plot_attention_of(found.view, tokens, head=head),
        ]
        words = (
            f"The layer of {drawn[-1]}; and the head of its number in each layer, which share nothing but the number."
        )
        sections.append(Section(f"Where do heads look in {found.view.attrs['paragraph']}?", [words], figures=views))
    write_page(path, "memhooks attention", about, sections)


def _published(found: Mapping[str, Any]) -> str:
    row = found["heads"][0]
    own, uniform = (row[f"published_{name} memorized"] for name in ("spearman", "uniform_spearman"))
    return f"{row['head']} has {own:+.2f} (Spearman) by it, and uniform attention in its place {uniform:+.2f}"
