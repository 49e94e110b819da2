import inspect

import pytest
import torch

from memhooks.errors import InputError
from memhooks.localize.activation_gradients import TRACED, activation_gradients, directions
from memhooks.localize.objectives import SpanNLL, TokenNLL, continuation_nll
from memhooks.localize.patch_grid import hook_name
from memhooks.model.hooks import recorded
from memhooks.model.loading import load_model
from memhooks.model.replay.edits import HEAD_SITES

KINDS = [tuple(s for s in HEAD_SITES if s != "pattern"), tuple(s for s in TRACED if s not in HEAD_SITES)]


def slow(model, paragraphs, row, site, layer, objective=continuation_nll):
    """Activation and gradient of one row at one hook point of TransformerLens."""
    one, name = paragraphs.select([row]), hook_name(site, layer)
    with recorded(model, [name], gradients=True) as recording:
        gradients = recording.gradients(objective(model(one.tokens)[:, 11:-1], one).sum())
    return recording[name][0], gradients[name][0]


@pytest.mark.parametrize("sites", KINDS, ids=["heads", "stream"])
@pytest.mark.parametrize("objective", [continuation_nll, SpanNLL(12, 13)], ids=["all", "one token"])
def test_gradients_equal_those_at_transformer_lens_hook_points(model, paragraphs, sites, objective):
    found = activation_gradients(model, paragraphs, sites=sites, objective=objective, at=range(24), batch_size=4)
    for number, site in enumerate(sites):
        for row, layer in ((0, 0), (5, 3), (number % 6, 1 + number % 3)):
            _, gradient = slow(model, paragraphs, row, site, layer, objective)
            own = found.sel(site=site, layer=layer).isel(paragraph=row)
            largest, rms = (one.movedim(0, -1) for one in (gradient.abs().amax(-1), gradient.pow(2).mean(-1).sqrt()))
            assert own["max_gradient"].values == pytest.approx(largest.numpy(), rel=1e-5, abs=1e-5)
            assert own["rms_gradient"].values == pytest.approx(rms.numpy(), rel=1e-5, abs=1e-5)
    assert float(abs(found["max_gradient"].sel(pos=23)).max()) == 0  # nothing is scored after the last token


@pytest.mark.parametrize("backward", [True, False])
def test_directions_are_the_vectors_in_float64(neo, paragraphs, backward):
    model = load_model(neo, dtype=torch.float64)
    for site in TRACED:
        found = directions(model, paragraphs, sites=[site], at=[3, 12], backward=backward)["vector"]
        for row, layer in ((0, 0), (4, 3)):
            vector = slow(model, paragraphs, row, site, layer)[int(backward)][[3, 12]]
            own = found.sel(layer=layer, site=site).isel(paragraph=row)
            assert own.values == pytest.approx(vector.movedim(0, -2).detach().numpy(), rel=1e-9, abs=1e-9)


def test_each_paragraphs_own_position_and_impact_token(model, paragraphs):
    at, impact = torch.tensor([0, 3, 11, 5, 23, 7]), torch.tensor([12, 23, 15, 12, 20, 13])
    found = activation_gradients(
        model, paragraphs, sites=["k", "q"], at=at, objective=TokenNLL(paragraphs, impact), batch_size=4
    )
    assert found["max_gradient"].dims == ("paragraph", "site", "layer", "head")
    assert found["position"].values.tolist() == at.tolist()
    for row in range(6):
        own = int(impact[row])
        _, gradient = slow(model, paragraphs, row, "k", 1, SpanNLL(own, own + 1))
        expected = gradient[at[row]].abs().amax(-1).numpy()
        assert found["max_gradient"].sel(site="k", layer=1)[row].values == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_a_head_that_nothing_reads_has_no_gradient(model, paragraphs):
    """A planted truth: what a silent head holds cannot matter, and every other head's can."""
    with torch.no_grad():
        model.blocks[1].attn.W_O[2].zero_()
    found = activation_gradients(model, paragraphs, sites=["q", "k", "v", "z"])["max_gradient"]
    largest = found.max(("paragraph", "site", "pos"))
    assert float(largest.sel(layer=1, head=2)) == 0
    assert int((largest > 0).sum()) == 15


def test_unusable_input_is_refused(model, paragraphs):
    with pytest.raises(InputError, match=r"gradients are taken at resid_pre, .* got 'pattern'"):
        inspect.unwrap(activation_gradients)(model, paragraphs, sites=["pattern"])
    with pytest.raises(InputError, match="either all by head"):
        activation_gradients(model, paragraphs, sites=["q", "resid_pre"])
    with pytest.raises(InputError, match=r"positions must lie in 0\.\.23"):
        activation_gradients(model, paragraphs, at=[24])
    with pytest.raises(InputError, match="batch_size must be at least 1"):
        directions(model, paragraphs, batch_size=0)
    with pytest.raises(InputError, match=r"resid_pre \(d_model\), mlp_pre \(d_mlp\) differ in width"):
        directions(model, paragraphs, sites=["resid_pre", "mlp_pre"])
    with model.hooks(fwd_hooks=[("blocks.0.attn.hook_z", lambda x, hook: x)]):
        with pytest.raises(InputError, match="does not run through hooks"):
            activation_gradients(model, paragraphs)
