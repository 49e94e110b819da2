"""A model built by hand, in which one head copies one prefix token into the whole continuation: all must find it.

Token t has the unit vector t, position p the unit vector 32 + p. Head 1 of layer 1 attends to position 5
wherever it stands and writes that token's vector; nothing else writes anything.
"""

import pytest
import torch
from transformers import GPTNeoConfig, GPTNeoForCausalLM

import memhooks
from memhooks.localize.activation_gradients import activation_gradients
from memhooks.localize.direct_effects import direct_effects
from memhooks.localize.each_part import ablate_each, every_layer
from memhooks.localize.patch_pairs import patch_pairs
from memhooks.localize.rare_token_heads import rare_token_heads
from memhooks.localize.screening import screen_then_verify
from memhooks.measure.continuations import perturbed_continuations
from memhooks.measure.pairs import make_pairs
from memhooks.paragraphs.paragraphs import Paragraphs

PLACE, LAYER, HEAD, N_TOKENS = 5, 1, 1, 32


RARITY_HEAD, COUNTS = (2, 0), 2 ** torch.arange(N_TOKENS) // 1000 + torch.arange(N_TOKENS)  # larger ids are commoner


def empty():
    """A GPT-Neo that writes nothing, with a constant in the stream from which queries can be made."""
    config = GPTNeoConfig(
        vocab_size=N_TOKENS,
        hidden_size=64,
        num_layers=4,
        num_heads=2,
        attention_types=[[["global", "local"], 2]],
        window_size=30,
        max_position_embeddings=32,
        intermediate_size=8,
    )
    neo = GPTNeoForCausalLM(config).eval()
    with torch.no_grad():
        for name, weight in neo.named_parameters():
            weight.fill_(1.0 if "ln" in name and name.endswith("weight") else 0.0)
        neo.transformer.wte.weight[:, :N_TOKENS] = torch.eye(N_TOKENS)
        neo.transformer.wpe.weight[:24, N_TOKENS:56] = torch.eye(24)
        for block in neo.transformer.h:
            block.ln_1.bias[63] = 1
    return neo


@pytest.fixture(scope="module")
def copier():
    neo = empty()
    attention, own = neo.transformer.h[LAYER].attn.attention, slice(32 * HEAD, 32 * HEAD + 32)
    with torch.no_grad():
        attention.q_proj.weight[32 * HEAD, 63] = 1
        attention.k_proj.weight[32 * HEAD, N_TOKENS + PLACE] = 4
        attention.v_proj.weight[own, :N_TOKENS] = torch.eye(N_TOKENS)
        attention.out_proj.weight[:N_TOKENS, own] = 2 * torch.eye(N_TOKENS)
    return memhooks.load_model(neo)


@pytest.fixture(scope="module")
def rarity_seeker():
    """One head's keys are the rarer the larger; all other heads attend to everything alike."""
    neo = empty()
    layer, head = RARITY_HEAD
    attention = neo.transformer.h[layer].attn.attention
    with torch.no_grad():
        attention.q_proj.weight[32 * head, 63] = 1
        attention.k_proj.weight[32 * head, :N_TOKENS] = -0.1 * torch.arange(N_TOKENS).float()
    return memhooks.load_model(neo)


@pytest.fixture(scope="module")
def recited():
    tokens = torch.randint(N_TOKENS, (5, 24), generator=torch.Generator().manual_seed(0))
    tokens[:, 12:] = tokens[:, [PLACE]]
    return Paragraphs(tokens, n_prefix=12)


@pytest.fixture(scope="module")
def effect(copier, recited):
    return memhooks.perturb(copier, recited, seed=0, n_draws=2)


def test_it_recites(copier, recited):
    assert memhooks.recitation(copier, recited)["full_match"].values.all()


def test_one_prefix_token_carries_the_continuation(copier, recited, effect):
    em = effect["em_drop"].mean("draw")
    assert (em.sel(pos=PLACE).values == 12).all()
    assert (em.drop_sel(pos=PLACE).values == 0).all()
    assert (effect["nll_rise"].argmax("pos").values == PLACE).all()
    made = perturbed_continuations(copier, recited, effect)
    assert made["dies"].values.all()
    pairs = make_pairs(copier, recited, effect)
    assert pairs.position.tolist() == [PLACE] * 5
    assert pairs.impact.tolist() == [12] * 5


def test_cumulative_replacement_breaks_it_exactly_when_it_reaches_the_token(copier, recited):
    found = memhooks.perturb(copier, recited, seed=0, cumulative=True)["em_drop"].isel(draw=0)
    assert (found.sel(pos=slice(0, PLACE - 1)).values == 0).all()
    assert (found.sel(pos=slice(PLACE, None)).values == 12).all()


