"""Compares what a profile requests with what the cluster has, as read from sinfo and scontrol."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.config.errors import ConfigError
from launch.planning.profiles import Slurm
from launch.slurm.queue import call

SINFO_FORMAT = "%P|%l|%D|%c|%m|%G"


@dataclass(frozen=True)
class Nodes:
    """Nodes of one kind in one partition."""

    partition: str
    is_default: bool
    limit_min: float
    """Longest time limit of a job in minutes; infinite if there is none."""
    count: int
    cpus: int
    memory_mb: int
    gpus: dict[str, int]
    """Count of each generic resource, under its full name (gpu:a100) and under its short name (gpu)."""


def read_nodes() -> list[Nodes]:
    """Every kind of node in every partition.

    Raises:
        ConfigError: Slurm does not answer.
    """
    return parse_sinfo(call("sinfo", "--noheader", f"--format={SINFO_FORMAT}").splitlines())


def read_array_size() -> int:
    """The site's MaxArraySize.

    Raises:
        ConfigError: Slurm does not answer.
    """
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", call("scontrol", "show", "config"))
    return int(found[1]) if found else 1001


def parse_sinfo(lines: Iterable[str]) -> list[Nodes]:
    """Parse lines of partition|time limit|nodes|cpus|memory|generic resources."""
    kinds = []
    for line in lines:
        partition, limit, count, cpus, memory, gres = line.split("|")
        kinds.append(
            Nodes(
                partition=partition.rstrip("*"),
                is_default=partition.endswith("*"),
                limit_min=parse_limit(limit),
                count=int(count),
                # A trailing + means that some of the nodes have more.
                cpus=int(cpus.rstrip("+")),
                memory_mb=int(memory.rstrip("+")),
                gpus=parse_gres(gres),
            )
        )
    return kinds


def parse_limit(text: str) -> float:
    """Convert [days-]hours:minutes:seconds or minutes:seconds to minutes; a word, such as infinite, means no limit."""
    if not text[0].isdigit():
        return float("inf")
    days, _, clock = text.rpartition("-")
    seconds = 0
    for part in clock.split(":"):
        seconds = seconds * 60 + int(part)
    return int(days or 0) * 1440 + seconds / 60


def parse_gres(text: str) -> dict[str, int]:
    """Parse `gpu:a100:4(S:0-1),nvme:1` to {gpu:a100: 4, gpu: 4, nvme: 1}."""
    found: dict[str, int] = {}
    for name, count in re.findall(r"([A-Za-z][\w:.-]*?):(\d+)(?:\(|,|$)", text):
        for alias in {name, name.partition(":")[0]}:
            found[alias] = found.get(alias, 0) + int(count)
    return found


def problems(profile: Slurm, nodes: Sequence[Nodes], array_size: int) -> list[str]:
    """What the profile requests but the cluster does not have, each as `field: what is available (got ...)`."""
    chosen = [kind for kind in nodes if (kind.partition == profile.partition if profile.partition else kind.is_default)]
    if not chosen:
        names = ", ".join(sorted({kind.partition for kind in nodes}))
        return [f"partition: must be one of {names} (got {profile.partition!r})"]
    found = []
    limit = max(kind.limit_min for kind in chosen)
    if profile.timeout_min > limit:
        where = f"in partition {chosen[0].partition}"
        found.append(f"timeout_min: at most {limit:.0f} {where} (got {profile.timeout_min:g})")
    if profile.array_size > array_size:
        found.append(f"array_size: at most {array_size}, the site's MaxArraySize (got {profile.array_size})")
    if profile.gpu and not any(profile.gpu in kind.gpus for kind in chosen):
        names = ", ".join(sorted({name for kind in chosen for name in kind.gpus})) or "none"
        found.append(f"gpu: partition {chosen[0].partition} has {names} (got {profile.gpu!r})")
    elif not any(_fits(profile, kind) for kind in chosen):
        largest = max(chosen, key=lambda kind: (kind.gpus.get(profile.gpu or "", 0), kind.cpus, kind.memory_mb))
        has = f"{largest.cpus} processors, {largest.memory_mb} MB"
        has += f", {largest.gpus[profile.gpu]} x {profile.gpu}" if profile.gpu else ""
        asked = f"{profile.ranks_per_node} ranks with {profile.cpus} processors and {profile.memory} each"
        found.append(f"ranks_per_node: a node of {chosen[0].partition} has {has} (got {asked})")
    return found


def require_fit(profile: Slurm) -> None:
    """Check a profile against the cluster.

    Raises:
        ConfigError: the profile does not fit; the message names the first problem.
    """
    for problem in problems(profile, read_nodes(), read_array_size()):
        raise ConfigError(f"--cluster: {problem}")


def _fits(profile: Slurm, kind: Nodes) -> bool:
    """Whether a node of this kind has room for as many ranks as the profile puts on one node."""
    ranks = max(profile.ranks_per_node, profile.cells_at_once)
    megabytes = int(profile.memory[:-1]) * {"M": 1, "G": 1024}[profile.memory[-1]]
    enough_gpus = not profile.gpu or kind.gpus.get(profile.gpu, 0) >= ranks
    return enough_gpus and kind.cpus >= ranks * profile.cpus and kind.memory_mb >= ranks * megabytes
