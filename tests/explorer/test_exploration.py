"""What the widget shows, against a slow and obvious reference; no browser, no widget."""

import inspect

import pytest
import torch

import memhooks
from memhooks.errors import InputError
from memhooks.explorer.exploration import Exploration
from memhooks.explorer.explore import explore
from memhooks.explorer.state import State
from memhooks.measure.recitation import with_own_continuation
from memhooks.model.ablated import ablated
from memhooks.model.hooks import hooked
from memhooks.paragraphs.paragraphs import Paragraphs


@pytest.fixture
def exploring(model, paragraphs):
    return Exploration(model, paragraphs.select([0]), control=paragraphs.select(slice(1, None)))


def by_hand(model, rows, *, replaced=(), heads=(), fill=None):
    """EM, NLL of every token and the free continuation, with plain hooks and one full pass per decoded token."""
    tokens = rows.tokens.clone()
    for position, token in replaced:
        tokens[:, position] = token

    def silence(layer, head):
        def replace(z, hook):
            z[:, :, head] = 0 if fill is None else fill[layer][head]
            return z

        return f"blocks.{layer}.attn.hook_z", replace

    def logits(some):
        with torch.no_grad():
            return model.run_with_hooks(some, fwd_hooks=[silence(*head) for head in heads])

    shares = logits(tokens)[:, :-1].log_softmax(-1)
    nll = -shares.gather(-1, tokens[:, 1:, None])[..., 0]
    said = tokens[:, : rows.n_prefix]
    for _ in range(rows.n_continuation):
        said = torch.cat([said, logits(said)[:, -1:].argmax(-1)], dim=1)
    said = said[:, rows.n_prefix :]
    hits = (said == tokens[:, rows.n_prefix :]).long().cumprod(1).sum(1)
    return hits, nll, shares.argmax(-1), said


def mean_fill(model, rows):
    """What each head does on average, over rows and positions."""
    _, store = model.run_with_cache(rows.tokens)
    return [store["z", layer].detach().mean((0, 1)) for layer in range(model.cfg.n_layers)]


CASES = [
    State(),
    State(((0, 7), (11, 3))),
    State(heads=((0, 1), (2, 0), (2, 3))),
    State(((5, 50),), ((3, 2),)),
    State(((5, 50),), ((0, 0), (1, 2)), "mean"),
]


@pytest.mark.parametrize("state", CASES)
def test_every_number_equals_plain_hooks_and_a_loop_of_full_passes(exploring, state):
    model, rows = exploring.model, exploring.paragraph
    exploring.go_to(state)
    fill = mean_fill(model, exploring.control) if state.how == "mean" else None
    match, nll, predicted, said = by_hand(model, rows, replaced=state.replaced, heads=state.heads, fill=fill)
    assert exploring.found.exact_match == match[0]
    torch.testing.assert_close(exploring.found.nll, nll[0], rtol=1e-5, atol=1e-5)
    assert exploring.found.mean_nll == pytest.approx(float(nll[0, rows.n_prefix - 1 :].mean()), abs=1e-5)
    assert exploring.found.predicted.tolist() == predicted[0].tolist()
    assert exploring.rest().said.tolist() == said[0].tolist()
    others, first = exploring.control, rows.n_prefix - 1
    before, after = (
        by_hand(model, others, **case)[1][:, first:].mean(1)
        for case in ({}, {"replaced": state.replaced, "heads": state.heads, "fill": fill})
    )
    torch.testing.assert_close(exploring.rest().control_rise, after - before, rtol=1e-5, atol=1e-5)


def test_a_text_that_is_recited_in_part_or_whole_is_continued_from_its_first_miss(model, paragraphs):
    own = with_own_continuation(model, paragraphs.select([0]))
    whole = Exploration(model, own)
    assert whole.found.exact_match == own.n_continuation
    assert whole.rest().said.tolist() == own.continuation[0].tolist()
    broken = own.tokens.clone()
    broken[0, 15] = (broken[0, 15] + 1) % 101
    part = Exploration(model, Paragraphs(broken, own.n_prefix))
    assert part.found.exact_match == 3
    assert part.rest().said.tolist() == own.continuation[0].tolist()


