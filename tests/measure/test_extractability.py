import inspect
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from memhooks.errors import InputError
from memhooks.measure.extractability import Sampler, extractability, queries_needed
from memhooks.measure.recitation import recitation, with_own_continuation
from memhooks.paragraphs.paragraphs import Paragraphs

SETTINGS = {
    "greedy": {},
    "temperature": {"temperature": 0.7},
    "top_k": {"temperature": 1.3, "top_k": 5},
    "top_p": {"temperature": 0.9, "top_p": 0.6},
}


def slow_distribution(logits, sampler, *, temperature=1.0, top_k=40, top_p=0.95):
    """Probabilities over the vocabulary, token by token, in float64."""
    logits = logits.double().tolist()
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    if sampler == "greedy":
        return [float(token == order[0]) for token in range(len(logits))]
    weight = [math.exp((value - logits[order[0]]) / temperature) for value in logits]
    kept = order
    if sampler == "top_k":
        kept = order[:top_k]
    if sampler == "top_p":
        before, kept = 0.0, []
        for token in order:
            if before >= top_p:
                break
            kept.append(token)
            before += weight[token] / sum(weight)
    total = sum(weight[token] for token in kept)
    return [weight[token] / total if token in kept else 0.0 for token in range(len(logits))]


@pytest.mark.parametrize("sampler", list(SETTINGS))
@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_probability_is_the_product_of_a_slow_loop_over_hugging_faces_logits(neo, model, sampler, batch_size):
    tokens = torch.randint(101, (4, 9), generator=torch.Generator().manual_seed(3))
    paragraphs = with_own_continuation(model, Paragraphs(tokens, 6))
    paragraphs.tokens[1, -1] = (paragraphs.tokens[1, -1] + 1) % 101  # one miss at the end, one at random
    paragraphs.tokens[2, 6:] = tokens[2, 6:]
    found = extractability(model, paragraphs, sampler=sampler, batch_size=batch_size, **SETTINGS[sampler])
    with torch.no_grad():
        logits = neo(paragraphs.tokens).logits
    for row, value in enumerate(found["log_probability"].values):
        product = 1.0
        for pos in range(6, 9):
            product *= slow_distribution(logits[row, pos - 1], sampler, **SETTINGS[sampler])[
                paragraphs.tokens[row, pos]
            ]
        assert math.exp(value) == pytest.approx(product, rel=1e-4, abs=1e-30)
    assert found.attrs["sampler"] == sampler
    if sampler == "greedy":
        assert found["log_probability"].values[:2].tolist() == [0.0, -np.inf]


@pytest.mark.parametrize(("sampler", "seed"), [("temperature", 0), ("top_k", 1), ("top_p", 2)])
def test_the_probability_is_the_share_of_ten_thousand_samples(neo, model, sampler, seed):
    prefix = torch.randint(101, (1, 5), generator=torch.Generator().manual_seed(seed))
    paragraphs = with_own_continuation(model, Paragraphs(torch.cat([prefix, prefix[:, :2]], 1), 5))
    expected = math.exp(
        extractability(model, paragraphs, sampler=sampler, **SETTINGS[sampler])["log_probability"].item()
    )
    draw = np.random.default_rng(seed)
    first = np.array(next_tokens(neo, prefix, sampler))
    said = draw.choice(101, size=10_000, p=first)
    second = {
        token: np.array(next_tokens(neo, torch.cat([prefix, torch.tensor([[token]])], 1), sampler))
        for token in set(said.tolist())
    }
    hits = [
        token == paragraphs.tokens[0, 5] and draw.choice(101, p=second[token]) == paragraphs.tokens[0, 6]
        for token in said.tolist()
    ]
    assert 0.01 < expected < 0.99
    assert abs(np.mean(hits) - expected) < 3 * math.sqrt(expected * (1 - expected) / 10_000)


@torch.no_grad()
def next_tokens(neo, rows, sampler):
    return slow_distribution(neo(rows).logits[0, -1], sampler, **SETTINGS[sampler])


def test_greedy_is_full_recitation_and_temperature_one_is_the_nll(model, paragraphs):
    own = with_own_continuation(model, paragraphs)
    known = recitation(model, paragraphs)
    assert (extractability(model, own)["log_probability"].values == 0).all()
    assert (extractability(model, paragraphs)["log_probability"].values == -np.inf).all()
    np.testing.assert_allclose(
        extractability(model, paragraphs, sampler="temperature")["log_probability"],
        known["log_probability"],
        rtol=1e-5,
    )


