import copy
from inspect import unwrap

import numpy as np
import pytest
import torch

from memhooks.errors import InputError
from memhooks.localize.direct_effects import by_part, direct_effects, strongest
from memhooks.model.ablated import ablated
from memhooks.model.loading import load_model
from memhooks.paragraphs.paragraphs import Paragraphs

PRECISIONS = [(torch.float32, 1e-5), (torch.float64, 1e-9)]
PARTS = ("heads", "attention_bias", "mlp", "embedding", "position", "norm_and_unembed_bias")


def slow_effects(model, paragraphs, against):
    """Every part's vector written out, through the final norm with its clean scale, in float64, token by token."""
    with torch.no_grad():
        logits, cache = model.run_with_cache(paragraphs.tokens)
    logits, n = logits.double(), paragraphs.n_continuation
    weight = {name: one.detach().double() for name, one in model.named_parameters()}
    w, b = weight.get("ln_final.w", torch.ones(32).double()), weight.get("ln_final.b", torch.zeros(32).double())
    n_rows, n_layers, n_heads = len(paragraphs), model.cfg.n_layers, model.cfg.n_heads
    found = {"heads": np.zeros((n_rows, n_layers, n_heads))}
    found |= {name: np.zeros((n_rows, n_layers)) for name in ("attention_bias", "mlp")}
    found |= {name: np.zeros(n_rows) for name in ("embedding", "position", "norm_and_unembed_bias", "total")}
    for row in range(n_rows):
        for pos in range(paragraphs.n_prefix - 1, paragraphs.tokens.shape[1] - 1):
            true, ranked = int(paragraphs.tokens[row, pos + 1]), logits[row, pos].argsort(descending=True).tolist()
            other = next(token for token in ranked if token != true)
            column, bias, logit = weight["unembed.W_U"], weight["unembed.b_U"], logits[row, pos]
            if against == "mean":
                column, bias, logit = (one[..., true] - one.mean(-1) for one in (column, bias, logit))
            else:
                column, bias, logit = (one[..., true] - one[..., other] for one in (column, bias, logit))
            final = cache["resid_post", n_layers - 1][row, pos].double()
            scale = ((final - final.mean()).pow(2).mean() + model.cfg.eps).sqrt()

            def through(vector, w=w, column=column, scale=scale):
                return float((vector.double() - vector.double().mean()) / scale * w @ column) / n

            for layer in range(n_layers):
                z = cache["z", layer][row, pos].double()
                for head in range(n_heads):
                    found["heads"][row, layer, head] += through(z[head] @ weight[f"blocks.{layer}.attn.W_O"][head])
                found["attention_bias"][row, layer] += through(weight[f"blocks.{layer}.attn.b_O"])
                found["mlp"][row, layer] += through(cache["mlp_out", layer][row, pos])
            found["embedding"][row] += through(weight["embed.W_E"][paragraphs.tokens[row, pos]])
            found["position"][row] += through(weight["pos_embed.W_pos"][pos])
            found["norm_and_unembed_bias"][row] += float(b @ column + bias) / n
            found["total"][row] += float(logit) / n
    return found