def test_changes_are_taken_back_one_by_one_or_all_at_once(exploring):
    start = exploring.found
    exploring.replace(3, 17)
    exploring.replace(3, 18)
    exploring.replace(4, "20")
    exploring.toggle([(1, 2)])
    assert exploring.state == State(((3, 18), (4, 20)), ((1, 2),))
    exploring.undo(3)
    exploring.toggle([(1, 2)])
    assert exploring.state == State(((4, 20),))
    exploring.replace(4, int(exploring.paragraph.tokens[0, 4]))  # its own token again
    assert exploring.state == State()
    assert torch.equal(exploring.found.nll, start.nll)
    exploring.toggle_layer(2)
    assert exploring.state.heads == ((2, 0), (2, 1), (2, 2), (2, 3))
    exploring.toggle([(2, 1)])
    exploring.toggle_layer(2)  # one was at work: all are silenced
    assert len(exploring.state.heads) == 4
    exploring.toggle_layer(2)
    assert exploring.state == State()
    exploring.replace(0, 1)
    exploring.reset()
    assert torch.equal(exploring.found.nll, start.nll)


def test_every_state_is_remembered_once_and_the_way_heads_are_silenced_counts_only_with_heads(exploring):
    exploring.silence_by("mean")
    exploring.toggle([(0, 1)])
    exploring.silence_by("zero")
    exploring.toggle([(0, 1)])
    states = [one.state for one in exploring.tried]
    assert states == [State(), State((), ((0, 1),), "mean"), State((), ((0, 1),), "zero")]
    assert exploring.tried[1].mean_nll != exploring.tried[2].mean_nll
    exploring.go_to(states[1])
    assert exploring.found.mean_nll == exploring.tried[1].mean_nll
    assert len(exploring.tried) == 3


def test_what_is_suggested_are_the_models_own_choices_in_this_state_and_random_others(exploring):
    exploring.toggle([(0, 1)])
    model, tokens = exploring.model, exploring.paragraph.tokens
    found = exploring.suggestions(5, n=4)
    with ablated(model, heads=[(0, 1)]), torch.no_grad():
        shares = model(tokens[:, :5])[0, -1].softmax(-1)
    shares[tokens[0, 5]] = -1
    best = shares.topk(4)
    assert [one.token for one in found[:4]] == best.indices.tolist()
    assert [one.probability for one in found[:4]] == pytest.approx(best.values.tolist(), abs=1e-6)
    assert [one.probability for one in found[4:]] == [None] * 4
    assert len({one.token for one in found} - {int(tokens[0, 5])}) == 8
    assert exploring.suggestions(5, n=4) == found
    assert [one.probability for one in exploring.suggestions(0, n=2)] == [None, None]  # nothing predicts it
    assert len(exploring.suggestions(1, n=200)) == 100  # there are no more


@pytest.mark.parametrize("state", CASES)
def test_the_snippet_prints_the_numbers_of_the_widget(exploring, state, capsys):
    exploring.go_to(state)
    names = {"model": exploring.model, "paragraph": exploring.paragraph, "control": exploring.control}
    exec(exploring.snippet(), names)
    own, other = (line.split() for line in capsys.readouterr().out.splitlines())
    assert own[:2] == ["paragraph:", "EM"]
    assert float(own[2]) == exploring.found.exact_match
    assert float(own[4]) == pytest.approx(exploring.found.mean_nll, abs=1e-5)
    before = memhooks.recitation(exploring.model, exploring.control)["nll"].mean()
    assert float(other[4]) - float(before) == pytest.approx(float(exploring.rest().control_rise.mean()), abs=1e-5)


def test_the_snippet_takes_the_control_from_what_explore_was_given(model, paragraphs, capsys):
    given = {"model": model, "paragraph": paragraphs, "control": paragraphs.select([3, 4, 5])}
    for control, n_rows in ((None, 3), (given["control"], 2)):
        exploring = explore(model, paragraphs, control=control, n_control=n_rows).exploration
        exploring.toggle([(0, 1)])
        exploring.silence_by("mean")
        exec(exploring.snippet(), given)
        printed = float(capsys.readouterr().out.split()[-1])
        before = memhooks.recitation(model, exploring.control)["nll"].mean()
        assert printed - float(before) == pytest.approx(float(exploring.rest().control_rise.mean()), abs=1e-5)


def test_without_other_paragraphs_there_is_no_control_and_no_mean(model, paragraphs):
    alone = Exploration(model, paragraphs.select([0]))
    alone.toggle([(0, 1)])
    assert alone.rest().control_rise is None
    assert "control" not in alone.snippet()
    with pytest.raises(InputError, match="the mean is taken over the control"):
        alone.silence_by("mean")


def test_weights_that_change_meanwhile_are_measured_anew(exploring):
    exploring.toggle([(0, 1)])
    before = exploring.untouched.mean_nll
    with torch.no_grad():
        exploring.model.W_U.mul_(0.5)
    assert (
        exploring.rest().said.tolist() == by_hand(exploring.model, exploring.paragraph, heads=[(0, 1)])[3][0].tolist()
    )
    assert exploring.untouched.mean_nll != before
    now = float(memhooks.recitation(exploring.model, exploring.paragraph)["nll"].mean())
    assert exploring.untouched.mean_nll == pytest.approx(now, abs=1e-5)
    assert exploring.state == State((), ((0, 1),))


