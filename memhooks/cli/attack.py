"""`memhooks attack`."""

# Heavy imports stay inside the functions, so that --help answers at once.
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memhooks.cli.options import FIGURES, Figure, Ids, Json, Model, Out, Seed, Threads, Twin, ids_of
from memhooks.cli.sets import check_set, load_set, load_twin, twin_name
from memhooks.cli.tables import Row, check_outputs, rows_of, save_tree, shown, write_page
from memhooks.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from memhooks.paragraphs.paragraphs import Paragraphs
    from memhooks.unlearn.delta import Delta

_UNRELATED = 24  # paragraphs of never-seen text to train on


def attack(
    delta: Annotated[Path, typer.Option(help="The .safetensors file that unlearning wrote.")],
    paragraphs: Annotated[
        str, typer.Option(help="The set that holds the forgotten text: a bundled set or a file as for `measure`.")
    ] = "A",
    ids: Ids = None,
    unrelated: Annotated[
        str, typer.Option(help="Never-seen text for the attack by training on unrelated text: a bundled set or a file.")
    ] = "held_out",
    model: Model = "organism",
    twin: Twin = None,
    seed: Seed = 0,
    threads: Threads = 0,
    steps: Annotated[int, typer.Option(min=1, help="Updates of each relearning.")] = 40,
    lr: Annotated[float, typer.Option(help="Step size of relearning (Adam on every matrix weight).")] = 3e-5,
    figure: Figure = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Does unlearned text come back?

    Relearning, rounding, noise and pruning are done to the model before and after unlearning.

    The delta says what was forgotten (--ids asks for some of it); these rows are looked up in --paragraphs, and
    must be the very same tokens. Every attack is done to the untouched model, to see what it destroys by itself,
    and to the unlearned one. The text came back if its exact match is at least half of the untouched model's.

    Relearning trains all matrix weights on half of the forgotten paragraphs (of a single one: on the first half of its
    continuation), on the prefixes alone, or on unrelated text. A twin that never read the text learns it afresh: the
    ratio is the steps of the unlearned model over the twin's, 1 = as if never seen. `held out` is text that the
    attacker did not train on: what comes back there was hidden, not removed. Rounding is to nearest, int8 and int4 with
    one scale per row; `still moved` is the share of the changed weights that rounding leaves changed.

    Caveats: one paragraph has no interval. A ratio is a bound where a model did not come back within --steps. Where an
    attack destroys the untouched model's recitation, too, a low number says nothing of unlearning.

    Examples:
    - `memhooks attack --delta a300.safetensors --figure attack.html`
    - `memhooks attack --delta mine.safetensors --model path/to/gpt-neo --paragraphs mine.pt --unrelated other.pt`
    """
    for name in (paragraphs, unrelated):
        check_set(name, model)
    other = twin_name(twin, model, paragraphs)
    check_outputs({FIGURES: [figure], ".nc": [out]})

    from memhooks.model.loading import load_model
    from memhooks.unlearn.attacks.attack import attack as run
    from memhooks.unlearn.delta import load_delta

    change = load_delta(delta)
    loaded = load_model(model)
    forget = _chosen(_forgotten(change, delta, load_set(loaded, paragraphs), paragraphs), ids)
    text = load_set(loaded, unrelated).sample(_UNRELATED, seed=seed)
    beside = None if other is None else load_twin(other, loaded, forget)
    tree = run(loaded, change, forget, unrelated=text, twin=beside, seed=seed, n_steps=steps, lr=lr)
    nodes = {name: node.to_dataset() for name, node in tree.children.items()}
    save_tree(out, nodes)
    about = (
        f"{model}; {len(forget)} forgotten of {paragraphs}: {', '.join(forget.ids[:8])}; {len(change)} weights changed"
    )
    about += f"; twin: {other}" if other else ""
    _draw(figure, about, nodes)
    rows = rows_of(nodes["summary"], name="row")
    if as_json:
        sys.stdout.write(json.dumps({"forgotten": list(forget.ids), "attacks": _finite(rows)}) + "\n")
    else:
        _print(about, rows, steps)


def _forgotten(change: "Delta", path: Path, rows: "Paragraphs", name: str) -> "Paragraphs":
    """The rows that the delta forgot, which must be the very same tokens.

    Raises:
        InputError: it does not say what it forgot, or the set lacks these rows or has other tokens under their names.
    """
    from memhooks.model.provenance import tensor_hash

    ids, expected = change.about.get("forget"), change.about.get("forget_hash")
    if not isinstance(ids, list) or not ids:
        raise InputError(f"{path} does not say which paragraphs it forgot; unlearn again with this version")
    place = {one: row for row, one in enumerate(rows.ids)}
    lost = [one for one in ids if one not in place]
    if lost:
        raise InputError(f"{path} forgot {lost[0]}, which is not in {name}; give its set by --paragraphs")
    found = rows.select([place[one] for one in ids])
    if tensor_hash(found.tokens) != expected:
        raise InputError(f"{path} forgot other text than {name} holds as {ids[0]}; give its own set by --paragraphs")
    return found


def _chosen(forget: "Paragraphs", ids: list[str] | None) -> "Paragraphs":
    """Those of the forgotten paragraphs that were asked for.

    Raises:
        InputError: one was not forgotten.
    """
    if ids is None:
        return forget
    asked = ids_of(ids)
    unknown = [one for one in asked if one not in forget.ids]
    if unknown or not asked:
        known = ", ".join(forget.ids[:8])
        raise InputError(f"--ids names forgotten paragraphs, {known}; got {unknown[0] if unknown else 'none'}")
    return forget.select([forget.ids.index(one) for one in asked])


def _print(about: str, rows: list[dict], steps: int) -> None:
    from rich.box import SIMPLE_HEAD

    from memhooks.terminal import print_table, say

    say(f"{about}; exact match in tokens [95 % interval over paragraphs]")
    print_table("Under attack", [_attacked(row) for row in rows], box=SIMPLE_HEAD)
    relearned = [row for row in rows if row["attack"] == "relearning"]
    if relearned:
        print_table(
            f"Updates to half of the old exact match, of {steps}", [_learned(row) for row in relearned], box=SIMPLE_HEAD
        )
        say("ratio: unlearned over twin, 1 = as if never seen; held out: text that was not trained on.")
    back = [str(row["row"]) for row in rows if row["came_back"]]
    say(f"Came back under: {', '.join(back)}." if back else "The text came back under none of these attacks.")


def _attacked(row: dict) -> Row:
    kept = row["surviving"]
    return {
        "attack": row["row"].replace("relearning on", "relearn"),
        "untouched": shown(row["exact_match_untouched"], ".0f"),
        "unlearned": shown(row["exact_match_unlearned"], ".0f"),
        "NLL": shown(row["nll_unlearned"][:1] * 3, ".2f").split(" ")[0],
        "back": "yes" if row["came_back"] else "no",
        "still\nmoved": "" if kept is None else f"{100 * kept:.0f} %",
    }


def _learned(row: dict) -> Row:
    bound = {"at least": ">= ", "at most": "<= "}.get(row["ratio_is"], "")
    return {
        "trained on": row["row"].replace("relearning on ", ""),
        "unlearned": _steps(row["steps_unlearned"]),
        "twin": _steps(row["steps_twin"]),
        "ratio": "?" if row["ratio"][0] is None else bound + shown(row["ratio"], ".2f"),
    }


def _steps(ends: list) -> str:
    if ends[0] is None:
        return "not done"
    return shown(ends, ".0f").replace("inf", "never")


def _finite(rows: list[dict]) -> list[dict]:
    """JSON has no infinity: a text that never came back has `never` for its steps."""
    return [{key: _plain(value) for key, value in row.items()} for row in rows]


def _plain(value: object) -> object:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return "never" if value == float("inf") else value


def _draw(path: Path | None, about: str, nodes: "dict[str, xr.Dataset]") -> None:
    if path is None:
        return
    from memhooks.report.attack_plots import plot_attacks, plot_relearning
    from memhooks.report.page import Section

    said = "Every attack on the untouched model and on the unlearned one; relearning after its last step."
    faster = (
        "All matrix weights are trained further. The twin never read the text: where the unlearned model needs as many "
        "updates as the twin, nothing was left. Held out: text that the attacker did not train on."
    )
    sections = [
        Section("Does the text come back?", [said], figures=[plot_attacks(nodes["summary"])]),
        Section("How fast?", [faster], figures=[plot_relearning(nodes["relearning"])]),
    ]
    write_page(path, "memhooks attack", about, sections)
