"""The times of all-reduces on one machine, which `launch doctor --collectives` measures (torch-free)."""

from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from harness.config.errors import ConfigError
from harness.records.files import write_atomically

FILE = "collectives.json"
"""Name of the file in a runs directory, or in the folder of a grid that came from an archive."""


class AllReduce(BaseModel):
    """One measurement."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ranks: int
    bytes: int
    seconds: float
    """Median over repeats, of the slowest rank."""


class Sweep(BaseModel):
    """All-reduces of several sizes over several numbers of ranks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    backend: str
    host: str
    processors: int
    """Processors of the host; with more ranks than that on a CPU, the times say nothing about a network."""
    times: tuple[AllReduce, ...]

    def write(self, folder: Path) -> Path:
        """Write the file, and return its path."""
        write_atomically(folder / FILE, self.model_dump_json(indent=1))
        return folder / FILE


def read_sweep(folders: Iterable[Path]) -> Sweep | None:
    """The sweep of the first folder that has one.

    Raises:
        ConfigError: the file cannot be read.
    """
    path = next((folder / FILE for folder in folders if (folder / FILE).is_file()), None)
    try:
        return Sweep.model_validate_json(path.read_bytes()) if path else None
    except (OSError, ValueError):
        raise ConfigError(f"{path}: cannot be read; measure again by python -m launch doctor --collectives") from None
