"""Sections, of which a report is made."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from analysis.reading.load import GridData
from analysis.rendering.figures import Figure, style
from analysis.rendering.tables import Table


@dataclass(frozen=True)
class Section:
    """One part of a report: a table, paragraphs about it, and figures. Each of them is optional."""

    title: str
    table: Table | None = None
    words: tuple[str, ...] = ()
    """Paragraphs below the table."""
    figures: tuple[Figure, ...] = ()
    without_rows: str = ""
    """Text in place of an empty table. Without it, a section that has neither rows nor figures is left out."""

    @property
    def has_rows(self) -> bool:
        """Whether there is a table with at least one row."""
        return self.table is not None and len(self.table.frame) > 0

    @property
    def is_shown(self) -> bool:
        """Whether the section appears in the report."""
        return self.has_rows or bool(self.figures) or bool(self.without_rows)


SectionMaker = Callable[[GridData], Section]
"""A function that makes a section from the records of a grid; users name their own by import path."""


def drawn(*figures: Callable[[], Figure | None]) -> tuple[Figure, ...]:
    """Draw figures in the common style, and leave out those that have nothing to show."""
    with style():
        return tuple(figure for draw in figures if (figure := draw()) is not None)


def drawn_all(figures: Callable[[], Iterable[Figure]]) -> tuple[Figure, ...]:
    """Draw figures in the common style with one function that returns several."""
    with style():
        return tuple(figures())
