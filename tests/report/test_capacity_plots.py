from dataclasses import replace

import pytest

from memhooks.model.loading import load_model
from memhooks.report.capacity_plots import plot_capacity
from memhooks.truth.capacity import capacity_table, memorized_bits
from tests.conftest import tiny_neo


def test_bits_are_drawn_by_level_below_their_ceiling_with_whole_sets_beside(model, paragraphs):
    sets = {"memorized": replace(paragraphs, counts=(1, 1, 1, 8, 8, 8)), "control": paragraphs.select([0, 1, 2])}
    twin = load_model(tiny_neo(seed=1))
    found = {name: memorized_bits(model, twin, rows) for name, rows in sets.items()}
    table = capacity_table(found, sets=sets, seed=0)
    drawn = plot_capacity(table).data
    traces = {one.name: one for one in reversed(drawn) if one.name}  # of equal names the first: the line
    line = traces["memorized (A)"]
    assert list(line.x) == ["1", "8"]
    assert list(line.y) == pytest.approx(table["bits"].values[2:].tolist())
    ceiling = traces["all that could be held (the twin's code length)"]
    assert list(ceiling.y) == pytest.approx(table["ceiling"].values[2:].tolist())
    control = traces["never seen (C)"]
    assert control.y[0] + control.error_y.array[0] == pytest.approx(float(table["bits_high"][1]))
