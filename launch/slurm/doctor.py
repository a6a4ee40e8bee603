"""Checks before anything is queued: does the cluster accept a profile, and can results be written?"""

from collections.abc import Iterator
from pathlib import Path

from harness.config.errors import ConfigError
from harness.records.check import Check
from launch.planning.profiles import Slurm
from launch.planning.runs_folder import Runs
from launch.slurm.arrays import Submission, describe_array
from launch.slurm.enqueue import test_only
from launch.slurm.queue import require_commands
from launch.slurm.site import problems, read_array_size, read_nodes

# File systems that other nodes cannot see.
NOT_SHARED = ("tmpfs", "ramfs", "overlay", "squashfs")


def check_cluster(profile: Slurm, runs: Runs) -> Iterator[Check]:
    """Everything that can be checked without running a job.

    Raises:
        ConfigError: Slurm is not installed or does not answer.
    """
    require_commands()
    found = problems(profile, read_nodes(), read_array_size())
    yield from (Check(False, problem) for problem in found)
    if not found:
        yield Check(True, f"partition {profile.partition or '(default)'}: time limit, GPUs, processors and memory fit")
    for ranks in sorted({1, profile.ranks_per_node, 2 * profile.ranks_per_node}):
        cells = ["cell"] * profile.cells_per_job
        array = Submission(name="doctor", grid="doctor", profile=profile, world_size=ranks, needs=[], jobs=[cells])
        try:
            test_only([array])
            yield Check(True, f"sbatch takes {describe_array(array)}")
        except ConfigError as error:
            yield Check(False, str(error).removeprefix("--cluster: "))
    yield check_folder(runs)


def check_folder(runs: Runs) -> Check:
    """Check that results can be written to a file system that every node can see."""
    try:
        runs.require_space()
    except ConfigError as error:
        return Check(False, str(error))
    kind = file_system(runs.root.resolve(), Path("/proc/mounts").read_text().splitlines())
    if kind in NOT_SHARED:
        return Check(False, f"--runs: {runs.root} is on {kind}, which other nodes cannot see")
    return Check(True, f"--runs: {runs.root} is writable; it is on {kind}, which every node must be able to see")


def file_system(path: Path, mounts: list[str]) -> str:
    """The type of the file system that holds `path`, from the lines of /proc/mounts."""
    found = {mount[1]: mount[2] for mount in (line.split() for line in mounts)}
    return next(found[str(parent)] for parent in [path, *path.parents] if str(parent) in found)
