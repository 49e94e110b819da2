import inspect

import numpy as np
import pytest
import torch
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

from memhooks.errors import InputError
from memhooks.model.ablated import ablated, cycle
from memhooks.model.hook_names import full_name
from memhooks.model.hooks import hooked, recorded
from memhooks.model.means import activation_means
from memhooks.model.parts import checked, random_parts
from memhooks.model.patched import patched

TOKENS = torch.arange(20).reshape(2, 10)
OTHERS = torch.arange(40, 90).reshape(5, 10)
Z, POST, PATTERN = "blocks.1.attn.hook_z", "blocks.1.mlp.hook_post", "blocks.1.attn.hook_pattern"


def run(model, *names, tokens=TOKENS):
    with recorded(model, names) as store:
        logits = model(tokens)
    return logits, store


def by_hand(model, name, edit):
    """The naive hook loop: TransformerLens alone, one edit of a copy."""

    def replace(activation, hook):
        activation = activation.clone()
        edit(activation)
        return activation

    return model.run_with_hooks(TOKENS, fwd_hooks=[(name, replace)])


def test_patching_every_clean_residual_restores_the_clean_logits(model):
    name = "blocks.1.hook_resid_pre"
    other = TOKENS.clone()
    other[:, 4] = 50
    clean, store = run(model, name)
    with patched(model, name, store[name]):
        assert torch.equal(model(other), clean)
    with patched(model, name, store[name], at=torch.tensor([4, 4])):
        once = model(other)
    # Position 4 is restored there, but its keys and values of layer 0 were already read by later ones.
    assert torch.equal(once[:, :4], clean[:, :4])
    torch.testing.assert_close(once[:, 4], clean[:, 4], rtol=1e-5, atol=1e-5)
    assert (once[:, 5:] - clean[:, 5:]).abs().max() > 1e-3


def test_patching_uses_each_rows_own_position(model):
    name = "blocks.0.hook_resid_post"
    _, before = run(model, name)
    clean = torch.full_like(before[name], 7.0)
    with patched(model, name, clean, at=torch.tensor([1, 8])), recorded(model, [name]) as after:
        model(TOKENS)
    assert (after[name] == 7.0).all(-1).nonzero().tolist() == [[0, 1], [1, 8]]


@pytest.mark.parametrize("site", ["q", "k", "v", "z"])
def test_patching_heads_touches_these_alone(model, site):
    name = f"blocks.1.attn.hook_{site}"
    _, before = run(model, name)
    clean = torch.full_like(before[name], 7.0)
    with patched(model, (site, 1), clean, at=3, heads=[0, 2]), recorded(model, [name]) as after:
        model(TOKENS)
    changed = (after[name] == 7.0).all(-1).nonzero().tolist()
    assert changed == [[row, 3, head] for row in (0, 1) for head in (0, 2)]


@pytest.mark.parametrize("site", ["pattern", "attn_scores"])
def test_positions_of_attention_are_queries_not_heads(model, site):
    name = f"blocks.1.attn.hook_{site}"
    _, before = run(model, name)
    clean = torch.full_like(before[name], 0.25)
    with patched(model, name, clean, at=torch.tensor([2, 9]), heads=[1]), recorded(model, [name]) as after:
        model(TOKENS)
    assert (after[name] == 0.25).all(-1).nonzero().tolist() == [[0, 1, 2], [1, 1, 9]]


PARTS = {
    "heads": ({"heads": [(1, 2), (1, 0)]}, Z, lambda x: x[:, :, [2, 0]]),
    "neurons": ({"neurons": [(1, 3), (1, 95)]}, POST, lambda x: x[:, :, [3, 95]]),
    "edges": ({"edges": [(1, 2, 7, 3), (1, 0, 9, 9)]}, PATTERN, lambda x: x[:, [2, 0], [7, 9], [3, 9]]),
    "mlp_layers": ({"mlp_layers": [1]}, "blocks.1.hook_mlp_out", lambda x: x),
    "attention_layers": ({"attention_layers": [1]}, "blocks.1.hook_attn_out", lambda x: x),
}


@pytest.mark.parametrize("kind", PARTS)
def test_zero_ablation_equals_the_naive_hook_and_touches_nothing_else(model, kind):
    parts, name, part = PARTS[kind]
    _, before = run(model, name)
    with ablated(model, **parts), recorded(model, [name]) as after:
        logits = model(TOKENS)
    assert part(after[name]).abs().max() == 0
    assert torch.equal(
        logits,
        by_hand(model, name, lambda x: x.mul_(after[name] != 0)),
    )
    kept = after[name] != 0
    assert torch.equal(after[name][kept], before[name][kept])
    assert (~kept).sum() - (before[name] == 0).sum() == (part(before[name]) != 0).sum()


