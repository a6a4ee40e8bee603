"""What a report is made of."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from analysis.reading.load import GridData
from analysis.rendering.figures import Figure, style
from analysis.rendering.tables import Table


@dataclass(frozen=True)
class Section:
    """One part of a report: a table, what there is to say about it, and figures. Any of them may be missing."""

    title: str
    table: Table | None = None
    words: tuple[str, ...] = ()
    """Paragraphs below the table."""
    figures: tuple[Figure, ...] = ()
    without_rows: str = ""
    """What stands in place of an empty table; empty leaves the whole section out where there is no figure either."""

    @property
    def has_rows(self) -> bool:
        """Whether its table shows anything."""
        return self.table is not None and len(self.table.frame) > 0

    @property
    def is_shown(self) -> bool:
        """Whether a report has it."""
        return self.has_rows or bool(self.figures) or bool(self.without_rows)


SectionMaker = Callable[[GridData], Section]
"""A section of a report from the records of a grid; a user's own is named by import path."""


def drawn(*figures: Callable[[], Figure | None]) -> tuple[Figure, ...]:
    """The figures for which there is something to draw, in the style of all figures."""
    with style():
        return tuple(figure for draw in figures if (figure := draw()) is not None)


def drawn_all(figures: Callable[[], Iterable[Figure]]) -> tuple[Figure, ...]:
    """The same for a function that draws several."""
    with style():
        return tuple(figures())
