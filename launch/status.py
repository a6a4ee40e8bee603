"""How far the cells of a grid are, from their directories alone."""

from collections import Counter
from dataclasses import dataclass

from rich.console import Group
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from harness.folder import CellFolder, State

COLOURS: dict[State, str] = {
    "planned": "dim", "running": "cyan", "interrupted": "yellow", "failed": "red", "finished": "green",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One cell as `status` shows it."""

    cell_id: str
    state: State
    step: int
    steps: int
    attempt: int
    seconds_left: float | None
    updated: float
    message: str

    @staticmethod
    def of(folder: CellFolder) -> "Row":
        """Read one cell."""
        s = folder.status()
        return Row(folder.cell_id, s.state, s.step, s.steps, s.attempt, s.seconds_left(), s.updated, s.message)


def read_rows(folders: list[CellFolder]) -> list[Row]:
    """Read the cells of a grid."""
    return [Row.of(folder) for folder in folders]


def table(rows: list[Row]) -> Group:
    """One line a cell, and the count of each state."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("cell", "state", "progress", "step", "left", "message"):
        shown.add_column(column, no_wrap=column != "message")
    for row in rows:
        bar = ProgressBar(total=row.steps, completed=row.step, width=20) if row.steps else ""
        step = f"{row.step}/{row.steps}" if row.steps else ""
        state = f"[{COLOURS[row.state]}]{row.state}[/]"
        shown.add_row(row.cell_id, state, bar, step, duration(row.seconds_left), escape(row.message))
    counts = Counter(row.state for row in rows)
    line = "  ".join(f"[{colour}]{counts[state]} {state}[/]" for state, colour in COLOURS.items() if counts[state])
    return Group(shown, f"[bold]{len(rows)} cells[/]  {line}")


def duration(seconds: float | None) -> str:
    """1:02:03, or nothing where unknown."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