@pytest.mark.parametrize("kind", PARTS)
def test_mean_ablation_puts_the_mean_of_the_set_there(model, kind):
    parts, name, part = PARTS[kind]
    _, others = run(model, name, tokens=OTHERS)
    mean = others[name].double().mean(0).float().expand(2, *others[name].shape[1:])
    site = name.rsplit("hook_", 1)[-1]
    means = activation_means(model, OTHERS, sites=(site,), batch_size=2)
    _, before = run(model, name)
    with ablated(model, how="mean", means=means, **parts), recorded(model, [name]) as after:
        model(TOKENS)
    torch.testing.assert_close(part(after[name]), part(mean), rtol=1e-5, atol=1e-6)
    assert (after[name] != before[name]).sum() <= part(before[name]).numel()


@pytest.mark.parametrize("kind", PARTS)
def test_resampling_puts_whole_rows_of_the_source_there_the_same_for_all_parts(model, kind):
    parts, name, part = PARTS[kind]
    _, others = run(model, name, Z, tokens=OTHERS)
    joint = parts if name == Z else parts | {"heads": [(1, 1)]}
    with ablated(model, how="resample", source=OTHERS, seed=3, **joint), recorded(model, [name, Z]) as after:
        model(TOKENS)
    order = cycle(5, 3)[:2]
    torch.testing.assert_close(part(after[name]), part(others[name][order]), rtol=0, atol=0)
    if name != Z:
        assert torch.equal(after[Z][:, :, 1], others[Z][order][:, :, 1])


def test_resampled_rows_do_not_depend_on_the_batch_size(model):
    rows = torch.cat([TOKENS, OTHERS])
    with ablated(model, how="resample", source=OTHERS, heads=[(1, 1)]):
        together = model(rows)
    with ablated(model, how="resample", source=OTHERS, heads=[(1, 1)]):
        apart = torch.cat([model(part) for part in rows.split(3)])
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-5)


def test_noise_has_the_stated_size_and_a_seed(model):
    _, before = run(model, Z)

    def noisy(seed):
        with ablated(model, how="noise", seed=seed, scale=0.5, heads=[(1, 2)]), recorded(model, [Z]) as after:
            model(TOKENS)
        return after[Z]

    change = noisy(0) - before[Z]
    assert torch.equal(noisy(0), noisy(0))
    assert not torch.equal(noisy(0), noisy(1))
    assert change[:, :, [0, 1, 3]].abs().max() == 0
    ratio = change[:, :, 2].flatten(1).std(1) / before[Z].flatten(1).std(1)
    torch.testing.assert_close(ratio, torch.full((2,), 0.5), rtol=0.2, atol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"nothing to ablate; pass heads=\[\(layer, head\)"),
        ({"heads": []}, "nothing to ablate"),
        ({"head": [(0, 0)]}, "no parts called 'head'; there are heads, neurons, edges, mlp_layers, attention_layers"),
        ({"heads": [3]}, r"heads are \(layer, head\) numbers such as \(0, 5\), got 3"),
        ({"heads": ["01"]}, "heads are .* got '01'"),
        ({"heads": [(0, True)]}, "heads are .* got"),
        ({"mlp_layers": [(1, 2)]}, r"mlp_layers are \(layer\) numbers such as 3"),
        ({"mlp_layers": [4]}, r"layer must lie in 0..3, got 4 in mlp_layers=4"),
        ({"neurons": [(0, 96)]}, "neuron must lie in 0..95, got 96"),
        ({"edges": [(0, 0, 64, 0)]}, "query must lie in 0..63, got 64"),
        ({"edges": [(0, 0, 3, 4)]}, r"query 3 of layer 0 \(global\) sees keys 0..3"),
        ({"edges": [(1, 0, 20, 12)]}, r"query 20 of layer 1 \(local\) sees keys 13..20"),
        ({"heads": [(0, 0)], "how": "mean"}, r'how="mean" needs means='),
        ({"heads": [(0, 0)], "how": "resample"}, 'how="resample" needs source='),
        ({"heads": [(0, 0)], "source": TOKENS}, 'source= is only for how="resample", got how="zero"'),
        ({"heads": [(0, 0)], "how": "noise", "scale": 0.0}, "scale must be a number above 0"),
        ({"heads": [(0, 0)], "how": "noise", "scale": float("inf")}, "scale must be a number above 0"),
        ({"heads": [(0, 0)], "scale": 2.0}, 'scale= is only for how="noise", got how="zero"'),
        ({"heads": [(0, 0)], "how": "resample", "source": TOKENS[:1]}, "source needs at least 2 rows"),
        ({"mlp_layers": 3}, r"mlp_layers must be a list such as \[3\], got 3"),
        ({"heads": [(0, 0)], "how": "resample", "source": TOKENS + 90}, "token ids must lie in 0..100"),
    ],
)
def test_what_cannot_be_ablated_is_refused(model, arguments, message):
    with pytest.raises(InputError, match=message), ablated(model, **arguments):
        model(TOKENS)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_texts_that_do_not_fit_are_refused_in_the_pass(model):
    with (
        pytest.raises(InputError, match="the text has 10 tokens, too short for an edge from query 30"),
        ablated(model, edges=[(0, 0, 30, 5)]),
    ):
        model(TOKENS)
    with pytest.raises(InputError, match="give source rows of the same length"):
        with ablated(model, how="resample", source=OTHERS[:, :8], heads=[(0, 0)]):
            model(TOKENS)
    means = activation_means(model, OTHERS[:, :8])
    with pytest.raises(InputError, match='texts of the same length, or over="positions"'):
        with ablated(model, how="mean", means=means, heads=[(0, 0)]):
            model(TOKENS)


