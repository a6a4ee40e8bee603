"""Tables that are declared once and rendered for a terminal, as CSV and as Markdown."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import pandas as pd
from rich.table import Table as RichTable
from rich.text import Text

NOTHING = "\N{EN DASH}"
KEYS = ("method", "family", "tuned_family", "protocol", "study", "timed")
"""Columns of a frame that only say which rows belong together."""
INFINITY = "\N{INFINITY}"


@dataclass(frozen=True)
class Column:
    """How one column of a frame is shown."""

    key: str
    label: str
    """The heading, with the unit."""
    spec: str = ""
    """Format specification of a number; empty for text."""
    beside: tuple[str, ...] = ()
    """Further keys that are shown in the same cell of the table, such as an uncertainty."""
    joiner: str = " ± "
    interval: tuple[str, str] | None = None
    """Keys of the ends of an interval, which is shown in brackets after the number if both are finite.

    If the number is not finite and a single end is, that end is shown in its place, as `> 5` or `< 5`.
    """
    best: Literal["max", "min", ""] = ""
    """Which value of the column is shown in bold."""
    scale: float = 1.0
    """Factor by which values are multiplied before they are shown."""
    rank: int = 0
    """Priority in a terminal: columns of a lower rank are shown first, as far as the width allows; 0 is not shown."""


@dataclass(frozen=True)
class Shown:
    """The text in one cell of a table."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Table:
    """A frame and how to show it. The frame's `group` column is not shown, but draws a rule wherever it changes."""

    name: str
    title: str
    frame: pd.DataFrame
    columns: tuple[Column, ...]
    caption: str
    """The conditions under which the numbers were produced."""
    command: str
    """The command that reproduces them."""
    notes: list[str] = field(default_factory=list)
    best_within: str = "protocol"
    """The best value is found among rows that agree in this column of the frame."""

    def rows(self, columns: tuple[Column, ...] | None = None) -> list[list[Shown]]:
        """The formatted rows, by default with all columns."""
        places = [self.column(column) for column in (self.columns if columns is None else columns)]
        return [list(row) for row in zip(*places, strict=True)]

    def column(self, column: Column) -> list[Shown]:
        """One formatted column."""
        best = self._best(column)
        return [Shown(_text(column, row), position in best) for position, row in enumerate(self.records)]

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """The rows of the frame."""
        return [{str(key): value for key, value in row.items()} for row in self.frame.to_dict("records")]

    def groups(self) -> list[str]:
        """The group of each row."""
        return [str(group) for group in self.frame["group"]] if "group" in self.frame else [""] * len(self.frame)

    def width(self, column: Column) -> int:
        """Characters that a column needs if its label is broken between words."""
        return max(map(len, [*column.label.split(), *(shown.text for shown in self.column(column))]))

    def _best(self, column: Column) -> set[int]:
        """Positions of the best values. Values that tie at the shown precision are all best; if all tie, none is."""
        if not column.best or column.key not in self.frame or self.frame.empty:
            return set()
        records, positions = self.records, set()
        for _, rows in _positions(records, self.best_within):
            numbers = {k: float(records[k][column.key]) for k in rows if _is_finite(records[k][column.key])}
            if len({_number(column, number) for number in numbers.values()}) < 2:
                continue
            winner = (max if column.best == "max" else min)(numbers.values())
            shown = _number(column, winner)
            positions |= {k for k, number in numbers.items() if _number(column, number) == shown}
        return positions


def to_rich(table: Table, width: int) -> RichTable:
    """The table for a terminal, with as many columns as fit the width, in the order of their rank."""
    widths = _fitting(table, width)
    columns = tuple(column for column in table.columns if column.key in widths)
    shown = RichTable(
        title=table.title,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=None,
        padding=(0, 2, 0, 0),
        pad_edge=False,
    )
    for column in columns:
        shown.add_column(column.label, justify="right" if column.spec else "left", width=widths[column.key])
    groups = table.groups()
    for position, row in enumerate(table.rows(columns)):
        if position and groups[position] != groups[position - 1]:
            shown.add_row()
        shown.add_row(*(_rich(place, column) for place, column in zip(row, columns, strict=True)))
    return shown


