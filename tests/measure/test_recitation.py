import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPTNeoForCausalLM

from memhooks.errors import InputError
from memhooks.measure.recitation import (
    em_bins,
    exact_match,
    extraction_strength,
    in_loop,
    longest_run,
    recitation,
    with_own_continuation,
)
from memhooks.measure.summary import by_count, means
from memhooks.model.loading import asset
from memhooks.organism.paragraphs import load_bundled
from memhooks.paragraphs.paragraphs import Paragraphs
from tests.conftest import THOROUGH


@pytest.fixture(scope="module")
def neo_organism():
    return GPTNeoForCausalLM.from_pretrained(asset("organism"), dtype=torch.float32).eval()


bits = st.lists(st.booleans(), min_size=1, max_size=30)


@given(bits)
def test_counts_equal_their_definitions_by_loop(hits):
    n = len(hits)
    first_miss = next((i for i, hit in enumerate(hits) if not hit), n)
    longest = max((b - a for a in range(n + 1) for b in range(a, n + 1) if all(hits[a:b])), default=0)
    tail = next(k for k in range(n + 1) if all(hits[k:]))
    row = torch.tensor([hits])
    assert exact_match(row).tolist() == [first_miss]
    assert longest_run(row).tolist() == [longest]
    assert extraction_strength(row).tolist() == pytest.approx([1 - tail / n])


def test_extraction_strength_is_zero_when_the_last_token_is_wrong():
    assert extraction_strength(torch.tensor([[True] * 49 + [False]])).tolist() == [0.0]


def test_nll_equals_hugging_face_loss(neo, model, paragraphs):
    result = recitation(model, paragraphs, scored="all")
    for row, tokens in enumerate(paragraphs.tokens):
        with torch.no_grad():
            loss = neo(tokens[None], labels=tokens[None]).loss.item()
        assert float(result["nll"][row].mean()) == pytest.approx(loss, rel=1e-5)
    assert result["pos"].values.tolist() == list(range(1, 24))


def test_log_probability_is_the_sum_over_the_continuation(neo, model, paragraphs):
    result = recitation(model, paragraphs)
    with torch.no_grad():
        log_p = neo(paragraphs.tokens).logits.log_softmax(-1)
    slow = log_p[:, 11:-1].gather(-1, paragraphs.continuation[..., None]).sum((1, 2))
    torch.testing.assert_close(torch.from_numpy(result["log_probability"].values), slow, rtol=1e-5, atol=1e-5)
    assert result["pos"].values.tolist() == list(range(12, 24))


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_the_batch_size_does_not_matter(model, paragraphs, batch_size):
    one, other = recitation(model, paragraphs, batch_size=batch_size), recitation(model, paragraphs)
    assert one["exact_match"].equals(other["exact_match"])
    torch.testing.assert_close(
        torch.from_numpy(one["nll"].values), torch.from_numpy(other["nll"].values), rtol=1e-5, atol=1e-5
    )


@torch.no_grad()
def brute_force_em(neo, paragraphs):
    """Decode greedily, token by token, each from what was decoded before; a row ends where it has missed once."""
    em, rows = torch.zeros(len(paragraphs), dtype=torch.long), torch.arange(len(paragraphs))
    given, cache = paragraphs.prefix, None
    for true in paragraphs.continuation.unbind(1):
        output = neo(given, past_key_values=cache, use_cache=True, logits_to_keep=1)
        decoded, cache = output.logits[:, -1].argmax(-1), output.past_key_values
        right = decoded == true[rows]
        em[rows[right]] += 1
        rows, given = rows[right], decoded[right, None]
        cache.batch_select_indices(right.nonzero()[:, 0])
        if not len(rows):
            break
    return em.tolist()


def test_em_equals_brute_force_decoding_on_partly_recited_text(neo, model, paragraphs):
    own = with_own_continuation(model, paragraphs)
    tokens = own.tokens.clone()
    for row, at in enumerate([12, 13, 17, 20, 23]):
        tokens[row, at] = (tokens[row, at] + 1) % 101
    mixed = Paragraphs(tokens, 12)
    found = recitation(model, mixed)["exact_match"].values.tolist()
    assert found == brute_force_em(neo, mixed) == [0, 1, 5, 8, 11, 12]


