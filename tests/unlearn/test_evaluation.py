import copy
import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch

from memhooks.errors import InputError
from memhooks.measure.intervals import bootstrap_mean
from memhooks.measure.recitation import with_own_continuation
from memhooks.model.hooks import hooked
from memhooks.model.labelled import save_result
from memhooks.model.loading import load_model
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.unlearn.evaluation import evaluate, summary_row, untouched
from memhooks.unlearn.forgotten import forgotten
from memhooks.unlearn.kept import generation_health, held_out_kept, others_kept
from memhooks.unlearn.privacy import auc, membership_scores
from tests.conftest import tiny_neo

CORE = [
    "forget: exact match",
    "forget: longest run",
    "forget: NLL",
    "forget: matching positions",
    "forget: recited in full",
    "others: exact match",
    "others: longest run",
    "others: NLL",
    "others: recited in full",
    "held out: exact match of its own continuation",
    "held out: longest run of its own continuation",
    "held out: NLL of its own continuation",
    "held out: KL",
    "held out: same most likely token",
    "held out: NLL",
    "held out: KL, 99th percentile of tokens",
    "held out: perplexity",
    "held out: perplexity ratio",
]


@pytest.fixture
def sets(model):
    """Four paragraphs to forget and five others, which the model recites in full, and eight that it does not."""
    tokens = torch.randint(101, (17, 24), generator=torch.Generator().manual_seed(2))
    rows = Paragraphs(tokens, 12, ids=tuple(f"P{row}" for row in range(17)))
    known = with_own_continuation(model, rows.select(slice(0, 9)))
    return {
        "forget": known.select(slice(0, 4)),
        "others": known.select(slice(4, 9)),
        "held_out": rows.select(slice(9, 17)),
    }


@pytest.fixture
def twin():
    return load_model(tiny_neo(seed=9))


def measured(model, sets, **settings):
    return untouched(model, sets["forget"], others=sets["others"], held_out=sets["held_out"], **settings)


@torch.no_grad()
def add_noise_(model, size, seed=0):
    draw = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.add_(size * weight.std() * torch.randn(weight.shape, generator=draw))


def column(tree, name):
    rows = tree["summary"].to_dataset()
    return dict(zip(rows["row"].values.tolist(), rows[name].values.tolist(), strict=True))


@pytest.mark.parametrize("measures", ["core", "all"])
def test_an_unchanged_model_against_itself_has_forgotten_and_lost_nothing(model, sets, twin, measures):
    tree = evaluate(model, measured(model, sets, twin=twin, measures=measures))
    change, after = column(tree, "change"), column(tree, "after")
    assert all(abs(value) <= 1e-6 for value in change.values()), change
    assert after["held out: KL"] <= 1e-6
    assert after["held out: KL, 99th percentile of tokens"] <= 1e-6
    assert after["held out: perplexity ratio"] == pytest.approx(1, abs=1e-6)
    assert after["held out: exact match of its own continuation"] == 12
    assert after["held out: same most likely token"] == 1
    assert after["forget: exact match"] == 12
    assert after["others: recited in full"] == 1


def test_the_more_noise_the_worse(model, sets):
    before = measured(model, sets)
    found = []
    for size in (0.02, 0.5):
        changed = copy.deepcopy(model)
        add_noise_(changed, size)
        found.append(summary_row(evaluate(changed, before)))
    some, much = found
    for label in ("held out: KL", "held out: KL, 99th percentile of tokens", "forget: NLL", "others: NLL"):
        assert 0 < some[label] < much[label]
    for label in ("held out: same most likely token", "held out: exact match of its own continuation"):
        assert some[label] > much[label]
    assert much["others: exact match, change"] < some["others: exact match, change"] <= 0
    assert much["others: exact match, change"] == much["others: exact match"] - 12


