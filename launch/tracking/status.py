"""The progress of a grid's cells, read from their directories, and what the scheduler says about unfinished ones."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Group
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from harness.config.errors import ConfigError
from harness.records.cell_folder import CellFolder, CellStatus, State
from harness.records.events import CUT_SHARE
from launch.planning.runs_folder import Runs
from launch.slurm.queue import Job
from launch.slurm.submissions import Submissions

Shown = State | Literal["queued"]
COLOURS: dict[Shown, str] = {
    "damaged": "red", "failed": "red", "running": "cyan", "interrupted": "yellow", "queued": "blue", "planned": "dim",
    "finished": "green",
}  # fmt: skip
TROUBLE = ("damaged", "failed")
"""States whose messages are shown in full, below the table."""
ROWS_SHOWN = 60
"""Rows shown of a larger grid: the cells that need attention most, in the order of the states above."""
BAR_WIDTH = 10
PATIENCE_SECONDS = 5.0
WATCH_SECONDS = 2.0
SILENCE_SECONDS = 120.0
"""Age of a running cell's status from which it is shown. Steps write it; long evaluations do not."""


@dataclass(frozen=True)
class Row:
    """One cell as `status` shows it."""

    cell_id: str
    state: Shown
    step: int
    steps: int
    attempt: int
    seconds_left: float | None
    updated: float
    queue: str
    """What the scheduler says about its job; empty if it has no job or there is nothing to report."""
    message: str
    code: str
    """The commit that it ran, with `(dirty)` if files differed from the commit."""

    @staticmethod
    def of(cell_id: str, written: CellStatus, job: Job | None) -> "Row":
        """Combine what a cell and the scheduler report."""
        status = reconciled(written, job)
        state: Shown = "queued" if job and job.is_live and status.state not in ("finished", "running") else status.state
        return Row(
            cell_id=cell_id,
            state=state,
            step=status.step,
            steps=status.steps,
            attempt=status.attempt,
            seconds_left=status.seconds_left(),
            updated=status.updated,
            queue=scheduler_says(status, job),
            message=status.message or _silent(status) or _cut(status),
            code=status.code,
        )


def _silent(status: CellStatus) -> str:
    """How long ago a running cell wrote its status, if that is long: a rank may have stalled."""
    age = time.time() - status.updated
    if status.state != "running" or age < SILENCE_SECONDS:
        return ""
    return f"last sign of life {duration(age)} ago"


def _cut(status: CellStatus) -> str:
    """A warning if a solved adjoint is not what this cell trains with."""
    if status.adjoint_cut is None or status.adjoint_cut <= CUT_SHARE:
        return ""
    return f"{status.adjoint_cut:.0%} of its adjoint solves were cut at max_steps"


def reconciled(status: CellStatus, job: Job | None) -> CellStatus:
    """The status from the cell's directory, corrected only if the scheduler knows that the cell is still running.

    The directory is authoritative, but on some file systems a node does not see the locks of another node.
    """
    if job and job.state == "RUNNING" and status.state == "interrupted" and not status.message:
        return status.model_copy(update={"state": "running"})
    return status


def scheduler_says(status: CellStatus, job: Job | None) -> str:
    """In a few words, why an unfinished cell is not running, or where it runs."""
    if job is None or status.state == "finished":
        return ""
    words = {"RUNNING": "", "COMPLETED": ""}.get(job.state, job.state.lower())
    where = f"on {job.nodes}" if job.nodes and job.state not in ("PENDING", "CANCELLED") else ""
    return " ".join(part for part in (words, job.reason, where) if part)


def read_rows(runs: Runs, folders: Sequence[CellFolder]) -> list[Row]:
    """Read the status of the cells of a grid, and that of their jobs.

    Raises:
        ConfigError: the scheduler does not answer.
    """
    statuses = {folder.cell_id: _checked(folder) for folder in folders}
    unfinished = [cell_id for cell_id, status in statuses.items() if status.state != "finished"]
    submissions = Submissions(runs)
    jobs = submissions.jobs_of(unfinished, PATIENCE_SECONDS) if submissions.tasks else {}
    return [Row.of(cell_id, status, jobs.get(cell_id)) for cell_id, status in statuses.items()]


