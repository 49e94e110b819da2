import pytest
import torch

from memhooks.errors import InputError
from memhooks.localize.attention_rows import attention_of, query_attention, reachable_keys
from memhooks.model.hooks import hooked
from memhooks.model.watched import has_hooks


def nothing(activation, hook):
    return None


def full_pattern(model, tokens):
    _, cache = model.run_with_cache(tokens)
    return torch.stack([cache["pattern", layer] for layer in range(4)], dim=1).detach()


@pytest.mark.parametrize("queries", [[11], [11, 5, 20]])
@pytest.mark.parametrize("layers", [None, [0], [3, 1]])
@pytest.mark.parametrize("with_hook", [False, True])
def test_rows_equal_the_pattern_of_a_full_pass(model, paragraphs, queries, layers, with_hook):
    slow = full_pattern(model, paragraphs.tokens)[:, layers or range(4)][:, :, :, queries, : max(queries) + 1]
    if with_hook:
        with hooked(model, [("blocks.0.hook_resid_pre", nothing)]):
            found = query_attention(model, paragraphs.tokens, queries, layers=layers)
    else:
        found = query_attention(model, paragraphs.tokens, queries, layers=layers)
    assert (found.dtype, found.requires_grad) == (torch.float32, False)
    torch.testing.assert_close(found, slow, rtol=1e-5, atol=1e-5)
    assert not has_hooks(model)


def test_processed_models_and_other_precisions_are_replayed_alike(neo, paragraphs):
    from memhooks.model.loading import load_model

    for options in ({"processed": True}, {"dtype": torch.float64}):
        model = load_model(neo, **options)
        slow = full_pattern(model, paragraphs.tokens)[:, :, :, [23]]
        torch.testing.assert_close(query_attention(model, paragraphs.tokens, [23]), slow.float(), rtol=1e-5, atol=1e-5)


def test_what_hooks_do_is_seen(model, paragraphs):
    def doubled(activation, hook):
        return 2 * activation

    with hooked(model, [("blocks.0.hook_mlp_out", doubled)]):
        found = query_attention(model, paragraphs.tokens, [11])
        slow = full_pattern(model, paragraphs.tokens)[:, :, :, [11], :12]
    torch.testing.assert_close(found, slow, rtol=1e-5, atol=1e-5)
    assert (found - query_attention(model, paragraphs.tokens, [11])).abs().max() > 0.01


def test_the_pass_ends_at_the_last_layer_and_the_last_query(model, paragraphs):
    seen = []

    def look(activation, hook):
        seen.append((hook.name, activation.shape[1]))

    places = ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre", "blocks.2.hook_resid_pre"]
    for place in places[:2]:
        with hooked(model, [(place, look)]):
            query_attention(model, paragraphs.tokens, [7, 2], layers=[1])
    assert seen == [(place, 8) for place in places[:2]]
    with pytest.raises(InputError, match="never fired"), hooked(model, [(places[2], look)]):
        query_attention(model, paragraphs.tokens, [7], layers=[1])


def test_what_comes_after_the_last_layer_does_not_matter(model, paragraphs):
    before = query_attention(model, paragraphs.tokens, [11], layers=[0, 2])
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith(("blocks.3", "blocks.2.mlp", "blocks.2.attn.W_V", "blocks.2.attn.W_O")):
                weight.fill_(torch.nan)
    after = query_attention(model, paragraphs.tokens, [11], layers=[0, 2])
    assert torch.equal(before, after)


@pytest.mark.parametrize("query", [3, 11])
def test_reachable_keys_are_those_that_get_attention(model, paragraphs, query):
    seen = query_attention(model, paragraphs.tokens, [query])[:, :, :, 0]
    assert torch.equal(reachable_keys(model, query), (seen > 0).all(0).all(1))


def test_the_view_of_one_paragraph_is_its_row_of_the_pattern(model, paragraphs):
    view = attention_of(model, paragraphs.select([2]))
    slow = full_pattern(model, paragraphs.tokens[2:3])[0, :, :, 11, :12]
    for layer, low in ((0, 0), (1, 4), (2, 0), (3, 4)):
        torch.testing.assert_close(
            torch.from_numpy(view["attention"].values)[layer, :, low:], slow[layer, :, low:], rtol=1e-5, atol=1e-5
        )
        assert view["attention"][layer, :, :low].isnull().all()
    assert view["token"].values.tolist() == paragraphs.prefix[2].tolist()
    assert view["local"].values.tolist() == [False, True, False, True]
    assert (view.attrs["query"], view.attrs["paragraph"]) == (11, "2")
    assert attention_of(model, paragraphs.select([2]), query=20).sizes["key"] == 21


def test_what_cannot_be_asked_is_refused(model, paragraphs):
    tokens = paragraphs.tokens
    for queries in ([], [24], [-1]):
        with pytest.raises(InputError, match=r"queries must be positions in 0..23, got \["):
            query_attention(model, tokens, queries)
    for layers in ([], [4], [-1], [1, 1]):
        with pytest.raises(InputError, match=r"layers must be different numbers in 0..3, got \["):
            query_attention(model, tokens, [1], layers=layers)
    with pytest.raises(InputError, match=r"token ids must lie in 0..100"):
        query_attention(model, tokens + 101, [1])
    with pytest.raises(InputError, match=r"one paragraph is shown at a time, got 6; pass paragraphs.select\(\[row\]\)"):
        attention_of(model, paragraphs)
    with pytest.raises(InputError, match=r"queries must be positions in 0..23"):
        attention_of(model, paragraphs.select([0]), query=24)
