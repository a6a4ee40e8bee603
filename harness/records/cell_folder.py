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

import errno
import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter

from harness.config.cells import Cell, TrainCell, parse_cell
from harness.config.errors import ConfigError
from harness.records import environment
from harness.records.damage import damage, read_json
from harness.records.events import AnyEvent, End, Search, Start, Step, merge, parse_lines
from harness.records.files import write_atomically, write_over

_SEARCHES = TypeAdapter(list[Search])
State = Literal["planned", "running", "interrupted", "failed", "finished", "damaged"]
"""`damaged`: the status cannot be read. It is never written."""


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
        if not path.exists() or path.read_bytes() != text.encode():
            write_atomically(path, text)

    def cell(self) -> Cell:
        """What the cell computes; once its trials have chosen them, with the values of its tuned fields.

        Raises:
            ConfigError: cell.json or tuned.json is damaged, or cell.json is missing.
        """
        fields = self.fields()
        try:
            cell = parse_cell(fields)
        except ConfigError as error:
            raise ConfigError(f"{self.path / 'cell.json'}: {error}") from None
        if not isinstance(cell, TrainCell) or not cell.tune:
            return cell
        chosen = {search.parameter: search.chosen for search in self.searches()}
        return cell.with_tuned(chosen) if chosen else cell

    def fields(self) -> dict[str, Any]:
        """The content of cell.json, which is not validated.

        Raises:
            ConfigError: cell.json is missing or damaged.
        """
        path = self.path / "cell.json"
        fields = read_json(path)
        if not isinstance(fields, dict):
            raise ConfigError(f"{path}, line 1: a cell is a mapping, not {type(fields).__name__}")
        return fields

    def searches(self) -> list[Search]:
        """How the tuned fields of the cell were chosen; empty before that.

        Raises:
            ConfigError: tuned.json is damaged.
        """
        path = self.path / "tuned.json"
        try:
            return _SEARCHES.validate_json(path.read_bytes()) if path.exists() else []
        except (OSError, ValueError) as error:
            raise ConfigError(damage(path, error)) from None

    def write_searches(self, searches: list[Search]) -> None:
        """Record how the tuned fields were chosen; `cell` returns their values from now on."""
        write_atomically(self.path / "tuned.json", _SEARCHES.dump_json(searches, indent=1).decode())

    def prerequisites(self) -> "list[CellFolder]":
        """The cells that must finish before this one starts; trials no longer count once the fields are chosen."""
        cell = self.cell()
        chosen = {trial.cell_id for trial in cell.trials} if isinstance(cell, TrainCell) and self.searches() else set()
        return [self.sibling(one.cell_id) for one in cell.prerequisites if one.cell_id not in chosen]

    def status(self) -> CellStatus:
        """The progress of the cell. If its status says that it runs but its lock is free, it was interrupted.

        A status that cannot be read is damaged, and its message has the file, line and reason.
        """
        status = self._written_status()
        if status.state == "running" and not self._is_locked():
            return status.model_copy(update={"state": "interrupted"})
        return status

    def _written_status(self) -> CellStatus:
        path = self.path / "status.json"
        try:
            return CellStatus.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return CellStatus()
        except (OSError, ValueError) as error:
            return CellStatus(state="damaged", message=damage(path, error))

    def write_status(self, status: CellStatus) -> None:
        """Replace the status; on a full disk, write over the old one, which takes no new space."""
        path = self.path / "status.json"
        try:
            write_atomically(path, status.model_dump_json())
        except OSError as error:
            if error.errno != errno.ENOSPC or not path.exists():
                raise
            write_over(path, status.model_dump_json())

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
        try:
            write_atomically(newest / "exit.json", ended.model_dump_json())
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise  # on a full disk, the status alone has the reason
        spent = now - status.started if status.state == "running" else 0.0
        changes = {"state": state, "message": reason, "updated": now, "attempt": int(newest.name)}
        changes["seconds"] = status.seconds + spent
        self.write_status(status.model_copy(update=changes))

    def exits(self) -> dict[int, Exit]:
        """How attempts ended, by number; an attempt that did not record its end, or only in part, is missing."""
        found = {}
        for path in self._attempts():
            with suppress(OSError, ValueError):
                found[int(path.name)] = Exit.model_validate_json((path / "exit.json").read_bytes())
        return found

    def open_record(self, attempt: int) -> IO[str]:
        """The record file of an attempt, for appending."""
        return open(self.path / "attempts" / str(attempt) / "record.jsonl", "a", encoding="utf-8")

    def events(self) -> list[AnyEvent]:
        """The merged record of all attempts.

        Raises:
            ConfigError: a record is damaged or a part of it is lost; the message has the file, line and reason.
        """
        paths = [path / "record.jsonl" for path in self._attempts()]
        attempts = [_read_lines(path) for path in paths]
        for path, events in zip(paths, attempts, strict=True):
            if events and not isinstance(events[0], Start):
                raise ConfigError(f"{path}, line 1: the record does not begin with its start")
        merged = merge(attempts)
        steps = [event.step for event in merged if isinstance(event, Step)]
        lost = next((number for number, step in enumerate(steps, 1) if step != number), None)
        if lost is not None:
            raise ConfigError(f"{self.path / 'attempts'}: step {lost} is missing from the records")
        if self._written_status().state == "finished" and not (merged and isinstance(merged[-1], End)):
            newest = paths[-1] if paths else self.path / "attempts"
            raise ConfigError(f"{newest}: the cell is finished, but its record is missing or has no end")
        return merged

    def scores(self) -> list[AnyEvent]:
        """The events that `harness.commands.score` wrote after the cell finished."""
        return _read_lines(self.path / "scores.jsonl")

    def write_scores(self, events: list[AnyEvent]) -> None:
        """Replace the events that `scores` returns."""
        write_atomically(self.path / "scores.jsonl", "".join(event.model_dump_json() + "\n" for event in events))

    def _attempts(self) -> list[Path]:
        found = (path for path in (self.path / "attempts").glob("[0-9]*") if path.name.isdigit())
        return sorted(found, key=lambda path: int(path.name))

    def _is_locked(self) -> bool:
        """Whether a process holds the lock. Looking creates no file and needs no right to write."""
        try:
            with open(self.path / "lock") as lock:
                return not _try_lock(lock, fcntl.LOCK_SH)
        except FileNotFoundError:
            return False


def _read_lines(path: Path) -> list[AnyEvent]:
    """The events of a file; none if it does not exist."""
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            return parse_lines(lines, path)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(damage(path, error)) from None


def _try_lock(lock: IO[str], kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