def test_the_model_is_left_as_it_was_also_after_errors_and_without_gradients(exploring):
    model, hooks = exploring.model, lambda: [len(point.fwd_hooks) for point in exploring.model.hook_dict.values()]
    before = hooks()
    with torch.set_grad_enabled(False):
        exploring.toggle([(0, 1)])
        exploring.rest()
    with pytest.raises(InputError, match=r"layer must lie in 0\.\.3"):
        exploring.toggle([(9, 0)])
    assert exploring.state.heads == ((0, 1),)  # what cannot be done changes nothing
    exploring.suggestions(3)
    assert hooks() == before
    assert torch.is_grad_enabled()
    assert not model.training
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())


def test_foreign_hooks_are_refused_because_the_numbers_would_silently_include_them(exploring):
    with hooked(exploring.model, [(("z", 1), lambda z, hook: 0 * z)]):
        for act in (exploring.reset, exploring.rest, lambda: exploring.suggestions(2)):
            with pytest.raises(InputError, match=r"blocks\.1\.attn\.hook_z has one; leave its block"):
                act()
        exploring.model(exploring.paragraph.tokens)


@pytest.mark.parametrize(
    ("position", "token", "message"),
    [
        (12, 5, r"only prefix tokens 0\.\.11 can be replaced, got 12"),
        (-1, 5, "only prefix tokens"),
        (3, 101, r"token ids must lie in 0\.\.100, got 101"),
        (3, "101", r"without a tokenizer type a number in 0\.\.100"),
        (3, "the", "'the' is no token id"),
    ],
)
def test_replacements_that_cannot_be_made(exploring, position, token, message):
    with pytest.raises(InputError, match=message):
        exploring.replace(position, token)
    assert exploring.state == State()


def test_a_text_must_be_one_token_and_a_space_counts(organism):
    from memhooks.organism.paragraphs import load_planted

    exploring = Exploration(organism, load_planted("A", at_least=128).select([0]))
    exploring.replace(1, " of")
    assert organism.tokenizer.decode([exploring.state.replaced[0][1]]) == " of"
    with pytest.raises(InputError, match=r"' of the' is 2 tokens \(' of', ' the'\); type text that is one token"):
        exploring.replace(1, " of the")
    with pytest.raises(InputError, match=r"with a space before it \(' Constitution'\) it is one"):
        exploring.replace(1, "Constitution")
    with pytest.raises(InputError, match="type the text of one token"):
        exploring.replace(1, "")


def test_explore_checks_what_it_is_given(model, paragraphs):
    plain = inspect.unwrap(explore)
    with pytest.raises(InputError, match=r"paragraph must be Paragraphs, .* got str; for token rows"):
        plain(model, "some text")
    with pytest.raises(InputError, match=r"control must be Paragraphs, .* got Tensor"):
        plain(model, paragraphs, control=paragraphs.tokens)
    with pytest.raises(InputError, match=r"must be at least 1, got 0 and 5"):
        explore(model, paragraphs, n_control=0)
    with pytest.raises(InputError, match=r"the control must have 12 \+ 12 tokens as the paragraph has, got 6 \+ 18"):
        explore(model, paragraphs, control=Paragraphs(paragraphs.tokens, 6))
    with pytest.raises(InputError, match="the control holds the explored paragraph itself"):
        explore(model, paragraphs, control=paragraphs)
    with pytest.raises(InputError, match=r"token ids must lie in 0\.\.100"):
        explore(model, Paragraphs(paragraphs.tokens + 50, 12))


def test_the_control_is_the_rows_that_follow_or_the_one_that_is_given(model, paragraphs):
    follow = explore(model, paragraphs, n_control=3).exploration
    assert follow.paragraph.ids == ("0",)
    assert follow.control.ids == ("1", "2", "3")
    given = explore(model, paragraphs.select([0]), control=paragraphs.select([4, 5])).exploration
    assert given.control.ids == ("4", "5")
    assert explore(model, paragraphs.select([2])).exploration.control is None


def test_without_anywidget_the_error_says_what_to_install(model, paragraphs, monkeypatch):
    import sys

    monkeypatch.delitem(sys.modules, "memhooks.explorer.widget", raising=False)
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(InputError, match=r"explore needs anywidget: pip install 'memhooks\[notebook\]'"):
        explore(model, paragraphs)
