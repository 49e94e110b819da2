import inspect
from typing import get_args

import pytest
import torch

from memhooks.errors import InputError
from memhooks.localize.patch_grid import Cell, hook_name
from memhooks.localize.patching import patch, patch_cells
from memhooks.measure.recitation import with_own_continuation
from memhooks.model.means import activation_means
from memhooks.model.replay.clean_run import Site
from memhooks.model.replay.edits import HEAD_SITES, MLP_SITES, STREAM_SITES


def token_nll(model, tokens, *, first):
    """Surprise at the tokens from index `first` on, by a full pass."""
    logits = model(tokens)[:, first - 1 : -1]
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, first:], reduction="none")


def corrupt(paragraphs, at):
    tokens = paragraphs.tokens.clone()
    row = torch.arange(len(tokens))
    tokens[row, at] = (tokens[row, at] + 1) % 101
    return tokens


def put(x, site, row, position, head, value, key=None):
    """What one cell is in TransformerLens's activation."""
    if site == "pattern":
        x[row, head, position, slice(None) if key is None else key] = value
    elif head is not None:
        x[row, position, head] = value
    else:
        x[row, position] = value


def there(cache, site, row, position, head, key=None):
    x = cache[row]
    if site == "pattern":
        return x[head, position, slice(None) if key is None else key]
    return x[position] if head is None else x[position, head]


def by_hand(model, base, cache, site, layer, row, position, head=None, key=None):
    """NLL of one row with one cell copied from a cache: a hook and a full pass."""
    name = hook_name(site, layer)

    def copy(x, hook):
        put(x, site, 0, position, head, there(cache[name], site, row, position, head, key), key)
        return x

    with model.hooks(fwd_hooks=[(name, copy)]), torch.no_grad():
        return token_nll(model, base[row : row + 1], first=12).mean().item()


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("sites", [STREAM_SITES + MLP_SITES, HEAD_SITES])
def test_each_cell_equals_a_plain_hook_loop(model, paragraphs, sites, direction):
    tokens = corrupt(paragraphs, torch.tensor([0, 3, 11, 5, 5, 7]))
    found = patch(model, paragraphs, tokens, sites=sites, direction=direction)
    base, source = (tokens, paragraphs.tokens) if direction == "denoising" else (paragraphs.tokens, tokens)
    _, cache = model.run_with_cache(source)
    before = token_nll(model, base, first=12).mean(-1)
    for number, site in enumerate(sites):
        for layer, row, position in ((0, 4, 5), (1, 2, 11), (3, 1, 8), (number % 4, 3, 5 + number)):
            head = number % 4 if "head" in found.dims else None
            slow = by_hand(model, base, cache, site, layer, row, position, head)
            cell = found.sel(site=site, layer=layer, pos=position, **({} if head is None else {"head": head}))
            assert float(cell["nll_change"][row]) == pytest.approx(slow - before[row].item(), abs=1e-5)


def test_own_positions_are_those_cells_of_the_whole_map(model, paragraphs):
    at = torch.tensor([0, 3, 11, 5, 5, 7])
    tokens = corrupt(paragraphs, at)
    every, own = (patch(model, paragraphs, tokens, sites=["v"], at=one) for one in (None, at))
    for row in range(6):
        expected = every["nll_change"][row].sel(pos=int(at[row])).values
        assert own["nll_change"][row].values == pytest.approx(expected, abs=1e-5)
    assert own["position"].values.tolist() == at.tolist()


def test_restoring_the_input_of_the_first_layer_undoes_everything_and_noising_does_everything(model, paragraphs):
    at, paragraphs = torch.full((6,), 6), with_own_continuation(model, paragraphs)  # which any other prefix hurts
    for direction, sign in (("denoising", -1), ("noising", 1)):
        found = patch(model, paragraphs, corrupt(paragraphs, at), at=at, sites=["resid_pre"], direction=direction)
        gap = found["other_nll"] - found["clean_nll"]
        change = sign * found["nll_change"].sel(site="resid_pre", layer=0)
        assert change.values == pytest.approx(gap.values, abs=1e-5)
        assert float(found["effect"].sel(layer=0).mean()) == pytest.approx(1, abs=1e-5)


def test_patching_an_uncorrupted_run_has_no_effect_and_costs_nothing(model, paragraphs):
    found = patch(model, paragraphs, paragraphs.tokens)
    assert abs(found["nll_change"].values).max() == 0
    assert found["effect"].isnull().all()  # a share of nothing
    assert found.attrs["block_positions_run"] == 0


