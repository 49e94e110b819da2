from dataclasses import replace

import numpy as np
import pytest
import torch

from memhooks.errors import InputError
from memhooks.measure.pairs import Pairs, load_pairs, make_pairs, save_pairs
from memhooks.measure.recitation import recitation, with_own_continuation
from memhooks.model.labelled import Variable, labelled, save_result
from memhooks.paragraphs.paragraphs import Paragraphs


def effect_of(paragraphs, em_drop, replacement):
    axes = ("paragraph", "draw", "pos")
    names = {"paragraph": paragraphs.ids, "draw": range(em_drop.shape[1]), "pos": range(em_drop.shape[2])}
    return labelled(
        {"n_prefix": paragraphs.n_prefix},
        em_drop=Variable(em_drop, axes, "tokens of exact match lost, 0 = no effect", names),
        replacement=Variable(replacement, axes, "token id"),
    )


def measured_effect(model, paragraphs, *, n_draws=2, seed=0):
    """EM lost at every place, by a plain measurement of every edited paragraph."""
    shape = (len(paragraphs), n_draws, paragraphs.n_prefix)
    replacement = torch.randint(101, shape, generator=torch.Generator().manual_seed(seed))
    clean = recitation(model, paragraphs)["exact_match"].values
    drop = torch.zeros(shape, dtype=torch.long)
    for draw in range(n_draws):
        for pos in range(paragraphs.n_prefix):
            tokens = paragraphs.tokens.clone()
            tokens[:, pos] = replacement[:, draw, pos]
            em = recitation(model, Paragraphs(tokens, paragraphs.n_prefix))["exact_match"].values
            drop[:, draw, pos] = torch.from_numpy(clean - em)
    return effect_of(paragraphs, drop, replacement)


@torch.no_grad()
def slow_continuation(model, prefix, n):
    row = prefix[None]
    for _ in range(n):
        row = torch.cat([row, model(row, return_type="logits")[:, -1:].argmax(-1)], dim=1)
    return row[0, len(prefix) :].tolist()


@pytest.fixture
def labelled_paragraphs(paragraphs):
    return replace(
        paragraphs,
        ids=("a", "b", "0007", "ü, 'x'", "e", "f g"),
        counts=(1, 2, 3, 2**53 + 1, 5, 6),
        sources=("one", "", "größer", "one", "x" * 300, "1"),
    )


def test_pairs_are_the_least_recited_replacement_and_what_the_model_then_says(model, paragraphs):
    own = with_own_continuation(model, paragraphs)
    effect = measured_effect(model, own)
    pairs = make_pairs(model, own, effect, batch_size=4)
    for row in range(6):
        best, at = -1, None
        for pos in range(12):  # as published: the earliest position of the lowest EM
            for draw in range(2):
                drop = int(effect["em_drop"].values[row, draw, pos])
                if drop > best:
                    best, at = drop, (pos, draw)
        pos, draw = at
        prefix = own.prefix[row].clone()
        prefix[pos] = int(effect["replacement"].values[row, draw, pos])
        said = slow_continuation(model, prefix, 12)
        assert int(pairs.position[row]) == pos
        assert pairs.perturbed.tokens[row].tolist() == prefix.tolist() + said
        differs = [i for i in range(12) if said[i] != int(own.continuation[row, i])]
        assert int(pairs.impact[row]) == (12 + differs[0] if differs else -1)
        # What free decoding says first otherwise is the first miss of the teacher-forced EM.
        assert best == 12 - (differs[0] if differs else 12)
    assert pairs.clean is own
    assert pairs.perturbed.ids == own.ids
    assert len(pairs) == 6


def test_of_equal_drops_the_earliest_position_wins_and_there_the_first_draw(model, paragraphs):
    drop = torch.zeros(6, 3, 12).long()
    drop[0, 0, 9] = drop[0, 2, 4] = drop[0, 1, 4] = 5
    drop[1, 0, 11] = 1
    drop[2] = -2
    drop[2, 2, 3] = -1
    replacement = torch.randint(101, (6, 3, 12), generator=torch.Generator().manual_seed(0))
    pairs = make_pairs(model, paragraphs, effect_of(paragraphs, drop, replacement))
    assert pairs.position.tolist() == [4, 11, 3, 0, 0, 0]
    chosen = [replacement[0, 1, 4], replacement[1, 0, 11], replacement[2, 2, 3], *replacement[3:, 0, 0]]
    assert pairs.perturbed.tokens[range(6), pairs.position].tolist() == [int(token) for token in chosen]


def test_a_replacement_that_changes_nothing_has_no_impact(model, paragraphs):
    own = with_own_continuation(model, paragraphs)
    effect = effect_of(own, torch.zeros(6, 1, 12).long(), own.prefix[:, None])
    pairs = make_pairs(model, own, effect)
    assert pairs.impact.tolist() == [-1] * 6
    assert not pairs.changed.any()
    assert torch.equal(pairs.tokens_with_clean_continuation, own.tokens)


def test_the_clean_continuation_follows_the_perturbed_prefix_and_changed_says_where_it_matters(model, paragraphs):
    pairs = make_pairs(model, paragraphs, measured_effect(model, paragraphs, n_draws=1))
    differs = pairs.tokens_with_clean_continuation != paragraphs.tokens
    assert not differs[:, 12:].any()
    assert (differs.sum(1) <= 1).all()
    said_otherwise = (pairs.perturbed.continuation != paragraphs.continuation).any(1)
    assert pairs.changed.tolist() == said_otherwise.tolist()


