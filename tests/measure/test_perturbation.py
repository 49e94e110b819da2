import pytest
import torch

from memhooks.errors import InputError
from memhooks.measure.perturbation import corrupted, perturb, random_replacements
from memhooks.measure.recitation import recitation
from memhooks.model.ablated import ablated
from memhooks.model.hooks import hooked
from memhooks.paragraphs.paragraphs import Paragraphs


def test_each_cell_equals_one_plain_measurement_of_the_edited_paragraph(model, paragraphs):
    found = perturb(model, paragraphs, seed=5, batch_size=4)
    clean = recitation(model, paragraphs)
    for pos in (0, 3, 11):
        tokens = paragraphs.tokens.clone()
        tokens[:, pos] = torch.from_numpy(found["replacement"].values)[:, pos]
        slow = recitation(model, Paragraphs(tokens, 12))
        rise = torch.from_numpy((slow["nll"].mean("pos") - clean["nll"].mean("pos")).values)
        torch.testing.assert_close(torch.from_numpy(found["nll_rise"].values[:, pos]), rise, rtol=1e-5, atol=1e-5)
        assert (found["em_drop"].values[:, pos] == (clean["exact_match"] - slow["exact_match"]).values).all()
        assert (found["match_drop"].values[:, pos] == (clean["matches"] - slow["matches"]).values).all()


def test_replacements_are_never_the_token_itself_and_cover_the_vocabulary():
    prefix = torch.full((200, 50), 3)
    drawn = random_replacements(prefix, 11, seed=0)
    assert sorted(drawn.unique().tolist()) == [0, 1, 2, *range(4, 11)]
    share = drawn.flatten().bincount(minlength=11) / drawn.numel()
    assert (share[drawn.unique()] - 0.1).abs().max() < 0.02
    assert torch.equal(drawn, random_replacements(prefix, 11, seed=0))


def test_the_corrupted_row_differs_at_its_worst_position_alone(model, paragraphs):
    effect = perturb(model, paragraphs, seed=5)
    tokens, at = corrupted(paragraphs, effect)
    changed = tokens != paragraphs.tokens
    assert changed.sum(1).tolist() == [1] * 6
    assert changed.long().argmax(1).tolist() == at.tolist()
    assert at.tolist() == effect["nll_rise"].values.argmax(1).tolist()


def test_a_prefix_token_that_no_layer_can_see_has_no_effect(neo_source):
    import copy

    from memhooks.model.loading import load_model

    model = load_model(copy.deepcopy(neo_source))
    with torch.no_grad():
        for block in model.blocks:
            block.attn.W_O.zero_()
            block.attn.b_O.zero_()
    paragraphs = Paragraphs(torch.arange(24)[None], 12)
    rise = perturb(model, paragraphs, seed=0)["nll_rise"].values[0]
    # Without attention only the last prefix token reaches the first continuation token.
    assert abs(rise[:-1]).max() == 0
    assert abs(rise[-1]) > 1e-4


def test_inside_an_ablated_block_the_ablated_model_is_perturbed(model, paragraphs):
    intact = perturb(model, paragraphs, seed=5)
    with ablated(model, mlp_layers=[1]):
        found = perturb(model, paragraphs, seed=5)
        slow = recitation(model, paragraphs)
    assert found["nll"].values == pytest.approx(slow["nll"].mean("pos").values, abs=1e-5)
    assert abs(found["nll_rise"] - intact["nll_rise"]).max() > 1e-3


def test_replayed_and_full_passes_give_the_same_effects(model, paragraphs):
    replayed = perturb(model, paragraphs, seed=5, batch_size=7)
    with hooked(model, [("hook_embed", lambda x, hook: None)]):
        passes = perturb(model, paragraphs, seed=5)
    assert replayed["nll_rise"].values == pytest.approx(passes["nll_rise"].values, abs=1e-5)
    for name in ("em_drop", "match_drop"):
        assert (replayed[name].values == passes[name].values).all()


def test_a_batch_of_nothing_is_refused(model, paragraphs):
    with pytest.raises(InputError, match="batch_size must be at least 1, got 0"):
        perturb(model, paragraphs, seed=0, batch_size=0)
