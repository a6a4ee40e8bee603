"""Splits long lists for commands and servers that limit how much they accept at a time."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Consecutive pieces of at most `size` items."""
    for first in range(0, len(items), size):
        yield items[first : first + size]
