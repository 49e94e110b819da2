import numpy as np
import pytest
import torch
import xarray as xr

from memhooks.errors import InputError
from memhooks.localize.attention import rare_token_attention
from memhooks.localize.memorization_head import memorization_head
from memhooks.localize.rare_token_heads import rare_token_heads
from memhooks.measure.intervals import bootstrap_mean
from memhooks.model.labelled import load_result, save_result
from memhooks.paragraphs.paragraphs import Paragraphs

COUNTS = torch.randint(1, 1000, (101,), generator=torch.Generator().manual_seed(9))
MEANS = ("spearman", "kendall", "pearson", "partial_spearman", "share_on_rarest", "entropy")
CELLS = ("query", "layer", "head")


@pytest.fixture
def found(model, paragraphs):
    return rare_token_attention(model, paragraphs, COUNTS, seed=0, n_shuffles=20, queries=[11, 10])


def test_rows_are_means_with_intervals_beside_their_nulls(found):
    label = np.array([0, 0, 1, 2, 3, 4])
    table = rare_token_heads(found, seed=4, clusters=torch.from_numpy(label), query=10)
    assert table["row"].values.tolist() == [f"L{layer}H{head}" for layer in range(4) for head in range(4)]
    one = found.sel(query=10)
    for place in ("L0H0", "L1H3", "L3H2"):
        layer, head = int(place[1]), int(place[3])
        row = table.sel(row=place)
        assert (int(row["layer"]), int(row["head"])) == (layer, head)
        for name in MEANS:
            ends = bootstrap_mean(one[name].sel(layer=layer, head=head).values, seed=4, clusters=label)
            for ending, value in zip(("", "_low", "_high"), ends, strict=True):
                assert float(row[f"{name}{ending}"]) == pytest.approx(float(value), abs=1e-12)
        for name in ("type_spearman", "p_value", "p_within"):
            assert float(row[name]) == float(one[name].sel(layer=layer, head=head))
        for name in ("uniform_share", "uniform_entropy", "reach", "local"):
            assert row[name] == one[name].sel(layer=layer)
    assert table.attrs["query"] == 10
    assert rare_token_heads(found, seed=4).attrs["query"] == 11


def test_the_table_can_be_saved(found, tmp_path):
    table = rare_token_heads(found, seed=4)
    save_result(table, tmp_path / "heads.nc")
    xr.testing.assert_equal(load_result(tmp_path / "heads.nc"), table)


ABOUT = {"model_hash": "reciter", "n_prefix": 12, "n_rarest": 5, "skip_first": 0, "counts_hash": "corpus"}


def made_up(means, *, n=40, seed=0, p=None, partial=None, ids=None, **about):
    """What `rare_token_attention` would give for 2 layers of 3 heads whose correlations are known."""
    rng = np.random.default_rng(seed)
    spearman = np.reshape(means, (1, 1, 2, 3)) + 0.1 * rng.normal(size=(n, 1, 2, 3))
    unit = {"units": "none"}
    values = {name: (("paragraph", *CELLS), spearman.copy(), unit) for name in MEANS}
    if partial is not None:
        values["partial_spearman"] = (("paragraph", *CELLS), spearman * 0 + np.reshape(partial, (1, 1, 2, 3)), unit)
    values["type_spearman"] = (CELLS, np.reshape(means, (1, 2, 3)), unit)
    for name in ("p_value", "p_within"):
        own = np.where(np.array(means) < -0.3, 0.01, 0.9) if p is None else p[name]
        values[name] = (CELLS, np.reshape(own, (1, 2, 3)), unit)
    for name in ("uniform_share", "uniform_entropy", "reach"):
        values[name] = (("query", "layer"), np.full((1, 2), 8.0), unit)
    values["local"] = (("layer",), np.array([False, True]), unit)
    labels = {"paragraph": ids or [str(i) for i in range(n)], "query": [11], "layer": [0, 1], "head": [0, 1, 2]}
    return xr.Dataset(values, labels, ABOUT | about)


def worth_of(p, **more):
    rows = [f"L{layer}H{head}" for layer in range(2) for head in range(3)]
    columns = {"p_more_than_control": p} | more
    return xr.Dataset({name: (("row",), np.array(one)) for name, one in columns.items()}, {"row": rows}, ABOUT)


