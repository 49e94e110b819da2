"""What is minimised to forget a text, one objective per file; `OBJECTIVES` lists them by name."""

from memhooks.unlearn.objectives.bounded_ascent import BoundedAscent
from memhooks.unlearn.objectives.dpo import DPO
from memhooks.unlearn.objectives.gradient_ascent import GradientAscent
from memhooks.unlearn.objectives.gradient_difference import GradientDifference
from memhooks.unlearn.objectives.npo import NPO
from memhooks.unlearn.objectives.paper_edit import PaperEdit
from memhooks.unlearn.objectives.paper_edit_misaligned import PaperEditMisaligned
from memhooks.unlearn.objectives.paper_unlearn import PaperUnlearn
from memhooks.unlearn.objectives.simnpo import SimNPO
from memhooks.unlearn.objectives.term import Objective
from memhooks.unlearn.objectives.weighted_ascent import WeightedAscent

OBJECTIVES: dict[str, Objective] = {
    "gradient_ascent": GradientAscent(),
    "gradient_difference": GradientDifference(),
    "paper_unlearn": PaperUnlearn(),
    "paper_edit": PaperEdit(),
    "paper_edit_misaligned": PaperEditMisaligned(),
    "npo": NPO(),
    "simnpo": SimNPO(),
    "dpo": DPO(),
    "weighted_ascent": WeightedAscent(),
    "bounded_ascent": BoundedAscent(),
}
"""Objectives by name, with their published settings; those that need perturbed twins make them themselves."""
