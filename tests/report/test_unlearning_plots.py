import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

from memhooks.errors import InputError
from memhooks.localize.masks.random_anywhere import random_weights
from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.model.components import components
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.report.unlearning_plots import plot_evaluation, plot_mask, plot_steps
from memhooks.unlearn.evaluation import evaluate, untouched
from memhooks.unlearn.recipe import Budget
from memhooks.unlearn.record import UnlearningStep

RECORDS = [
    UnlearningStep(step, -1.0, 0.1 * step, 50.0 - 10 * step, 50.0 - 5 * step, 0.01 * step, best=step < 3)
    for step in range(5)
]


def named(drawing, name):
    return [one for one in drawing.data if one.name == name and one.x[0] is not None]


def test_steps_are_drawn_as_recorded_with_goals_and_the_kept_one():
    budget = Budget(forget_em=2.0, longest_run=10.0, forget_nll=1.5, retain_kl=0.5)
    drawing = plot_steps(RECORDS, budget)
    for name, field in (
        ("exact match", "forget_em"),
        ("longest verbatim run", "longest_run"),
        ("NLL of the text to forget", "forget_nll"),
        ("KL on retained text", "retain_kl"),
    ):
        (line,) = named(drawing, name)
        assert list(line.x) == [0, 1, 2, 3, 4]
        assert list(line.y) == [getattr(record, field) for record in RECORDS]
    lines = [(one.line.dash, one.y0) for one in drawing.layout.shapes if one.line.dash == "dot"]
    assert sorted(y for _, y in lines) == [0.5, 1.5, 2, 10]
    assert {one.x0 for one in drawing.layout.shapes if one.line.dash == "dash"} == {2}
    assert [one.text for one in drawing.layout.annotations] == ["kept: step 2"]


def test_steps_without_goals_have_none_drawn():
    without = plot_steps([replace(record, retain_kl=math.nan, best=False) for record in RECORDS])
    assert not without.layout.shapes
    no_limit = plot_steps(RECORDS, Budget(forget_nll=None))
    assert sorted(one.y0 for one in no_limit.layout.shapes if one.line.dash == "dot") == [2, 10]


@pytest.mark.parametrize("with_twin", [False, True])
def test_every_measure_stands_before_and_after_in_a_panel_of_its_unit(model, with_twin):
    tokens = torch.randint(101, (8, 24), generator=torch.Generator().manual_seed(0))
    sets = [Paragraphs(tokens[rows], n_prefix=12) for rows in (slice(3), slice(3, 6), slice(6, 8))]
    before = untouched(
        model, sets[0], others=sets[1], held_out=sets[2], twin=model if with_twin else None, measures="all"
    )
    with torch.no_grad():
        model.blocks[1].mlp.W_in.mul_(1.5)
    tree = evaluate(model, before)
    table = tree["summary"].to_dataset()
    drawing = plot_evaluation(tree)
    for column in ("before", "after"):
        traces = named(drawing, column)
        drawn = {label: float(x) for one in traces for label, x in zip(one.customdata, one.x, strict=True)}
        assert drawn == pytest.approx(dict(zip(table["row"].values, table[column].values, strict=True)), nan_ok=True)
        ends = {
            label: x + plus
            for one in traces
            for label, x, plus in zip(one.customdata, one.x, one.error_x.array, strict=True)
        }
        high = dict(zip(table["row"].values, table[f"{column}_high"].values, strict=True))
        assert ends == pytest.approx(high, nan_ok=True)
    assert bool(named(drawing, "a twin that never read it")) is with_twin
    units = [axis.title.text for axis in drawing.select_xaxes()]
    assert len(set(units)) == len(units) >= 6
    for row, unit in zip(table["row"].values, table["unit"].values, strict=True):
        place = next(one.yaxis for one in named(drawing, "after") if row in one.customdata)
        panel = drawing.layout["xaxis" + place[1:]].title.text
        assert ("tokens" in panel) is str(unit).startswith("tokens"), row
        assert ("perplexity" in panel) is (row == "held out: perplexity"), row


def test_one_paragraph_is_drawn_without_intervals(model):
    tokens = torch.randint(101, (3, 24), generator=torch.Generator().manual_seed(0))
    sets = [Paragraphs(tokens[row : row + 1], n_prefix=12) for row in range(3)]
    tree = evaluate(model, untouched(model, sets[0], others=sets[1], held_out=sets[2]))
    assert all(np.isnan(one.error_x.array).all() for one in named(plot_evaluation(tree), "after"))
    assert isinstance(tree, xr.DataTree)


def test_the_map_shows_each_components_share_over_the_expected_one(model):
    mask = random_weights(model, fraction=0.01, seed=0)
    (drawn,) = plot_mask(model, mask).data
    for layer in range(4):
        for place, cell in enumerate(one for one in components(model) if one.layer == layer):
            n_each = model.get_parameter(cell.parameter_name).numel() // (1 if cell.head is None else 4)
            first = (cell.head or 0) * n_each
            own = sum(first <= int(index) < first + n_each for index in mask.of(cell.parameter_name))
            assert drawn.x[place] == cell.label
            assert drawn.customdata[layer][place] == pytest.approx(100 * own / n_each)
            times = drawn.z[layer][place]
            assert np.isnan(times) if not own else times == pytest.approx(math.log2(own / n_each / mask.fraction))
    assert drawn.zmin == -drawn.zmax


def test_one_whole_head_is_the_only_colour(model):
    sizes = random_weights(model, fraction=0.01, seed=0).sizes
    size = sizes["blocks.1.attn.W_V"] // 4
    mask = WeightMask({"blocks.1.attn.W_V": torch.arange(2 * size, 3 * size).int()}, sizes)
    (drawn,) = plot_mask(model, mask).data
    seen = np.argwhere(~np.isnan(np.array(drawn.z, dtype=float)))
    assert [(int(layer), drawn.x[place]) for layer, place in seen] == [(1, "W_V 2")]
    with pytest.raises(InputError, match="the mask is empty"):
        plot_mask(model, WeightMask({}, sizes))
