"""Results as pandas frames: nothing is lost on the way, and what cannot come back is refused."""

import inspect

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from memhooks.errors import InputError
from memhooks.localize.ablation import ablation_table
from memhooks.localize.attention import rare_token_attention
from memhooks.localize.attribution import weight_scores
from memhooks.localize.each_part import silence_heads
from memhooks.localize.logit_lens import logit_lens
from memhooks.localize.patching import patch
from memhooks.localize.specificity import specificity
from memhooks.measure.perturbation import perturb
from memhooks.measure.recitation import recitation
from memhooks.model.frames import from_pandas, to_pandas
from memhooks.model.labelled import Variable, labelled, load_result, save_result
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.unlearn.evaluation import evaluate, untouched


@pytest.fixture(scope="module")
def made(hooked_source):
    """A result of every kind."""
    model, tokens = hooked_source, torch.randint(101, (4, 16), generator=torch.Generator().manual_seed(2))
    rows = Paragraphs(tokens[:2], n_prefix=8, ids=("007", "NA"))
    others = Paragraphs(tokens[2:], n_prefix=8, ids=("b", "a"))
    worth = {"memorized": silence_heads(model, rows), "control": silence_heads(model, others)}
    one = labelled({"seed": 0}, mean=Variable(np.array(0.1, dtype=np.float32), (), "nats"))
    tree = evaluate(model, untouched(model, rows, others=others, held_out=others))
    return {
        "recitation": recitation(model, rows),
        "perturb": perturb(model, rows, seed=0, n_draws=2),
        "weight_scores": weight_scores(model, rows),
        "silence_heads": worth["memorized"],
        "specificity": specificity(worth, seed=0),
        "logit_lens": logit_lens(model, rows),
        "patch": patch(model, rows, others, sites=("z",)),
        "ablation_table": ablation_table(model, {"memorized": rows}, heads=[(0, 1)]),
        "rare_token_attention": rare_token_attention(
            model, rows, torch.arange(101), seed=0, n_shuffles=3, queries=[5, 7]
        ),
        "evaluate": tree["summary"].to_dataset(),
        "forgotten": tree["forget"].to_dataset(),
        "one value": one,
        "one head": worth["memorized"].sel(head=2),
        "unlabelled": xr.Dataset({"x": (("layer", "head"), np.arange(6).reshape(2, 3))}),
    }


def same(found, result):
    xr.testing.assert_identical(found, result)
    for name in result.variables:
        assert found[name].dtype == result[name].dtype, name
        assert found[name].dims == result[name].dims, name


def test_every_kind_of_result_comes_back_identical(made, tmp_path):
    for result in made.values():
        frames = to_pandas(result)
        same(from_pandas(frames), result)
        for key, frame in frames.items():
            frame.to_parquet(tmp_path / f"{key}.parquet")
        same(from_pandas({key: pd.read_parquet(tmp_path / f"{key}.parquet") for key in frames}), result)


def test_a_result_that_was_saved_comes_back_identical(made, tmp_path):
    save_result(made["perturb"], tmp_path / "perturb.nc")
    saved = load_result(tmp_path / "perturb.nc")
    same(from_pandas(to_pandas(saved)), saved)


def test_rows_are_the_combinations_in_order(made):
    result, frames = made["perturb"], to_pandas(made["perturb"])
    assert list(frames) == ["paragraph, draw, pos", "paragraph"]
    frame, i = frames["paragraph, draw, pos"], 0
    for paragraph in result["paragraph"].values:
        for draw in result["draw"].values:
            for pos in result["pos"].values:
                row = frame.iloc[i]
                assert (row["paragraph"], row["draw"], row["pos"]) == (paragraph, draw, pos)
                assert row["nll_rise"] == result["nll_rise"].sel(paragraph=paragraph, draw=draw, pos=pos).item()
                i += 1
    assert len(frame) == i
    assert frame.attrs["units"]["nll_rise"] == result["nll_rise"].attrs["units"]
    assert frame.attrs["provenance"] == result.attrs


