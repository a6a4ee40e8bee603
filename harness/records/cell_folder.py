"""The cell directory: its layout, its status and its lock (torch-free). It is the authoritative account of a cell.

cell.json             what the cell computes
tuned.json            the searches by which its trials chose the fields that it tunes
status.json           its progress
lock                  held by the process that runs the cell; the kernel releases it when that process dies
attempts/N/record.jsonl   the events of the attempt
attempts/N/exit.json  how the attempt ended; missing if it was killed before it could write this file
checkpoints/          checkpoints of the training, newest last
weights/              weights of the trained model; with cell.json, all that is needed to restore pictures elsewhere
scores.jsonl          scores on more test pictures, measured after the cell finished
reconstructions/      a few test pictures as PNG files
"""

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter

from harness.config.cells import Cell, TrainCell, parse_cell
from harness.records import environment
from harness.records.events import AnyEvent, Search, merge, parse_lines
from harness.records.files import write_atomically

_SEARCHES = TypeAdapter(list[Search])
State = Literal["planned", "running", "interrupted", "failed", "finished"]


class CellStatus(BaseModel):
    """The progress of a cell."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    state: State = "planned"
    step: int = 0
    steps: int = 0
    attempt: int = -1
    """Number of the newest attempt."""
    began: float = 0.0
    """When the first attempt started, seconds since the epoch; 0 in records of 0.1.0."""
    started: float = 0.0
    """When the newest attempt started, seconds since the epoch."""
    updated: float = 0.0
    """When this status was written, seconds since the epoch."""
    first_step: int = 0
    """The step at which the newest attempt started."""
    seconds: float = 0.0
    """Wall time of the attempts that have ended, as far as they recorded it."""
    adjoint_cut: float | None = None
    """Share of the adjoint solves of the newest attempt that ended at their limit; null where none has a tolerance."""
    message: str = ""
    """The last error, in one line."""
    code: str = ""
    """Commit of the newest attempt, followed by `(dirty)` if files differed from it; empty outside a repository."""

    def seconds_left(self) -> float | None:
        """Expected seconds until the training ends, at the newest attempt's pace; None if there is no pace yet."""
        done = self.step - self.first_step
        if self.state != "running" or done <= 0:
            return None
        return (self.updated - self.started) / done * (self.steps - self.step)


class Exit(BaseModel):
    """How an attempt ended."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    time: float
    state: State
    step: int
    """Completed steps."""
    reason: str
    """One line; empty if the cell finished."""
    host: str
    job: str
    """The scheduler's name for the job; empty without a scheduler."""
    restart: int
    """Number of times the scheduler had started that job before."""


class CellBusy(RuntimeError):
    """Another process is running this cell."""