BOTH = [-0.6, 0, 0, 0, -0.5, 0]  # two heads look at rare tokens in memorized text
ONE = [-0.6, 0, 0, 0, 0.0, 0]  # the first of them does so everywhere
SPECIFIC = [1, 1, 1, 1, 0.01, 1]


def conditions(memorized=BOTH, control=ONE, twin=ONE):
    means = {"memorized": memorized, "control": control, "twin": twin}
    models = {"twin": "never read them"}
    return {
        name: made_up(one, seed=i, model_hash=models.get(name, "reciter"))
        for i, (name, one) in enumerate(means.items())
        if one is not None
    }


@pytest.mark.parametrize(
    ("p_value", "p_within", "partial", "is_one"),
    [(0.01, 0.01, -0.5, True), (0.2, 0.01, -0.5, False), (0.01, 0.2, -0.5, False), (0.01, 0.01, 0.01, False)],
)
def test_a_rare_token_head_passes_both_nulls_and_is_no_matter_of_distance(p_value, p_within, partial, is_one):
    p = {"p_value": [p_value, *[0.9] * 5], "p_within": [p_within, *[0.9] * 5]}
    result = made_up([-0.5, 0, 0, 0, 0, 0], p=p, partial=[partial, 0, 0, 0, 0, 0])
    assert rare_token_heads(result, seed=0)["is_rare_token_head"].values.tolist() == [is_one, *[False] * 5]


def test_the_planted_candidate_is_found_and_confirmed_only_by_its_ablation():
    found = memorization_head(conditions(), seed=0, worth=worth_of(SPECIFIC))
    assert found.candidates == found.confirmed == ("L1H1",)
    assert found.verdict.startswith("L1H1 is a memorization head: it attends to rare tokens (Spearman -0.5")
    assert ", over token types -0.50, p = 0.01). Distance left out, it does so more than in never-seen text (0.0" in (
        found.verdict
    )
    assert found.verdict.endswith("Confirmed: ablation costs memorized text more than the control.")
    row = found.table.sel(row="L1H1")
    difference = float(row["partial_spearman"] - row["partial_spearman_control"])
    assert float(row["less_than_control"]) == pytest.approx(difference)
    assert float(row["p_less_than_control"]) == float(row["p_less_than_twin"]) == pytest.approx(1 / 2001)
    assert bool(found.table["is_rare_token_head"].sel(row="L0H0"))
    assert float(found.table["p_less_than_control"].sel(row="L0H0")) > 0.05


def test_confirmation_names_every_control_that_the_ablation_was_held_against():
    worth = worth_of(SPECIFIC, p_more_than_control_own=SPECIFIC, p_more_than_held_out=SPECIFIC)
    found = memorization_head(conditions(), seed=0, worth=worth)
    assert found.confirmed == ("L1H1",)
    assert found.verdict.endswith("more than all of its controls (control, control_own, held_out).")


@pytest.mark.parametrize("name", ["twin", "control_own", "held_out"])
def test_every_control_of_the_ablation_can_refute(name):
    found = memorization_head(conditions(), seed=0, worth=worth_of(SPECIFIC, **{f"p_more_than_{name}": [1] * 6}))
    assert (found.candidates, found.confirmed) == (("L1H1",), ())
    why = f"ablation does not cost memorized text clearly more than all of its controls (control, {name})"
    assert found.verdict.endswith(f"Not confirmed: {why}.")


def test_a_candidate_is_not_confirmed_without_specific_ablation():
    for worth, why in (
        (None, "what ablation costs was not given"),
        (worth_of([1] * 6), "ablation does not cost memorized text clearly more than the control"),
        (worth_of(SPECIFIC).isel(row=[0, 1]), "what ablation costs was not given"),
    ):
        found = memorization_head(conditions(), seed=0, worth=worth)
        assert (found.candidates, found.confirmed) == (("L1H1",), ())
        assert found.verdict.startswith("L1H1 is a memorization-head candidate: it attends to rare tokens")
        assert found.verdict.endswith(f"Not confirmed: {why}.")


