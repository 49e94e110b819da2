import copy
from inspect import unwrap

import numpy as np
import pytest
import torch

from memhooks.errors import InputError
from memhooks.localize.logit_lens import logit_lens, share_decided
from memhooks.measure.recitation import recitation
from memhooks.model.ablated import ablated
from memhooks.model.loading import load_model
from memhooks.paragraphs.paragraphs import Paragraphs


def slow_lens(model, paragraphs):
    """TransformerLens's own streams and unembedding, ranks by sorting, token by token."""
    scored = slice(paragraphs.n_prefix - 1, -1)
    with torch.no_grad():
        _, cache = model.run_with_cache(paragraphs.tokens)
        streams = [cache["resid_pre", layer] for layer in range(model.cfg.n_layers)]
        streams.append(cache["resid_post", model.cfg.n_layers - 1])
        logits = torch.stack([model.unembed(model.ln_final(one))[:, scored] for one in streams], 1)
    nll, rank = np.zeros(logits.shape[:3]), np.zeros(logits.shape[:3], dtype=int)
    for place in np.ndindex(*logits.shape[:3]):
        true = int(paragraphs.continuation[place[0], place[2]])
        nll[place] = -logits[place].log_softmax(-1)[true]
        rank[place] = logits[place].sort(descending=True, stable=True).indices.tolist().index(true)
    return nll, rank, logits.argmax(-1)


def slow_decided(top):
    """For each token the first depth after which every depth has the last one's token."""
    n_rows, n_depths, n_pos = top.shape
    found = np.zeros((n_rows, n_pos), dtype=int)
    for row in range(n_rows):
        for pos in range(n_pos):
            final = top[row, -1, pos]
            found[row, pos] = next(
                d for d in range(n_depths) if all(top[row, e, pos] == final for e in range(d, n_depths))
            )
    return found


@pytest.mark.parametrize("processed", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_every_depth_equals_norm_and_unembedding_of_transformer_lens_own_stream(
    neo, paragraphs, processed, dtype, tolerance
):
    model = load_model(neo, dtype=dtype, processed=processed)
    found = logit_lens(model, paragraphs, batch_size=4)
    nll, rank, top = slow_lens(model, paragraphs)
    np.testing.assert_allclose(found["nll"].values, nll, rtol=tolerance, atol=tolerance)
    assert (found["rank"].values == rank).all()
    assert (found["hit"].values == (rank == 0)).all()
    assert (found["decided"].values == slow_decided(top)).all()
    assert (found["recited"].values == (top[:, -1] == paragraphs.continuation).numpy()).all()
    assert len(np.unique(found["decided"].values)) > 2  # the case is not trivial


def test_the_last_depth_is_recitation(organism, model, paragraphs):
    from memhooks.organism.paragraphs import load_planted

    for one, rows in ((model, paragraphs), (organism, load_planted("A", at_least=16).sample(6, seed=0))):
        last, whole = logit_lens(one, rows).isel(layer=-1), recitation(one, rows)
        np.testing.assert_allclose(last["nll"].values, whole["nll"].values, rtol=1e-5, atol=1e-5)
        assert (last["hit"].sum("pos").values == whole["matches"].values).all()
        assert (last["hit"].values == last["recited"].values).all()
        assert last["pos"].values.tolist() == whole["pos"].values.tolist()


def test_layers_are_counted_from_the_embeddings_alone_to_the_output(model, paragraphs):
    found = logit_lens(model, paragraphs)
    assert found["layer"].values.tolist() == [0, 1, 2, 3, 4]  # the model has four blocks
    assert found["pos"].values.tolist() == list(range(12, 24))
    assert "layer = blocks that have run" in found["nll"].attrs["units"]


def test_of_equal_logits_the_smaller_id_comes_first(model, paragraphs):
    with torch.no_grad():
        model.unembed.W_U.zero_()
        model.unembed.b_U.zero_()
    found = logit_lens(model, paragraphs)
    assert (found["rank"].values == paragraphs.continuation.numpy()[:, None]).all()
    assert (found["decided"].values == 0).all()  # token 0 is on top from the start
    assert (found["recited"].values == (paragraphs.continuation == 0).numpy()).all()
    np.testing.assert_allclose(found["nll"].values, np.log(101), rtol=1e-6)


def test_a_planted_block_decides_every_token_and_no_other_block_does(model, paragraphs):
    with torch.no_grad():
        for block in model.blocks:
            for weight in (block.attn.W_O, block.attn.b_O, block.mlp.W_out, block.mlp.b_out):
                weight.zero_()
        model.embed.W_E.zero_()  # the stream says token 1, until the third block writes token 7
        model.pos_embed.W_pos.zero_()
        model.ln_final.w.fill_(1)
        model.ln_final.b.zero_()
        model.unembed.b_U.zero_()
        model.unembed.W_U.copy_(torch.nn.functional.normalize(torch.randn(32, 101), dim=0))
        model.pos_embed.W_pos.add_(model.unembed.W_U[:, 1])
        model.blocks[2].mlp.b_out.copy_(50 * model.unembed.W_U[:, 7])
    rows = Paragraphs(torch.full((2, 24), 7), n_prefix=12)
    found = logit_lens(model, rows)
    assert (found["decided"].values == 3).all()
    assert found["recited"].values.all()
    assert found["hit"].mean(("paragraph", "pos")).values.tolist() == [0, 0, 0, 1, 1]
    assert share_decided(found).values.tolist() == [[0, 0, 0, 1, 1]] * 2


def test_the_share_decided_rises_with_depth_to_all(model, paragraphs):
    found = logit_lens(model, paragraphs)
    share = share_decided(found)
    assert share.dims == ("paragraph", "layer")
    slow = [[np.mean(found["decided"].values[row] <= depth) for depth in range(5)] for row in range(6)]
    np.testing.assert_allclose(share.values, slow)
    assert (share.isel(layer=-1).values == 1).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_single(hooked_source, paragraphs, dtype):
    half = copy.deepcopy(hooked_source).to(dtype)
    found = logit_lens(half, paragraphs)
    assert found["nll"].dtype == np.float32
    whole = recitation(half, paragraphs)["nll"].values
    np.testing.assert_allclose(found["nll"].isel(layer=-1).values, whole, atol=0.3)
    assert np.isfinite(found["nll"].values).all()


def test_batches_do_not_change_the_result(model, paragraphs):
    one, whole = (logit_lens(model, paragraphs, batch_size=size) for size in (1, 6))
    np.testing.assert_allclose(one["nll"].values, whole["nll"].values, rtol=1e-5, atol=1e-5)
    assert (one["decided"].values == whole["decided"].values).all()


def test_what_cannot_be_read_is_refused(model, paragraphs):
    with pytest.raises(InputError, match="batch_size must be at least 1, got 0"):
        unwrap(logit_lens)(model, paragraphs, batch_size=0)
    with pytest.raises(InputError, match=r"token ids must lie in 0..100"):
        logit_lens(model, Paragraphs(paragraphs.tokens + 90, n_prefix=12))
    with pytest.raises(InputError, match=r"does not run through hooks, and blocks.0.attn.hook_z has one"):
        with ablated(model, heads=[(0, 0)]):
            model(paragraphs.tokens)
            logit_lens(model, paragraphs)