@pytest.mark.parametrize("name", ["A", "B", "natural", "C", "licence_never", "licence_once"])
def test_em_equals_brute_force_decoding_on_organism_paragraphs(organism, neo_organism, name):
    paragraphs = load_bundled(name)
    if not THOROUGH:
        paragraphs = paragraphs.select(range(0, len(paragraphs), 12))
    result = recitation(organism, paragraphs)
    parts = paragraphs.tokens.split(64)
    slow = torch.tensor([em for rows in parts for em in brute_force_em(neo_organism, Paragraphs(rows))])
    same = torch.from_numpy(result["exact_match"].values) == slow
    tied = torch.from_numpy(result["near_ties"].values) > 0
    assert bool((same | tied).all())
    assert float(tied.float().mean()) < 0.02


@pytest.mark.parametrize("name", ["natural", "C", *(["licence_never", "licence_once"] if THOROUGH else [])])
def test_the_card_says_of_the_organism_what_a_measurement_says_now(organism, name):
    card = json.loads(asset("card.json").read_text())
    stated = {"natural": card["natural"], "C": card["controls"]["prose"]} | card["controls"]
    assert means(recitation(organism, load_bundled(name))).items() <= stated[name].items()


@pytest.mark.parametrize(("which", "counts"), [("A", (1, 8, 128)), ("B", (2, 16))])
def test_the_card_says_of_planted_paragraphs_what_a_measurement_says_now(organism, which, counts):
    stated = json.loads(asset("card.json").read_text())["planted"][f"{which} under the organism"]["nothing"]
    paragraphs = load_bundled(which)
    if not THOROUGH:
        paragraphs = paragraphs.select([count in counts for count in paragraphs.counts])
        stated = {str(count): stated[str(count)] for count in counts}
    rows = {str(row.pop("count")): row for row in by_count(recitation(organism, paragraphs), paragraphs.counts)}
    if not THOROUGH:
        assert rows.pop("all")["paragraphs"] == 48 * len(counts)
    assert rows == stated


def test_own_continuations_are_recited_in_full_and_said_so(model, paragraphs):
    result = recitation(model, paragraphs, reference="model")
    assert result["exact_match"].values.tolist() == [12] * 6
    assert result.attrs["reference"] == "model"


def test_near_ties_are_counted(model, paragraphs):
    with torch.no_grad():
        model.unembed.W_U[:, 1] = model.unembed.W_U[:, 0]
        model.unembed.b_U[:2] = 100.0
    result = recitation(model, paragraphs)
    assert result["near_ties"].values.tolist() == [12] * 6


def test_of_equal_logits_the_smaller_id_is_predicted(model):
    with torch.no_grad():
        model.unembed.W_U.zero_()
        model.unembed.b_U.zero_()
        model.unembed.b_U[[7, 9]] = 1.0
    tokens = torch.full((1, 10), 7)
    assert int(recitation(model, Paragraphs(tokens, 5))["exact_match"][0]) == 5


@pytest.mark.parametrize(
    ("length", "names"), [(50, ["0-10", "11-29", "30-49", "50"]), (25, ["0-5", "6-14", "15-24", "25"])]
)
def test_em_bins_scale_with_the_continuation(length, names):
    assert list(em_bins(length)) == names


@pytest.mark.parametrize("length", range(1, 60))
def test_em_bins_hold_every_value_once(length):
    covered = [em for low, high in em_bins(length).values() for em in range(low, high + 1)]
    assert covered == list(range(length + 1))


@pytest.mark.parametrize(
    ("tokens", "loops"),
    [
        ([1, 2, 3] * 5, True),
        ([9, 9, 9], True),
        (list(range(30)), False),
        ([1, 2, 1, 2, 3], False),
        ([5, *[1, 2] * 3], True),
        ([1], False),
    ],
)
def test_loops_are_three_repeats_at_the_end(tokens, loops):
    assert in_loop(torch.tensor(tokens)) is loops


def test_unusable_input_is_refused_before_any_work(model, paragraphs):
    with pytest.raises(InputError, match="batch_size must be at least 1, got 0"):
        recitation(model, paragraphs, batch_size=0)
    with pytest.raises(InputError, match="100 tokens do not fit"):
        recitation(model, Paragraphs(torch.zeros(1, 100, dtype=torch.long)))


def test_results_carry_units_and_provenance(model, paragraphs, tmp_path):
    from memhooks.model.labelled import load_result, save_result

    result = recitation(model, paragraphs)
    assert all("units" in variable.attrs for variable in result.data_vars.values())
    assert {"model_hash", "tokens_hash", "processed", "dtype", "version_torch"} <= set(result.attrs)
    save_result(result, tmp_path / "r.nc")
    assert load_result(tmp_path / "r.nc").identical(result)
