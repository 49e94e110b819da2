"""What the localizing commands share: [mean, low, high] in JSON and tables, and where results and figures go."""

# Heavy imports stay inside the functions, so that --help answers at once.
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from memhooks.cli.options import FIGURES, check_ending

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import xarray as xr
    from numpy.typing import ArrayLike

    from memhooks.model.loading import HookedModel
    from memhooks.paragraphs.paragraphs import Paragraphs
    from memhooks.report.page import Section

Row = dict[str, object]


def check_outputs(files: Mapping[str | tuple[str, ...], Sequence[Path | None]]) -> None:
    """Refuse output files, by the ending (or endings) they must have, before any work.

    Raises:
        InputError: another ending, a folder, a place that cannot be written to, or an image that cannot be drawn.
    """
    for ending, paths in files.items():
        for path in paths:
            check_ending(path, ending)
    given = [path for paths in files.values() for path in paths if path is not None]
    if not given:
        return
    if any(path.suffix in FIGURES[1:] for path in given):
        from memhooks.report.export import check_figure_file

        for path in (one for one in given if one.suffix in FIGURES):
            check_figure_file(path)

    from memhooks.model.export import check_output_file

    for path in given:
        check_output_file(path)


def intervals(values: "ArrayLike", rows: "Paragraphs", seed: int) -> list:
    """[mean, low, high] over paragraphs for each entry of the other axes; near-duplicates count once."""
    import numpy as np

    from memhooks.measure.intervals import bootstrap_mean
    from memhooks.paragraphs.splits import clusters

    return stacked(*bootstrap_mean(np.asarray(values), seed=seed, clusters=clusters(rows).numpy()))


def stacked(mean: "ArrayLike", low: "ArrayLike", high: "ArrayLike") -> list:
    """[mean, low, high] of each entry; None where there is none, as one paragraph has no interval, and JSON no NaN."""
    import numpy as np

    return plain(np.stack([np.asarray(one) for one in (mean, low, high)], axis=-1))


def plain(values: "ArrayLike") -> list:
    """Numbers as JSON has them: None for NaN."""
    import numpy as np

    numbers = np.asarray(values, dtype=float)
    return np.where(np.isnan(numbers), np.array(None), numbers).tolist()


def rows_of(table: "xr.Dataset", *, name: str) -> list[Row]:
    """The rows of a table as JSON has them, their labels under `name`; what has an interval is [mean, low, high]."""
    columns: dict[str, list] = {name: table["row"].values.tolist()}
    for variable in map(str, table):
        values = table[variable].transpose("row", ...).values
        if f"{variable}_low" in table:
            columns[variable] = stacked(values, *(table[f"{variable}_{end}"].values for end in ("low", "high")))
        elif not variable.endswith(("_low", "_high")):
            columns[variable] = plain(values) if values.dtype.kind == "f" else values.tolist()
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def shown(ends: "Sequence[float | None]", form: str = "+.2f") -> str:
    """Mean and interval, short enough for several columns in 80 characters."""
    mean, low, high = ("?" if one is None else f"{one:{form}}" for one in ends)
    return mean if mean == "?" else f"{mean} [{low.rstrip('%')},{high.rstrip('%')}]"


def token_texts(model: "HookedModel", tokens: "Iterable[int]") -> list[str]:
    """Each token's text, or its number where there is no tokenizer."""
    return [str(one) if model.tokenizer is None else str(model.tokenizer.decode([one])) for one in tokens]


def sources(model: str, names: Mapping[str, str], sets: "Mapping[str, Paragraphs]") -> str:
    """One line: the model, and how many paragraphs of which set."""
    return f"{model}; " + ", ".join(f"{name}: {len(rows)} of {names[name]}" for name, rows in sets.items())


def save_tree(path: Path | None, groups: "Mapping[str, xr.Dataset]") -> None:
    """Write labelled results as a tree, if there is a path."""
    if path is None:
        return
    import xarray as xr

    from memhooks.model.labelled import save_result

    save_result(xr.DataTree.from_dict(dict(groups)), path)
    sys.stderr.write(f"written: {path}\n")


def write_page(path: Path, title: str, lead: str, sections: "Sequence[Section]") -> None:
    """Write a page of figures, or each figure as an image, and say so."""
    if path.suffix == ".html":
        from memhooks.report.page import write_report

        write_report(path, title=title, lead=lead, sections=sections)
        sys.stderr.write(f"written: {path}\n")
    else:
        save_images(path, [figure for section in sections for figure in section.figures])


def save_images(path: Path, figures: "Sequence[go.Figure]") -> None:
    """Save one figure under this name, several as name-1, name-2, ..., and say so."""
    from memhooks.report.export import save_figures

    numbered = [path.with_stem(f"{path.stem}-{number}") for number in range(1, len(figures) + 1)]
    paths = [path] if len(figures) == 1 else numbered
    save_figures(dict(zip(paths, figures, strict=True)))
    for one in paths:
        sys.stderr.write(f"written: {one}\n")
