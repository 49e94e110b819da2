"""The paragraphs that unlearning needs: to forget, to hold the model with, and to judge it on, with no text in two."""

# Heavy imports stay inside the functions, so that --help answers at once.
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from memhooks.cli.sets import cut, load_set
from memhooks.errors import InputError

if TYPE_CHECKING:
    import torch

    from memhooks.model.loading import HookedModel
    from memhooks.paragraphs.paragraphs import Paragraphs

_CHUNK = 64  # rows tried at once until enough are found


@dataclass(frozen=True)
class Asked:
    """What the command line asks for.

    Attributes:
        paragraphs: a set that the model recites.
        control: one that it does not.
        ids: which to forget; none = draw `n`.
        n: how many to forget.
        retained: of each kind, to hold the model.
        others: recited ones on which specificity is measured.
        held_out: never-seen ones on which language is measured.
        seed: of the draw.
        allow_shared: near-duplicates may be in several sets.
    """

    paragraphs: str
    control: str
    ids: tuple[str, ...]
    n: int
    retained: int
    others: int
    held_out: int
    seed: int
    allow_shared: bool


class Drawn(NamedTuple):
    """The four sets; `retain` is half recited, half never seen."""

    forget: "Paragraphs"
    retain: "Paragraphs"
    others: "Paragraphs"
    held_out: "Paragraphs"


def draw_sets(model: "HookedModel", asked: Asked) -> Drawn:
    """Draw the sets, at most one of each cluster of near-duplicates; only recited rows, and only unrecited controls.

    Raises:
        InputError: an id that is not there or not recited in full, too few rows, controls of another length, or ones
            that share near-duplicates with the text to forget.
    """
    from memhooks.paragraphs.splits import check_apart

    rows = load_set(model, asked.paragraphs)
    drawing = _Drawing(model, rows, asked)
    n_recited = asked.retained + asked.others
    if asked.ids:
        forget = drawing.named(asked.ids)
    else:
        forget, n_recited = None, n_recited + asked.n
    found = drawing.first(n_recited, recited=True)
    if len(found) < n_recited:
        raise InputError(
            f"{asked.paragraphs} has {len(found)} usable paragraphs that the model recites in full, one per cluster of "
            f"near-duplicates, but {n_recited} are needed; lower --n, --retained or --others, or pass --allow-shared"
        )
    recited = rows.select(found)
    if forget is None:
        forget, recited = recited.parts(asked.n, asked.retained + asked.others)
    held, others = recited.parts(asked.retained, asked.others)
    unread, held_out = _controls(model, rows, asked).parts(asked.retained, asked.held_out)
    drawn = Drawn(forget, held.joined(unread), others, held_out)
    try:
        check_apart(drawn._asdict(), allow_shared=asked.allow_shared)
    except InputError as error:
        raise InputError(str(error).replace("allow_shared=True", "--allow-shared")) from error
    return drawn


def _controls(model: "HookedModel", like: "Paragraphs", asked: Asked) -> "Paragraphs":
    rows = load_set(model, asked.control)
    same = cut(rows, like, asked.control, beside=asked.paragraphs)
    n = asked.retained + asked.held_out
    found = _Drawing(model, same, asked).first(n, recited=False)
    if len(found) < n:
        raise InputError(
            f"{asked.control} has {len(found)} paragraphs that the model does not recite, one per cluster of "
            f"near-duplicates, but {n} are needed; lower --retained or --held-out, or give other --control"
        )
    return same.select(found)


class _Drawing:
    """Rows in random order, of which each is taken at most once, and at most one of each cluster."""

    def __init__(self, model: "HookedModel", rows: "Paragraphs", asked: Asked) -> None:
        import torch

        from memhooks.paragraphs.splits import clusters

        self._model, self._rows, self._name = model, rows, asked.paragraphs
        self._cluster = torch.arange(len(rows)) if asked.allow_shared else clusters(rows)
        self._order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(asked.seed))
        self._taken: set[int] = set()

    def named(self, ids: Sequence[str]) -> "Paragraphs":
        """The rows of these ids, whose clusters are then taken.

        Raises:
            InputError: one is not there, or not recited in full.
        """
        unknown = [name for name in ids if name not in self._rows.ids]
        if unknown:
            few = ", ".join(self._rows.ids[:3])
            raise InputError(f"{self._name} has no paragraph {unknown[0]!r}; its ids are {few}, ...")
        places = [self._rows.ids.index(name) for name in dict.fromkeys(ids)]
        chosen = self._rows.select(places)
        if not (recited := self._recited(chosen)).all():
            wrong = [name for name, good in zip(chosen.ids, recited.tolist(), strict=True) if not good]
            raise InputError(f"the model does not recite {', '.join(wrong)} in full, so there is nothing to forget")
        self._taken |= {int(self._cluster[place]) for place in places}
        return chosen

    def first(self, n: int, *, recited: bool) -> list[int]:
        """The first `n` rows that are recited in full, or that are not, or fewer if there are no more."""
        found: list[int] = []
        for chunk in self._order.split(_CHUNK):
            good = self._recited(self._rows.select(chunk)) == recited
            for place in chunk[good].tolist():
                if (cluster := int(self._cluster[place])) not in self._taken and len(found) < n:
                    self._taken.add(cluster)
                    found.append(place)
            if len(found) == n:
                break
        return found

    def _recited(self, rows: "Paragraphs") -> "torch.Tensor":
        import torch

        from memhooks.measure.recitation import recitation

        return torch.from_numpy(recitation(self._model, rows)["full_match"].values)