def test_every_row_and_node_equals_the_measures_on_their_own(model, sets, twin):
    before = measured(model, sets, twin=twin, measures="all", seed=4)
    was = copy.deepcopy(model)
    add_noise_(model, 0.1)
    tree = evaluate(model, before)
    rows = tree["summary"].to_dataset()
    known = {"before": forgotten(was, sets["forget"], measures="all", seed=4)}
    known["after"] = forgotten(model, sets["forget"], measures="all", seed=4)
    known["twin"] = forgotten(twin, sets["forget"], measures="all", seed=4)
    for name, result in known.items():
        for variable in result:
            assert (tree["forget"][f"{variable}_{name}"].values == result[variable].values).all()
        assert column(tree, name)["forget: NLL"] == pytest.approx(float(result["nll"].mean()))
    nll = {name: result["nll"].values for name, result in known.items()}
    ratio = column(tree, "after")["forget: NLL over the twin's"]
    assert ratio == pytest.approx(nll["after"].mean() / nll["twin"].mean())
    assert ratio != pytest.approx((nll["after"] / nll["twin"]).mean(), rel=1e-9)
    change = bootstrap_mean(nll["after"] - nll["before"], seed=4, clusters=before.clusters["forget"])
    found = rows.sel(row="forget: NLL")
    for value, end in zip(change, ("", "_low", "_high"), strict=True):
        assert found[f"change{end}"].item() == pytest.approx(float(value))
    others, text = others_kept(model, sets["others"]), held_out_kept(model, before.reference)
    assert column(tree, "after")["others: exact match"] == others["exact_match"].values.mean()
    assert (tree["held_out"]["kl_by_token_after"].values == text["kl_by_token"].values).all()
    assert column(tree, "after")["held out: KL"] == pytest.approx(float(text["kl_by_token"].mean()))
    said = generation_health(model, sets["held_out"])
    assert column(tree, "after")["held out, spoken: entropy"] == pytest.approx(float(said["entropy"].mean()))
    for name, which in {"before": was, "after": model, "twin": twin}.items():
        one, other = (membership_scores(which, sets[each])["min_k_pp"].values for each in ("forget", "held_out"))
        assert column(tree, name)["membership AUC: min-k++"] == pytest.approx(auc(one, other))


def test_the_core_has_its_rows_with_intervals_and_words(model, sets):
    before = measured(model, sets)
    add_noise_(model, 0.1)
    rows = evaluate(model, before)["summary"].to_dataset()
    assert rows["row"].values.tolist() == CORE
    for name in ("before", "after", "change"):
        assert (rows[f"{name}_low"].values <= rows[name].values + 1e-9).all()
        assert (rows[name].values <= rows[f"{name}_high"].values + 1e-9).all()
    spread = rows.sel(row=[label for label in CORE if "in full" not in label])  # which is 0 for all
    assert (spread["after_low"] < spread["after_high"]).values.all()
    assert np.isnan(rows["twin"].values).all()
    assert set(rows["about"].values) == {"forgotten", "kept"}
    assert all(rows["unit"].values)
    assert all(rows["ideal"].values)


def test_em_is_never_reported_alone(model, sets, twin):
    tree = evaluate(model, measured(model, sets, twin=twin, measures="all"))
    labels = tree["summary"]["row"].values.tolist()
    for label in labels:
        if "exact match" in label:
            assert label.replace("exact match", "longest run") in labels
            assert label.replace("exact match", "NLL") in labels
    assert {"forgotten", "kept", "privacy"} == set(tree["summary"]["about"].values)
    assert not np.isnan(tree["summary"]["after"].values).any()


def test_one_paragraph_has_numbers_without_intervals(model, sets):
    alone = sets | {"forget": sets["forget"].select([0])}
    rows = evaluate(model, measured(model, alone))["summary"].to_dataset()
    row = rows.sel(row="forget: exact match")
    assert row["after"].item() == 12
    assert np.isnan(row["after_low"].item())


def test_less_may_be_asked_for_later_but_not_more(model, sets, twin):
    full = measured(model, sets, twin=twin, measures="all")
    core = evaluate(model, full, measures="core")
    assert set(CORE) <= set(core["summary"]["row"].values.tolist())
    assert "nll_last_10_after" not in core["forget"]
    assert "nll_last_10_before" not in core["forget"]
    with pytest.raises(InputError, match=r"only 'core' was measured before .* untouched\(\.\.\., measures='all'\)"):
        evaluate(model, measured(model, sets), measures="all")


def test_the_row_of_a_larger_table(model, sets):
    found = summary_row(evaluate(model, measured(model, sets)))
    assert list(found) == [*CORE, *(f"{label}, change" for label in CORE)]
    assert all(isinstance(value, float) for value in found.values())


