import json

import numpy as np
import pytest
import torch
import xarray as xr

from memhooks.errors import InputError
from memhooks.measure.recitation import recitation
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.report.page import safe_json
from memhooks.report.viewer import viewer_data
from memhooks.study.viewed import viewed_result


def test_viewed_result_equals_a_full_pass(model, paragraphs):
    found = viewed_result(model, paragraphs, heads=[(1, 2)])
    n = paragraphs.n_prefix
    with torch.no_grad():
        logits, cache = model.run_with_cache(paragraphs.tokens)
    log = logits.log_softmax(-1)[:, n - 1 : -1]
    nll = -log.gather(-1, paragraphs.continuation[..., None])[..., 0]
    np.testing.assert_allclose(found["nll"].values[:, n:], nll, rtol=1e-5, atol=1e-5)
    assert found["nll"].isel(pos=slice(0, n)).isnull().all()
    np.testing.assert_array_equal(found["said"].values[:, n:], log.argmax(-1))
    np.testing.assert_array_equal(found["tokens"], paragraphs.tokens)
    np.testing.assert_array_equal(found["exact_match"], recitation(model, paragraphs)["exact_match"])
    patterns = torch.stack([cache["pattern", layer][:, :, n - 1, :n] for layer in range(model.cfg.n_layers)], dim=1)
    seen = found["attention"]
    np.testing.assert_allclose(seen.sel(row="L1H2"), patterns[:, 1, 2], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(seen.sel(row="all heads"), patterns.mean((1, 2)), rtol=1e-5, atol=1e-5)


def test_viewed_result_refuses_what_a_page_would_not_show(model, paragraphs):
    with pytest.raises(InputError, match=r"L4H0 is not a head of this model; layers are 0\.\.3, heads 0\.\.3"):
        viewed_result(model, paragraphs, heads=[(4, 0)])
    many = Paragraphs(torch.zeros(201, 4, dtype=torch.long), n_prefix=2)
    with pytest.raises(InputError, match="up to 200 paragraphs of a set, got 201"):
        viewed_result(model, many, heads=[])


def test_the_viewers_data_are_the_results_own(model, paragraphs):
    viewed = viewed_result(model, paragraphs, heads=[(0, 1)])
    n = paragraphs.n_prefix
    rise = np.random.default_rng(0).normal(size=(2, 3, n))
    effect = xr.Dataset({"nll_rise": (("paragraph", "draw", "pos"), rise)}, {"paragraph": ["4", "1"]})
    after = xr.Dataset(
        {"nll": (("paragraph", "pos"), np.full((1, 12), 5.0)), "said": (("paragraph", "pos"), np.full((1, 12), 100))},
        {"paragraph": ["1"]},
    )
    results = {
        "viewed": {"control": viewed, "memorized": viewed},
        "perturbation": {"memorized": effect},
        "unlearned_tokens": {"after": after},
    }
    data = viewer_data(results, "t{}".format)
    assert data["sets"] == ["memorized (A)", "never seen (C)"]
    shown = data["paragraphs"]
    assert [one["id"] for one in shown] == ["1", "4", "0", "2", "3", "5", *"012345"]  # what most was measured of first
    assert [data["texts"][one] for one in shown[0]["tokens"]] == [f"t{one}" for one in paragraphs.tokens[1].tolist()]
    assert shown[1]["prefix"]["effect"] == pytest.approx(rise[0].mean(0), rel=1e-2)
    assert shown[0]["surprise"] == pytest.approx(viewed["nll"].values[1, n:], rel=1e-2)
    assert [one["em"] for one in shown[6:]] == viewed["exact_match"].values.tolist()
    assert shown[0]["after"]["nll"] == 5.0
    assert [data["texts"][one] for one in shown[0]["after"]["said"]] == ["t100"] * 12
    assert all(one["after"] is None for one in shown[1:])
    assert [one["key"] for one in data["prefix"]] == ["effect", "L0H1", "all heads"]
    assert json.loads(safe_json(data)) == data


def test_without_texts_ids_are_shown_and_without_paragraphs_nothing(model, paragraphs):
    data = viewer_data({"viewed": {"memorized": viewed_result(model, paragraphs, heads=[])}})
    assert data["texts"][0] == str(int(paragraphs.tokens[0, 0]))
    assert viewer_data({}) is None


def test_json_cannot_leave_its_script():
    text = "</script><!-- & \u2028\u2029 \ud800 \0"
    inside = str(safe_json([text]))
    assert not set("<>&\u2028\u2029\ud800\0") & set(inside)
    assert json.loads(inside) == [text]
