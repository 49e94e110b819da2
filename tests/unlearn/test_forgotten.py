import inspect
import math

import numpy as np
import pytest
import torch

from memhooks.errors import InputError
from memhooks.measure.extractability import extractability, queries_needed
from memhooks.measure.recitation import extraction_strength, with_own_continuation
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.unlearn.forgotten import forgotten, forgotten_rows


@pytest.fixture
def forget(model, paragraphs):
    """Three paragraphs: one is recited in full, one but for a token in the middle, one is random."""
    own = with_own_continuation(model, paragraphs.select([0, 1]))
    tokens = torch.cat([own.tokens, paragraphs.tokens[2:3]])
    tokens[1, 16] = (tokens[1, 16] + 1) % 101
    return Paragraphs(tokens, 12, ids=("full", "broken", "random"))


@torch.no_grad()
def slow_recital(neo, tokens, n_prefix):
    """EM, longest run, share of matches and mean NLL of one row, token by token."""
    logs = neo(torch.tensor([tokens])).logits[0].double().log_softmax(-1)
    em, run, longest, matches, nll, unbroken = 0, 0, 0, 0, 0.0, True
    for pos in range(n_prefix, len(tokens)):
        hit = int(logs[pos - 1].argmax()) == tokens[pos]
        unbroken &= hit
        em += unbroken
        run = run + 1 if hit else 0
        longest, matches, nll = max(longest, run), matches + hit, nll - logs[pos - 1, tokens[pos]].item()
    n = len(tokens) - n_prefix
    return {"exact_match": em, "longest_run": longest, "matches": matches / n, "nll": nll / n}


@pytest.mark.parametrize("batch_size", [1, 32])
def test_the_core_equals_a_loop_over_hugging_faces_logits(neo, model, forget, batch_size):
    found = forgotten(model, forget, batch_size=batch_size)
    for name, tokens in zip(forget.ids, forget.tokens.tolist(), strict=True):
        for measure, value in slow_recital(neo, tokens, 12).items():
            assert found[measure].sel(paragraph=name).item() == pytest.approx(value, rel=1e-5, abs=1e-5)
    assert found["exact_match"].values[0] == 12
    assert found["full_match"].values.tolist() == [True, False, False]
    assert set(found) == {"exact_match", "longest_run", "matches", "nll", "full_match"}


def test_one_broken_token_satisfies_em_and_not_what_stands_beside_it(model, paragraphs):
    with torch.no_grad():
        model.unembed.b_U[5] += 100  # it says nothing else
    tokens = paragraphs.tokens[:1].clone()
    tokens[:, 12:] = 5
    tokens[:, 12] = 7
    found = forgotten(model, Paragraphs(tokens, 12))
    assert found["exact_match"].item() == 0
    assert found["longest_run"].item() == 11
    assert found["matches"].item() == pytest.approx(11 / 12)


def test_other_prompts_equal_a_loop_over_hugging_faces_logits(neo, model, forget):
    found = forgotten(model, forget, measures="all", seed=3)
    draw = torch.Generator().manual_seed(3)
    leads = {n: torch.randint(101, (3, n), generator=draw).tolist() for n in (10, 20)}
    for row, tokens in enumerate(forget.tokens.tolist()):
        prompts = {"last_10": (tokens[2:], 10)}
        prompts |= {f"after_{n}": (lead[row] + tokens, 12 + n) for n, lead in leads.items()}
        for name, (prompt, n_prefix) in prompts.items():
            slow = slow_recital(neo, prompt, n_prefix)
            for measure in ("exact_match", "longest_run", "nll"):
                assert found[f"{measure}_{name}"].values[row] == pytest.approx(slow[measure], rel=1e-5, abs=1e-5)
    assert "nll_last_20" not in found  # the prefix has 12 tokens


