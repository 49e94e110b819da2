"""Progress bars that appear only where a loop takes longer than two seconds."""

from collections.abc import Iterable
from typing import TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")


def tracked(items: Iterable[T], description: str) -> Iterable[T]:
    """Iterate over `items`, showing a bar from the third second on, in terminals and notebooks alone."""
    return tqdm(items, desc=description, delay=2, leave=False, disable=None)
