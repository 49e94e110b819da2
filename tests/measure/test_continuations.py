import inspect

import pytest
import torch

from memhooks.errors import InputError
from memhooks.measure.continuations import DIES_BELOW, perturbed_continuations, worst_place
from memhooks.measure.effects import check_effect, replaced
from memhooks.measure.recitation import recitation, with_own_continuation
from memhooks.model.labelled import Variable, labelled
from memhooks.paragraphs.paragraphs import Paragraphs


def effect_of(paragraphs, rise, replacement):
    axes = ("paragraph", "draw", "pos")
    names = {"paragraph": paragraphs.ids, "draw": range(rise.shape[1]), "pos": range(rise.shape[2])}
    return labelled(
        {"n_prefix": paragraphs.n_prefix},
        nll_rise=Variable(rise, axes, "nats per continuation token, 0 = no effect", names),
        replacement=Variable(replacement, axes, "token id"),
    )


def random_effect(paragraphs, *, n_draws=2, d_vocab=101, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (len(paragraphs), n_draws, paragraphs.n_prefix)
    return effect_of(
        paragraphs, torch.rand(shape, generator=generator), torch.randint(d_vocab, shape, generator=generator)
    )


@torch.no_grad()
def slow_continuation(model, prefix, n):
    """Greedy decoding without a cache: the whole row anew for every token."""
    row = prefix[None]
    for _ in range(n):
        row = torch.cat([row, model(row, return_type="logits")[:, -1:].argmax(-1)], dim=1)
    return row[0, len(prefix) :].tolist()


def slow_comparison(said, original):
    n = len(original)
    first = next((i for i in range(n) if said[i] != original[i]), n)
    shared = [
        length
        for i in range(first, n)
        for j in range(n)
        for length in range(1, n - max(i, j) + 1)
        if said[i : i + length] == original[j : j + length]
    ]
    hits = [a == b for a, b in zip(said, original, strict=True)]
    return {
        "match": sum(hits) / n,
        "dies": sum(hits) / n < 0.2,
        "later_run": max(shared, default=0),
        "resumes": max(shared, default=0) >= max(1, n // 5),
        "first_miss": hits.index(False) if False in hits else n,
    }


def test_the_worst_place_is_the_largest_rise_of_every_draw_and_position_and_the_first_of_equals(paragraphs):
    rise = torch.zeros(6, 3, 12)
    rise[0, 2, 7] = 1.0
    rise[1, 1, 11] = rise[1, 2, 0] = 2.0
    rise[2] = -1.0
    rise[2, 1, 4] = -0.5
    rise[3, 0, 5] = rise[3, 0, 9] = 1.0
    effect = effect_of(paragraphs, rise, torch.zeros(6, 3, 12).long())
    draw, pos = worst_place(effect)
    assert draw.tolist() == [2, 1, 1, 0, 0, 0]
    assert pos.tolist() == [7, 11, 4, 5, 0, 0]
    turned, place = worst_place(effect.transpose("pos", "paragraph", "draw"))
    assert (turned.tolist(), place.tolist()) == (draw.tolist(), pos.tolist())


def test_every_place_equals_slow_decoding_after_the_edited_prefix(model, paragraphs):
    own = with_own_continuation(model, paragraphs).select([0, 1, 2])  # so that some continuations survive
    effect = random_effect(own)
    found = perturbed_continuations(model, own, effect, at="every", batch_size=7)
    assert found["match"].dims == ("paragraph", "draw", "pos")
    survived = 0
    for row in range(3):
        for draw in range(2):
            for pos in range(12):
                prefix = own.prefix[row].clone()
                prefix[pos] = int(effect["replacement"][row, draw, pos])
                slow = slow_comparison(slow_continuation(model, prefix, 12), own.continuation[row].tolist())
                for name, value in slow.items():
                    assert found[name].values[row, draw, pos] == value, (name, row, draw, pos)
                survived += slow["match"] == 1
    assert found.attrs["at"] == "every"
    assert int(found["dies"].sum()) > 0


def test_the_worst_place_is_one_cell_of_every_place(model, paragraphs):
    own = with_own_continuation(model, paragraphs)
    effect = random_effect(own)
    worst = perturbed_continuations(model, own, effect)
    every = perturbed_continuations(model, own, effect, at="every")
    draw, pos = (place.numpy() for place in worst_place(effect))
    for name in ("match", "dies", "resumes", "first_miss"):
        assert worst[name].dims == ("paragraph",)
        assert worst[name].values.tolist() == every[name].values[range(6), draw, pos].tolist()
    assert worst["paragraph"].values.tolist() == list(own.ids)
    assert {"model_hash", "tokens_hash", "n_prefix", "n_continuation"} <= set(worst.attrs)


def test_putting_the_same_token_back_leaves_the_models_own_continuation_as_it_was(model, paragraphs):
    own = with_own_continuation(model, paragraphs)
    effect = effect_of(own, torch.rand(6, 1, 12), own.prefix[:, None])
    found = perturbed_continuations(model, own, effect, at="every")
    assert (found["match"] == 1).all()
    assert (found["first_miss"] == 12).all()
    assert not found["dies"].any()
    assert not found["resumes"].any()


@pytest.mark.parametrize("n_same_at_end", [0, 1, 2, 3])
@pytest.mark.parametrize("n_wrong", [0, 1, 8])
def test_recitation_resumes_if_its_last_fifth_is_the_originals_after_a_difference(model, n_same_at_end, n_wrong):
    # 12 tokens: the last fifth is 2 of them. The original is the model's own text with tokens changed.
    tokens = torch.randint(101, (1, 24), generator=torch.Generator().manual_seed(4))
    own = with_own_continuation(model, Paragraphs(tokens, 12))
    original = own.continuation.clone()
    wrong = slice(12 - n_same_at_end - n_wrong, 12 - n_same_at_end)
    original[:, wrong] = (original[:, wrong] + 1) % 101
    changed = own.with_continuation(original)
    effect = effect_of(changed, torch.zeros(1, 1, 12), changed.prefix[:, None])
    found = perturbed_continuations(model, changed, effect)
    slow = slow_comparison(own.continuation[0].tolist(), original[0].tolist())
    assert {name: found[name].values[0] for name in slow} == slow
    assert bool(found["resumes"][0]) == (n_wrong > 0 and n_same_at_end >= 2)
    assert int(found["first_miss"][0]) == (12 if n_wrong == 0 else 12 - n_same_at_end - n_wrong)


@pytest.mark.parametrize(("n_hits", "dies"), [(1, True), (2, False)])
def test_exactly_a_fifth_of_the_tokens_is_not_death(model, n_hits, dies):
    own = with_own_continuation(model, Paragraphs(torch.arange(22)[None], 12))  # 10 continuation tokens
    original = own.continuation.clone()
    original[:, n_hits:] = (original[:, n_hits:] + 1) % 101
    changed = own.with_continuation(original)
    found = perturbed_continuations(model, changed, effect_of(changed, torch.zeros(1, 1, 12), changed.prefix[:, None]))
    assert found["match"].values[0] == n_hits / 10
    assert bool(found["dies"][0]) is dies
    assert DIES_BELOW == 0.2


def test_a_replaced_token_leaves_the_paragraphs_alone(paragraphs):
    effect = random_effect(paragraphs)
    before = paragraphs.tokens.clone()
    row, draw, pos = torch.tensor([4, 4, 0]), torch.tensor([0, 1, 1]), torch.tensor([3, 3, 11])
    tokens = replaced(paragraphs, effect, row, draw, pos)
    for i in range(3):
        expected = before[row[i]].clone()
        expected[pos[i]] = int(effect["replacement"].values[row[i], draw[i], pos[i]])
        assert tokens[i].tolist() == expected.tolist()
    assert torch.equal(paragraphs.tokens, before)


def test_a_bundled_memorized_paragraph_is_recited_until_a_token_is_replaced(organism):
    from memhooks.organism.paragraphs import load_planted

    planted = load_planted("A", at_least=64).select(range(6))
    planted = planted.select(recitation(organism, planted)["full_match"].values).select([0, 1])
    effect = random_effect(planted, n_draws=1, d_vocab=organism.cfg.d_vocab)
    untouched = effect.assign(replacement=effect["replacement"].copy(data=planted.prefix[:, None].numpy()))
    assert (perturbed_continuations(organism, planted, untouched)["match"] == 1).all()
    assert (perturbed_continuations(organism, planted, effect, at="every")["match"] < 1).any()


def test_effects_of_other_paragraphs_are_refused(model, paragraphs):
    effect = random_effect(paragraphs)
    check_effect(effect, paragraphs)
    with pytest.raises(InputError, match=r"of 6 paragraphs, 0\.\.5, but 2 others came, 0\.\.1; give those"):
        perturbed_continuations(model, paragraphs.select([0, 1]), effect)
    with pytest.raises(InputError, match=r"every prefix position, 0\.\.10, got 12: 0\.\.11"):
        perturbed_continuations(model, Paragraphs(paragraphs.tokens, 11), effect)
    with pytest.raises(InputError, match=r"every prefix position, 0\.\.11, got 11: 1\.\.11"):
        check_effect(effect.isel(pos=slice(1, None)), paragraphs)
    with pytest.raises(InputError, match="over paragraph, draw and pos; got one over paragraph, pos"):
        check_effect(effect.isel(draw=0), paragraphs)
    with pytest.raises(InputError, match="one replaced token at a time, got a cumulative one"):
        perturbed_continuations(model, paragraphs, effect.assign_attrs(cumulative=1))
    with pytest.raises(InputError, match="no drops called 'nll_rise'; it has none"):
        perturbed_continuations(model, paragraphs, effect.drop_vars("nll_rise"))
    with pytest.raises(InputError, match="got one over nothing"):
        check_effect(effect.isel(draw=0, paragraph=0, pos=0), paragraphs)


def test_unusable_settings_are_refused(model, paragraphs):
    effect = random_effect(paragraphs)
    with pytest.raises(InputError, match="at must be 'worst' or 'every', got 'best'"):
        inspect.unwrap(perturbed_continuations)(model, paragraphs, effect, at="best")
    with pytest.raises(InputError, match="batch_size must be at least 1, got 0"):
        perturbed_continuations(model, paragraphs, effect, batch_size=0)
    with pytest.raises(InputError, match="vocabulary"):
        perturbed_continuations(model, Paragraphs(paragraphs.tokens + 100, 12), effect)
