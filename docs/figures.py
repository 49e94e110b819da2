"""Draws the documents' figures from finished runs (needs `memhooks[images]` and a Chrome or Chromium).

`python docs/figures.py layer_profile runs/study`, `python docs/figures.py frontier runs/comparison`
"""

import json
import sys
from pathlib import Path

import xarray as xr

from memhooks.model.labelled import load_result
from memhooks.report.comparison_plots import plot_frontier
from memhooks.report.export import save_figure
from memhooks.report.gradient_profile_plots import plot_layer_shares
from memhooks.report.looking_sections import MAIN
from memhooks.study.comparison.trials import GOALS

DOCS = Path(__file__).parent


def layer_profile(run: Path) -> None:
    """Write docs/layer_profile.png from a study."""
    with xr.open_datatree(run / "results" / "gradients.nc", engine="h5netcdf") as tree:
        results = {name: node.to_dataset() for name, node in tree.children.items() if name in MAIN}
        drawing = plot_layer_shares(results)
    save_figure(drawing, DOCS / "layer_profile.png", width=900, height=440, scale=1.5)


def frontier(run: Path) -> None:
    """Write docs/frontier.png from a comparison: one paragraph at once, tuning trials as small dots."""
    table = load_result(run / "comparison.nc")
    rows = [json.loads(path.read_text()) for path in sorted((run / "trials").glob("tune-*.json"))]
    some = table.isel(row=table["size"].values == 1)
    drawing = plot_frontier(some, [row for row in rows if row["size"] == 1], GOALS)
    save_figure(drawing, DOCS / "frontier.png", width=1100, height=560, scale=1.5)


if __name__ == "__main__":
    {"layer_profile": layer_profile, "frontier": frontier}[sys.argv[1]](Path(sys.argv[2]))
