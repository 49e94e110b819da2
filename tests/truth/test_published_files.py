import csv
import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch

from memhooks.errors import InputError
from memhooks.measure.recitation import with_own_continuation
from memhooks.truth.published import substitute
from memhooks.truth.published.counted import COUNTED
from memhooks.truth.published.files import KNOWN, Held, digest, held
from memhooks.truth.published.setting import Setting
from memhooks.truth.published.stand_in import stand_in_model, stand_in_text
from memhooks.truth.published.substitute import Benchmark, with_substitute


@pytest.fixture
def folder(tmp_path):
    """A folder with files of the published names: 6 rows of a vocabulary of 101."""
    text = stand_in_text(6, d_vocab=101, seed=0)
    for name, file in (("50", "50_50_preds.pt"), ("11-29", "11_29_preds.pt")):
        torch.save(text.sets[name].tokens, tmp_path / file)
    torch.save(text.pairs.clean.tokens, tmp_path / "mem_toks.pt")
    torch.save(text.pairs.perturbed.tokens, tmp_path / "perturbed_mem_toks.pt")
    write_table(tmp_path / "mem_strings.csv", [["two\nlines, quoted", i, 10 + i, 50.0, 0.1 * i] for i in range(6)])
    return tmp_path


def write_table(path, rows, header=("paragraph", "id", "count", "em", "nll")):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def test_what_a_folder_holds(folder):
    found = held(folder)
    text = stand_in_text(6, d_vocab=101, seed=0)
    assert list(found.sets) == ["50", "11-29"]
    assert torch.equal(found.sets["50"].tokens, text.sets["50"].tokens)
    assert found.pairs.position.tolist() == [44] * 6
    assert found.pairs.impact.tolist() == [50] * 6
    assert found.strings.counts.tolist() == [10, 11, 12, 13, 14, 15]
    np.testing.assert_allclose(found.strings.nll, 0.1 * np.arange(6))
    assert found.lacks(("0-10", "50", "model", "strings")) == ["0_10_preds.pt"]
    assert found.lacks(("pairs",)) == []


def test_a_known_name_with_other_content_is_said_to_be_another_file(folder):
    found = held(folder)
    assert found.hashes["50_50_preds.pt"] == digest(folder / "50_50_preds.pt")
    assert set(found.others) == set(KNOWN) - {"30_49_preds.pt"}


def test_a_file_without_known_hash_is_not_called_another(folder):
    torch.save(stand_in_text(6, d_vocab=101, seed=1).sets["0-10"].tokens, folder / "0_10_preds.pt")
    assert "0_10_preds.pt" not in held(folder).others


def test_rows_that_need_another_file_are_told(folder):
    found = held(folder)
    assert found.foreign(("50", "model")) == ["50_50_preds.pt"]
    assert found.foreign(("pairs",)) == ["mem_toks.pt", "perturbed_mem_toks.pt"]
    assert found.foreign(("30-49", "0-10")) == []


def test_pairs_without_impact_have_none(folder):
    clean = torch.load(folder / "mem_toks.pt")
    perturbed = torch.load(folder / "perturbed_mem_toks.pt")
    perturbed[2, 50:] = clean[2, 50:]
    perturbed[3, 50:60] = clean[3, 50:60]
    torch.save(perturbed, folder / "perturbed_mem_toks.pt")
    assert held(folder).pairs.impact.tolist() == [50, 50, -1, 60, 50, 50]


