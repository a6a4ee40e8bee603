"""Submissions to the scheduler: one directory per job array, runs/submissions/NAME/, written before sbatch is called.

Each job array is named after its directory, and Slurm is asked for jobs only by that name. So if a shell dies right
after sbatch, before it could record the job ids, no job is lost, and no cell that has a pending or running job is
submitted twice.

submission.json   the array: its profile, and the cells of each index
environment.sh    the environment variables of its profile, whose values stand nowhere else
*_submitted.pkl   what submitit starts, one per job
*_submission.sh   the script that was passed to sbatch
*_log.*           output from outside the cells

The directories are for this user only: submitit's files are pickles, so whoever writes to one runs code.
"""

import fcntl
import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr, ValidationError

from harness.config.errors import ConfigError, explain
from harness.records.files import make_private, write_atomically
from launch.planning.profiles import Slurm
from launch.planning.runs_folder import Runs
from launch.slurm.arrays import ENVIRONMENT, Layout, Submission, exports, parameters, python
from launch.slurm.queue import Job, Jobs, accounted, queued

if TYPE_CHECKING:
    from launch.slurm.bundle import Bundle

# Timeouts that submitit allows a job: practically no limit, because a cell makes progress before each timeout.
MOST_TIMEOUTS = 10_000


@dataclass(frozen=True)
class ArrayTask:
    """The position of a cell among the submissions."""

    submission: Submission
    index: int

    @property
    def key(self) -> tuple[str, int]:
        """Job name and array index."""
        return self.submission.name, self.index

    @property
    def companions(self) -> list[str]:
        """The cells of the same job, including this one."""
        return self.submission.jobs[self.index]


