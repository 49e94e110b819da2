"""Draws the README's figure from a finished study: `python docs/figures.py runs/study` (needs kaleido and Chrome)."""

import sys
from pathlib import Path

import xarray as xr

from memhooks.report.gradient_profile_plots import plot_layer_shares
from memhooks.report.looking_sections import MAIN


def main() -> None:
    """Write docs/layer_profile.png."""
    run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/study")
    with xr.open_datatree(run / "results" / "gradients.nc", engine="h5netcdf") as tree:
        results = {name: node.to_dataset() for name, node in tree.children.items() if name in MAIN}
        drawing = plot_layer_shares(results)
    drawing.write_image(Path(__file__).parent / "layer_profile.png", width=900, height=440, scale=1.5)


if __name__ == "__main__":
    main()
