import inspect

import pytest
import torch

from memhooks.errors import InputError
from memhooks.measure.replacements import (
    NEAREST,
    _checked,
    drawn,
    first2sec,
    frequency_matched,
    from_paragraphs,
    uniform,
)
from memhooks.paragraphs.paragraphs import Paragraphs


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def with_vocabulary(model, size):
    """The same model as far as random replacements look at it: they read no weights."""
    model.cfg.d_vocab = size
    return model


def test_the_first_uniform_draw_of_a_seed_is_a_shift_by_that_seeds_numbers(model, paragraphs):
    shift = torch.randint(1, 101, (6, 12), generator=generator(5))
    three = drawn(model, paragraphs, uniform, seed=5, n_draws=3)
    assert torch.equal(three[:, 0], (paragraphs.prefix + shift) % 101)
    assert torch.equal(three[:, :2], drawn(model, paragraphs, uniform, seed=5, n_draws=2))
    assert (three[:, 0] != three[:, 1]).any()


def test_uniform_replacements_are_never_the_token_itself_and_cover_the_vocabulary(model):
    same = Paragraphs(torch.full((200, 51), 3), 50)
    made = uniform(with_vocabulary(model, 11), same, generator())
    assert sorted(made.unique().tolist()) == [0, 1, 2, *range(4, 11)]
    share = made.flatten().bincount(minlength=11) / made.numel()
    assert (share[made.unique()] - 0.1).abs().max() < 0.02


@torch.no_grad()
def test_first2sec_is_the_best_prediction_or_the_second_where_the_best_stands_there(model):
    rows = torch.randint(101, (40, 14), generator=generator(3))  # more than one batch
    logits = model(rows, return_type="logits")
    rows[:, 6] = logits[:, 5].argmax(-1)  # the model's own choice stands at 6
    tokens = Paragraphs(rows, 12)
    logits = model(rows, return_type="logits")
    made = first2sec(model, tokens, generator(9))
    n_second = 0
    for row in range(40):
        for pos in range(1, 12):
            best, second = logits[row, pos - 1].topk(2).indices.tolist()
            n_second += best == int(rows[row, pos])
            assert made[row, pos] == (second if best == int(rows[row, pos]) else best)
    assert n_second >= 40
    assert torch.equal(made[:, 0], uniform(model, tokens, generator(9))[:, 0])  # position 0 has no prediction


def test_draws_of_first2sec_differ_at_position_0_alone(model, paragraphs):
    made = drawn(model, paragraphs, first2sec, seed=0, n_draws=4)
    assert (made[:, :, 1:] == made[:, :1, 1:]).all()
    assert (made[:, :, 0] != made[:, :1, 0]).any()


def test_first2sec_replaces_a_prefix_of_one_token_too(model):
    made = first2sec(model, Paragraphs(torch.tensor([[7, 8, 9]]), 1), generator())
    assert made.shape == (1, 1)
    assert made[0, 0] != 7


def test_frequency_matched_draws_from_the_nearest_in_count_order_and_reaches_all_of_them(model):
    n = 300
    counts = torch.randint(40, (n,), generator=generator(1))  # many ties
    order = sorted(range(n), key=lambda token: (int(counts[token]), token))
    probed = [order[0], order[3], order[49], order[50], order[150], order[249], order[250], order[299]]
    tokens = Paragraphs(torch.tensor(probed).repeat(3000, 1), len(probed) - 1)
    made = frequency_matched(counts)(with_vocabulary(model, n), tokens, generator(2))
    for column, token in enumerate(probed[:-1]):
        at = order.index(token)
        others = sorted((other for other in range(n) if other != at), key=lambda other: abs(other - at))
        furthest = abs(others[NEAREST - 1] - at)
        near = {order[other] for other in others[:NEAREST]}
        found = set(made[:, column].tolist())
        assert token not in found
        assert all(abs(order.index(other) - at) <= furthest for other in found)
        assert len(found) == NEAREST
        if at in (0, 3, 49, 50, 150, 249):  # below: equally near ranks on both sides make no difference
            assert found == near


def test_a_small_vocabulary_offers_all_its_other_tokens(model, paragraphs):
    counts = torch.arange(8)
    tokens = Paragraphs(torch.full((500, 3), 5), 2)
    assert drawn(model, paragraphs, frequency_matched(torch.arange(101)), seed=0, n_draws=2).shape == (6, 2, 12)
    made = frequency_matched(counts)(with_vocabulary(model, 8), tokens, generator())
    assert sorted(made.unique().tolist()) == [0, 1, 2, 3, 4, 6, 7]