def test_of_equally_likely_tokens_the_smaller_id_is_among_the_top():
    logits = torch.tensor([[1.0, 3.0, 1.0, 1.0, -2.0]]).expand(5, -1)
    every = torch.arange(5)
    two = Sampler("top_k", top_k=2).log_probability(logits, every)
    assert two.isfinite().tolist() == [True, True, False, False, False]
    assert two[:2].exp().sum().item() == pytest.approx(1)
    three = Sampler("top_k", top_k=3).log_probability(logits, every)
    assert three.isfinite().tolist() == [True, True, True, False, False]
    share = logits[0].softmax(-1)
    nucleus = Sampler("top_p", top_p=float(share[1] + share[0]) + 1e-3).log_probability(logits, every)
    assert nucleus.isfinite().tolist() == [True, True, True, False, False]
    tied = torch.tensor([[2.0, 2.0, 0.0]]).expand(3, -1)
    assert Sampler("greedy").log_probability(tied, torch.arange(3)).tolist() == [0.0, -np.inf, -np.inf]


@pytest.mark.parametrize("sampler", list(SETTINGS))
def test_every_distribution_sums_to_one(sampler):
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(0)).double().expand(50, -1)
    drawn = Sampler(sampler, **SETTINGS[sampler]).log_probability(logits, torch.arange(50))
    assert drawn.exp().sum().item() == pytest.approx(1, abs=1e-12)
    assert (drawn <= 0).all()


def test_the_smallest_nucleus_is_the_likeliest_token():
    logits = torch.tensor([[0.0, 1.0]]).expand(2, -1)
    assert Sampler("top_p", top_p=1e-9).log_probability(logits, torch.arange(2)).tolist() == [-np.inf, 0.0]


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("chance", [1.0, 0.9, 0.5, 0.3, 0.01, 1e-4])
def test_the_number_of_samples_is_the_least_that_suffices(p, chance):
    n, fails = 1, 1 - chance
    while 1 - fails < p - 1e-12:
        n, fails = n + 1, fails * (1 - chance)
    assert queries_needed(math.log(chance), p=p) == n


def test_the_number_of_samples_is_finite_where_the_probability_is_no_longer_a_number():
    assert queries_needed(-500.0) == pytest.approx(math.log(2) * math.exp(500), rel=1e-9)
    assert queries_needed(-np.inf) == np.inf
    around = queries_needed(np.array([-30 - 1e-9, -30 + 1e-9]))  # both formulas agree where they meet
    assert around[0] == pytest.approx(around[1], rel=1e-8)
    for log_p in (-5.0, -20.0, -29.0, -35.0):
        p_z = Fraction(math.exp(log_p))  # log(1 - p_z) by its series, in exact arithmetic
        failing = -float(sum(p_z**i / i for i in range(1, 12)))
        assert queries_needed(log_p) == pytest.approx(math.log(0.5) / failing, rel=1e-9, abs=1)
    assert queries_needed([0.0, -1e-12]).tolist() == [1.0, 1.0]
    assert (np.diff(queries_needed(-np.linspace(0, 500, 200))) >= 0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": "beam"}, "sampler must be one of greedy, temperature, top_k, top_p, got 'beam'"),
        ({"sampler": "temperature", "temperature": 0.0}, "temperature must be positive and finite, got 0.0"),
        ({"sampler": "top_k", "top_k": 0}, r"top_k must lie in 1..101 \(the model's vocabulary\), got 0"),
        ({"sampler": "top_k", "top_k": 102}, "got 102"),
        ({"sampler": "top_p", "top_p": 1.5}, r"top_p must lie in \(0, 1\], got 1.5"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_unusable_settings_are_refused(model, paragraphs, settings, message):
    with pytest.raises(InputError, match=message):
        inspect.unwrap(extractability)(model, paragraphs, **settings)


def test_what_is_no_probability_is_refused():
    with pytest.raises(InputError, match=r"p must lie between 0 and 1, got 1\.0"):
        queries_needed(-1.0, p=1.0)
    with pytest.raises(InputError, match=r"must be at most 0, got 0\.5"):
        queries_needed([-1.0, 0.5])
    with pytest.raises(InputError, match="must be at most 0, got nan"):
        queries_needed([np.nan])
