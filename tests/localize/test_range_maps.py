import inspect

import numpy as np
import pytest

from memhooks.errors import InputError
from memhooks.localize.attribution import weight_gradients
from memhooks.localize.range_maps import range_maps
from memhooks.measure.recitation import recitation, with_own_continuation
from memhooks.model.components import components, head_view

EM = np.array([12, 0, 1, 12, 5, 12])  # bins of 12 tokens: 0-2, 3-7, 8-11, 12


@pytest.mark.parametrize("reference", ["own", "true"])
def test_maps_equal_the_gradient_of_each_bins_first_rows(model, paragraphs, reference):
    found = range_maps(model, paragraphs, exact_match=EM, reference=reference, most=2)
    assert found["row"].values.tolist() == ["0-2", "3-7", "12"]
    assert found["n_paragraphs"].values.tolist() == [2, 1, 2]
    for row, chosen in (("0-2", [1, 2]), ("3-7", [4]), ("12", [0, 3])):
        rows = paragraphs.select(chosen)
        rows = with_own_continuation(model, rows) if reference == "own" else rows
        gradients, one = weight_gradients(model, rows), found.sel(row=row)
        maxima = np.zeros((4, 18))
        sums = {"attn": np.zeros(4), "mlp": np.zeros(4)}
        for number, cell in enumerate(components(model)):
            view = head_view(gradients[cell.parameter_name], cell).abs()
            maxima[divmod(number, 18)] = view.max()
            sums[cell.parameter_name.split(".")[2]][cell.layer] += view.sum()
        assert one["max_gradient"].values == pytest.approx(maxima, rel=1e-5, abs=1e-5)
        assert one["layer_sum"].values == pytest.approx(maxima.sum(1), rel=1e-5)
        assert float(one["grad_sum"]) == pytest.approx(maxima.sum(), rel=1e-5)
        assert float(one["grad_var"]) == pytest.approx(np.var(maxima, ddof=1), rel=1e-5)
        assert one["attention"].values == pytest.approx(sums["attn"], rel=1e-5)
        assert one["mlp"].values == pytest.approx(sums["mlp"], rel=1e-5)
        assert float(one["nll"]) == pytest.approx(float(recitation(model, rows)["nll"].mean()), rel=1e-5)


def test_em_is_measured_where_none_is_given(model, paragraphs):
    own = with_own_continuation(model, paragraphs)
    assert range_maps(model, own)["row"].values.tolist() == ["12"]


def test_unusable_input_is_refused(model, paragraphs):
    with pytest.raises(InputError, match="one number for each of 6 paragraphs, got 5"):
        range_maps(model, paragraphs, exact_match=EM[:5])
    with pytest.raises(InputError, match=r"no paragraph is in any bin: exact matches must lie in 0\.\.12"):
        range_maps(model, paragraphs, exact_match=EM + 20)
    with pytest.raises(InputError, match="reference must be one of true, own, got 'file'"):
        inspect.unwrap(range_maps)(model, paragraphs, reference="file")
