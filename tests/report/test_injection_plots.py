"""The figures draw the tables' numbers."""

import numpy as np
import pytest

from memhooks.report.injection_plots import plot_deletion, plot_recall
from memhooks.truth.injection.tables import deletion_table, recall_table


def rows():
    lost = {"lost": {"target": [2.0, 5.0], "others": [0.5, 1.0], "language": [0.1, 0.0]}}
    lost["random_lost"] = {"target": [0.0, 0.0], "others": [0.0, 0.0], "language": [0.0, 0.0]}
    line = {"localizer": "gradient", "seconds": 0.1, "applies": True, "random_recall": 0.0, "decoy_recall": None}
    return [
        {"region": "random", "number": number, "failed": False, "k": 10, "chance": 0.001, "gold": {}, "lines": [
            line | {"moment": "early", "recall": 0.25}, line | {"moment": "solved", "recall": 0.5} | lost,
        ]}
        for number in range(3)
    ]  # fmt: skip


def test_recall_is_drawn_at_both_moments():
    drawing = plot_recall(recall_table(rows(), seed=0))
    drawn = {trace.name: list(trace.x) for trace in drawing.data}
    assert drawn["early"] == [0.25]
    assert drawn["solved"] == [0.5]
    assert drawn["matched random mask"] == [0]


def test_deletion_is_drawn_for_every_set():
    drawing = plot_deletion(deletion_table(rows(), seed=0))
    drawn = {trace.name: float(np.asarray(trace.x)[0]) for trace in drawing.data}
    assert drawn == pytest.approx(
        {"the target": 2.0, "other recited text, since before the writing": 0.5, "never-read text": 0.1}
    )
