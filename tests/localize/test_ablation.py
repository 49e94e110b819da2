from dataclasses import replace

import pytest
import torch

import memhooks
from memhooks.errors import InputError
from memhooks.localize.ablation import ablation_table
from memhooks.measure.recitation import recitation
from memhooks.model.means import activation_means


def test_the_table_equals_a_hook_loop_by_hand(model, paragraphs):
    """TransformerLens alone: zero one head, log-softmax over everything, gather."""

    def zero(z, hook):
        z = z.clone()
        z[:, :, 2] = 0
        return z

    def nll(hooks):
        logits = model.run_with_hooks(paragraphs.tokens, fwd_hooks=hooks).log_softmax(-1)
        scored = logits[:, paragraphs.n_prefix - 1 : -1].gather(-1, paragraphs.continuation[..., None])
        return float(-scored.mean().detach())

    table = ablation_table(model, {"all": paragraphs}, heads=[(1, 2)], n_random=0)
    assert float(table["nll"].sel(row="all")) == pytest.approx(nll([]), rel=1e-5)
    assert float(table["nll_without"].sel(row="all")) == pytest.approx(nll([("blocks.1.attn.hook_z", zero)]), rel=1e-5)
    rise = float(table["nll_without"][0] - table["nll"][0])
    assert float(table["nll_rise"][0]) == pytest.approx(rise, abs=1e-5)
    assert float(table["low"][0]) <= rise <= float(table["high"][0])
    assert table["nll_rise_random"].isnull().all()


def test_a_planted_head_that_carries_everything_stands_out_from_random_heads(organism):
    """L0H5 of the bundled model: without it nothing is recited, without other heads everything is."""
    planted = memhooks.load_planted("A", at_least=128).sample(8, seed=0)
    control = memhooks.load_controls("prose").sample(8, seed=0)
    table = ablation_table(organism, {"memorized": planted, "control": control}, heads=[(0, 5)], n_random=2)
    memorized = table.sel(row="memorized")
    assert float(memorized["em"]) == 50
    assert float(memorized["em_without"]) < 15
    assert float(memorized["low"]) > float(table.sel(row="control")["high"])
    assert float(memorized["nll_rise_random"]) < 0.1 * float(memorized["nll_rise"])


def test_the_same_seed_gives_the_same_table_and_the_parts_are_written_down(model, paragraphs):
    means = activation_means(model, paragraphs.tokens)
    one, two = (
        ablation_table(model, {"a": paragraphs}, how="mean", means=means, heads=[(0, 1)], mlp_layers=[2], seed=4)
        for _ in range(2)
    )
    assert one.identical(two)
    assert one.attrs["parts"] == '{"heads": [[0, 1]], "mlp_layers": [[2]]}'


def test_every_model_state_but_the_ablation_is_kept(model, paragraphs):
    before = recitation(model, paragraphs)
    ablation_table(model, {"a": paragraphs}, how="resample", source=paragraphs.tokens.flip(1), heads=[(0, 1)])
    assert recitation(model, paragraphs).identical(before)


@pytest.mark.parametrize(
    ("sets", "arguments", "message"),
    [
        ({}, {"heads": [(0, 0)]}, "no paragraphs to measure"),
        (
            None,
            {"heads": [(0, 0)], "how": "resample", "source": torch.arange(48).reshape(2, 24)},
            "1 of 6 'a' paragraphs are in source; resample from other texts",
        ),
        (None, {}, "nothing to ablate"),
        (None, {"heads": [(9, 0)]}, "layer must lie in 0..3"),
        (None, {"heads": [(0, 0)], "n_random": -1}, "n_random must be at least 0, got -1"),
        (None, {"mlp_layers": [0, 1, 2, 3]}, "only 0 other mlp_layers to draw 4 from as a control; pass n_random=0"),
        (None, {"heads": [(0, 0)], "how": "mean"}, "needs means="),
    ],
)
def test_what_cannot_be_compared_is_refused(model, paragraphs, sets, arguments, message):
    with pytest.raises(InputError, match=message):
        tokens = torch.cat([paragraphs.tokens[1:], torch.arange(24)[None]])
        ablation_table(model, {"a": replace(paragraphs, tokens=tokens)} if sets is None else sets, **arguments)


def test_parts_given_as_iterators_are_measured_and_written_down_like_lists(model, paragraphs):
    one = ablation_table(model, {"a": paragraphs}, heads=[(0, 1), (1, 2)], mlp_layers=[1])
    two = ablation_table(model, {"a": paragraphs}, heads=zip([0, 1], [1, 2], strict=True), mlp_layers=iter([1]))
    assert one.identical(two)


def test_torchs_own_generator_is_left_alone(model, paragraphs):
    state = torch.get_rng_state()
    ablation_table(model, {"a": paragraphs}, how="noise", heads=[(0, 0)], n_random=1)
    assert torch.equal(torch.get_rng_state(), state)