def _checked(folder: CellFolder) -> CellStatus:
    """The status of a cell, which is damaged also if its cell.json is."""
    try:
        folder.fields()
    except ConfigError as error:
        return CellStatus(state="damaged", message=str(error))
    return folder.status()


def read_rows_without_scheduler(folders: Sequence[CellFolder]) -> list[Row]:
    """Read the status of the cells of a grid from their directories alone."""
    return [Row.of(folder.cell_id, folder.status(), job=None) for folder in folders]


def read_table(runs: Runs, folders: Sequence[CellFolder]) -> Group:
    """The table that `status` shows; if the scheduler does not answer, it is read from the cells' directories alone."""
    return read_table_and_soundness(runs, folders)[0]


def read_table_and_soundness(runs: Runs, folders: Sequence[CellFolder]) -> tuple[Group, bool]:
    """The table that `status` shows, and whether every cell can be read."""
    said = []
    try:
        rows = read_rows(runs, folders)
    except ConfigError as error:
        rows, said = read_rows_without_scheduler(folders), [Text(str(error), style="red")]
    return Group(table(rows), *said), all(row.state != "damaged" for row in rows)


def table(rows: Sequence[Row]) -> Group:
    """One line per cell, then the full messages of failed and damaged cells and the count of each state."""
    order = list(COLOURS)
    most = sorted(rows, key=lambda row: order.index(row.state))[:ROWS_SHOWN] if len(rows) > ROWS_SHOWN else rows
    # The message of a failed or damaged cell is shown below the table.
    said = {row.cell_id: {"queue": row.queue, "message": "" if row.state in TROUBLE else row.message} for row in most}
    words = [column for column in ("queue", "message") if any(one[column] for one in said.values())]
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("cell", overflow="fold")
    for column in ("state", "progress", "step", "left"):
        shown.add_column(column, no_wrap=True)
    for column in words:
        shown.add_column(column)
    for row in most:
        bar = ProgressBar(total=row.steps, completed=row.step, width=BAR_WIDTH) if row.steps else ""
        step = f"{row.step}/{row.steps}" if row.steps else ""
        state = f"[{COLOURS[row.state]}]{row.state}[/]"
        others = [escape(said[row.cell_id][column]) for column in words]
        shown.add_row(row.cell_id, state, bar, step, duration(row.seconds_left), *others)
    counts = Counter(row.state for row in rows)
    line = "  ".join(f"[{colour}]{counts[state]} {state}[/]" for state, colour in COLOURS.items() if counts[state])
    more = f"  ({len(most)} shown; choose others by --where)" if len(most) < len(rows) else ""
    failures = [f"[red]{row.cell_id}[/] {escape(row.message)}" for row in most if row.state in TROUBLE]
    return Group(shown, *failures, f"[bold]{len(rows)} cells[/]  {line}{more}", *changed_code(rows))


def changed_code(rows: Sequence[Row]) -> list[str]:
    """A warning if the finished cells do not all come from one clean commit."""
    codes = Counter(row.code for row in rows if row.state == "finished" and row.code)
    if len(codes) > 1:
        listed = ", ".join(f"{code} ({count})" for code, count in codes.most_common())
        return [f"[yellow]finished cells come from {len(codes)} states of the code:[/] {escape(listed)}"]
    return [f"[yellow]finished cells come from changed files:[/] {escape(code)}" for code in codes if "dirty" in code]


def list_grids(runs: Runs) -> Group:
    """The launched grids of a runs directory, with the number of cells in each state."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("grid", "cells", "state"):
        shown.add_column(column)
    for grid in runs.grids():
        try:
            counts: Counter[Shown] = Counter(folder.status().state for folder in runs.cells_of(grid))
        except ConfigError as error:
            shown.add_row(grid, "", escape(str(error)))
            continue
        said = "  ".join(f"[{colour}]{counts[state]} {state}[/]" for state, colour in COLOURS.items() if counts[state])
        shown.add_row(grid, str(counts.total()), said)
    if not shown.row_count:
        return Group(f"no grid has been launched in {escape(str(runs.root))}")
    return Group(shown, "python -m launch status GRID shows the cells of one")


def duration(seconds: float | None) -> str:
    """Format seconds as 1:02:03; empty if unknown."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