@pytest.mark.parametrize("against", ["mean", "runner_up"])
@pytest.mark.parametrize("processed", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_every_part_equals_its_vector_written_out(neo, paragraphs, against, processed, dtype, tolerance):
    model = load_model(neo, dtype=dtype, processed=processed)
    found = direct_effects(model, paragraphs, against=against, batch_size=4)
    for name, slow in slow_effects(model, paragraphs, against).items():
        np.testing.assert_allclose(found[name].values, slow, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("against", ["mean", "runner_up"])
@pytest.mark.parametrize("processed", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_the_parts_sum_to_the_difference_of_the_models_own_logits(
    neo, paragraphs, against, processed, dtype, tolerance
):
    model = load_model(neo, dtype=dtype, processed=processed)
    found = direct_effects(model, paragraphs, against=against)
    parts = [found[name].sum([axis for axis in found[name].dims if axis != "paragraph"]).values for name in PARTS]
    np.testing.assert_allclose(sum(parts), found["total"].values, rtol=tolerance, atol=tolerance / 100)
    np.testing.assert_allclose(
        sum(by_part(found).values()), found["total"].values, rtol=tolerance, atol=tolerance / 100
    )
    with torch.no_grad():
        logits = model(paragraphs.tokens)[:, 11:-1]
    true = logits.gather(-1, paragraphs.continuation[..., None])[..., 0]
    mean = (true - logits.mean(-1)).mean(-1)
    if against == "mean":
        np.testing.assert_allclose(found["total"].values, mean, rtol=tolerance, atol=tolerance)


def test_the_organisms_parts_sum_to_its_logits(organism):
    from memhooks.organism.paragraphs import load_planted

    found = direct_effects(organism, load_planted("A", at_least=64).sample(4, seed=0))
    np.testing.assert_allclose(sum(by_part(found).values()), found["total"].values, rtol=1e-4)


def test_heads_equal_transformer_lens_own_attribution(neo, paragraphs):
    """Its logit_attrs supposes a folded norm, so the model is processed."""
    model = load_model(neo, processed=True)
    found = direct_effects(model, paragraphs, against="runner_up")
    with torch.no_grad():
        logits, cache = model.run_with_cache(paragraphs.tokens)
        tokens = paragraphs.tokens.roll(-1, 1)
        others = logits.scatter(-1, tokens[..., None], -torch.inf).argmax(-1)
        slow = cache.logit_attrs(cache.stack_head_results(layer=-1), tokens=tokens, incorrect_tokens=others)
    slow = slow[:, :, 11:-1].mean(-1).T.reshape(6, 4, 4)
    np.testing.assert_allclose(found["heads"].values, slow, rtol=1e-5, atol=1e-5)


def test_a_planted_head_that_writes_the_answer_is_named_first(model, paragraphs):
    with torch.no_grad():
        model.blocks[2].attn.b_V[1] = 1.0  # this head reads a constant, and writes it as token 7
        model.blocks[2].attn.W_O[1] = 30 * model.unembed.W_U[:, 7] / model.unembed.W_U[:, 7].norm()
        model.ln_final.w.fill_(1)
    rows = paragraphs.with_continuation(torch.full((6, 12), 7))
    for against in ("mean", "runner_up"):
        result = direct_effects(model, rows, against=against)
        first, second = strongest(result, n=2)
        assert first["part"] == "L2H1"
        assert first["effect"] > 5 * second["size"]
        assert first["effect"] == pytest.approx(float(result["heads"].sel(layer=2, head=1).mean()))
        assert strongest(result, n=1, among="heads")[0] == first


def test_a_head_that_writes_nothing_has_no_effect(model, paragraphs):
    with torch.no_grad():
        model.blocks[1].attn.W_O[3] = 0
    found = direct_effects(model, paragraphs)["heads"]
    assert abs(found.sel(layer=1, head=3).values).max() == 0
    assert abs(found.sel(layer=1, head=2).values).max() > 1e-4


def test_what_is_the_same_for_all_tokens_has_no_direct_effect(model, paragraphs):
    """The norm takes away the mean over d_model, and the comparison what all logits share."""
    before = direct_effects(model, paragraphs)
    with torch.no_grad():
        model.blocks[3].mlp.b_out += 5  # a shift of the whole stream
        model.unembed.b_U += 5
    after = direct_effects(model, paragraphs)
    for name in (*PARTS, "total"):
        np.testing.assert_allclose(before[name].values, after[name].values, rtol=1e-4, atol=1e-4)


def test_parts_are_sorted_by_their_mean_absolute_effect(model, paragraphs):
    result = direct_effects(model, paragraphs)
    parts = by_part(result)
    assert len(parts) == 4 * 4 + 4 + 4 + 3
    rows = strongest(result, n=100)
    assert {row["part"] for row in rows} == set(parts)
    sizes = [float(np.abs(parts[row["part"]]).mean()) for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes == pytest.approx([row["size"] for row in rows])
    assert [row["effect"] for row in rows] == pytest.approx([float(parts[row["part"]].mean()) for row in rows])
    np.testing.assert_allclose(parts["MLP 3"], result["mlp"].sel(layer=3))
    np.testing.assert_allclose(parts["L1H2"], result["heads"].sel(layer=1, head=2))
    heads = strongest(result, n=100, among="heads")
    assert heads == [row for row in rows if "H" in row["part"]]
    assert len(heads) == 16


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_differs_by_its_rounding_alone(hooked_source, paragraphs, dtype):
    half = copy.deepcopy(hooked_source).to(dtype)
    found, exact = (by_part(direct_effects(one, paragraphs)) for one in (half, copy.deepcopy(half).float()))
    for name, values in found.items():
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, exact[name], atol=0.5)


def test_batches_do_not_change_the_result(model, paragraphs):
    one, whole = (by_part(direct_effects(model, paragraphs, batch_size=size)) for size in (1, 6))
    for name, values in one.items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-4, atol=1e-5)


def test_the_result_says_what_the_logit_is_held_against(model, paragraphs):
    found = direct_effects(model, paragraphs, against="runner_up")
    assert found.attrs["against"] == "runner_up"
    assert "against the logit of the strongest other token; 0 = no direct effect" in found["heads"].attrs["units"]
    assert found["paragraph"].values.tolist() == list(paragraphs.ids)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"against": "median"}, "against must be one of mean, runner_up, got 'median'"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_split_is_refused(model, paragraphs, arguments, message):
    with pytest.raises(InputError, match=message):
        unwrap(direct_effects)(model, paragraphs, **arguments)


def test_paragraphs_of_another_vocabulary_and_hooks_are_refused(model, paragraphs):
    with pytest.raises(InputError, match=r"token ids must lie in 0..100"):
        direct_effects(model, Paragraphs(paragraphs.tokens + 90, n_prefix=12))
    with pytest.raises(InputError, match=r"does not run through hooks, and blocks.0.attn.hook_z has one"):
        with ablated(model, heads=[(0, 0)]):
            model(paragraphs.tokens)
            direct_effects(model, paragraphs)


def test_a_list_of_no_parts_is_refused(model, paragraphs):
    result = direct_effects(model, paragraphs)
    with pytest.raises(InputError, match="n must be at least 1, got 0"):
        strongest(result, n=0)
    with pytest.raises(InputError, match="among must be one of all, heads, got 'mlps'"):
        unwrap(strongest)(result, among="mlps")