@pytest.mark.parametrize("how", ["zero", "mean"])
def test_zeros_and_means_equal_a_plain_hook_loop(model, paragraphs, how):
    means = activation_means(model, paragraphs.tokens.flip(1), sites=("z",))
    found = patch(
        model, paragraphs, "zero" if how == "zero" else means, sites=["z"], direction="noising", at=[0, 4, 11]
    )
    name, before = hook_name("z", 2), token_nll(model, paragraphs.tokens, first=12).mean(-1)

    def silence(x, hook):
        x[:, 4, 1] = 0 if how == "zero" else means.values[name][4, 1]
        return x

    with model.hooks(fwd_hooks=[(name, silence)]), torch.no_grad():
        slow = token_nll(model, paragraphs.tokens, first=12).mean(-1)
    cell = found["nll_change"].sel(site="z", layer=2, head=1, pos=4).values
    assert cell == pytest.approx((slow - before).detach().numpy(), abs=1e-5)
    assert "effect" not in found


def test_a_list_of_cells_equals_a_plain_hook_loop(model, paragraphs):
    tokens = corrupt(paragraphs, torch.full((6,), 3))
    cells = [Cell("pattern", 2, 11, 1, 3), Cell("z", 1, 7, 2), Cell("resid_mid", 3, 5), Cell("pattern", 0, 20, 0, 3)]
    found = patch_cells(model, paragraphs, tokens, cells)
    assert found["row"].values.tolist()[:2] == ["L2H1 pattern at 11, key 3", "L1H2 z at 7"]
    _, cache = model.run_with_cache(paragraphs.tokens)
    before = token_nll(model, tokens, first=12).mean(-1)
    for number, cell in enumerate(cells):
        slow = by_hand(model, tokens, cache, cell.site, cell.layer, 4, cell.position, cell.head, cell.key)
        assert float(found["nll_change"][4, number]) == pytest.approx(slow - before[4].item(), abs=1e-5)


def test_one_hidden_unit(model, paragraphs):
    tokens = corrupt(paragraphs, torch.full((6,), 3))
    found = patch_cells(model, paragraphs, tokens, [Cell("mlp_post", 1, 3, head=17)])
    _, cache = model.run_with_cache(paragraphs.tokens)
    slow = by_hand(model, tokens, cache, "mlp_post", 1, 2, 3, head=17)
    assert float(found["nll_change"][2, 0]) == pytest.approx(
        slow - token_nll(model, tokens, first=12)[2].mean().item(), abs=1e-5
    )


def test_every_site_can_be_asked_for(model, paragraphs):
    assert set(STREAM_SITES + HEAD_SITES + MLP_SITES) == set(get_args(Site))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": torch.zeros(6, 23, dtype=torch.long)}, r"must have the paragraphs' shape \(6, 24\)"),
        ({"at": torch.full((6,), 24)}, r"positions must lie in 0..23, got \[24, 24"),
        ({"at": torch.zeros(5, dtype=torch.long)}, "one position for each of 6 paragraphs"),
        ({"at": [3, 40]}, r"positions must lie in 0..23, got \[3, 40\]"),
        ({"at": torch.full((6,), 2.5)}, "positions must be integers, got torch.float32"),
        ({"at": 3}, r"at must be positions such as \[3, 7\], .* got 3"),
        ({"at": []}, r"positions must lie in 0..23, got \[\]"),
        ({"sites": ["z", "resid_pre"]}, "either all by head .* or none; got z, resid_pre"),
        ({"sites": []}, "got no sites"),
        ({"sites": ["attn_scores"]}, "sites are resid_pre, .*, got 'attn_scores'"),
        ({"source": "zero"}, 'pass direction="noising"'),
        ({"source": 3}, 'rows of tokens, Paragraphs, ActivationMeans or "zero", got 3'),
        ({"direction": "back"}, "direction must be one of denoising, noising, got 'back'"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_patched_is_refused(model, paragraphs, arguments, message):
    arguments = {"source": paragraphs.tokens} | arguments
    with pytest.raises(InputError, match=message):
        inspect.unwrap(patch)(model, paragraphs, **arguments)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (Cell("z", 4, 0, 0), r"layer must lie in 0..3, got 4"),
        (Cell("z", 0, 24, 0), r"position must lie in 0..23, got 24"),
        (Cell("z", 0, 3, 4), r"head must lie in 0..3, got 4"),
        (Cell("pattern", 0, 3, 1, 4), r"key must lie in 0..3, got 4 in L0H1 pattern at 3, key 4"),
        (Cell("z", 0, 3, 1, 2), "a key goes with pattern and a head"),
        (Cell("resid_pre", 1, 2, head=2), "a head goes with q, k, v, z, pattern"),
    ],
)
def test_cells_that_the_model_does_not_have_are_refused(model, paragraphs, cell, message):
    with pytest.raises(InputError, match=message):
        patch_cells(model, paragraphs, paragraphs.tokens, [cell])


def test_an_empty_list_is_refused(model, paragraphs):
    with pytest.raises(InputError, match="no cells to patch"):
        patch_cells(model, paragraphs, paragraphs.tokens, [])


def test_hooks_on_the_model_are_refused_because_the_sweep_would_not_see_them(model, paragraphs):
    model.hook_embed.add_hook(lambda x, hook: None)
    with pytest.raises(InputError, match="does not run through hooks, and hook_embed has one"):
        patch(model, paragraphs, paragraphs.tokens)
