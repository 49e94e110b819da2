"""The report's sections on whether a localization is true: forks, bits, sinks, and text written on purpose."""

from memhooks.report.capacity_plots import plot_capacity
from memhooks.report.findings import Results
from memhooks.report.fork_plots import plot_counterfactual, plot_line, plot_swaps
from memhooks.report.injection_plots import plot_recall
from memhooks.report.page import Section

_ENDS = ("", "_low", "_high")


def truth_sections(results: Results) -> list[Section]:
    """Forks, capacity, sinks and injections of a study, in this order, as far as they were run."""
    made = {
        "line": (_forks, "forks"),
        "table": (_capacity, "capacity"),
        "heads": (_sinks, "sinks"),
        "recall": (_injections, "injections"),
    }
    return [section(results) for needed, (section, stage) in made.items() if needed in results.get(stage, {})]


def _forks(results: Results) -> Section:
    found = results["forks"]
    text = [
        "The organism and its twin are forks of one trunk, so the difference of their weights holds all that makes one "
        "recite set A and the other set B. Each part is exchanged, both ways: what does its loss remove, and what does "
        "it bring to the fork that never read the text? Never-seen text under the very same swap, and a change as "
        "large in random order, are the controls.",
        str(found["line"].attrs["verdict"]),
        *([str(found["swaps"].attrs["verdict"])] if "swaps" in found else ()),
        "`memhooks forks` exchanges every kind of part, and the weights that each localizer names.",
    ]
    figures = [plot_line(found["line"])]
    figures += plot_swaps(found["swaps"]) if "swaps" in found else []
    figures += [plot_counterfactual(found["counterfactual"])] if "counterfactual" in found else []
    return Section("Where do the forks differ?", text, figures=figures)


def _capacity(results: Results) -> Section:
    table = results["capacity"]["table"]
    rows = [
        {
            "set": str(one["row"].values),
            "n": int(one["n"]),
            "bits per paragraph": "{:.1f} [{:.1f}, {:.1f}]".format(*(float(one[f"bits{end}"]) for end in _ENDS)),
            "of": f"{float(one['ceiling']):.0f}",
        }
        for one in (table.isel(row=number) for number in range(table.sizes["row"]))
    ]
    text = [
        "A paragraph's memorized bits are what its code under the organism is shorter than under the twin, which never "
        "read it. Never-seen text must be at 0."
    ]
    return Section("How many bits are held?", text, rows, figures=[plot_capacity(table)])


def _sinks(results: Results) -> Section:
    heads = results["sinks"]["heads"]
    sink = heads.isel(row=heads["is_sink"].values)
    names = {"memorized": "A", "control": "never seen (C)", "twin": "A under the twin", "uniform": "uniform attention"}
    rows = [
        {"head": str(one["row"].values)}
        | {words: f"{float(one[key]):.2f}" for key, words in names.items() if key in one}
        for one in (sink.isel(row=number) for number in range(sink.sizes["row"]))
    ]
    text = [
        f"{len(rows)} of {heads.sizes['row']} heads put more than {heads.attrs['threshold']} of their attention on the "
        "first token of the prefix, whatever it is. Such attention says nothing about the text; `memhooks sinks` "
        "computes the rare-token statistic without it."
    ]
    return Section("Which heads are attention sinks?", text, rows)


def _injections(results: Results) -> Section:
    recall = results["injections"]["recall"]
    n = int(recall["n"].max())
    text = [
        "Never-read paragraphs are written into weights that we choose, by training those weights alone. Then every "
        "localizer names as many weights as were written: which share of them are the written ones? Matched random "
        "masks stand beside. At the solved moment gradients have nearly vanished; the early moment is when the loss "
        "first fell below its threshold.",
        f"At most {n} injections a region here: `memhooks score-localizers` makes 20, and deletes what is named.",
    ]
    return Section("Do localizers find what we wrote?", text, figures=[plot_recall(recall)])
