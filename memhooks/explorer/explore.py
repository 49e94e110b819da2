"""`explore(model, paragraph)`: the widget to try things out by hand before measuring them on many paragraphs."""

from typing import TYPE_CHECKING

from memhooks.errors import InputError
from memhooks.explorer.exploration import Exploration
from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs

if TYPE_CHECKING:
    from memhooks.explorer.widget import ExploreWidget


def explore(
    model: HookedModel,
    paragraph: Paragraphs,
    *,
    control: Paragraphs | None = None,
    n_control: int = 8,
    n_suggested: int = 5,
    seed: int = 0,
) -> "ExploreWidget":
    """A live widget: replace prefix tokens, silence heads, and see recitation and NLL change at once.

    What one paragraph loses says little by itself: any text suffers from a missing head. So the same tokens are
    put into the same positions of other paragraphs and the same heads are silenced there, and their rise in NLL
    stands beside. Numbers, continuation and control are those of `recitation`, `ablated` and
    `greedy_continuation`; the widget shows the Python that reproduces them.

    Args:
        model: a hooked GPT-Neo in eval mode; nothing on it is changed.
        paragraph: its first row is explored.
        control: other paragraphs of the same prefix and length, best never-seen ones; by default the rows of
            `paragraph` that follow the first, if there are any.
        n_control: how many of them are measured; the first ones.
        n_suggested: how many tokens are offered for a place: as many of the model's own choices as random ones.
        seed: of the random ones.

    Returns:
        An anywidget; show it as the last line of a cell. `widget.exploration` does the same without a browser.

    Raises:
        InputError: no `Paragraphs`, paragraphs that the model cannot read, a control of another shape or one that
            holds the paragraph itself, counts below one, hooks on the model, or anywidget is not installed.

    Example:
        >>> import memhooks
        >>> model, planted = memhooks.load_model("organism"), memhooks.load_planted("A", at_least=128)
        >>> widget = memhooks.explore(model, planted)  # the last line of a cell shows it
        >>> type(widget).__name__
        'ExploreWidget'
    """
    for given, name in ((paragraph, "paragraph"), (control, "control")):
        if not isinstance(given, Paragraphs) and not (name == "control" and given is None):
            raise InputError(
                f"{name} must be Paragraphs, such as load_planted('A') or load_paragraphs('mine.jsonl'), "
                f"got {type(given).__name__}; for token rows: Paragraphs(tokens, n_prefix=...)"
            )
    if n_control < 1 or n_suggested < 1:
        raise InputError(f"n_control and n_suggested must be at least 1, got {n_control} and {n_suggested}")
    one = paragraph.check(model).select([0])
    beside = _control(model, paragraph, control, n_control)
    try:
        from memhooks.explorer.widget import ExploreWidget
    except ImportError as error:
        raise InputError("explore needs anywidget: pip install 'memhooks[notebook]'") from error
    python = (
        f"paragraph.select(slice(1, {1 + n_control}))" if control is None else f"control.select(slice({n_control}))"
    )
    exploration = Exploration(model, one, control=beside, control_python=python, seed=seed)
    return ExploreWidget(exploration, n_suggested=n_suggested)


def _control(
    model: HookedModel, paragraph: Paragraphs, control: Paragraphs | None, n_control: int
) -> Paragraphs | None:
    if control is None:
        return paragraph.select(slice(1, 1 + n_control)) if len(paragraph) > 1 else None
    if control.n_prefix != paragraph.n_prefix or control.tokens.shape[1] != paragraph.tokens.shape[1]:
        raise InputError(
            f"the control must have {paragraph.n_prefix} + {paragraph.n_continuation} tokens as the paragraph has, "
            f"got {control.n_prefix} + {control.n_continuation}"
        )
    control = control.check(model).select(slice(n_control))
    if (control.tokens == paragraph.tokens[0]).all(1).any():
        raise InputError("the control holds the explored paragraph itself; give other paragraphs")
    return control