def test_results_can_be_saved_and_what_is_measured_leaves_no_trace(model, sets, twin, tmp_path):
    weights = {name: weight.clone() for name, weight in model.named_parameters()}
    before = measured(model, sets, twin=twin, measures="all")
    assert "4 forget, 5 others, 8 held_out, all, with twin" in repr(before)
    save_result(evaluate(model, before), tmp_path / "evaluation.nc")
    assert all(torch.equal(weight, weights[name]) for name, weight in model.named_parameters())
    assert all(weight.grad is None for weight in model.parameters())
    assert not any(point.fwd_hooks for point in model.hook_dict.values())
    assert torch.is_grad_enabled()


def test_sets_that_share_near_duplicates_are_refused(model, sets):
    sets["held_out"].tokens[3] = sets["forget"].tokens[1]
    with pytest.raises(
        InputError, match=r"forget and held_out share .* P1 of forget and P12 of held_out; .*allow_shared"
    ):
        measured(model, sets)
    assert evaluate(model, measured(model, sets, allow_shared=True))


def test_unusable_sets_and_settings_are_refused(model, sets, twin):
    shorter = sets["others"].tokens[:, :20]
    with pytest.raises(InputError, match=r"equal lengths, got forget 12 \+ 12, others 12 \+ 8, held_out 12 \+ 12"):
        measured(model, sets | {"others": Paragraphs(shorter, 12)})
    with pytest.raises(InputError, match="token ids must lie in"):
        measured(model, sets | {"others": replace(sets["others"], tokens=sets["others"].tokens + 90)})
    with pytest.raises(InputError, match="measures must be 'core' or 'all', got 'some'"):
        inspect.unwrap(untouched)(
            model, sets["forget"], others=sets["others"], held_out=sets["held_out"], measures="some"
        )
    with pytest.raises(InputError, match="measures must be 'core' or 'all', got 'some'"):
        inspect.unwrap(evaluate)(model, measured(model, sets), measures="some")
    with pytest.raises(InputError, match="must have the model's vocabulary of 101 tokens, it has 103"):
        measured(model, sets, twin=load_model(tiny_neo(vocab=103)))


def test_models_that_are_not_what_their_weights_say_are_refused(model, sets, twin):
    before = measured(model, sets)
    message = r"of the weights alone, and the {} has a hook at blocks\.0\.hook_mlp_out; leave its block"
    hooks = [("blocks.0.hook_mlp_out", lambda tensor, hook: None)]
    with pytest.raises(InputError, match=message.format("model")), hooked(model, hooks):
        evaluate(model, before)
    with pytest.raises(InputError, match=message.format("model")), hooked(model, hooks):
        measured(model, sets)
    with pytest.raises(InputError, match=message.format("twin")), hooked(twin, hooks):
        measured(model, sets, twin=twin)
    model.train()
    with pytest.raises(InputError, match="train mode"):
        evaluate(model, before)


@pytest.mark.parametrize("other", [{"layers": 2}, {"vocab": 103}, {"d_model": 16}])
def test_another_model_than_measured_is_refused(model, sets, other):
    message = r"another model was measured before: 4 layers of width 32 and 101 tokens, this one has .*; call untouched"
    with pytest.raises(InputError, match=message):
        evaluate(load_model(tiny_neo(**other)), measured(model, sets))


def test_the_twin_is_what_forgetting_should_end_in(organism, twin_of_organism):
    from memhooks.organism.paragraphs import load_controls, load_planted

    planted = load_planted("A", at_least=64).sample(4, seed=0)
    sets = {
        "forget": planted.select([0, 1]),
        "others": planted.select([2, 3]),
        "held_out": load_controls("held_out").sample(4, seed=0),
    }
    tree = evaluate(twin_of_organism, measured(organism, sets, twin=twin_of_organism, measures="all"))
    after, ideal = column(tree, "after"), column(tree, "twin")
    assert column(tree, "before")["membership AUC: loss"] == 1
    assert after["forget: NLL over the twin's"] == pytest.approx(1)
    assert after["forget: KL from the twin"] <= 1e-6
    for label, value in ideal.items():
        if not np.isnan(value):
            assert after[label] == pytest.approx(value)
    assert after["forget: exact match"] < 10 < column(tree, "before")["forget: exact match"]


@pytest.fixture
def twin_of_organism():
    return load_model("organism-twin")