def _fitting(table: Table, width: int) -> dict[str, int]:
    """The width of each column that is shown, by key; labels are broken between words.

    Text columns take at most a third of the width or 24 characters, whichever is more; longer text is broken.
    """
    fitting: dict[str, int] = {}
    for column in sorted((column for column in table.columns if column.rank), key=lambda column: column.rank):
        fitting[column.key] = table.width(column) if column.spec else min(table.width(column), max(width // 3, 24))
        if len(fitting) > 2 and sum(fitting.values()) + 2 * len(fitting) - 2 > width:
            del fitting[column.key]
            break
    return fitting


def _rich(shown: Shown, column: Column) -> Text:
    """Only text is broken over several lines, because a broken number is unreadable."""
    is_number = bool(column.spec)
    return Text(
        shown.text, "bold" if shown.bold else "", no_wrap=is_number, overflow="ellipsis" if is_number else "fold"
    )


def to_csv(table: Table) -> str:
    """Every column of the frame in full precision, including the conditions and the command behind each row."""
    return table.frame.drop(columns=list(KEYS), errors="ignore").assign(command=table.command).to_csv(index=False)


def to_markdown(table: Table) -> str:
    """The table as Markdown, with its title, caption and notes."""
    caption = f"{_escape_markdown(table.caption)} Command: `{table.command}`"
    return "\n".join([f"### {table.title}", "", caption, "", markdown_rows(table), "", markdown_notes(table), ""])


def markdown_rows(table: Table) -> str:
    """The header and the rows as Markdown."""
    header = [_escape_markdown(column.label) for column in table.columns]
    rule = ["---:" if column.spec else ":---" for column in table.columns]
    body = [[_markdown(shown) for shown in row] for row in table.rows()]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, rule, *body])


def markdown_notes(table: Table) -> str:
    """The notes as a Markdown list."""
    return "\n".join(f"- {_escape_markdown(note)}" for note in table.notes)


def _markdown(shown: Shown) -> str:
    text = _escape_markdown(shown.text)
    return f"**{text}**" if shown.bold else text


def _escape_markdown(text: str) -> str:
    return re.sub(r"([\\|*_`<])", r"\\\1", text)


def _text(column: Column, row: dict[str, Any]) -> str:
    """A formatted value, followed by the values of `beside` that are known."""
    keys = (column.key, *column.beside)
    if not column.spec:
        value = row.get(column.key)
        return NOTHING if value is None or value != value or value == "" else str(value)
    first, *others = (_number(column, row.get(key), first=key == column.key) for key in keys)
    shown = [first, *(text for text in others if text != NOTHING)]
    text = first if set(shown) == {first} else column.joiner.join(shown)
    return _bound(column, row) or text + _interval(column, row)


def _interval(column: Column, row: dict[str, Any]) -> str:
    """` [low, high]`; empty if there is no finite interval."""
    ends = [row.get(key) for key in column.interval or ()]
    if not ends or not all(_is_finite(end) for end in ends):
        return ""
    low, high = (_number(column, end) for end in ends)
    return f" [{low}, {high}]"


def _bound(column: Column, row: dict[str, Any]) -> str:
    """`> low` or `< high` if the value is not finite and just this end of its interval is; otherwise empty."""
    ends = [(sign, row.get(key)) for sign, key in zip("><", column.interval or (), strict=False)]
    finite = [(sign, end) for sign, end in ends if _is_finite(end)]
    if _is_finite(row.get(column.key)) or len(finite) != 1:
        return ""
    sign, end = finite[0]
    return f"{sign} {_number(column, end)}"


def _number(column: Column, value: Any, first: bool = True) -> str:
    if value is None or value != value:
        return NOTHING
    scaled = float(value) * column.scale
    if math.isinf(scaled):
        return INFINITY if scaled > 0 else f"-{INFINITY}"
    spec = column.spec if first else column.spec.removeprefix("+")
    shown = format(round(scaled) if spec in ("d", ",d") else scaled, spec)
    return re.sub(r"e([-+])0*(\d)", lambda match: f"e{match[1].strip('+')}{match[2]}", shown)


def _is_finite(value: Any) -> bool:
    return value is not None and math.isfinite(float(value))


def _positions(records: list[dict[str, Any]], key: str) -> Iterator[tuple[str, list[int]]]:
    groups: dict[str, list[int]] = {}
    for position, record in enumerate(records):
        groups.setdefault(str(record.get(key, "")), []).append(position)
    yield from groups.items()
