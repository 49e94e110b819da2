"""The widget without a browser: messages in, what is shown out."""

import json

import pytest
import torch

from memhooks.explorer.explore import explore
from memhooks.explorer.widget import _number
from memhooks.model.ablated import ablated
from memhooks.model.hooks import hooked


@pytest.fixture
def widget(model, paragraphs):
    return explore(model, paragraphs)


def test_the_first_view_is_complete_and_can_be_sent(widget):
    view = json.loads(json.dumps(widget.view, allow_nan=False))
    assert view["error"] == ""
    assert view["now"]["nll"] == view["untouched"]["nll"]
    assert view["now"]["said"] == view["untouched"]["said"]
    assert len(view["now"]["said"]) == 12
    assert len(view["now"]["tokens"]) == len(view["now"]["predicted"]) == 24
    assert view["now"]["nll"][0] is None  # nothing predicts the first token
    assert view["control"] == {"mean": 0, "least": 0, "most": 0, "n_below": 0}
    assert widget.setup == {
        "id": "0",
        "n_prefix": 12,
        "layers": ["global", "local", "global", "local"],
        "n_heads": 4,
        "n_control": 5,
        "has_text": False,
    }


def test_numbers_come_first_and_the_rest_when_it_is_asked_for(widget):
    widget.handle({"do": "toggle", "heads": [[0, 1]]})
    quick = widget.view
    assert quick["heads"] == [[0, 1]]
    assert quick["now"]["said"] is quick["control"] is None
    widget.handle({"do": "rest"})
    rises = widget.exploration.rest().control_rise
    own = widget.exploration.found.mean_nll - widget.exploration.untouched.mean_nll
    assert widget.view["n"] == quick["n"] + 1
    assert widget.view["now"]["said"] == [str(token) for token in widget.exploration.rest().said.tolist()]
    assert widget.view["control"] == {
        "mean": float(rises.mean()),
        "least": float(rises.min()),
        "most": float(rises.max()),
        "n_below": sum(rise < own for rise in rises.tolist()),
    }


def test_a_message_goes_through_the_widgets_own_channel(widget):
    widget._handle_custom_msg({"do": "toggle", "heads": [[0, 1]]}, [])
    assert widget.view["heads"] == [[0, 1]]


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"do": "replace", "position": 2, "token": "abc"}, "'abc' is no token id"),
        ({"do": "toggle", "heads": [[9, 0]]}, "layer must lie in 0..3"),
        ({"do": "dance"}, "the widget knows no 'dance'"),
        ({"do": "back", "row": 40}, "IndexError"),
        ({}, "TypeError"),
    ],
)
def test_errors_are_shown_in_one_line_and_the_widget_goes_on(widget, message, error):
    widget.handle({"do": "toggle", "heads": [[1, 1]]})
    widget.handle(message)
    assert error in widget.view["error"]
    assert "\n" not in widget.view["error"]
    assert widget.view["heads"] == [[1, 1]]
    widget.handle({"do": "rest"})
    assert error in widget.view["error"]  # the page asked for that by itself
    widget.handle({"do": "reset"})
    assert widget.view["error"] == ""
    assert widget.view["heads"] == []


def test_a_rest_that_cannot_be_had_is_not_asked_for_again(widget):
    widget.handle({"do": "reset"})
    with hooked(widget.exploration.model, [(("z", 1), lambda z, hook: 0 * z)]):
        widget.handle({"do": "rest"})
        widget.exploration.model(widget.exploration.paragraph.tokens)
    assert widget.view["stuck"]
    assert "leave its block" in widget.view["error"]
    widget.handle({"do": "reset"})
    assert not widget.view["stuck"]


def test_the_history_says_what_was_changed(widget):
    own = widget.view["now"]["tokens"][3]["text"]
    widget.handle({"do": "replace", "position": 3, "token": 17})
    widget.handle({"do": "toggle", "heads": [[0, 1], [2, 2]]})
    widget.handle({"do": "how", "how": "mean"})
    widget.handle({"do": "layer", "layer": 1})
    what = [one["what"] for one in widget.view["tried"]]
    change = f"3: '{own}' → '17'"
    assert what == [
        "untouched",
        change,
        f"{change}; L0H1, L2H2 to zero",
        f"{change}; L0H1, L2H2 to mean",
        f"{change}; 6 heads to mean",
    ]
    assert widget.view["at"] == 4
    widget.handle({"do": "back", "row": 1})
    assert (widget.view["at"], widget.view["heads"], widget.view["replaced"]) == (1, [], [3])
    assert len(widget.view["tried"]) == 5


def test_half_precision_and_what_is_no_number(model, paragraphs):
    widget = explore(model.to(torch.bfloat16), paragraphs)
    widget.handle({"do": "how", "how": "mean"})
    widget.handle({"do": "toggle", "heads": [[0, 1]]})
    widget.handle({"do": "rest"})
    assert widget.view["error"] == ""
    json.dumps(widget.view, allow_nan=False)
    assert [_number(value) for value in (1.5, float("nan"), float("inf"))] == [1.5, None, None]


def test_explore_refuses_a_model_that_somebody_else_is_changing(model, paragraphs):
    with ablated(model, heads=[(0, 1)]):
        with pytest.raises(ValueError, match="leave its block"):
            explore(model, paragraphs)
        model(paragraphs.tokens)
