"""Where does a language model keep a paragraph that it can recite, and can we remove just that?

The way through, in ten lines: recitation, the weights behind it, and the model without them.

    import memhooks

    model = memhooks.load_model("organism")  # or a folder with your own GPT-Neo
    recited = memhooks.load_planted("A", at_least=64).sample(12, seed=0)  # or memhooks.load_paragraphs(...)
    unseen = memhooks.load_controls("prose").sample(12, seed=0)  # the control: nobody read it
    target, others, retain = recited.parts(2, 4, 6)
    print(memhooks.recitation(model, target))
    scores = memhooks.LOCALIZERS[0](model, target, retain, seed=0)  # one number per weight
    mask = memhooks.top_weights(scores, fraction=0.001)
    before = memhooks.untouched(model, target, others=others, held_out=unseen)
    delta, steps = memhooks.unlearning_delta(model, target, retain, mask)
    with delta.applied(model):
        print(memhooks.evaluate(model, before)["summary"])

The names below stand in the order of that way. They are imported on first use, so that the
command line can show its help without loading torch. Everything else is public in its own file:
`from memhooks.localize.patch_pairs import patch_pairs`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memhooks.errors import InputError
    from memhooks.explorer.explore import explore
    from memhooks.inspection import inspect_paragraph
    from memhooks.localize.ablation import ablation_table
    from memhooks.localize.attention import rare_token_attention
    from memhooks.localize.attribution import weight_scores
    from memhooks.localize.each_part import silence_heads
    from memhooks.localize.localizers import LOCALIZERS
    from memhooks.localize.logit_lens import logit_lens
    from memhooks.localize.masks.matched_random import matched_random_weights
    from memhooks.localize.masks.top import top_weights
    from memhooks.localize.patching import patch
    from memhooks.localize.specificity import specificity
    from memhooks.measure.perturbation import perturb
    from memhooks.measure.recitation import recitation
    from memhooks.model.ablated import ablated
    from memhooks.model.export import export_model
    from memhooks.model.frames import from_pandas, to_pandas
    from memhooks.model.hook_table import hook_table
    from memhooks.model.hooks import recorded
    from memhooks.model.loading import load_model
    from memhooks.model.patched import patched
    from memhooks.organism.paragraphs import load_controls, load_planted, load_unigram_counts
    from memhooks.paragraphs.files import load_paragraphs
    from memhooks.paragraphs.paragraphs import Paragraphs
    from memhooks.report.export import save_figure
    from memhooks.study.study import Study
    from memhooks.unlearn.evaluation import evaluate, untouched
    from memhooks.unlearn.recipe import Budget, Recipe
    from memhooks.unlearn.unlearning import unlearning_delta

# In pipeline order, which is not the alphabet's.
__all__ = [  # noqa: RUF022
    "InputError",
    # the model and its hooks
    "load_model",
    "export_model",
    "hook_table",
    "recorded",
    "patched",
    "ablated",
    # paragraphs
    "Paragraphs",
    "load_paragraphs",
    "load_planted",
    "load_controls",
    "load_unigram_counts",
    # measure
    "recitation",
    "perturb",
    "inspect_paragraph",
    # localize
    "ablation_table",
    "patch",
    "silence_heads",
    "specificity",
    "logit_lens",
    "weight_scores",
    "rare_token_attention",
    "LOCALIZERS",
    "top_weights",
    "matched_random_weights",
    # unlearn
    "unlearning_delta",
    "Recipe",
    "Budget",
    "untouched",
    "evaluate",
    # look and keep
    "save_figure",
    "explore",
    "to_pandas",
    "from_pandas",
    "Study",
]

_HOMES = {
    "errors": ("InputError",),
    "model.loading": ("load_model",),
    "model.export": ("export_model",),
    "model.hook_table": ("hook_table",),
    "model.hooks": ("recorded",),
    "model.patched": ("patched",),
    "model.ablated": ("ablated",),
    "paragraphs.paragraphs": ("Paragraphs",),
    "paragraphs.files": ("load_paragraphs",),
    "organism.paragraphs": ("load_planted", "load_controls", "load_unigram_counts"),
    "measure.recitation": ("recitation",),
    "measure.perturbation": ("perturb",),
    "inspection": ("inspect_paragraph",),
    "localize.ablation": ("ablation_table",),
    "localize.patching": ("patch",),
    "localize.each_part": ("silence_heads",),
    "localize.specificity": ("specificity",),
    "localize.logit_lens": ("logit_lens",),
    "localize.attribution": ("weight_scores",),
    "localize.attention": ("rare_token_attention",),
    "localize.localizers": ("LOCALIZERS",),
    "localize.masks.top": ("top_weights",),
    "localize.masks.matched_random": ("matched_random_weights",),
    "unlearn.unlearning": ("unlearning_delta",),
    "unlearn.recipe": ("Recipe", "Budget"),
    "unlearn.evaluation": ("untouched", "evaluate"),
    "report.export": ("save_figure",),
    "explorer.explore": ("explore",),
    "model.frames": ("to_pandas", "from_pandas"),
    "study.study": ("Study",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(_where_it_is(name))
    return getattr(import_module(f"memhooks.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


def _where_it_is(name: str) -> str:
    """Say from which file a name is imported; the files are searched only once somebody asks in vain."""
    if name.startswith("__"):  # what Python itself asks for, such as __wrapped__
        return f"module 'memhooks' has no attribute {name!r}"
    import ast
    from difflib import get_close_matches
    from pathlib import Path

    root, homes = Path(__file__).parent, []
    if (root / name).is_dir() or (root / f"{name}.py").is_file():
        return f"memhooks.{name} is a module that was not imported; import memhooks.{name}"
    for path in sorted(root.rglob("*.py")):
        text = path.read_text("utf8")
        if name in text and any(name in _defined(node) for node in ast.parse(text).body):
            homes.append(
                ".".join(("memhooks", *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__")
            )
    if homes:
        imports = ", or ".join(f"from {home} import {name}" for home in homes)
        return f"memhooks.{name} is not among the names at the top; {imports}"
    close = get_close_matches(name, __all__, n=1)
    hint = f"did you mean {close[0]}?" if close else "dir(memhooks) lists its names"
    return f"module 'memhooks' has no attribute {name!r}; {hint}"


def _defined(node: object) -> list[str]:
    """The names that a statement of a file defines."""
    if (own := getattr(node, "name", None)) is not None:  # def and class
        return [own]
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    return [target.id for target in targets if hasattr(target, "id")]
