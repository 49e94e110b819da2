import inspect

import pytest
import torch
from scipy.stats import spearmanr

import memhooks
from memhooks.errors import InputError
from memhooks.localize.patch_grid import hook_name
from memhooks.localize.patching import patch
from memhooks.localize.screening import largest, screen, screen_then_verify
from memhooks.measure.perturbation import corrupted, perturb


def others(paragraphs):
    tokens = paragraphs.tokens.clone()
    tokens[:, [2, 9]] = (tokens[:, [2, 9]] + 1) % 101
    return tokens


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("sites", [("z", "k", "pattern"), ("resid_mid", "mlp_post", "attn_out")])
def test_the_guess_is_the_slope_of_a_small_step(model, paragraphs, sites, direction):
    """Finite differences: a thousandth of the way from one activation to the other, by a hook."""
    model, tokens = model.double(), others(paragraphs)
    model.cfg.dtype = torch.float64
    found = screen(model, paragraphs, tokens, sites=sites, direction=direction, batch_size=4)
    base, source = (tokens, paragraphs.tokens) if direction == "denoising" else (paragraphs.tokens, tokens)
    _, cache = model.run_with_cache(source)
    step = 1e-4
    for number, site in enumerate(sites):
        layer, pos, head, name = number, (9, 10, 9)[number], 1, hook_name(site, number)

        def nll(size, name=name, pos=pos, head=head, site=site):
            def move(x, hook):
                index = (slice(None), head, pos) if site == "pattern" else (slice(None), pos)
                index = (*index, head) if site in ("z", "k") else index
                x[index] = x[index] + size * (cache[name][index] - x[index])
                return x

            with model.hooks(fwd_hooks=[(name, move)]), torch.no_grad():
                logs = model(base)[:, 11:-1].log_softmax(-1)
            return -logs.gather(-1, base[:, 12:, None])[..., 0].mean(-1)

        slope = (nll(step) - nll(-step)) / (2 * step)
        cell = found["nll_change"].sel(site=site, layer=layer, pos=pos)
        cell = cell.sel(head=head) if "head" in cell.dims else cell
        assert cell.values == pytest.approx(slope.numpy(), rel=1e-4, abs=1e-8)


def test_a_screen_of_own_positions_is_those_cells_of_the_whole_screen(model, paragraphs):
    at = torch.tensor([0, 3, 11, 5, 5, 7])
    whole, own = (screen(model, paragraphs, others(paragraphs), at=one) for one in (None, at))
    for row in range(6):
        assert own["nll_change"][row].values == pytest.approx(whole["nll_change"][row].sel(pos=int(at[row])).values)


def test_the_screen_names_what_the_exhaustive_sweep_finds_in_the_organism(organism):
    rows = memhooks.load_planted("A", at_least=128).sample(2, seed=0)
    tokens, _ = corrupted(rows, perturb(organism, rows, seed=0))
    exhaustive = patch(organism, rows, tokens, sites=("v",))
    found = screen_then_verify(organism, rows, tokens, k=10, sites=("v",), exhaustive=exhaustive)
    guess, true = (one["nll_change"].mean("paragraph").values for one in (found.guess, exhaustive))
    assert found.recall is not None
    assert found.recall >= 0.3  # 3200 cells: by chance 0.003
    assert spearmanr(guess.ravel(), true.ravel()).statistic > 0.5
    best = exhaustive["nll_change"].mean("paragraph")
    cell = found.cells[0]
    replayed = best.sel(site="v", layer=cell.layer, head=cell.head, pos=cell.position)
    assert float(found.replayed["nll_change"].mean("paragraph")[0]) == pytest.approx(float(replayed), abs=1e-5)


def test_recall_counts_the_truly_largest_cells(model, paragraphs):
    tokens = others(paragraphs)
    exhaustive = patch(model, paragraphs, tokens, sites=("resid_pre",))
    found = screen_then_verify(model, paragraphs, tokens, k=5, sites=("resid_pre",), exhaustive=exhaustive)
    true = set(largest(abs(exhaustive["nll_change"].mean("paragraph")), 5))
    named = set(largest(abs(found.guess["nll_change"].mean("paragraph")), 5))
    assert found.recall == len(true & named) / 5
    assert len(found.cells) == found.replayed.sizes["row"] == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, r"k must lie in 1..192, the number of cells, got 0"),
        ({"k": 193}, "got 193"),
        ({"k": 1, "source": "zero", "direction": "noising"}, "a screen compares two runs"),
    ],
)
def test_what_cannot_be_screened_is_refused(model, paragraphs, arguments, message):
    arguments = {"source": others(paragraphs)} | arguments
    with pytest.raises(InputError, match=message):
        inspect.unwrap(screen_then_verify)(model, paragraphs, **arguments)


def test_a_sweep_of_other_cells_is_refused(model, paragraphs):
    tokens = others(paragraphs)
    for exhaustive in (
        patch(model, paragraphs, tokens, sites=("z",), at=[1, 2]),
        patch(model, paragraphs, tokens, sites=("k",)),
    ):
        with pytest.raises(InputError, match="exhaustive must be the patch of the same cells"):
            screen_then_verify(model, paragraphs, tokens, k=3, exhaustive=exhaustive)
    noising = patch(model, paragraphs, tokens, sites=("z",), direction="noising")
    with pytest.raises(InputError, match="exhaustive must have the same direction, denoising, got noising"):
        screen_then_verify(model, paragraphs, tokens, k=3, exhaustive=noising)


def test_token_ids_outside_the_vocabulary_are_refused(model, paragraphs):
    with pytest.raises(InputError, match=r"token ids must lie in 0..100"):
        screen(model, paragraphs, paragraphs.tokens + 90)
