"""The study's report: verdicts on top, then figures with what to look for, the paragraphs, provenance at the end."""

import json
from collections.abc import Sequence
from pathlib import Path

from memhooks.report.claim import UNLEARNING
from memhooks.report.claims import claims
from memhooks.report.findings import Results, findings, recited_in_full, unlearning_rows, unlearning_summary
from memhooks.report.intervention_sections import intervention_sections
from memhooks.report.looking_sections import looking_sections
from memhooks.report.page import Extras, Section, write_whole_page
from memhooks.report.plots import plot_dose, plot_em_bins, plot_unlearning
from memhooks.report.truth_sections import truth_sections
from memhooks.report.viewer import Texts, viewer_data

_TWINS = (
    "A small GPT-Neo (the organism) was made to recite set A; its twin, trained alike, read set B instead. "
    "So every figure shows memorized text beside never-seen text, and beside the same words under the twin."
)
_ONE_MODEL = (
    "Every figure shows paragraphs that the model may have memorized (A) beside text that serves as control. No twin "
    "that never read them was measured, so a difference may come from the texts themselves."
)
_STAGES = {
    "recitation": "recitation",
    "perturbation": "prefix perturbation",
    "patching": "activation patching",
    "ablation": "ablation",
    "lens": "logit lens",
    "gradients": "gradients",
    "attention": "attention to rare tokens",
    "forks": "exchange of the forks' parts",
    "capacity": "memorized bits",
    "sinks": "attention sinks",
    "injections": "localizers on text written on purpose",
    "unlearning": "unlearning",
    "viewed": "single paragraphs",
}


def write_study_report(
    folder: Path, results: Results, *, counts: Sequence[int] | None = None, texts: Texts | None = None
) -> Path:
    """Write `report.html` into the run folder and return its path; stages that were not run are named and left out.

    Args:
        folder: the run folder, which holds the manifest.
        results: by stage and condition.
        counts: how often each paragraph of the recitation stage's set A was planted, where that is known.
        texts: the text of a token id, for the single paragraphs shown (`results["viewed"]`); without it ids are shown.
    """
    path = folder / "report.html"
    manifest = json.loads((folder / "manifest.json").read_text())
    sections = [
        *_summary(results),
        *_recitation(results, counts),
        *intervention_sections(results),
        *looking_sections(results),
        *truth_sections(results),
        *_unlearning(results),
    ]
    extras = Extras(
        claims=claims(results),
        claims_heading="Five published claims, and what this run says",
        claims_text=_CLAIMS_TEXT,
        viewer=viewer_data(results, texts),
        viewer_text=_VIEWER_TEXT,
        folded=[_provenance(manifest)],
    )
    lead = " ".join([_TWINS if "twin" in results.get("recitation", {}) else _ONE_MODEL, *_left_out(results)])
    write_whole_page(
        path, title="memhooks study: where is the paragraph kept?", lead=lead, sections=sections, extras=extras
    )
    return path


_CLAIMS_TEXT = (
    "Means with 95 % intervals over paragraphs. A difference from never-seen text alone is no sign of memorization: "
    "its loss is high, and much follows the loss. What decides is text that the model says by itself, the same words "
    "under a twin that never read them, and comparisons at equal loss. 'Undecided' means that these are missing, "
    "disagree, or that too few paragraphs were measured. Each verdict is about this run's model and texts.",
)
_VIEWER_TEXT = (
    "Prefix tokens are coloured by what replacing them does to the continuation (NLL rise, where that was measured), "
    "or by the attention that the last prefix token pays them. Tokens after the bar are the continuation, coloured by "
    "how much they surprise the model (NLL), before or after unlearning. All paragraphs share one scale. Point at a "
    "token, or move to it, for its numbers.",
)


def _left_out(results: Results) -> list[str]:
    missing = [words for stage, words in _STAGES.items() if not results.get(stage)]
    return [f"Not in this run: {', '.join(missing)}."] if missing else []


def _summary(results: Results) -> list[Section]:
    text = [
        "A fingerprint holds here only if A differs from the same words under the twin, from never-seen text and from "
        "the model's own continuation of it: the first two have a high loss, and a difference from them alone may come "
        "from the loss itself; the last is what the model says, as A is, at a loss in between (losses are not "
        "matched). Each row is a test of its own at 95 %: of twenty, one may be chance.",
        "From the perturbation on, A means paragraphs drawn from those the model recites in full. EM drops have a "
        "floor: never-seen text has no EM to lose, so its drop is near 0 by construction; scored against the "
        "model's own continuation, as in the paper, its EM is full by construction: that is the column beside.",
    ]
    rows = [{name: cell for name, cell in row.items() if not name.startswith("differs")} for row in findings(results)]
    first = ("fingerprint", "A differs from")
    rows = [{name: row[name] for name in dict.fromkeys((*first, *row))} for row in rows]
    empty = {name for name in (rows[0] if rows else ()) if all(row[name] == "-" for row in rows)}
    rows = [{name: cell for name, cell in row.items() if name not in empty} for row in rows]
    return [Section("Fingerprints of memorized text", text, rows)] if rows else []


def _recitation(results: Results, counts: Sequence[int] | None) -> list[Section]:
    found = results.get("recitation", {})
    if not found:
        return []
    by_level = {name: found[name] for name in ("memorized", "twin") if name in found}
    known = counts and "memorized" in found and len(counts) == found["memorized"].sizes["paragraph"]
    figures = [*([plot_dose(by_level, counts)] if known and counts else ()), plot_em_bins(found)]
    text = "EM counts the continuation tokens recited before the first mistake, from the raw prefix at position 0."
    return [Section("Which paragraphs are recited?", [text], recited_in_full(found), figures=figures)]


def _unlearning(results: Results) -> list[Section]:
    table = results.get("unlearning", {}).get("all")
    if table is None:
        return []
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
    rows = unlearning_rows(table)
    return [Section(UNLEARNING, text, unlearning_summary(rows), figures=[plot_unlearning(rows)])]


def _provenance(manifest: dict) -> Section:
    rows = [
        {"what": f"{group}: {name}" if name else group, "value": _plain(value)}
        for group, own in manifest.items()
        for name, value in (own.items() if isinstance(own, dict) and own else [("", own)])
    ]
    text = ["Rerun with `memhooks study`; all numbers are in results/*.nc, which xarray opens alone."]
    return Section("Methods and provenance", text, rows)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
