"""The last stage: what the report's viewer shows of single paragraphs."""

from memhooks.report.findings import costliest_head, most_negative_head
from memhooks.study.interventions import Conditions
from memhooks.study.kept import Kept
from memhooks.study.viewed import viewed_result


def viewer_stage(keep: Kept, conditions: Conditions) -> None:
    """Tokens, surprises and attention, by the heads that the stages before have named."""
    heads = []
    if "attention" in keep.results:
        heads.append(most_negative_head(keep.results["attention"]["memorized"]))
    if "ablation" in keep.results:
        heads.append(costliest_head(keep.results["ablation"]["memorized"]))
    for name, (model, rows) in conditions.items():
        keep("viewed", name, viewed_result, model, rows, heads=list(dict.fromkeys(heads)))
