"""Progress bars that appear only where a loop takes longer than two seconds."""

from collections.abc import Iterable
from typing import TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")


def tracked(items: Iterable[T], description: str, *, total: int | None = None) -> Iterable[T]:
    """Iterate over `items`, showing a bar from the third second on, in terminals and notebooks alone.

    Args:
        items: anything to iterate over.
        description: what stands before the bar.
        total: how many there are, where `items` does not tell.
    """
    return tqdm(items, desc=description, total=total, delay=2, leave=False, disable=None)
