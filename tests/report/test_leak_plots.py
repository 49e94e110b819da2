import numpy as np
import pytest
import xarray as xr

from memhooks.report.leak_plots import plot_leak
from memhooks.report.theme import COLOURS


@pytest.fixture
def table():
    rows = [(level, step) for level in (0, 1, 8) for step in (0, 5, 10)]
    columns = {"level": [level for level, _ in rows], "step": [step for _, step in rows]}
    for place, name in enumerate(("recited", "extractable", "exact_match", "nll")):
        mean = np.arange(9.0) + 10 * place
        columns |= {name: mean, f"{name}_low": mean - 1, f"{name}_high": mean + 2}
    return xr.Dataset({name: ("row", own) for name, own in columns.items()}, attrs={"queries": 1000})


def test_every_level_is_a_line_with_its_interval_and_the_control_has_its_colour(table):
    drawing = plot_leak(table)
    lines = [one for one in drawing.data if one.mode == "lines+markers"]
    assert [one.name for one in lines] == ["never read (control)", "read 1 times", "read 8 times"] * 4
    assert [one.showlegend for one in lines] == [True] * 3 + [False] * 9
    assert lines[0].line.color == COLOURS["control"]
    assert len({one.line.color for one in lines}) == 3
    assert list(lines[4].y) == [13, 14, 15]
    assert list(lines[4].x) == [0, 5, 10]
    assert list(drawing.data[0].y) == [2, 3, 4]
    assert list(drawing.data[1].y) == [-1, 0, 1]
    assert drawing.layout.annotations[1].text == "extractable (1,000 samples), share"


def test_held_out_text_is_drawn_beside_the_nll(table):
    held = xr.Dataset(
        {f"nll{end}": ("step", np.arange(3.0) + shift) for end, shift in (("", 0), ("_low", -1), ("_high", 1))},
        {"step": [0, 5, 10]},
    )
    drawing = plot_leak(table, held)
    assert drawing.data[-1].name == "held-out text"
    assert drawing.data[-1].xaxis == "x4"
    assert list(drawing.data[-1].y) == [0, 1, 2]
    assert len(drawing.data) == 3 * 12 + 3