def test_replacements_from_paragraphs_stand_at_the_same_position_of_the_source(model, paragraphs):
    source = Paragraphs(torch.randint(4, (5, 20), generator=generator(8)), 15)
    own = Paragraphs(torch.randint(4, (200, 24), generator=generator(6)), 12)
    source.tokens[0], source.tokens[1] = 0, 1  # so that every position offers two tokens at least
    made = drawn(model, own, from_paragraphs(source), seed=0, n_draws=1)[:, 0]
    assert (made != own.prefix).all()
    for pos in range(12):
        offered = source.tokens[:, pos].tolist()
        assert set(made[:, pos].tolist()) <= set(offered)
    # Rows, not tokens, are drawn alike: a token in more of the source's rows comes more often.
    twice = Paragraphs(torch.tensor([[1, 0], [1, 0], [2, 0], [9, 0]]), 1)
    many = Paragraphs(torch.full((6000, 2), 9), 1)
    share = from_paragraphs(twice)(model, many, generator()).flatten().bincount() / 6000
    assert share[[1, 2]].tolist() == pytest.approx([2 / 3, 1 / 3], abs=0.03)


def test_replacements_carry_the_name_of_their_kind():
    named = [
        uniform,
        first2sec,
        frequency_matched(torch.ones(3)),
        from_paragraphs(Paragraphs(torch.ones(1, 2).long(), 1)),
    ]
    assert [one.__name__ for one in named] == ["uniform", "first2sec", "frequency_matched", "from_paragraphs"]


def test_a_users_function_may_return_any_integer_type(model, paragraphs):
    made = drawn(model, paragraphs, lambda model, given, random: given.prefix.int(), seed=0, n_draws=1)
    assert made.dtype == torch.int64
    assert torch.equal(made[:, 0], paragraphs.prefix)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([1, 2], r"integer tensor of shape \(6, 12\), got list"),
        (torch.zeros(6, 12), "integer token ids, got torch.float32"),
        (torch.zeros(6, 12, dtype=torch.bool), "integer token ids, got torch.bool"),
        (torch.zeros(6, 12, dtype=torch.complex64), "integer token ids, got torch.complex64"),
        (torch.zeros(6, 24).long(), r"shape \(6, 12\), got \(6, 24\)"),
        (torch.full((6, 12), 101), r"must lie in 0\.\.100, got 101\.\.101"),
        (torch.full((6, 12), -1), r"must lie in 0\.\.100, got -1\.\.-1"),
    ],
)
def test_what_a_users_function_returns_is_checked(model, paragraphs, made, message):
    with pytest.raises(InputError, match=message):
        inspect.unwrap(drawn)(model, paragraphs, lambda *_: made, seed=0, n_draws=1)
    with pytest.raises(InputError, match=message):
        inspect.unwrap(_checked)(model, paragraphs, made)


def test_unusable_settings_are_refused(model, paragraphs):
    with pytest.raises(InputError, match="n_draws must be at least 1, got 0"):
        drawn(model, paragraphs, uniform, seed=0, n_draws=0)
    with pytest.raises(InputError, match="vocabulary"):
        drawn(model, Paragraphs(torch.full((1, 3), 101), 2), uniform, seed=0, n_draws=1)
    with pytest.raises(InputError, match="counts must be numbers, got NaN"):
        frequency_matched(torch.tensor([1.0, torch.nan]))
    with pytest.raises(InputError, match=r"one entry for each of the model's 101 token ids, got shape \(100,\)"):
        frequency_matched(torch.ones(100))(model, paragraphs, generator())
    with pytest.raises(InputError, match="at least 12 tokens, as those to replace, got 11"):
        from_paragraphs(Paragraphs(paragraphs.tokens, 11))(model, paragraphs, generator())
    with pytest.raises(InputError, match=r"has token \d+ at position 0, as has paragraph 2; give a source"):
        from_paragraphs(paragraphs.select([2]))(model, paragraphs, generator())
    with_vocabulary(model, 1)
    for replace in (uniform, first2sec, frequency_matched(torch.ones(1))):
        with pytest.raises(InputError, match="a vocabulary of one token has no replacement"):
            replace(model, Paragraphs(torch.zeros(1, 3).long(), 2), generator())
