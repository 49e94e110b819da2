"""How far does the model recite the windows of a corpus?"""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from memhooks.report.theme import COLOURS, figure


def plot_scan(matches: Sequence[int]) -> go.Figure:
    """Windows by their exact match, on a logarithmic scale; what is recited in full stands out.

    Args:
        matches: windows with an exact match of 0, 1, ... tokens, as a scan's tally has them.
    """
    number, n = np.array(matches), len(matches) - 1
    drawing = figure(
        title=f"How far are the {number.sum():,} windows of the corpus recited?",
        x=f"exact match: tokens recited before the first miss, of {n}",
        y="windows",
        height=440,
    )
    drawing.add_bar(
        x=list(range(n + 1)),
        y=number,
        marker_color=[COLOURS["memorized"] if match == n else COLOURS["control"] for match in range(n + 1)],
        hovertemplate="exact match %{x}: %{y} windows<extra></extra>",
    )
    return drawing.update_yaxes(type="log", dtick=1).update_layout(showlegend=False, bargap=0.15)
