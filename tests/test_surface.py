"""The names at the top: what they are, where the others went, how they are called, what they leave alone."""

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import xarray as xr

import memhooks
from memhooks.localize.attribution import weight_gradients
from memhooks.paragraphs.paragraphs import Paragraphs

TEXTS = torch.randint(101, (6, 16), generator=torch.Generator().manual_seed(4))
ROWS, RETAINED, OTHERS = (Paragraphs(TEXTS[i : i + 2], 8) for i in (0, 2, 4))
DATA = {  # may be given without a name; everything else is a setting
    *("model", "paragraphs", "paragraph", "sets", "source", "tokens", "n_prefix", "folder", "places", "place", "clean"),
    *("which", "domain", "d_vocab", "results", "result", "counts", "scores", "like", "forget", "retain", "mask"),
    *("before", "figure", "path", "frames", "settings", "left_out"),
}


def test_dir_and_tab_completion_show_the_public_names_alone():
    assert 30 <= len(memhooks.__all__) <= 36
    assert dir(memhooks) == sorted(memhooks.__all__)
    assert set(memhooks._HOME) == set(memhooks.__all__)


@pytest.mark.parametrize("name", memhooks.__all__)
def test_every_name_is_that_of_its_file(name):
    home = importlib.import_module(f"memhooks.{memhooks._HOME[name]}")
    assert getattr(memhooks, name) is getattr(home, name)


def test_the_names_are_typed_as_they_are_imported():
    """What a type checker reads is what Python imports."""
    source = Path(memhooks.__file__).read_text("utf8")
    typed = dict.fromkeys(memhooks.__all__, "")
    for module, names in re.findall(r"^    from memhooks\.([\w.]+) import (.+)$", source, re.MULTILINE):
        typed.update(dict.fromkeys(names.split(", "), module))
    assert typed == memhooks._HOME
    assert (Path(memhooks.__file__).parent / "py.typed").is_file()


def test_nothing_is_imported_before_it_is_used():
    script = "import sys, memhooks; dir(memhooks); assert not {'torch', 'xarray', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_no_file_beside_them_hides_a_name():
    """Once imported, memhooks/explore.py would stand where the function explore is looked for."""
    assert not {path.stem for path in Path(memhooks.__file__).parent.iterdir()} & set(memhooks.__all__)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("patch_pairs", "not among the names at the top; from memhooks.localize.patch_pairs import patch_pairs"),
        ("OBJECTIVES", "from memhooks.unlearn.objectives import OBJECTIVES"),
        ("Delta", "from memhooks.unlearn.delta import Delta"),
        ("Cell", "attention_types import Cell, or from memhooks.localize.patch_grid import Cell"),
        ("recitatoin", "no attribute 'recitatoin'; did you mean recitation"),
        ("qqq", "no attribute 'qqq'; dir.memhooks. lists its names"),
    ],
)
def test_a_name_that_moved_says_where_it_is(name, message):
    with pytest.raises(AttributeError, match=message):
        getattr(memhooks, name)


def test_a_module_that_was_not_imported_is_named():
    script = "import memhooks\ntry: memhooks.truth\nexcept AttributeError as error: print(error)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "memhooks.truth is a module that was not imported; import memhooks.truth" in done.stdout
    assert not hasattr(memhooks, "__wrapped__")


@pytest.mark.parametrize("name", memhooks.__all__)
def test_settings_are_given_by_name(name):
    value = getattr(memhooks, name)
    if name in ("InputError", "LOCALIZERS"):
        return
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [one.name for one in inspect.signature(value).parameters.values() if one.kind in kinds]
    assert len(positional) <= 4
    assert set(positional) <= DATA


@pytest.mark.parametrize("localize", memhooks.LOCALIZERS, ids=lambda one: getattr(one, "__name__", type(one).__name__))
def test_a_localizer_takes_its_settings_by_name(localize):
    *given, seed = inspect.signature(localize).parameters.values()
    assert [one.name for one in given] == ["model", "forget", "retain"]
    assert (seed.name, seed.kind) == ("seed", inspect.Parameter.KEYWORD_ONLY)


def unlearnt(model):
    mask = memhooks.top_weights(weight_gradients(model, ROWS), fraction=0.01)
    return memhooks.unlearning_delta(model, ROWS, RETAINED, mask, recipe=memhooks.Recipe(n_steps=2)).delta.new


def evaluated(model):
    before = memhooks.untouched(model, ROWS, others=RETAINED, held_out=OTHERS)
    return memhooks.evaluate(model, before)["summary"].to_dataset()["after"]


MEASURES = {
    "recitation": lambda model: memhooks.recitation(model, ROWS)["nll"],
    "perturb": lambda model: memhooks.perturb(model, ROWS, seed=0)["nll_rise"],
    "ablation_table": lambda model: memhooks.ablation_table(model, {"a": ROWS}, heads=[(0, 1)])["nll_rise"],
    "patch": lambda model: memhooks.patch(model, ROWS, OTHERS, sites=("z",))["nll_change"],
    "silence_heads": lambda model: memhooks.silence_heads(model, ROWS)["nll_rise"],
    "logit_lens": lambda model: memhooks.logit_lens(model, ROWS)["nll"],
    "weight_scores": lambda model: memhooks.weight_scores(model, ROWS)["l1_gradient"],
    "rare_token_attention": lambda model: memhooks.rare_token_attention(
        model, ROWS, torch.arange(101), seed=0, n_shuffles=2
    )["pearson"],
    "unlearning_delta": unlearnt,
    "untouched, evaluate": evaluated,
} | {
    f"LOCALIZERS[{i}]": lambda model, localize=localize: localize(model, ROWS, RETAINED, seed=0)
    for i, localize in enumerate(memhooks.LOCALIZERS)
}


def plain(found):
    if isinstance(found, dict):
        return {name: plain(one) for name, one in found.items()}
    return found.values.tolist() if isinstance(found, xr.DataArray) else found.tolist()


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_measures_work_where_gradients_are_switched_off(measure, model):
    expected = plain(measure(model))
    with torch.no_grad():
        assert str(plain(measure(model))) == str(expected)
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        assert str(plain(measure(model))) == str(expected)
        assert torch.is_inference_mode_enabled()
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())


def test_a_model_loaded_where_gradients_are_switched_off_is_like_any_other(neo_source, model):
    with torch.inference_mode():
        made, rows = memhooks.load_model(neo_source), Paragraphs(TEXTS[:2].clone(), 8)
        assert rows.tokens.is_inference()
    assert not any(weight.is_inference() for weight in made.parameters())
    found = memhooks.weight_scores(made, rows)["l1_gradient"]
    assert (found == memhooks.weight_scores(model, ROWS)["l1_gradient"]).all()