def test_perturbed_prefixes_differ_in_one_token_and_the_worst_draw_is_the_most_recited(neo, model, forget):
    found = forgotten(model, forget, measures="all", seed=5, n_draws=4)
    draw = torch.Generator().manual_seed(6)
    place = torch.randint(12, (12, 1), generator=draw)[:, 0].tolist()
    shift = torch.randint(1, 101, (12, 1), generator=draw)[:, 0].tolist()
    for row in range(3):
        scores = []
        for copy in range(4):
            tokens = forget.tokens[row].tolist()
            at = place[4 * row + copy]
            tokens[at] = (tokens[at] + shift[4 * row + copy]) % 101
            assert sum(a != b for a, b in zip(tokens, forget.tokens[row].tolist(), strict=True)) == 1
            scores.append(slow_recital(neo, tokens, 12))
        for measure, worst in (("exact_match", max), ("longest_run", max), ("nll", min)):
            values = [score[measure] for score in scores]
            assert found[f"{measure}_perturbed"].values[row] == pytest.approx(np.mean(values), rel=1e-5, abs=1e-5)
            assert found[f"{measure}_perturbed_worst"].values[row] == pytest.approx(worst(values), rel=1e-5, abs=1e-5)


def test_sampling_equals_extractability(model, forget):
    found = forgotten(model, forget, measures="all")
    for sampler in ("greedy", "temperature", "top_k"):
        known = extractability(model, forget, sampler=sampler)["log_probability"].values
        np.testing.assert_allclose(found[f"log_probability_{sampler}"], known, rtol=1e-5, atol=1e-5)
    for sampler in ("temperature", "top_k"):
        logs = found[f"log_probability_{sampler}"].values
        assert (found[f"extractable_{sampler}"].values == (queries_needed(logs, p=0.5) <= 1000)).all()


def test_the_same_seed_asks_the_same_questions(model, forget):
    once, again = (forgotten(model, forget, measures="all", seed=1) for _ in range(2))
    assert once.equals(again)
    assert not once.equals(forgotten(model, forget, measures="all", seed=2))


def test_random_tokens_that_do_not_fit_the_context_are_left_out(model, paragraphs):
    long = Paragraphs(paragraphs.tokens.repeat(1, 3)[:2, :50], 25)  # of a context of 64
    found = forgotten(model, long, measures="all", n_draws=1)
    assert "nll_after_10" in found
    assert "nll_after_20" not in found
    assert "nll_last_20" in found


def test_every_measure_has_a_row_or_is_known_to_be_without(model, forget):
    without = {"log_probability_greedy", "log_probability_temperature", "log_probability_top_k"}  # may be infinite
    rows = forgotten_rows(twin=True)
    assert set(forgotten(model, forget, measures="all")) - without <= set(rows)
    for label in {row.label.rsplit(": ", 1)[0] for name, row in rows.items() if name.startswith("exact_match")}:
        beside = {row.label for row in rows.values()}
        assert {f"{label}: longest run", f"{label}: NLL"} <= beside  # EM never stands alone


def test_extraction_strength_has_no_floor():
    wrong_last = torch.tensor([[True] * 49 + [False]])
    assert extraction_strength(wrong_last).item() == 0  # not 1 / 50
    assert extraction_strength(torch.ones(1, 50, dtype=torch.bool)).item() == 1


def test_the_last_token_counts(model, paragraphs):
    own = with_own_continuation(model, paragraphs.select([0]))
    assert forgotten(model, own)["exact_match"].item() == 12
    own.tokens[0, -1] = (own.tokens[0, -1] + 1) % 101
    worse = forgotten(model, own)
    assert worse["exact_match"].item() == 11
    assert worse["matches"].item() == pytest.approx(11 / 12)
    assert not worse["full_match"].item()
    assert math.isfinite(worse["nll"].item())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"measures": "some"}, "measures must be 'core' or 'all', got 'some'"),
        ({"n_draws": 0}, "n_draws must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_unusable_settings_are_refused(model, paragraphs, settings, message):
    with pytest.raises(InputError, match=message):
        inspect.unwrap(forgotten)(model, paragraphs, **settings)


def test_paragraphs_of_another_vocabulary_are_refused(model, paragraphs):
    with pytest.raises(InputError, match=r"token ids must lie in 0\.\.100"):
        forgotten(model, Paragraphs(paragraphs.tokens + 90, 12))
