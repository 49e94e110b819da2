"""The widget: it passes what is clicked to an `Exploration` and what is measured to the page."""

from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from memhooks.errors import InputError, in_short
from memhooks.explorer.exploration import Exploration, Rest, Tried
from memhooks.explorer.measured import Measured, text_of
from memhooks.model.loading import layer_type

_HERE = Path(__file__).parent


class ExploreWidget(anywidget.AnyWidget):
    """Made by `explore`; the page sends messages such as `{"do": "replace", "position": 3, "token": 17}`.

    Attributes:
        setup: what never changes: the paragraph's shape, the model's layers, the control.
        view: everything that is shown, anew after each message.
        suggestions: tokens for the place that was asked about last.
    """

    _esm = _HERE / "explore.js"
    _css = _HERE / "explore.css"
    setup = traitlets.Dict().tag(sync=True)
    view = traitlets.Dict().tag(sync=True)
    suggestions = traitlets.Dict().tag(sync=True)

    def __init__(self, exploration: Exploration, *, n_suggested: int = 5) -> None:
        super().__init__()
        self.exploration, self._n_suggested, self._n_answers = exploration, n_suggested, 0
        self._actions: dict[str, Callable[..., object]] = {
            "replace": exploration.replace,
            "undo": exploration.undo,
            "toggle": lambda heads: exploration.toggle((layer, head) for layer, head in heads),
            "layer": exploration.toggle_layer,
            "how": exploration.silence_by,
            "reset": exploration.reset,
            "back": lambda row: exploration.go_to(exploration.tried[row].state),
            "rest": exploration.rest,
            "suggest": self._suggest,
        }
        exploration.rest()
        cfg, control = exploration.model.cfg, exploration.control
        self.setup = {
            "id": exploration.paragraph.ids[0],
            "n_prefix": exploration.paragraph.n_prefix,
            "layers": [layer_type(exploration.model, layer) for layer in range(cfg.n_layers)],
            "n_heads": cfg.n_heads,
            "n_control": 0 if control is None else len(control),
            "has_text": exploration.model.tokenizer is not None,
        }
        self._show()
        self.on_msg(lambda _, message, __: self.handle(message))

    def handle(self, message: dict[str, Any]) -> None:
        """Do what a message asks for; whatever goes wrong is shown in the widget, which goes on working."""
        error, of_rest = "", message.get("do") == "rest"
        try:
            self._do(**message)
        except InputError as fault:
            error = str(fault)
        except Exception as fault:  # a widget that raises would be dead without a word
            error = f"{type(fault).__name__}: {in_short(fault)}"
        # The page asks for the rest by itself, so what was wrong before is still to be read.
        self._show(error=error or self.view["error"] * of_rest, stuck=of_rest and bool(error))

    def _do(self, *, do: str, **details: object) -> None:
        if do not in self._actions:
            raise InputError(f"the widget knows no {do!r}; it knows {', '.join(self._actions)}")
        self._actions[do](**details)

    def _suggest(self, position: int) -> None:
        found = self.exploration.suggestions(position, n=self._n_suggested)
        tokens = [{"token": one.token, "text": self._text(one.token), "share": one.probability} for one in found]
        self.suggestions = {"n": self._n_answers, "position": position, "tokens": tokens}

    def _show(self, *, error: str = "", stuck: bool = False) -> None:
        now = self.exploration
        self._n_answers += 1
        self.view = {
            "n": self._n_answers,  # so that the page hears of every answer
            "error": error,
            "stuck": stuck,  # whether continuation and control cannot be had in this state
            "now": self._texts(now.found) | self._said(now.latest_rest),
            "untouched": self._texts(now.untouched) | {"said": list(map(self._text, now.untouched_said.tolist()))},
            "replaced": [position for position, _ in now.state.replaced],
            "heads": [list(head) for head in now.state.heads],
            "how": now.state.how,
            "control": _control(now.latest_rest, now.found.mean_nll - now.untouched.mean_nll),
            "tried": [self._in_words(one) for one in now.tried],
            "at": next(row for row, one in enumerate(now.tried) if one.state.does_the_same_as(now.state)),
            "snippet": now.snippet(),
        }

    def _texts(self, found: Measured) -> dict[str, Any]:
        return {
            "tokens": [{"token": token, "text": self._text(token)} for token in found.tokens.tolist()],
            "nll": [None, *map(_number, found.nll.tolist())],  # nothing predicts the first token
            "predicted": [None, *map(self._text, found.predicted.tolist())],
            "exact_match": found.exact_match,
            "mean_nll": _number(found.mean_nll),
        }

    def _said(self, rest: Rest | None) -> dict[str, Any]:
        return {"said": None if rest is None else list(map(self._text, rest.said.tolist()))}

    def _in_words(self, tried: Tried) -> dict[str, Any]:
        """A line of the history."""
        state, own = tried.state, self.exploration.paragraph.tokens[0]
        words = [
            f"{position}: {self._text(int(own[position]))!r} → {self._text(token)!r}"
            for position, token in state.replaced[:2]
        ]
        words += [f"{len(state.replaced) - 2} more tokens"] * (len(state.replaced) > 2)
        heads = ", ".join(f"L{layer}H{head}" for layer, head in state.heads)
        words += [f"{heads if len(state.heads) <= 3 else f'{len(state.heads)} heads'} to {state.how}"] * bool(heads)
        return {
            "what": "; ".join(words) or "untouched",
            "exact_match": tried.exact_match,
            "mean_nll": _number(tried.mean_nll),
        }

    def _text(self, token: int) -> str:
        return text_of(self.exploration.model, token)


def _control(rest: Rest | None, own_rise: float) -> dict[str, Any] | None:
    """The control's line in numbers: its mean rise, the least and the most, and how many rise less than the text."""
    if rest is None or rest.control_rise is None:
        return None
    rises = rest.control_rise
    return {
        "mean": _number(float(rises.mean())),
        "least": _number(float(rises.min())),
        "most": _number(float(rises.max())),
        "n_below": int((rises < own_rise).sum()),
    }


def _number(value: float) -> float | None:
    """None in place of what JSON cannot say."""
    return value if isfinite(value) else None