def test_candidates_that_were_not_ablated_are_named():
    results = conditions(control=[0] * 6, twin=[0] * 6)
    found = memorization_head(results, seed=0, worth=worth_of(SPECIFIC).isel(row=[4, 5]))
    assert (found.candidates, found.confirmed) == (("L0H0", "L1H1"), ("L1H1",))
    assert found.verdict.endswith("Confirmed: ablation costs memorized text more than the control. Not ablated: L0H0.")


def test_sets_are_compared_without_distance():
    """A head that looks at certain positions differs between sets in which rare tokens stand elsewhere."""
    other_places = conditions(control=[0] * 6, twin=[0] * 6)
    for one in other_places.values():
        one["partial_spearman"].values[:] = other_places["memorized"]["spearman"].values
    found = memorization_head(other_places, seed=0)
    assert float(found.table["spearman_control"].sel(row="L1H1")) == pytest.approx(0, abs=0.1)
    assert float(found.table["partial_spearman_control"].sel(row="L1H1")) == pytest.approx(-0.5, abs=0.1)
    assert (found.table["p_less_than_control"] > 0.9).all()
    assert found.candidates == ()
    assert "L0H0 attends to rare tokens" in found.verdict
    assert "but, distance left out, not clearly more than in never-seen text (-0.6" in found.verdict


def test_a_head_that_differs_but_not_over_token_types_is_no_candidate():
    """Paragraphs alone call a new taste for a frequent type a difference; many types must agree."""
    results = conditions()
    results["memorized"]["p_value"].values[0, 1, 1] = 0.2
    found = memorization_head(results, seed=0)
    assert float(found.table["p_less_than_control"].sel(row="L1H1")) < 0.01
    assert found.candidates == ()


def test_a_head_that_looks_at_rare_tokens_everywhere_is_no_candidate():
    found = memorization_head(conditions(memorized=ONE), seed=0, worth=worth_of([0.01] * 6))
    assert found.candidates == found.confirmed == ()
    assert found.verdict.startswith(
        "No head is a memorization-head candidate: L0H0 attends to rare tokens (Spearman -0.6"
    )
    assert "but, distance left out, not clearly more than in never-seen text (-0.6" in found.verdict
    assert "and under the twin (-0.6" in found.verdict


@pytest.mark.parametrize(("other", "words"), [("control", "in never-seen text"), ("twin", "under the twin")])
def test_one_control_is_enough_to_refute(other, words):
    found = memorization_head(conditions(**{other: BOTH}), seed=0)
    assert found.candidates == ()
    assert (
        f"not clearly more than {words}"
        in memorization_head(conditions(memorized=[0, 0, 0, 0, -0.5, 0], **{other: BOTH}), seed=0).verdict
    )
    assert found.verdict.endswith("Nor does any other rare-token head pass every test (1 more).")


def test_no_rare_token_head_is_said_plainly():
    found = memorization_head(conditions(memorized=[-0.1, 0, 0, 0, 0, 0]), seed=0)
    assert found.verdict.startswith("No head is a memorization-head candidate: none attends to rare tokens more than")
    assert "most negative: L0H0, Spearman -0.1" in found.verdict


def test_without_a_twin_the_verdict_says_so():
    found = memorization_head(conditions(twin=None), seed=0)
    assert found.candidates == ("L1H1",)
    assert found.verdict.endswith(
        "No twin was compared, so a head may pass that was like this before it read the text."
    )
    assert "p_less_than_twin" not in found.table


def test_several_candidates_are_listed():
    found = memorization_head(conditions(control=[0] * 6, twin=[0] * 6), seed=0)
    assert found.candidates == ("L0H0", "L1H1")
    assert found.verdict.startswith("L0H0 and L1H1 are memorization-head candidates: L0H0, the most negative, attends")


def test_where_nothing_differs_few_runs_find_a_candidate():
    """All six heads look at rare tokens, in every set alike: the tests allow for the best of many heads."""
    everywhere = [-0.5] * 6
    small = {"control": 0, "twin": 0}
    for seed in range(40):
        results = {
            name: made_up(everywhere, n=20, seed=100 * seed + place, model_hash="other" * (name == "twin"))
            for place, name in enumerate(("memorized", "control", "twin"))
        }
        table = memorization_head(results, seed=seed).table
        for name in small:
            small[name] += float(table[f"p_less_than_{name}"].min()) <= 0.05
    assert all(n <= 6 for n in small.values())