def test_csv_loses_units_provenance_and_types_and_nothing_else(made, tmp_path):
    result, text = made["recitation"], {"paragraph": str}
    frames, read = to_pandas(result), {}
    for key, frame in frames.items():
        frame.to_csv(tmp_path / "frame.csv", index=False)
        read[key] = pd.read_csv(
            tmp_path / "frame.csv",
            dtype=text,
            keep_default_na=False,
            na_values={"nll": [""]},
        )
    with pytest.raises(InputError, match=r"lacks attrs units, provenance, columns, which CSV .* drop; set frame.attrs"):
        from_pandas(read)
    for key, frame in frames.items():
        read[key].attrs = frame.attrs
    same(from_pandas(read), result)


def test_rows_may_be_shuffled_and_whole_labels_dropped(made):
    result = made["patch"]
    shuffled = {key: frame.sample(frac=1.0, random_state=0) for key, frame in to_pandas(result).items()}
    found = from_pandas(shuffled)
    xr.testing.assert_identical(found.sel({axis: result[axis] for axis in result.indexes}), result)
    fewer = {key: frame[frame["paragraph"] == "NA"] for key, frame in to_pandas(result).items()}
    same(from_pandas(fewer), result.sel(paragraph=["NA"]))
    turned = {key: frame[::-1] for key, frame in to_pandas(made["unlabelled"]).items()}
    same(from_pandas(turned), made["unlabelled"])


def test_one_frame_gives_its_own_variables(made):
    result = made["recitation"]
    own = [name for name, one in result.data_vars.items() if one.dims == ("paragraph",)]
    same(from_pandas(to_pandas(result)["paragraph"]), result[own])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: pd.concat([f, f.head(1)]), "'paragraph, pos' has more than one row for paragraph 007, pos 8"),
        (lambda f: f.drop(index=1), "'paragraph, pos' has no row for paragraph 007, pos 9; it needs one"),
        (lambda f: f.assign(extra=1), "has columns that no result had: extra; drop them first"),
        (lambda f: f.drop(columns="nll"), "lacks the columns nll; keep every column"),
        (lambda f: f.assign(nll="many"), "nll must hold float32: could not convert"),
        (lambda f: f.assign(said=0.5), "said must hold int64, got 0.5"),
        (lambda f: f.assign(said=np.nan), "said must hold int64: cannot convert float NaN"),
        (lambda f: f.replace({"paragraph": {"NA": "B"}}), "other labels of paragraph than frames before it"),
        (
            lambda f: f.merge(f[["pos"]].drop_duplicates(), on="pos").pipe(lambda g: pd.DataFrame(dict(g))),
            "lacks attrs",
        ),
    ],
)
def test_frames_that_cannot_come_back_are_refused(made, spoil, message):
    frames = to_pandas(made["recitation"])
    spoilt = spoil(frames["paragraph, pos"])
    if "attrs" not in message:
        spoilt.attrs = frames["paragraph, pos"].attrs
    with pytest.raises(InputError, match=message):
        from_pandas({"paragraph": frames["paragraph"], "paragraph, pos": spoilt})


def test_labels_read_as_numbers_are_refused(made):
    frame = to_pandas(made["recitation"])["paragraph"]
    frame["paragraph"] = [7, 8]
    with pytest.raises(InputError, match=r"paragraph must hold str.*, got 7; text is read with dtype=str"):
        from_pandas(frame)


def test_frames_of_different_results_are_refused(made):
    mixed = {"a": to_pandas(made["recitation"])["paragraph"], "b": to_pandas(made["perturb"])["paragraph"]}
    with pytest.raises(InputError, match="come from different results: their provenance differs"):
        from_pandas(mixed)
    with pytest.raises(InputError, match="no frames; pass what to_pandas returned"):
        from_pandas({})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda made: xr.DataTree.from_dict(made), r"a tree of several results \(recitation, .*take one"),
        (
            lambda made: made["recitation"]["nll"],
            r"a single array has no provenance; take the Dataset: result\[\['nll'\]\]",
        ),
        (lambda made: {"nll": 1}, "must be an xarray Dataset, such as recitation returns, got dict"),
        (lambda made: xr.Dataset(), "has no variables"),
        (lambda made: made["one value"].assign_attrs(model=object()), "of the result must be numbers and text"),
    ],
)
def test_what_is_no_result_is_refused(made, spoil, message):
    with pytest.raises(InputError, match=message):
        inspect.unwrap(to_pandas)(spoil(made))
