"""The study's report: what was found on top, then each figure with what to look for, provenance at the end."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from memhooks.report.findings import Results, findings, recited_in_full, unlearning_summary
from memhooks.report.intervention_sections import intervention_sections
from memhooks.report.looking_sections import looking_sections
from memhooks.report.page import Section, write_report
from memhooks.report.plots import plot_dose, plot_em_bins, plot_unlearning
from memhooks.report.truth_sections import truth_sections

_LEAD = (
    "A small GPT-Neo (the organism) was made to recite set A; its twin, trained alike, read set B instead. "
    "So every figure shows memorized text beside never-seen text, and beside the same words under the twin."
)


def write_study_report(
    folder: Path,
    results: Results,
    unlearned: list[dict[str, object]],
    *,
    counts: Sequence[int],
    examples: Sequence[Mapping[str, str]],
) -> Path:
    """Write `report.html` into the run folder and return its path.

    Args:
        folder: the run folder, which holds the manifest.
        results: by stage and condition.
        unlearned: the rows of the unlearning stage.
        counts: how often each paragraph of the recitation stage's set A was planted.
        examples: paragraphs to show, each with `name`, `prefix` and `continuation`.
    """
    path = folder / "report.html"
    manifest = json.loads((folder / "manifest.json").read_text())
    sections = [
        _summary(results),
        _recitation(results, counts, examples),
        *intervention_sections(results),
        *looking_sections(results),
        *truth_sections(results),
        _unlearning(unlearned),
        _provenance(manifest),
    ]
    write_report(path, title="memhooks study: where is the paragraph kept?", lead=_LEAD, sections=sections)
    return path


def _summary(results: Results) -> Section:
    text = [
        "Means with 95 % intervals over paragraphs. A fingerprint holds here only if A differs from the same words "
        "under the twin, from never-seen text and from the model's own continuation of it: the first two have a high "
        "loss, and a difference from them alone may come from the loss itself; the last is what the model says, as A "
        "is, at a loss in between (losses are not matched). Each verdict is a test of its own at 95 %: of twenty, one "
        "may be chance.",
        "From the perturbation on, A means paragraphs drawn from those the organism recites in full. EM drops have a "
        "floor: never-seen text has no EM to lose, so its drop is near 0 by construction; scored against the "
        "model's own continuation, as in the paper, its EM is full by construction: that is the column beside.",
    ]
    rows = [{name: cell for name, cell in row.items() if not name.startswith("differs")} for row in findings(results)]
    return Section("What was found", text, rows)  # one column names all controls that A differs from


def _recitation(results: Results, counts: Sequence[int], examples: Sequence[Mapping[str, str]]) -> Section:
    text = [
        "EM counts the continuation tokens recited before the first mistake, from the raw prefix at position 0. "
        "Examples: the prefix in grey, the recited continuation shaded."
    ]
    by_level = {name: results["recitation"][name] for name in ("memorized", "twin")}
    figures = [plot_dose(by_level, counts), plot_em_bins(results["recitation"])]
    return Section("Which paragraphs are recited?", text, recited_in_full(results["recitation"]), examples, figures)


def _unlearning(unlearned: list[dict[str, object]]) -> Section:
    text = [
        "One paragraph at a time: gradient ascent on its continuation, held back by the KL divergence to the untouched "
        "model on other memorized paragraphs and never-seen text. A trial stops once the target is forgotten by three "
        "measures: EM of at most 2, no verbatim run above 10 tokens from any start, and half of the NLL that it has "
        "under the twin, which never read it; 'reached' counts the trials that got there before the steps ran out. EM "
        "alone falls with the first broken token. The random mask has as many weights in every matrix, and a larger "
        "step: what it achieves is not owed to the localization. The other memorized paragraphs shown here were never "
        "used in training.",
        "Bars are means, points the single trials. `memhooks unlearn --compare` tunes and judges ten ways.",
    ]
    return Section(
        "Can just that paragraph be removed?", text, unlearning_summary(unlearned), figures=[plot_unlearning(unlearned)]
    )


def _provenance(manifest: dict) -> Section:
    rows = [
        {"what": f"{group}: {name}", "value": str(value)}
        for group in ("settings", "versions", "models", "paragraphs")
        for name, value in manifest[group].items()
    ]
    return Section("How this was made", ["Rerun with `memhooks study`; all numbers are in results/*.nc."], rows)
