"""Asks Slurm about jobs by name: squeue for current jobs, sacct for past ones."""

import re
import shutil
import subprocess
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from harness.config.errors import ConfigError
from launch.planning.chunks import chunks

COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "srun")
LIVE = frozenset({
    "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "REQUEUED", "REQUEUE_FED",
    "REQUEUE_HOLD", "RESIZING", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "RESV_DEL_HOLD",
})  # fmt: skip
# Long enough for slurmctld to restart.
PATIENCE_SECONDS = 60.0
NAMES_PER_CALL = 500


@dataclass(frozen=True)
class Job:
    """One job of an array, or a job that is not part of an array and has index 0."""

    job_id: str
    """In the form that scancel accepts."""
    state: str
    reason: str
    """Why it is pending, in Slurm's words; empty if there is no reason."""
    nodes: str

    @property
    def is_live(self) -> bool:
        """Whether it is running or may still run."""
        return self.state in LIVE


Jobs = Mapping[tuple[str, int], Job]
"""Jobs by their name and array index."""


def require_commands() -> None:
    """Check that Slurm's commands are on PATH.

    Raises:
        ConfigError: some are missing.
    """
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    if missing:
        raise ConfigError(f"--cluster: no {', '.join(missing)} on PATH; run this where Slurm's commands are")


def queued(names: Collection[str], patience: float = PATIENCE_SECONDS) -> dict[tuple[str, int], Job]:
    """The jobs of these names that slurmctld knows: all pending and running ones, and some that ended recently.

    Raises:
        ConfigError: slurmctld has not answered for `patience` seconds.
    """
    found: dict[tuple[str, int], Job] = {}
    for some in chunks(sorted(names), NAMES_PER_CALL):
        options = ["--noheader", "--array", "--states=all", f"--name={','.join(some)}", "--format=%j|%F|%K|%T|%r|%N"]
        found |= parse_squeue(call("squeue", *options, patience=patience).splitlines())
    return found


def accounted(names: Collection[str], since: float) -> dict[tuple[str, int], Job]:
    """The jobs of these names in the site's accounting since the time `since`; empty if the site keeps no accounts."""
    start = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(since))
    found: dict[tuple[str, int], Job] = {}
    for some in chunks(sorted(names), NAMES_PER_CALL):
        options = ["--noheader", "--parsable2", "--allocations", "--allusers", f"--starttime={start}"]
        try:
            done = subprocess.run(
                ["sacct", *options, f"--name={','.join(some)}", "--format=JobName,JobID,State,NodeList"],
                capture_output=True, text=True, timeout=PATIENCE_SECONDS,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return found
        found |= parse_sacct(done.stdout.splitlines())
    return found


def cancel(jobs: Iterable[Job]) -> None:
    """Cancel jobs.

    Raises:
        ConfigError: scancel fails.
    """
    for some in chunks([job.job_id for job in jobs], NAMES_PER_CALL):
        call("scancel", *some)


def call(*command: str, patience: float = PATIENCE_SECONDS) -> str:
    """Run a Slurm command and return its standard output.

    While slurmctld is unreachable, the command is retried for `patience` seconds, because it may be restarting.

    Raises:
        ConfigError: the command does not exist or fails.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        except FileNotFoundError:
            raise ConfigError(f"{command[0]}: no such command; run this where Slurm's commands are") from None
        if done.returncode == 0:
            return done.stdout
        said = " ".join(done.stderr.split())
        if "Unable to contact slurm controller" not in said or time.monotonic() > deadline:
            raise ConfigError(f"{command[0]} failed: {said}")
        time.sleep(2)


def parse_squeue(lines: Iterable[str]) -> dict[tuple[str, int], Job]:
    """Parse lines of name|job|index|state|reason|nodes; the index of a job that is not part of an array is N/A."""
    found = {}
    for line in lines:
        name, number, index, state, reason, nodes = line.split("|")
        is_array = index.isdigit()
        job_id = f"{number}_{index}" if is_array else number
        why = reason if reason not in ("None", "(null)") else ""
        found[name, int(index) if is_array else 0] = Job(job_id, state, why, nodes)
    return found


def parse_sacct(lines: Iterable[str]) -> dict[tuple[str, int], Job]:
    """Parse lines of name|job_id|state|nodes; skips rows that stand for a range of pending jobs."""
    found = {}
    for line in lines:
        name, job_id, state, nodes = line.split("|")
        match = re.fullmatch(r"\d+(?:_(\d+))?", job_id)
        if match:
            # The state may be followed by more words, as in "CANCELLED by 1000".
            found[name, int(match[1] or 0)] = Job(job_id, state.split()[0], "", nodes)
    return found