def test_random_parts_are_others_of_the_same_kind_and_number(model):
    asked = {"heads": [(0, 0), (3, 3)], "edges": [(1, 2, 20, 15)], "mlp_layers": [1]}
    for seed in range(20):
        drawn = checked(model, random_parts(model, asked, generator=torch.Generator().manual_seed(seed)))
        assert len(set(drawn["heads"])) == 2
        assert not set(drawn["heads"]) & set(asked["heads"])
        assert drawn["mlp_layers"] != [(1,)]
        ((layer, head, query, key),) = drawn["edges"]
        assert (layer, head, query) == (1, 2, 20)
        assert key in set(range(13, 21)) - {15}


def test_controls_that_cannot_be_drawn_are_refused(model):
    generator = torch.Generator()
    with pytest.raises(InputError, match="only 1 other mlp_layers to draw 3 from"):
        random_parts(model, {"mlp_layers": [0, 1, 2]}, generator=generator)
    with pytest.raises(InputError, match="query 0 of layer 1 sees too few other keys to draw controls"):
        random_parts(model, {"edges": [(1, 0, 0, 0)]}, generator=generator)
    with pytest.raises(InputError, match="sees too few other keys"):
        random_parts(model, {"edges": [(0, 0, 1, 0), (0, 0, 1, 1)]}, generator=generator)


def test_random_edges_are_neither_asked_for_nor_drawn_twice(model):
    asked = [(0, 0, 5, key) for key in range(3)]
    for seed in range(50):
        drawn = random_parts(model, {"edges": asked}, generator=torch.Generator().manual_seed(seed))["edges"]
        assert len(set(drawn)) == 3
        assert not set(drawn) & set(asked)


@pytest.mark.parametrize("n", [2, 3, 8, 50])
def test_no_row_meets_itself_and_every_source_row_is_used(n):
    for seed in range(20):
        order = cycle(n, seed)
        assert sorted(order.tolist()) == list(range(n))
        assert (order != torch.arange(n)).all()


def test_resampling_a_set_by_itself_leaves_no_row_intact(model):
    intact = model(OTHERS)
    with ablated(model, how="resample", source=OTHERS, mlp_layers=[0, 1, 2, 3]):
        assert (model(OTHERS) - intact).abs().flatten(1).amax(1).min() > 1e-3


def test_parts_see_the_same_source_rows_also_after_a_pass_that_stopped_early(model):
    last = "blocks.3.attn.hook_z"
    _, others = run(model, Z, last, tokens=OTHERS)
    with ablated(model, how="resample", source=OTHERS, attention_layers=[0], heads=[(1, 1), (3, 1)]):
        model(TOKENS, stop_at_layer=2)
        with recorded(model, [Z, last]) as after:
            model(TOKENS)
    order = cycle(5, 0)[2:4]
    assert torch.equal(after[Z][:, :, 1], others[Z][order][:, :, 1])
    assert torch.equal(after[last][:, :, 1], others[last][order][:, :, 1])


def test_edges_are_refused_where_keys_are_cached(model):
    cache = TransformerLensKeyValueCache.init_cache(model.cfg, "cpu", 2)
    with pytest.raises(InputError, match="has 1 queries and 11 keys: edges need whole texts"):
        with ablated(model, edges=[(2, 1, 0, 0)]):
            for tokens in (TOKENS, TOKENS[:, :1]):
                model(tokens, past_kv_cache=cache, attention_mask=torch.ones_like(tokens))


def test_numbers_of_numpy_are_numbers(model):
    with ablated(model, heads=[(np.int64(1), np.int64(2))]), recorded(model, Z) as store:
        model(TOKENS)
    assert store[Z][:, :, 2].abs().max() == 0
    assert inspect.unwrap(full_name)(("z", np.int64(1))) == Z


@pytest.mark.parametrize("how", ["zero", "mean", "resample", "noise"])
def test_ablation_works_in_mixed_precision(model, how):
    extra = {"mean": {"means": activation_means(model, OTHERS)}, "resample": {"source": OTHERS}}.get(how, {})
    with torch.autocast("cpu", torch.bfloat16), ablated(model, how=how, heads=[(1, 2)], **extra):
        assert torch.isfinite(model(TOKENS)).all()


def test_ablation_nests_with_a_hook_of_ones_own(model):
    with hooked(model, [(Z, lambda x, hook: x + 1)]), ablated(model, heads=[(1, 2)]), recorded(model, Z) as store:
        model(TOKENS)
    assert store[Z][:, :, 2].abs().max() == 0