@pytest.mark.parametrize(
    "rows", [[4, 1], slice(None, None, -2), torch.tensor([True, False, True, False, False, True]), np.array(3), [-1]]
)
def test_selected_pairs_keep_their_rows_together(model, labelled_paragraphs, rows):
    pairs = make_pairs(model, labelled_paragraphs, measured_effect(model, labelled_paragraphs, n_draws=1))
    chosen = pairs.select(rows)
    numbers = np.atleast_1d(np.arange(6)[rows.numpy() if isinstance(rows, torch.Tensor) else rows]).tolist()
    assert chosen.clean.ids == chosen.perturbed.ids == tuple(labelled_paragraphs.ids[i] for i in numbers)
    for i, row in enumerate(numbers):
        assert torch.equal(chosen.perturbed.tokens[i], pairs.perturbed.tokens[row])
        assert (int(chosen.position[i]), int(chosen.impact[i])) == (int(pairs.position[row]), int(pairs.impact[row]))


@pytest.mark.parametrize("bare", [False, True])
def test_pairs_come_back_from_disk_as_they_were(model, paragraphs, labelled_paragraphs, tmp_path, bare):
    given = paragraphs if bare else labelled_paragraphs
    pairs = make_pairs(model, given, measured_effect(model, given, n_draws=1))
    save_pairs(pairs, tmp_path / "new" / "pairs.nc")
    again = load_pairs(str(tmp_path / "new" / "pairs.nc"))
    for one, other in ((pairs.clean, again.clean), (pairs.perturbed, again.perturbed)):
        assert torch.equal(one.tokens, other.tokens)
        assert one.tokens.dtype == other.tokens.dtype
        assert (one.n_prefix, one.ids, one.counts, one.sources) == (
            other.n_prefix,
            other.ids,
            other.counts,
            other.sources,
        )
    for name in ("position", "impact"):
        assert torch.equal(getattr(pairs, name), getattr(again, name))
        assert getattr(again, name).dtype == torch.int64


def test_the_text_is_not_saved(model, paragraphs, tmp_path):
    told = replace(paragraphs, text=("text",) * 6)
    pairs = make_pairs(model, told, measured_effect(model, told, n_draws=1))
    assert pairs.perturbed.text is None  # it would be that of the clean tokens
    save_pairs(pairs, tmp_path / "pairs.nc")
    assert load_pairs(tmp_path / "pairs.nc").clean.text is None


def test_files_of_something_else_are_refused(model, paragraphs, tmp_path):
    pairs = make_pairs(model, paragraphs, measured_effect(model, paragraphs, n_draws=1))
    save_result(recitation(model, paragraphs), tmp_path / "other.nc")
    with pytest.raises(InputError, match="not saved pairs; clean, perturbed, position, impact missing among exact_"):
        load_pairs(tmp_path / "other.nc")
    save_result(labelled({}, clean=Variable(paragraphs.tokens, ("paragraph", "pos"), "")), tmp_path / "part.nc")
    with pytest.raises(InputError, match="perturbed, position, impact, n_prefix missing among clean"):
        load_pairs(tmp_path / "part.nc")
    with pytest.raises(InputError, match="no result file"):
        load_pairs(tmp_path / "none.nc")
    save_pairs(pairs, tmp_path / "pairs.nc")
    content = (tmp_path / "pairs.nc").read_bytes()
    (tmp_path / "pairs.nc").write_bytes(content[:-100])
    with pytest.raises(InputError, match="damaged"):
        load_pairs(tmp_path / "pairs.nc")


def test_what_does_not_belong_together_is_refused(model, paragraphs):
    effect = measured_effect(model, paragraphs, n_draws=1)
    with pytest.raises(InputError, match="batch_size must be at least 1, got 0"):
        make_pairs(model, paragraphs, effect, batch_size=0)
    with pytest.raises(InputError, match="but 2 others came"):
        make_pairs(model, paragraphs.select([0, 1]), effect)
    with pytest.raises(InputError, match="no drops called 'em_drop'; it has none"):
        make_pairs(model, paragraphs, effect.drop_vars("em_drop"))
    with pytest.raises(InputError, match="every prefix position"):
        make_pairs(model, Paragraphs(paragraphs.tokens, 11), effect)
    index = torch.zeros(6).long()
    with pytest.raises(InputError, match=r"same ids and shape, got Paragraphs\(6 of 12 .* and Paragraphs\(6 of 11 "):
        Pairs(paragraphs, Paragraphs(paragraphs.tokens, 11), index, index)
    with pytest.raises(InputError, match="same ids"):
        Pairs(paragraphs, replace(paragraphs, ids=tuple("abcdef")), index, index)
    with pytest.raises(InputError, match=r"position must name one index for each of 6 paragraphs, got shape \(5,\)"):
        Pairs(paragraphs, paragraphs, index[:5], index[:5])
    pairs = Pairs(paragraphs, paragraphs, index, index)
    with pytest.raises(InputError, match="no paragraphs selected"):
        pairs.select([])
    with pytest.raises(InputError, match=r"rows must lie in 0\.\.5"):
        pairs.select([6])
