import inspect

import pytest
import torch

import memhooks
from memhooks.errors import InputError
from memhooks.measure.perturbation import corrupted, perturb, perturb_exact_match
from memhooks.measure.recitation import recitation
from memhooks.measure.replacements import drawn
from memhooks.model.ablated import ablated
from memhooks.model.hooks import hooked
from memhooks.paragraphs.paragraphs import Paragraphs


def by_hand(model, paragraphs, found, draw, pos, *, cumulative=False):
    """One plain measurement of the paragraphs with their replaced tokens."""
    tokens, others = paragraphs.tokens.clone(), torch.from_numpy(found["replacement"].values)[:, draw]
    here = slice(0, pos + 1) if cumulative else slice(pos, pos + 1)
    tokens[:, here] = others[:, here]
    return tokens, recitation(model, Paragraphs(tokens, 12))


@pytest.mark.parametrize("cumulative", [False, True])
def test_each_cell_equals_one_plain_measurement_of_the_edited_paragraph(model, paragraphs, cumulative):
    found = perturb(model, paragraphs, seed=5, n_draws=2, cumulative=cumulative, batch_size=4)
    clean, clean_logs = recitation(model, paragraphs), model(paragraphs.tokens).detach().log_softmax(-1)[:, 11:-1]
    for draw, pos in ((0, 0), (1, 3), (0, 11)):
        tokens, slow = by_hand(model, paragraphs, found, draw, pos, cumulative=cumulative)
        cell = found.sel(draw=draw, pos=pos)
        rise = (slow["nll"].mean("pos") - clean["nll"].mean("pos")).values
        assert cell["nll_rise"].values == pytest.approx(rise, rel=1e-5, abs=1e-5)
        assert (cell["em_drop"].values == (clean["exact_match"] - slow["exact_match"]).values).all()
        assert (cell["match_drop"].values == (clean["matches"] - slow["matches"]).values).all()
        logs = model(tokens).detach().log_softmax(-1)[:, 11:-1]
        kl = (clean_logs.exp() * (clean_logs - logs)).sum(-1).mean(-1)
        assert cell["kl"].values == pytest.approx(kl.numpy(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("cumulative", [False, True])
def test_exact_match_alone_gives_the_same_drops(organism, cumulative):
    rows = memhooks.load_planted("A").sample(2, seed=3)
    options = {"seed": 2, "cumulative": cumulative}
    whole, exact = perturb(organism, rows, **options), perturb_exact_match(organism, rows, **options)
    assert (whole["em_drop"].values == exact["em_drop"].values).all()
    assert (whole["replacement"].values == exact["replacement"].values).all()
    assert exact.attrs["block_positions_run"] < whole.attrs["block_positions_run"]


def test_a_function_of_ones_own_chooses_the_replacements(model, paragraphs):
    def next_id(model, paragraphs, generator):
        return (paragraphs.prefix + 1) % model.cfg.d_vocab

    found = perturb(model, paragraphs, seed=0, replace=next_id)
    assert (found["replacement"].values[:, 0] == ((paragraphs.prefix + 1) % 101).numpy()).all()
    assert found.attrs["replace"] == "next_id"


def test_all_prefix_tokens_replaced_is_the_last_cumulative_cell(model, paragraphs):
    found = perturb(model, paragraphs, seed=1, cumulative=True)
    tokens = paragraphs.tokens.clone()
    tokens[:, :12] = torch.from_numpy(found["replacement"].values)[:, 0]
    slow = recitation(model, Paragraphs(tokens, 12))["nll"].mean("pos").values
    assert (found["nll_rise"] + found["nll"]).values[:, 0, -1] == pytest.approx(slow, abs=1e-5)


def test_the_corrupted_row_differs_at_its_worst_position_alone(model, paragraphs):
    effect = perturb(model, paragraphs, seed=5, n_draws=3)
    tokens, at = corrupted(paragraphs, effect)
    changed = tokens != paragraphs.tokens
    assert changed.sum(1).tolist() == [1] * 6
    assert changed.long().argmax(1).tolist() == at.tolist()
    slow = recitation(model, Paragraphs(tokens, 12))["nll"].mean("pos").values
    assert slow - effect["nll"].values == pytest.approx(effect["nll_rise"].max(("draw", "pos")).values, abs=1e-5)


def test_the_result_says_how_much_was_run(model, paragraphs):
    about = perturb(model, paragraphs, seed=0, batch_size=64).attrs
    assert about["block_positions_of_full_passes"] == 6 * 12 * 4 * 24
    assert about["block_positions_floor"] == 6 * 4 * sum(23 - pos for pos in range(12))
    assert about["block_positions_floor"] < about["block_positions_run"] < about["block_positions_of_full_passes"]
    assert about["flops_floor"] < about["flops_run"] < about["flops_of_full_passes"]
    assert about["rows_per_batch"] == 64


def test_a_prefix_token_that_no_layer_can_see_has_no_effect(neo_source):
    import copy

    from memhooks.model.loading import load_model

    model = load_model(copy.deepcopy(neo_source))
    with torch.no_grad():
        for block in model.blocks:
            block.attn.W_O.zero_()
            block.attn.b_O.zero_()
    paragraphs = Paragraphs(torch.arange(24)[None], 12)
    rise = perturb(model, paragraphs, seed=0)["nll_rise"].values[0, 0]
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
    assert replayed["kl"].values == pytest.approx(passes["kl"].values, abs=1e-5)
    for name in ("em_drop", "match_drop"):
        assert (replayed[name].values == passes[name].values).all()


def test_a_replacement_by_name_is_refused(model, paragraphs):
    with pytest.raises(InputError, match=r"a function such as uniform .*, got 'uniform'"):
        inspect.unwrap(drawn)(model, paragraphs, "uniform", seed=0, n_draws=1)


def test_a_batch_of_nothing_is_refused(model, paragraphs):
    with pytest.raises(InputError, match="batch_size must be at least 1, got 0"):
        perturb(model, paragraphs, seed=0, batch_size=0)
