import pytest
import torch

from memhooks.errors import InputError
from memhooks.localize.patch_grid import hook_name
from memhooks.localize.patch_pairs import patch_pairs
from memhooks.measure.pairs import Pairs, make_pairs
from memhooks.measure.perturbation import perturb


@pytest.fixture
def pairs(model, paragraphs):
    own = __import__("memhooks").measure.recitation.with_own_continuation(model, paragraphs)
    made = make_pairs(model, own, perturb(model, own, seed=1))
    return made.select(made.changed)


@pytest.mark.parametrize("at", ["perturbed", "impact"])
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_each_cell_equals_a_plain_hook_loop_at_the_impact_token(model, pairs, direction, at):
    found = patch_pairs(model, pairs, sites=("q", "v", "z"), at=at, direction=direction)
    perturbed, clean = pairs.perturbed.tokens, pairs.clean.tokens  # each with its own continuation, as published
    base, source = (perturbed, clean) if direction == "denoising" else (clean, perturbed)
    _, cache = model.run_with_cache(source)
    positions = pairs.position if at == "perturbed" else pairs.impact - 1
    for row, layer, head, site in ((0, 0, 1, "v"), (1, 2, 3, "z"), (2, 1, 0, "q"), (1, 3, 2, "v")):
        name, here, impact = hook_name(site, layer), int(positions[row]), int(pairs.impact[row])

        def copy(x, hook, row=row, name=name, here=here, head=head):
            x[0, here, head] = cache[name][row, here, head]
            return x

        with torch.no_grad():
            before = model(base[[row]])[0, impact - 1]
            with model.hooks(fwd_hooks=[(name, copy)]):
                after = model(base[[row]])[0, impact - 1]
        right, new = clean[row, impact], perturbed[row, impact]
        change = after.log_softmax(-1) - before.log_softmax(-1)
        difference = (after[right] - after[new]) - (before[right] - before[new])
        cell = found.isel(paragraph=row).sel(site=site, layer=layer, head=head)
        assert float(cell["impact_nll_change"]) == pytest.approx(-change[right].item(), abs=2e-5)
        assert float(cell["new_nll_change"]) == pytest.approx(-change[new].item(), abs=2e-5)
        assert float(cell["logit_difference_change"]) == pytest.approx(difference.item(), abs=5e-5)


def test_restoring_the_stream_at_the_perturbed_token_restores_the_logit_difference(model, pairs):
    found = patch_pairs(model, pairs, sites=("resid_pre",))
    assert float(found["logit_effect"].sel(layer=0).mean()) == pytest.approx(1, abs=1e-5)
    assert found["position"].values.tolist() == pairs.position.tolist()


def test_pairs_without_an_impact_token_are_refused(model, paragraphs):
    same = Pairs(paragraphs, paragraphs, torch.zeros(6, dtype=torch.long), torch.full((6,), -1))
    with pytest.raises(InputError, match=r"6 of 6 pairs have no impact token; pass pairs.select\(pairs.changed\)"):
        patch_pairs(model, same)


def test_an_unknown_place_is_refused(model, pairs):
    import inspect

    with pytest.raises(InputError, match="at must be one of perturbed, impact or positions, got 'end'"):
        inspect.unwrap(patch_pairs)(model, pairs, at="end")


def test_an_unknown_direction_is_refused(model, pairs):
    import inspect

    with pytest.raises(InputError, match="direction must be one of denoising, noising, got 'denoise'"):
        inspect.unwrap(patch_pairs)(model, pairs, direction="denoise")
