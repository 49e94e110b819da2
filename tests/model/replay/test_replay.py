"""Every replayed edit equals the naive hook loop: one full TransformerLens pass per edit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memhooks.errors import InputError
from memhooks.model.loading import load_model
from memhooks.model.replay.batches import Batches
from memhooks.model.replay.clean_run import clean_run
from memhooks.model.replay.layouts import layouts
from memhooks.model.replay.replay import Edits, replay
from memhooks.model.replay.work import Work
from tests.conftest import tiny_neo

FIRST = 10
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}


def random_tokens(n=3, length=20, seed=0):
    return torch.randint(101, (n, length), generator=torch.Generator().manual_seed(seed))


def naive(model, tokens, edits):
    """Slow and obvious: every edit alone, a hook in a full pass, log-softmax over everything."""
    nll, hits = [], []
    for paragraph, position, stream in zip(edits.paragraph, edits.position, edits.stream, strict=True):
        row = tokens[paragraph][None]

        def put(x, hook, position=position, stream=stream):
            x = x.clone()
            x[0, position : position + len(stream)] = stream
            return x

        last = edits.layer == model.cfg.n_layers
        name = f"blocks.{edits.layer - last}.hook_resid_{'post' if last else 'pre'}"
        logits = model.run_with_hooks(row, fwd_hooks=[(name, put)])[0].detach()
        logs = logits.log_softmax(-1)[FIRST - 1 : -1]
        nll.append(-logs.gather(-1, row[0, FIRST:, None])[:, 0])
        hits.append(logs.argmax(-1) == row[0, FIRST:])
    return torch.stack(nll), torch.stack(hits)


def random_edits(layer, n, d_model, dtype, seed, span=1):
    generator = torch.Generator().manual_seed(seed)
    return Edits(
        layer,
        torch.randint(3, (n,), generator=generator),
        torch.randint(21 - span, (n,), generator=generator),
        torch.randn(n, span, d_model, generator=generator).to(dtype),
    )


@pytest.mark.parametrize("processed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("layer", "span"), [(0, 1), (1, 1), (2, 3), (3, 20), (4, 1), (4, 9)])
def test_edits_of_any_layer_and_position_equal_full_passes_with_a_hook(neo, layer, span, dtype, processed):
    model = load_model(neo, dtype=dtype, processed=processed)
    tokens, edits = random_tokens(), random_edits(layer, 12, 32, dtype, seed=layer, span=span)
    scores = replay(clean_run(model, tokens, first=FIRST), edits, batches=Batches(5))
    nll, hits = naive(model, tokens, edits)
    torch.testing.assert_close(scores.nll, nll, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    assert torch.equal(scores.hits, hits)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    window=st.sampled_from([1, 2, 3, 8, 64]),
    layers=st.sampled_from([2, 4]),
    heads=st.sampled_from([1, 2, 4]),
    layer=st.integers(0, 2),
    seed=st.integers(0, 1000),
    batch_size=st.integers(1, 9),
)
def test_any_tiny_model_window_and_batch_size(window, layers, heads, layer, seed, batch_size):
    model = load_model(tiny_neo(seed=seed, window=window, layers=layers, heads=heads), dtype=torch.float64)
    tokens, edits = random_tokens(seed=seed), random_edits(layer, 6, 32, torch.float64, seed)
    scores = replay(clean_run(model, tokens, first=FIRST), edits, batches=Batches(batch_size))
    nll, hits = naive(model, tokens, edits)
    torch.testing.assert_close(scores.nll, nll, rtol=1e-9, atol=1e-9)
    assert torch.equal(scores.hits, hits)


def test_the_clean_run_is_transformer_lenss(model):
    tokens = random_tokens()
    run = clean_run(model, tokens, first=FIRST)
    _, cache = model.run_with_cache(tokens)
    for number, layer in enumerate(run.layers):
        for name, ours in (("resid_pre", layer.pre), ("resid_mid", layer.mid)):
            torch.testing.assert_close(ours, cache[name, number], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(layer.keys.transpose(1, 2), cache["k", number], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(layer.z, cache["z", number].flatten(2), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(run.final, cache["resid_post", 3], rtol=1e-5, atol=1e-5)


def test_another_activation_function_is_refused(model):
    model.cfg.act_fn = "relu"
    with pytest.raises(InputError, match=r"replayed sweeps know the activations gelu_new, .*; this model has relu"):
        layouts(model)


def test_layouts_are_made_once_and_again_after_an_edit_in_place(model):
    first = layouts(model)
    assert layouts(model) is first
    with torch.no_grad():
        model.blocks[1].attn.W_Q[0, 0, 0] += 1
    second = layouts(model)
    assert second is not first
    assert second.layers[1].qkv[0, 0] == first.layers[1].qkv[0, 0] + 1


def test_edits_that_change_nothing_or_are_never_seen_cost_nothing(model):
    run, work = clean_run(model, random_tokens(), first=FIRST), Work()
    same = Edits(2, torch.tensor([0, 1]), torch.tensor([3, 4]), run.layers[2].pre[[0, 1], [3, 4]][:, None])
    unseen = Edits(4, torch.tensor([0, 1]), torch.tensor([FIRST - 2, 19]), torch.zeros(2, 1, 32))
    base = replay(run, same, work=work)
    assert torch.equal(replay(run, unseen, work=work).nll, base.nll)
    assert work.block_positions == 0
    assert work.naive_block_positions == 4 * 4 * 20


def test_only_layers_above_and_positions_from_the_edit_on_are_run(model):
    run, work = clean_run(model, random_tokens(), first=FIRST), Work()
    replay(run, Edits(2, torch.tensor([0]), torch.tensor([7]), torch.zeros(1, 1, 32)), work=work)
    assert work.block_positions == work.floor_block_positions == 2 * (19 - 7)


def test_results_do_not_depend_on_which_edits_run_together(model):
    run = clean_run(model, random_tokens(), first=FIRST)
    edits = random_edits(1, 30, 32, torch.float32, seed=5)
    together = replay(run, edits, batches=Batches(30))
    alone = [replay(run, edits.select(torch.tensor([row]))) for row in range(30)]
    torch.testing.assert_close(together.nll, torch.cat([one.nll for one in alone]), rtol=1e-5, atol=1e-5)
    assert torch.equal(replay(run, edits, batches=Batches(30)).nll, together.nll)