def test_folders_that_cannot_be_used(folder, tmp_path):
    with pytest.raises(InputError, match="no folder at"):
        held(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds none of 50_50_preds\.pt"):
        held(tmp_path / "empty")
    write_table(folder / "mem_strings.csv", [["x", i, 1, 50, 1.0] for i in range(5)])
    with pytest.raises(InputError, match=r"mem_strings.csv has 5 rows, 50_50_preds.pt 6"):
        held(folder)


def test_tables_that_cannot_be_used(folder):
    write_table(folder / "mem_strings.csv", [["x", 1]], header=("paragraph", "id"))
    with pytest.raises(InputError, match="columns id, count and nll, count, nll missing"):
        held(folder)
    write_table(folder / "mem_strings.csv", [["x", 1, "many", 50, 0.1]] * 6)
    with pytest.raises(InputError, match="id, count and nll must be numbers"):
        held(folder)


def test_pairs_that_are_none(folder):
    perturbed = torch.load(folder / "perturbed_mem_toks.pt")
    perturbed[1, 3] += 1
    torch.save(perturbed % 101, folder / "perturbed_mem_toks.pt")
    with pytest.raises(InputError, match=r"row 1 of perturbed_mem_toks\.pt differs in 2"):
        held(folder)
    torch.save(perturbed[:3], folder / "perturbed_mem_toks.pt")
    with pytest.raises(InputError, match="must have the same shape"):
        held(folder)


def test_the_published_files_say_what_is_published(shared_data):
    found = held(shared_data / "gpt-neo-125m")
    assert found.others == found.foreign(("50", "30-49", "11-29", "0-10", "pairs", "strings")) == []
    rows = COUNTED.rows(Setting(None, found), {})
    assert rows["1.MP"].values == (442.0,)
    assert rows["2"].values == (40382.0,)
    assert rows["1.all"].values == (13441.0,)
    assert "1.NMP" not in rows
    assert "3" not in rows
    assert {name: len(one) for name, one in found.sets.items()} == {"50": 442, "30-49": 141, "11-29": 436}
    assert len(found.sets["50"].tokens.unique()) == 2728
    position = found.pairs.position
    assert int(((position >= 40) & (position <= 49)).sum()) == 57
    assert int((found.pairs.impact == 50).sum()) == 89


def test_distinct_tokens_and_paragraphs_are_counted(folder):
    text = stand_in_text(6, d_vocab=101, seed=0)
    rows = COUNTED.rows(Setting(None, text), {})
    both = {*text.sets["50"].tokens.flatten().tolist(), *text.sets["0-10"].tokens.flatten().tolist()}
    assert rows["3"].values == (len(both),)
    assert rows["3"].beside["MP alone"] == len({*text.sets["50"].tokens.flatten().tolist()})
    assert rows["1.all"].values == (24.0,)


@pytest.fixture
def benchmark(tmp_path):
    """Prefixes with their true continuations: copies, one that shares text with memorized rows, one recited."""
    model = stand_in_model((2, 2, 32, 101), seed=0)
    text = stand_in_text(3, d_vocab=101, seed=0)
    rows = torch.randint(101, (8, 100), generator=torch.Generator().manual_seed(5))
    rows[1] = rows[0]
    rows[2, 10:40] = text.sets["50"].tokens[0, 20:50]
    recited = with_own_continuation(model, replace(text.sets["11-29"].select([0]), tokens=rows[3:4]))
    rows[3] = recited.tokens[0]
    np.save(tmp_path / "train_prefix.npy", rows[:, :50].numpy().astype(np.uint16))
    np.save(tmp_path / "train_suffix.npy", rows[:, 50:].numpy().astype(np.uint16))
    return model, rows, tmp_path


def test_a_substitute_holds_distinct_unrecited_prefixes_with_own_continuations(benchmark):
    model, rows, folder = benchmark
    text = stand_in_text(3, d_vocab=101, seed=0)
    known = Held({"50": text.sets["50"]})
    found = with_substitute(model, known, Benchmark(folder), n=100, seed=0)
    own = found.sets["0-10"]
    usable = {tuple(rows[row, :50].tolist()) for row in (0, 4, 5, 6, 7)}
    assert {tuple(one) for one in own.prefix.tolist()} == usable
    assert len(own) == 5
    assert torch.equal(own.tokens, with_own_continuation(model, own).tokens)
    assert found.substitute == "5 rows of the extraction benchmark in place of 0_10_preds.pt"
    for name in ("train_prefix.npy", "train_suffix.npy"):
        assert found.hashes[name] == digest(folder / name)


def test_a_kept_substitute_is_not_decoded_again(benchmark, monkeypatch):
    model, _, folder = benchmark
    known = Held({"50": stand_in_text(3, d_vocab=101, seed=0).sets["50"]})
    first = with_substitute(model, known, Benchmark(folder, folder / "run"), n=3, seed=0)
    monkeypatch.setattr(substitute, "with_own_continuation", lambda *_: pytest.fail("decoded again"))
    again = with_substitute(model, known, Benchmark(folder, folder / "run"), n=3, seed=0)
    assert torch.equal(again.sets["0-10"].tokens, first.sets["0-10"].tokens)
    assert again.sets["0-10"].ids == first.sets["0-10"].ids
    monkeypatch.undo()
    other = with_substitute(model, known, Benchmark(folder, folder / "run"), n=3, seed=1)
    assert not torch.equal(other.sets["0-10"].tokens, first.sets["0-10"].tokens)


def test_a_substitute_is_no_more_than_asked_and_never_in_place_of_the_file(benchmark):
    model, _, folder = benchmark
    text = stand_in_text(3, d_vocab=101, seed=0)
    assert len(with_substitute(model, Held({"50": text.sets["50"]}), Benchmark(folder), n=2, seed=0).sets["0-10"]) == 2
    assert with_substitute(model, text, Benchmark(folder), n=2, seed=0) is text


def test_substitutes_that_cannot_be_made(benchmark, tmp_path):
    model, rows, folder = benchmark
    with pytest.raises(InputError, match=r"no train_prefix\.npy in"):
        with_substitute(model, Held({}), Benchmark(tmp_path / "nowhere"), n=2, seed=0)
    memorized = stand_in_text(8, d_vocab=101, seed=0).sets["50"]
    everything = Held({"50": replace(memorized, tokens=rows)})
    with pytest.raises(InputError, match="the model recites all prefixes, or memorized rows share text"):
        inspect.unwrap(with_substitute)(model, everything, Benchmark(folder), n=2, seed=0)
