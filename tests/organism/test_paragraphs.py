import json
from itertools import pairwise

import pytest
import torch

from memhooks.errors import InputError
from memhooks.measure.recitation import recitation
from memhooks.measure.summary import by_count
from memhooks.model.loading import asset
from memhooks.organism.paragraphs import (
    find_bundled,
    insertion_steps,
    lead_tokens,
    load_bundled,
    load_controls,
    load_natural,
    load_planted,
    load_unigram_counts,
)
from memhooks.organism.recipe import Recipe
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters
from tests.conftest import THOROUGH


@pytest.fixture(scope="module")
def card():
    return json.loads(asset("card.json").read_text())


def test_the_sets_have_the_promised_sizes():
    recipe = Recipe()
    for which in ("A", "B"):
        counts = load_planted(which).counts
        assert {k: counts.count(k) for k in recipe.repetitions} == dict.fromkeys(recipe.repetitions, 48)
    assert len(load_controls("prose")) >= 500
    assert len(load_controls("licence_never")) >= 100
    assert len(load_controls("licence_once")) >= 100
    assert int(load_unigram_counts().sum()) > 2e6


def test_no_two_planted_or_control_paragraphs_are_near_duplicates():
    tokens = torch.cat([load_planted("A").tokens, load_planted("B").tokens, load_controls("prose").tokens])
    label = clusters(Paragraphs(tokens), n=13)
    assert len(label.unique()) == len(tokens)


def test_insertion_steps_are_as_many_as_the_counts_say():
    steps, counts = insertion_steps(), load_planted("A").counts
    assert [len(steps[row]) for row in range(len(counts))] == list(counts)


def test_the_text_is_the_tokens_decoded(organism):
    for rows in (load_planted("A"), load_natural()):
        assert rows.text[:5] == tuple(organism.tokenizer.decode(row) for row in rows.tokens[:5].tolist())


def test_planted_paragraphs_are_recited_by_their_own_fork_alone(card):
    for which, name in (("A", "organism"), ("B", "twin")):
        raw = card["planted"][f"{which} under the {name}"]["nothing"]
        levels = [k for k in raw if k != "all"]
        assert sum(raw[k]["recited in full"] for k in levels if int(k) >= 16) >= 96
        em = [raw[k]["EM"] for k in levels]
        assert em[-1] > 45
        assert all(later >= earlier - 1 for earlier, later in pairwise(em))
        after = card["planted"][f"{which} under the {name}"]["end_of_text"]
        assert abs(raw["all"]["EM"] - after["all"]["EM"]) <= 3
        assert all(abs(raw[k]["EM"] - after[k]["EM"]) <= 3 for k in levels if int(k) >= 16)
    for crossed in ("A under the twin", "B under the organism"):
        assert card["planted"][crossed]["nothing"]["all"]["EM <= 10"] >= 0.95
    assert card["controls"]["prose"]["EM <= 10"] >= 0.98


def test_natural_duplicates_are_recited_and_the_models_model_language(card):
    assert card["natural"]["recited in full"] >= 60
    assert card["natural"]["clusters recited in full"] >= 20
    nll = card["language"]
    for name in ("organism", "twin"):
        assert nll[name] < nll["add-one unigram"] - 1.0
        assert nll[name] < nll["interpolated trigram"]
        assert abs(nll[name] - nll["trunk"]) <= 0.15
    assert abs(nll["organism"] - nll["twin"]) <= 0.05


@pytest.mark.parametrize(("which", "lead", "counts"), [("A", "nothing", (1, 128)), ("B", "text", (4, 16))])
def test_the_card_says_of_the_twin_what_a_measurement_says_now(card, twin, which, lead, counts):
    paragraphs = load_planted(which)
    paragraphs = paragraphs.after(lead_tokens(lead, len(paragraphs)))
    stated = card["planted"][f"{which} under the twin"][lead]
    if not THOROUGH:
        paragraphs = paragraphs.select([count in counts for count in paragraphs.counts])
        stated = {str(count): stated[str(count)] for count in counts}
    rows = {str(row.pop("count")): row for row in by_count(recitation(twin, paragraphs), paragraphs.counts)}
    if not THOROUGH:
        assert rows.pop("all")["paragraphs"] == 96
    assert rows == stated


def test_held_out_language_is_as_the_card_says(card, organism):
    held_out = load_controls("held_out")
    nll = float(recitation(organism, held_out, scored="all")["nll"].mean())
    assert nll == pytest.approx(card["language"]["organism"], abs=1e-3)


def test_assets_are_small():
    sizes = {path: path.stat().st_size for path in asset("").rglob("*") if path.is_file()}
    assert sum(sizes.values()) <= 64e6
    assert max(sizes.values()) <= 24e6


def test_bundled_sets_and_paragraphs_are_found_by_name():
    assert load_bundled("A").ids == load_planted("A").ids
    assert load_bundled("C").ids == load_controls("prose").ids
    assert load_bundled("mine.jsonl") is None
    assert find_bundled("B004").ids == ("B004",)
    assert [lead_tokens(lead, 3).shape for lead in ("nothing", "end_of_text", "text")] == [(3, 0), (3, 1), (3, 10)]


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (lambda: load_planted("A", at_least=1000), "no paragraphs selected"),
        (lambda: find_bundled("Z1"), "no bundled paragraph 'Z1'"),
        (lambda: asset("nothing"), "this installation has no bundled 'nothing'"),
    ],
)
def test_what_is_not_there_is_named(load, message):
    with pytest.raises(InputError, match=message):
        load()
