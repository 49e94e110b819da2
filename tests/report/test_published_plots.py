import numpy as np
import pytest

from memhooks.report.published_plots import plot_layer_sums, plot_published
from memhooks.truth.published.files import Held
from memhooks.truth.published.parts import Measured
from memhooks.truth.published.setting import Setting
from memhooks.truth.published.tables import layer_sums_of, table_of
from memhooks.truth.published.targets import BINS, LAYER_SUMS, target
from memhooks.truth.published.verdicts import Row

SETTING = Setting(None, Held({}))
ROWS = [
    Row(target("1.MP"), Measured((442.0,)), "reproduced", "equal"),
    Row(target("3"), None, "not compared", "missing: 0_10_preds.pt"),
    Row(target("4.MP"), Measured((24.38,), 20.0, 30.0), "not reproduced", "outside <b>"),
    Row(target("15.pearson"), Measured((-0.485,), -0.6, -0.3), "not compared", "another model"),
    Row(target("21.all"), Measured((0.001,)), "not reproduced", "off"),  # published 0 has no ratio
]


def test_ratios_with_their_intervals():
    drawing = plot_published(table_of(ROWS, SETTING))
    by_verdict = {trace.name: trace for trace in drawing.data}
    assert set(by_verdict) == {"reproduced", "not reproduced", "not compared"}
    assert list(by_verdict["reproduced"].x) == [1.0]
    off = by_verdict["not reproduced"]
    assert list(off.y) == ["4: EM drop per replaced token, MP"]
    assert list(off.x) == pytest.approx([2.0])
    assert off.error_x.array[0] == pytest.approx((30 - 24.38) / 12.19)
    assert off.error_x.arrayminus[0] == pytest.approx((24.38 - 20) / 12.19)
    negative = by_verdict["not compared"]
    assert list(negative.x) == pytest.approx([0.5])
    assert negative.error_x.array[0] == pytest.approx((0.6 - 0.485) / 0.97)
    assert negative.error_x.arrayminus[0] == pytest.approx((0.485 - 0.3) / 0.97)
    assert drawing.layout.xaxis.type == "log"
    assert list(drawing.layout.yaxis.categoryarray)[-1] == "1: memorized paragraphs"  # the first row on top


def test_layer_sums_stand_beside_the_published_ones():
    ours = {of: tuple(np.linspace(1, 2, 8) * (1 + place)) for place, of in enumerate(BINS[1:])}
    rows = [Row(target(f"6.layers {of}"), Measured(ours[of]), "not compared", "another model") for of in BINS[1:]]
    drawing = plot_layer_sums(layer_sums_of(rows, SETTING))
    assert len(drawing.data) == 6
    for place, of in enumerate(BINS[1:]):
        measured, published = drawing.data[2 * place : 2 * place + 2]
        assert measured.name == f"EM {of}"
        assert list(measured.y) == pytest.approx(list(ours[of]))
        assert list(measured.x)[-1] == "L7"
        assert list(published.y) == pytest.approx(list(LAYER_SUMS[of]))
        assert published.line.dash == "dash"
        assert published.line.color == measured.line.color
    assert drawing.layout.yaxis.type == "log"
