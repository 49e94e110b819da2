"""`memhooks sinks`."""

# Heavy imports stay inside the functions, so that --help answers at once.
import json
import sys
from typing import Annotated

import typer

from memhooks.cli.options import FIGURES, AnyRows, Control, Figure, Json, Memorized, Model, Out, Seed, Threads, Twin
from memhooks.cli.sets import load_set, load_sets, load_twin, twin_name
from memhooks.cli.tables import check_outputs, save_tree, sources


def sinks(
    paragraphs: Memorized = "A",
    control: Control = "C",
    model: Model = "organism",
    twin: Twin = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Paragraphs drawn from each set.")] = 64,
    n_units: Annotated[int, typer.Option(min=1, help="Outstanding units that are held at their mean, per site.")] = 5,
    seed: Seed = 0,
    threads: Threads = 0,
    any_rows: AnyRows = False,
    figure: Figure = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Do attention sinks or huge units pass for memorization?

    A massive activation is a hidden unit with a magnitude above 100 and at least 1,000 times the median of its layer
    (Sun et al., 2024). The largest are named in any case. The units that stand out most are held at their mean, in all
    positions: what do memorized text and the control lose, beside as many random units, and units that vary as much?
    Whose mean decides: text held at other text's mean loses more. So each is held at its own kind's (of the other
    half) and at the other's, and nothing is said of memorized text unless all ways of comparing agree.

    A sink is a token without meaning, mostly the first, on which heads put attention that they have no use for. A
    sink head here puts more than 0.3 of it on position 0, and more than uniform attention (the whole interval), over
    the prefix positions that see it.
    Uniform attention puts some there, too, and stands beside it; local layers see position 0 from the first few
    positions alone, so theirs is no attention from afar.

    Does this confound what is said of memorization heads? Each head's sink strength is correlated, over heads, with
    its rare-token correlation and with what recitation loses without it. And the rare-token statistic is computed
    without position 0, without the position of the largest activation, and without each head's own strongest key.
    Leaving out any key at the end of a ranking moves a rank correlation: the null is the key mirrored in the ranking.

    Controls: text that the model does not recite, the twin, uniform attention, random and matched units, mirrored
    keys, heads permuted within their layer (heads of a layer are alike); p are times the number of questions asked.

    Examples:
    - `memhooks sinks --figure sinks.html`
    - `memhooks sinks --model path/to/gpt-neo --paragraphs mine.pt --control other.pt --n 100`
    """
    other = twin_name(twin, model, paragraphs)
    check_outputs({FIGURES: [figure], ".nc": [out]})

    from memhooks.cli.sinks_measured import counts_of, measured
    from memhooks.cli.sinks_shown import as_tables, draw, finite, print_tables
    from memhooks.truth.activations_by_layer import SITES
    from memhooks.truth.held_units import check_n_units

    loaded, sets = load_sets(model, paragraphs, control, n=n, seed=seed, any_rows=any_rows)
    for site in SITES:
        check_n_units(loaded, n_units, site)
    conditions = {name: (loaded, rows) for name, rows in sets.items()}
    if other is not None:
        conditions["twin"] = (load_twin(other, loaded, sets["memorized"]), sets["memorized"])
    whole = [load_set(loaded, name) for name in (paragraphs, control) if name != "none"]
    found = measured(conditions, counts_of(model, loaded, whole), n_units=n_units, seed=seed)
    names = {"memorized": paragraphs, "control": control}
    about = sources(model, names, sets) + (f"; twin: {other}" if other else "")
    groups = {"heads": found.heads} | {f"{name}/massive": one for name, one in found.massive.items()}
    groups |= {f"{name}/sinks": one for name, one in found.sinks.items()}
    groups |= {f"{name}/without_{drop}": one for name, each in found.without.items() for drop, one in each.items()}
    groups |= {f"memorized/mirrored_{drop}": one for drop, one in found.mirrored.items()}
    save_tree(out, groups | {f"{kind}/{site}": one for site, each in found.held.items() for kind, one in each.items()})
    tables = as_tables(found, loaded, seed=seed)
    draw(figure, about, found)
    if as_json:
        sys.stdout.write(json.dumps(finite(tables), allow_nan=False) + "\n")
    else:
        print_tables(about, tables)