@dataclass(frozen=True)
class Submissions:
    """Everything that was ever submitted from one runs directory."""

    runs: Runs

    @property
    def root(self) -> Path:
        """The directory that holds the directories of all submissions."""
        return self.runs.root.resolve() / "submissions"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only shell that submits jobs from this runs directory; waits until another shell is done."""
        make_private(self.root)
        with open(self.root / "lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def names(self) -> list[str]:
        """The names in use, oldest first."""
        return [path.parent.name for path in self._files]

    @cached_property
    def tasks(self) -> dict[str, ArrayTask]:
        """The newest submission of each cell."""
        found = {}
        for submission in self.readable:
            for index, cells in enumerate(submission.jobs):
                found.update(dict.fromkeys(cells, ArrayTask(submission, index)))
        return found

    @cached_property
    def readable(self) -> list[Submission]:
        """All submissions, oldest first, except those that a different version of the code wrote in another format."""
        found = []
        for path in self._files:
            with suppress(ConfigError):
                found.append(read(path.parent))
        return found

    @cached_property
    def _files(self) -> list[Path]:
        return sorted(self.root.glob("*/submission.json"), key=lambda path: path.stat().st_mtime)

    def living(self, cells: Iterable[str]) -> dict[str, Job]:
        """The pending or running job of each cell that has one.

        Raises:
            ConfigError: slurmctld does not answer, or the cells of a pending or running job cannot be read.
        """
        tasks = self._tasks_of(cells)
        unreadable = set(self.names()) - {submission.name for submission in self.readable}
        jobs = queued({task.submission.name for task in tasks.values()} | unreadable)
        for (name, _), job in jobs.items():
            if name in unreadable and job.is_live:
                read(self.root / name)
        known = {cell: jobs[task.key] for cell, task in tasks.items() if task.key in jobs}
        return {cell: job for cell, job in known.items() if job.is_live}

    def jobs_of(self, cells: Iterable[str], patience: float) -> dict[str, Job]:
        """The newest job of each submitted cell, including jobs that ended, if Slurm still knows it.

        Raises:
            ConfigError: slurmctld has not answered for `patience` seconds.
        """
        tasks = self._tasks_of(cells)
        jobs = queued({task.submission.name for task in tasks.values()}, patience)
        gone = {task.submission.name for task in tasks.values() if task.key not in jobs}
        if gone:
            oldest = min((self.root / name / "submission.json").stat().st_mtime for name in gone)
            jobs = accounted(gone, oldest - 60) | jobs
        return {cell: jobs[task.key] for cell, task in tasks.items() if task.key in jobs}

    def _tasks_of(self, cells: Iterable[str]) -> dict[str, ArrayTask]:
        return {cell: self.tasks[cell] for cell in cells if cell in self.tasks}


def read(folder: Path) -> Submission:
    """Read the submission of a directory.

    Raises:
        ConfigError: a different version of the code wrote it.
    """
    path = folder / "submission.json"
    try:
        submission = Submission.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        said = f"{path} was written by a different version of the code ({explain(error)})"
        raise ConfigError(f"submissions: {said}; wait for its jobs or scancel --name={folder.name}") from None
    saved = _saved_environment(folder)
    return submission if saved is None else _with_environment(submission, saved)


def send(submission: Submission, folder: Path, runs: Runs, after: Sequence[str]) -> list[str]:
    """Submit one array with sbatch and return the job id of each index.

    Raises:
        ConfigError: sbatch refuses it.
    """
    import submitit

    # The directory may already exist and be empty, if a shell died right after this line; its name is then still free.
    folder.mkdir(parents=True, exist_ok=True)
    if submission.profile.environment:
        write_atomically(folder / ENVIRONMENT, "\n".join(exports(secrets(submission.profile))) + "\n")
    write_atomically(folder / "submission.json", submission.model_dump_json(indent=1))
    executor = submitit.SlurmExecutor(folder, max_num_timeout=MOST_TIMEOUTS, python=python(submission.profile))
    executor.update_parameters(**parameters(submission, folder, after))
    try:
        with outside_of_any_job():
            jobs = executor.submit_array([_bundle(submission, index, runs) for index in range(len(submission.jobs))])
    except submitit.core.utils.FailedJobError as error:
        raise ConfigError(f"sbatch failed: {' '.join(str(error).split())}") from None
    return [job.job_id for job in jobs]


@contextmanager
def outside_of_any_job() -> Iterator[None]:
    """Hide the SLURM_ variables of the surrounding allocation, which new jobs would inherit; keeps SLURM_CONF."""
    from submitit.helpers import clean_env, environment_variables

    where = {"SLURM_CONF": os.environ["SLURM_CONF"]} if "SLURM_CONF" in os.environ else {}
    with clean_env(), environment_variables(**where):
        yield


def complete(submissions: Submissions, jobs: Jobs) -> None:
    """Complete the submission of a shell that died after sbatch: write the pickles that its jobs will load."""
    import submitit

    for (name, index), job in jobs.items():
        folder = submissions.root / name
        pickle = submitit.core.utils.JobPaths(folder, job.job_id).submitted_pickle
        if job.is_live and not pickle.exists():
            submission = read(folder)
            delayed = submitit.helpers.DelayedSubmission(_bundle(submission, index, submissions.runs))
            delayed.set_timeout(submission.profile.timeout_min, MOST_TIMEOUTS)
            delayed.dump(pickle)


def secrets(profile: Slurm) -> dict[str, str]:
    """The environment variables of a profile, with their values."""
    return {name: value.get_secret_value() for name, value in profile.environment.items()}


def _saved_environment(folder: Path) -> dict[str, SecretStr] | None:
    """The variables that `send` wrote down; None if the profile has none."""
    path = folder / ENVIRONMENT
    if not path.exists():
        return None
    words = shlex.split(path.read_text(encoding="utf-8"))
    pairs = (word.split("=", maxsplit=1) for word in words if word != "export")
    return {name: SecretStr(value) for name, value in pairs}


def _with_environment(submission: Submission, environment: dict[str, SecretStr]) -> Submission:
    profile = submission.profile.model_copy(update={"environment": environment})
    return submission.model_copy(update={"profile": profile})


def _bundle(submission: Submission, index: int, runs: Runs) -> "Bundle":
    from launch.slurm.bundle import Bundle

    cells = [(runs.root / "cells" / cell).resolve() for cell in submission.jobs[index]]
    profile = _with_environment(submission, {}).profile  # the script has set the variables before
    return Bundle(cells, Layout.of(submission).at_once, profile, submission.trusted)