def test_near_duplicates_count_once_where_the_paragraphs_are_given():
    """Of forty rows that are copies of two paragraphs no difference can be told."""
    rows = torch.randint(101, (2, 24), generator=torch.Generator().manual_seed(0)).repeat(20, 1)
    others = torch.randint(101, (40, 24), generator=torch.Generator().manual_seed(1))
    sets = {"memorized": Paragraphs(rows, 12), "control": Paragraphs(others, 12)}
    known = memorization_head(conditions(), seed=0, sets=sets)
    assert known.candidates == ()
    assert float(known.table["p_less_than_twin"].sel(row="L1H1")) > 0.05
    assert memorization_head(conditions(), seed=0).candidates == ("L1H1",)


def test_what_cannot_be_compared_is_refused(found):
    results = conditions()
    for names in (["memorized"], ["control", "twin"], []):
        with pytest.raises(InputError, match="a memorization head needs results of 'memorized' and 'control', got"):
            memorization_head({name: results[name] for name in names}, seed=0)
    with pytest.raises(InputError, match="'control' and 'memorized' must be results for the same queries, layers and"):
        memorization_head(results | {"control": found}, seed=0)
    other = made_up(ONE, ids=[f"B{i}" for i in range(40)], model_hash="never read them")
    with pytest.raises(InputError, match="'twin' must hold the paragraphs of 'memorized', in their order"):
        memorization_head(results | {"twin": other}, seed=0)
    with pytest.raises(InputError, match="sets must hold the 40 paragraphs of 'memorized', in their order"):
        memorization_head(results, seed=0, sets={})
    for worth in (worth_of(SPECIFIC).assign_coords(row=list("abcdef")), xr.Dataset(coords={"row": ["L0H0"]})):
        with pytest.raises(InputError, match="worth must be a result of specificity over heads"):
            memorization_head(results, seed=0, worth=worth)
    for level in (0.0, 1.0):
        with pytest.raises(InputError, match=f"level must lie between 0 and 1, got {level}"):
            memorization_head(results, seed=0, level=level)
        with pytest.raises(InputError, match=f"level must lie between 0 and 1, got {level}"):
            rare_token_heads(found, seed=0, level=level)
    with pytest.raises(InputError, match="query must be one of the result's, 11, 10; got 3"):
        rare_token_heads(found, seed=0, query=3)
    with pytest.raises(InputError, match="clusters must name 6 paragraphs, got 2"):
        rare_token_heads(found, seed=0, clusters=np.arange(2))


@pytest.mark.parametrize("name", ["control", "twin"])
@pytest.mark.parametrize(
    ("setting", "value", "usual"),
    [("counts_hash", "other", "corpus"), ("skip_first", 1, 0), ("n_prefix", 11, 12), ("n_rarest", 3, 5)],
)
def test_results_that_were_asked_otherwise_are_refused(name, setting, value, usual):
    results = conditions()
    results[name].attrs[setting] = value
    message = f"'{name}' and 'memorized' must have the same {setting}, got {value} and {usual}; compute both with"
    with pytest.raises(InputError, match=message):
        memorization_head(results, seed=0)


def test_results_of_other_models_or_queries_are_refused(found):
    results = conditions()
    with pytest.raises(InputError, match="'control' and 'memorized' must be results for the same queries"):
        memorization_head({"memorized": found, "control": found.isel(query=[0])}, seed=0)
    with pytest.raises(InputError, match="'control' and 'memorized' must be results of the same model"):
        memorization_head(results | {"control": made_up(ONE, model_hash="another")}, seed=0)
    with pytest.raises(InputError, match="'twin' must be a result of another model, one that never read the memorized"):
        memorization_head(results | {"twin": made_up(ONE)}, seed=0)
    with pytest.raises(InputError, match="worth must be of the model of 'memorized', whose heads are judged"):
        memorization_head(results, seed=0, worth=worth_of(SPECIFIC).assign_attrs(model_hash="another"))