def test_the_one_head_that_moves_it_is_found_by_every_way_of_patching(copier, recited, effect):
    pairs = make_pairs(copier, recited, effect)
    for direction in ("denoising", "noising"):
        found = patch_pairs(copier, pairs, sites=("v", "z", "q", "k"), direction=direction)
        mean = found["logit_effect"].mean("paragraph")
        assert float(mean.sel(site="v", layer=LAYER, head=HEAD)) > 0.9
        others = mean.where((mean["layer"] != LAYER) | (mean["head"] != HEAD), 0)
        assert float(abs(others).max()) < 1e-3
        assert float(abs(mean.sel(site=["q", "k"])).max()) < 1e-3  # it attends there whatever stands there
    tokens = pairs.tokens_with_clean_continuation
    places = memhooks.patch(copier, recited, tokens, sites=("resid_pre",))["effect"].mean("paragraph").isel(site=0)
    assert float(places.sel(layer=LAYER, pos=PLACE)) == pytest.approx(1, abs=1e-4)
    assert float(abs(places.sel(layer=[LAYER + 1, LAYER + 2], pos=PLACE)).max()) < 1e-4  # moved on by then
    first = screen_then_verify(copier, recited, tokens, k=1, sites=("v",)).cells[0]
    assert (first.layer, first.head, first.position) == (LAYER, HEAD, PLACE)


def test_the_one_head_is_found_by_ablation_and_lens(copier, recited):
    worth = memhooks.silence_heads(copier, recited)["nll_rise"].mean("paragraph")
    assert worth.stack(part=("layer", "head")).idxmax().item() == (LAYER, HEAD)
    assert float(abs(worth.where((worth["layer"] != LAYER) | (worth["head"] != HEAD), 0)).max()) == 0
    layers = ablate_each(copier, recited, **every_layer(copier))["nll_rise"].mean("paragraph")
    assert layers["row"].values[int(layers.values.argmax())] == f"attention {LAYER}"
    # Later tokens of the continuation stand behind an equal one, which the embeddings alone predict.
    assert (memhooks.logit_lens(copier, recited)["decided"].isel(pos=0).values == LAYER + 1).all()
    direct = direct_effects(copier, recited)["heads"].mean("paragraph")
    assert direct.stack(part=("layer", "head")).idxmax().item() == (LAYER, HEAD)


def test_the_edge_that_carries_it_is_found(copier, recited):
    edges = [(LAYER, HEAD, 11, key) for key in range(8)]
    em = ablate_each(copier, recited, edges=edges)["match_drop"].mean("paragraph").values
    assert em.argmax() == PLACE
    assert (em[[0, 1, 2, 3, 4, 6, 7]] == 0).all()


def test_gradients_point_at_the_one_head_and_the_token_that_it_copies(copier, recited):
    scores = memhooks.weight_scores(copier, recited)["max_gradient"].max("paragraph")
    attention = [str(label) for label in scores["component"].values if str(label).startswith("W_V")]
    values = scores.sel(component=attention).stack(part=("layer", "component"))
    assert values.idxmax().item() == (LAYER, f"W_V {HEAD}")
    assert float(values.drop_sel(part=(LAYER, f"W_V {HEAD}")).max()) == 0  # what others read, nobody writes on
    moved = activation_gradients(copier, recited, sites=["v"])["max_gradient"].mean("paragraph").sel(site="v")
    assert moved.stack(part=("layer", "head", "pos")).idxmax().item() == (LAYER, HEAD, PLACE)
    assert float(moved.where((moved["layer"] != LAYER) | (moved["head"] != HEAD), 0).max()) == 0
    for localize in memhooks.LOCALIZERS:
        found = localize(copier, recited, recited, seed=0)
        in_head = {name: score[HEAD] for name, score in found.items() if name.endswith("W_V")}
        if localize.__name__ in ("activation_norm", "balanced_subnet"):  # they rank MLP weights alone
            assert all(float(score.max()) == 0 for score in in_head.values()), localize
            continue
        assert max(in_head, key=lambda name: float(in_head[name].max())) == f"blocks.{LAYER}.attn.W_V", localize


@pytest.mark.parametrize("skip_first", [True, False])
def test_the_one_head_that_attends_by_rarity_is_named_and_no_other(rarity_seeker, skip_first):
    tokens = torch.randint(N_TOKENS, (60, 24), generator=torch.Generator().manual_seed(1))
    rows = Paragraphs(tokens, n_prefix=12)
    found = memhooks.rare_token_attention(rarity_seeker, rows, COUNTS, seed=0, queries=[11, 12], skip_first=skip_first)
    mean = found["spearman"].mean("paragraph").sel(query=11)
    assert float(mean.sel(layer=RARITY_HEAD[0], head=RARITY_HEAD[1])) < -0.99  # a token twice is a tie in counts alone
    for query in (11, 12):
        heads = rare_token_heads(found, seed=0, query=query)
        assert heads["row"].values[heads["is_rare_token_head"].values].tolist() == ["L2H0"]
    by_rank = found["attention_by_rank"].sel(query=11, layer=RARITY_HEAD[0], head=RARITY_HEAD[1]).values
    assert (by_rank[:5] > by_rank[5:10]).all()