class CellFolder:
    """Reads and writes one cell directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def cell_id(self) -> str:
        """The directory's name."""
        return self.path.name

    @property
    def runs_root(self) -> Path:
        """The runs directory that contains this cell."""
        return self.path.parent.parent

    @property
    def decoded_data(self) -> Path:
        """Directory of the decoded pictures, shared by all cells of the runs directory."""
        return self.runs_root / "data"

    def sibling(self, cell_id: str) -> "CellFolder":
        """Another cell of the same runs directory."""
        return CellFolder(self.path.parent / cell_id)

    @property
    def checkpoints(self) -> Path:
        """Directory of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def weights(self) -> Path:
        """Directory of the weights of a finished training."""
        return self.path / "weights"

    @property
    def reconstructions(self) -> Path:
        """Directory of the reconstructed test pictures."""
        return self.path / "reconstructions"

    def plan(self, cell: Cell) -> None:
        """Write cell.json. In a planned cell, only fields that affect no result can have changed."""
        text = json.dumps(cell.to_json(), indent=1)
        path = self.path / "cell.json"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_atomically(path, text)

    def cell(self) -> Cell:
        """What the cell computes; once its trials have chosen them, with the values of its tuned fields."""
        cell = parse_cell(json.loads((self.path / "cell.json").read_text()))
        if not isinstance(cell, TrainCell) or not cell.tune:
            return cell
        chosen = {search.parameter: search.chosen for search in self.searches()}
        return cell.with_tuned(chosen) if chosen else cell

    def searches(self) -> list[Search]:
        """How the tuned fields of the cell were chosen; empty before that."""
        path = self.path / "tuned.json"
        return _SEARCHES.validate_json(path.read_text()) if path.exists() else []

    def write_searches(self, searches: list[Search]) -> None:
        """Record how the tuned fields were chosen; `cell` returns their values from now on."""
        write_atomically(self.path / "tuned.json", _SEARCHES.dump_json(searches, indent=1).decode())

    def prerequisites(self) -> "list[CellFolder]":
        """The cells that must finish before this one starts; trials no longer count once the fields are chosen."""
        cell = self.cell()
        needed = [cell.needs] if cell.needs and self.searches() else cell.prerequisites
        return [self.sibling(one.cell_id) for one in needed]

    def status(self) -> CellStatus:
        """The progress of the cell. If its status says that it runs but its lock is free, it was interrupted."""
        status = self._written_status()
        if status.state == "running" and not self._is_locked():
            return status.model_copy(update={"state": "interrupted"})
        return status

    def _written_status(self) -> CellStatus:
        try:
            return CellStatus.model_validate_json((self.path / "status.json").read_text())
        except FileNotFoundError:
            return CellStatus()

    def write_status(self, status: CellStatus) -> None:
        """Replace the status."""
        write_atomically(self.path / "status.json", status.model_dump_json())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the cell, so that a job that the scheduler starts twice trains only once.

        Raises:
            CellBusy: another process holds the lock.
        """
        with open(self.path / "lock", "a") as lock:
            # Try twice, because another process may hold the lock for a moment just to see whether it is free.
            if not _try_lock(lock):
                time.sleep(1)
                if not _try_lock(lock):
                    raise CellBusy(f"{self.cell_id} is being run by another process")
            yield

    def new_attempt(self) -> int:
        """Create the directory of the next attempt and return its number."""
        number = len(self._attempts())
        (self.path / "attempts" / str(number)).mkdir(parents=True)
        return number

    @property
    def newest_attempt(self) -> int:
        """Number of the newest attempt; -1 before the first."""
        return len(self._attempts()) - 1

    def end_attempt(self, state: State, reason: str = "") -> None:
        """Record how the newest attempt ended, in its own directory and in the status."""
        status = self._written_status()
        now = time.time()
        ended = Exit(
            time=now,
            state=state,
            step=status.step,
            reason=reason,
            host=environment.host(),
            job=environment.job(),
            restart=environment.restart(),
        )
        if not self._attempts():
            self.new_attempt()
        newest = self._attempts()[-1]
        write_atomically(newest / "exit.json", ended.model_dump_json())
        spent = now - status.started if status.state == "running" else 0.0
        changes = {"state": state, "message": reason, "updated": now, "attempt": int(newest.name)}
        changes["seconds"] = status.seconds + spent
        self.write_status(status.model_copy(update=changes))

    def exits(self) -> dict[int, Exit]:
        """How attempts ended, by number; an attempt that did not record its end is missing."""
        paths = [path / "exit.json" for path in self._attempts()]
        return {
            int(path.parent.name): Exit.model_validate_json(path.read_text(encoding="utf-8"))
            for path in paths
            if path.exists()
        }

    def open_record(self, attempt: int) -> IO[str]:
        """The record file of an attempt, for appending."""
        return open(self.path / "attempts" / str(attempt) / "record.jsonl", "a", encoding="utf-8")

    def events(self) -> list[AnyEvent]:
        """The merged record of all attempts."""
        return merge([self._read_attempt(path) for path in self._attempts()])

    def scores(self) -> list[AnyEvent]:
        """The events that `harness.commands.score` wrote after the cell finished."""
        try:
            with open(self.path / "scores.jsonl", encoding="utf-8") as lines:
                return parse_lines(lines)
        except FileNotFoundError:
            return []

    def write_scores(self, events: list[AnyEvent]) -> None:
        """Replace the events that `scores` returns."""
        write_atomically(self.path / "scores.jsonl", "".join(event.model_dump_json() + "\n" for event in events))

    def _attempts(self) -> list[Path]:
        return sorted((self.path / "attempts").glob("[0-9]*"), key=lambda path: int(path.name))

    def _read_attempt(self, path: Path) -> list[AnyEvent]:
        try:
            with open(path / "record.jsonl", encoding="utf-8") as lines:
                return parse_lines(lines)
        except FileNotFoundError:
            return []

    def _is_locked(self) -> bool:
        with open(self.path / "lock", "a") as lock:
            return not _try_lock(lock)


def _try_lock(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
