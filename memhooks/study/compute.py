"""What every stage computes, and from which rows: the place to look up what a study does."""

from memhooks.measure.recitation import recitation
from memhooks.study import truth
from memhooks.study.interventions import ablation_stage, lens_stage, patching_stage, perturbation_stage
from memhooks.study.kept import Kept
from memhooks.study.looking import attention_stage, gradients_stage
from memhooks.study.sets import Sets, controls_of
from memhooks.study.settings import Settings
from memhooks.study.stages import Checked, Intervened, Looked, Stage
from memhooks.study.subject import Subject
from memhooks.study.unlearning import unlearning_stage
from memhooks.study.viewing import viewer_stage
from memhooks.truth.injection.bench import Plan


def compute(keep: Kept, stage: Stage, subject: Subject, settings: Settings) -> None:
    """Every result of a stage.

    Raises:
        InputError: there is too little text for it.
    """
    if stage == "recitation":
        return _recite(keep, subject, settings)
    sets = Sets(subject, keep.results["recitation"], settings)
    if stage in ("perturbation", "patching", "ablation", "lens"):
        return _intervene(keep, stage, sets, settings)
    if stage in ("gradients", "attention"):
        return _look(keep, stage, sets, settings)
    if stage == "unlearning":
        return unlearning_stage(keep, subject.model, sets.unlearning(), settings)
    if stage == "viewer":
        return viewer_stage(keep, sets.viewed(settings.n_viewed))
    return _check(keep, stage, sets, settings)


def _recite(keep: Kept, subject: Subject, s: Settings) -> None:
    rows, natural = subject.candidates, subject.further.get("natural")
    keep("recitation", "memorized", recitation, subject.model, rows)
    if subject.twin is not None:
        keep("recitation", "twin", recitation, subject.twin, rows)
    if natural is not None:
        keep("recitation", "natural", recitation, subject.model, natural)
    keep("recitation", "control", recitation, subject.model, controls_of(subject, s))


def _intervene(keep: Kept, stage: Intervened, sets: Sets, s: Settings) -> None:
    match stage:
        case "perturbation":
            perturbation_stage(keep, sets.conditions(s.n_perturbed), sets.subject.counts, seed=s.seed)
        case "patching":
            patching_stage(keep, sets.conditions(s.n_perturbed), n_mapped=s.n_mapped)
        case "ablation":
            held_out = sets.subject.held_out.sample(s.n_ablated, seed=s.seed)
            conditions = sets.conditions(s.n_ablated)
            ablation_stage(keep, conditions, held_out, n_cumulative=s.n_cumulative, seed=s.seed)
        case "lens":
            lens_stage(keep, sets.conditions(s.n_lens))


def _look(keep: Kept, stage: Looked, sets: Sets, s: Settings) -> None:
    if stage == "gradients":
        gradients_stage(keep, sets.conditions(s.n_gradients), sets.further(s.n_gradients), seed=s.seed)
        return
    assert sets.subject.counts is not None  # or the stage would be left out
    attention_stage(keep, sets.prefix_conditions(s.n_attention), sets.subject.counts, seed=s.seed)


def _check(keep: Kept, stage: Checked, sets: Sets, s: Settings) -> None:
    """What is known to be true of the model: its fork, its bits, and text that we write into it ourselves."""
    subject = sets.subject
    match stage:
        case "forks":
            truth.forks_stage(keep, subject, sets.read_often(s.n_swapped), n_counted=s.n_counted, seed=s.seed)
        case "capacity":
            truth.capacity_stage(keep, subject, n_counted=s.n_counted, seed=s.seed)
        case "sinks":
            truth.sinks_stage(keep, sets.prefix_conditions(s.n_lens), seed=s.seed)
        case "injections":
            plan = Plan(regions=truth.WRITTEN_IN, n_injections=s.n_injections, n_learned=0, seed=s.seed)
            truth.injections_stage(keep, subject.model, sets.memorized, subject.unread, plan)
