"""The report's sections on interventions: what was replaced, patched, ablated, and what the stream says early."""

from memhooks.report.findings import Results
from memhooks.report.intervention_plots import (
    plot_ablation,
    plot_cumulative,
    plot_patch_heads,
    plot_patch_layers,
    plot_patch_map,
    plot_specificity,
)
from memhooks.report.lens_plots import plot_direct_effects, plot_logit_lens
from memhooks.report.page import Section
from memhooks.report.perturbation_plots import plot_position_profile, plot_rarity
from memhooks.report.theme import NAMES


def intervention_sections(results: Results) -> list[Section]:
    """Perturbation, patching, ablation and logit lens."""
    undone = (
        "The token whose replacement hurts most stays replaced, and one clean activation at its position is put back "
        "(denoising): what is restored was enough to carry something. First the residual stream and what attention and "
        "MLP write, then single heads, then the stream at every prefix position."
    )
    worth = (
        "Every head is silenced (zero) alone. It matters for recitation only if its loss costs memorized text more "
        "than other text; p is the share of all heads with as large a difference. The model's own continuation of "
        "C is what it says, as memorized text is, at a loss between that of A and C; losses are not matched. Then the "
        "worst heads together, chosen on one half of A and judged on the other, beside random heads (dashed)."
    )
    lens = (
        "Final norm and unembedding read the stream after each block. A token is decided at the depth from which on "
        "the model's final choice stays on top. Then what each part writes directly to the true token's logit."
    )
    maps = {name: results["patching_map"][name] for name in ("memorized", "control")}
    return [
        Section(
            "Which prefix tokens carry the continuation?",
            [
                "Each prefix token in turn is replaced by a random one; the original continuation is scored "
                "teacher-forced. Dotted: what drops dealt anew within each paragraph would give.",
            ],
            _drops(results),
            figures=[plot_position_profile(results["drop_by_position"]), plot_rarity(results["drop_by_rarity"])],
        ),
        Section(
            "Through which layers and heads does the worst token's information flow?",
            [undone],
            figures=[
                plot_patch_layers(results["patching"]),
                plot_patch_heads(results["patching_heads"]),
                plot_patch_map(maps),
            ],
        ),
        Section(
            "Which heads and layers does recitation need?",
            [worth],
            _worth(results),
            figures=[
                plot_ablation({name: results["ablation"][name] for name in ("memorized", "control", "twin")}),
                plot_specificity(results["specificity"]["layers"]),
                plot_cumulative(results["cumulative"]["all"]),
            ],
        ),
        Section(
            "From which layer on is the next token decided?",
            [lens],
            figures=[plot_logit_lens(results["lens"]), plot_direct_effects(results["direct_effects"])],
        ),
    ]


def _drops(results: Results) -> list[dict[str, str]]:
    """The statistics of the NLL rise, one row each, by condition."""
    tables = results["drop_statistics"]
    rows = []
    for name in tables["memorized"]["row"].values:
        row = {"statistic": str(name)}
        for condition, table in tables.items():
            one = table.sel(row=name)
            p = "" if one["p"].isnull() else f", p {float(one['p']):.3f}"
            row[NAMES[condition]] = (
                f"{float(one['estimate']):.3g} [{float(one['low']):.3g}, {float(one['high']):.3g}]{p}"
            )
        rows.append(row)
    return rows


def _worth(results: Results, *, n: int = 6) -> list[dict[str, str]]:
    """The heads whose loss costs A most, with their specificity."""
    table = results["specificity"]["heads"]
    parts = table["row"].values[(-table["memorized"].values).argsort()[:n]]
    columns = {name: NAMES[name] for name in ("memorized", "control", "control_own", "held_out")}
    columns |= {f"more_than_{name}": f"A minus {title}" for name, title in list(columns.items())[1:]}
    rows = []
    for part in parts:
        one = table.sel(row=part)
        row = {"NLL rise without": str(part)}
        for name, title in columns.items():
            row[title] = f"{float(one[name]):.2f} [{float(one[f'{name}_low']):.2f}, {float(one[f'{name}_high']):.2f}]"
        rows.append(row | {"p (A minus never seen)": f"{float(one['p_more_than_control']):.3f}"})
    return rows
