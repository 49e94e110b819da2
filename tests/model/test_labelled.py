import numpy as np
import pytest
import torch
import xarray as xr

from memhooks.errors import InputError
from memhooks.model.labelled import Variable, labelled, load_result, save_result


def test_values_axes_units_and_provenance_are_kept():
    result = labelled(
        {"seed": 3, "many": [1, 2]}, a=Variable(torch.ones(2, 3), ("layer", "head"), "nats", {"layer": [4, 5]})
    )
    assert result["a"].dims == ("layer", "head")
    assert result["a"].attrs["units"] == "nats"
    assert result["layer"].values.tolist() == [4, 5]
    assert (result.attrs["seed"], result.attrs["many"]) == (3, "[1, 2]")


def test_a_stray_axis_name_is_an_error():
    with pytest.raises(ValueError, match="axes of 'a' must be among paragraph, pos"):
        labelled({}, a=Variable(np.zeros(2), ("token",), "nats"))


def test_a_failed_write_leaves_the_old_result(tmp_path, monkeypatch):
    path = tmp_path / "r.nc"
    save_result(labelled({}, a=Variable(np.zeros(2), ("pos",), "nats")), path)

    def full_disk(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_result(labelled({}, a=Variable(np.ones(2), ("pos",), "nats")), path)
    assert load_result(path)["a"].values.tolist() == [0, 0]


def test_a_missing_result_is_named(tmp_path):
    with pytest.raises(InputError, match="no result file at"):
        load_result(tmp_path / "x.nc")
