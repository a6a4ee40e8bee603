"""Packs what a grid's cells recorded into one file that can travel, and unpacks it into a runs directory.

The archive holds definitions, records and statuses, but no pictures, and weights only on request. The same records make
the same file, byte for byte. Where a data set lay on the machine is replaced by PATH.
"""

import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from harness.config.dotted import with_field
from harness.config.errors import ConfigError
from harness.records import collectives
from harness.records.cell_folder import CellFolder
from harness.records.files import replacing
from launch.planning.overrides import parse_assignment
from launch.planning.runs_folder import ANYWHERE, Runs

DEFINITIONS = re.compile(r"cells/[\w.-]+/(cell|tuned)\.json|grids/[\w.-]+/grid\.json")
RECORDS = re.compile(
    r"cells/[\w.-]+/(status\.json|scores\.jsonl|attempts/\d+/(record\.jsonl|exit\.json))"
    r"|grids/[\w.-]+/(estimates|collectives)\.json"
)
WEIGHTS = re.compile(r"cells/[\w.-]+/(weights|checkpoints)/step-\d+-\w+\.pt")
LARGEST = 2**32
"""Maximum size in bytes of an archive's content."""


def pack(runs: Runs, grid: str, file: Path, weights: bool = False) -> int:
    """Write the archive of a grid; returns the number of its cells.

    With `weights`, it also holds the weights of finished cells and the checkpoints of others, which then resume.

    Raises:
        ConfigError: the grid has not been launched, or the file cannot be written.
    """
    folders = runs.cells_of(grid)
    wanted = [DEFINITIONS, RECORDS, *([WEIGHTS] if weights else [])]
    roots = {str(root) for folder in folders for root in _locations(folder)}
    try:
        with replacing(file) as partial, tarfile.open(partial, "w:xz", preset=9) as archive:
            for place, path in sorted(_files(runs, grid, folders).items()):
                name = place.relative_to(runs.root).as_posix()
                if any(pattern.fullmatch(name) for pattern in wanted):
                    _add(archive, name, path.read_bytes(), roots)
    except OSError as error:
        raise ConfigError(f"file: cannot write {file} ({error.strerror})") from None
    return len(folders)


def unpack(file: Path, runs: Runs, fields: Mapping[str, Any], fresh: bool = False) -> list[str]:
    """Write the content of an archive into a runs directory; returns the names of its grids.

    `fields` are set in the data of every cell, such as data.root. With `fresh`, cells are only planned, so that they
    can be run again; tuned fields keep their values. Files that exist with the same content are left alone.

    Raises:
        ConfigError: the file is no such archive, or a file exists with another content; nothing is written then.
    """
    wanted = [DEFINITIONS] if fresh else [DEFINITIONS, RECORDS, WEIGHTS]
    content = {
        name: _located(name, data, fields)
        for name, data in _members(file)
        if any(pattern.fullmatch(name) for pattern in wanted)
    }
    for name, data in content.items():
        path = runs.root / name
        if path.exists() and path.read_bytes() != data:
            raise ConfigError(f"file: {path} exists and differs from the one in {file}; choose another --runs")
    for name, data in content.items():
        with replacing(runs.root / name) as partial:
            partial.write_bytes(data)
    return sorted(PurePosixPath(name).parts[1] for name in content if name.endswith("/grid.json"))


def data_fields(overrides: Sequence[str]) -> dict[str, Any]:
    """Parse overrides of the fields that say where data lie.

    Raises:
        ConfigError: another field is set; it would make other cells of the archived ones.
    """
    fields = {}
    for one in map(parse_assignment, overrides):
        if one.field != "data.root" or len(one.values) != 1:
            raise ConfigError(f"{one.field}: an archive's cells are as they were run; only data.root=PATH can be set")
        fields[one.field] = one.values[0]
    return fields


def _locations(folder: CellFolder) -> Iterator[Any]:
    data = folder.cell().data
    return (getattr(data, field) for field in data.location_fields)


def _files(runs: Runs, grid: str, folders: list[CellFolder]) -> dict[Path, Path]:
    """Where each file belongs, and where it is: the sweep of all-reduces of this machine goes with the grid."""
    own = [*(one.path for one in folders), runs.grid_folder(grid)]
    found = {path: path for folder in own for path in folder.rglob("*") if path.is_file()}
    if (runs.root / collectives.FILE).is_file():
        found.setdefault(runs.grid_folder(grid) / collectives.FILE, runs.root / collectives.FILE)
    return found


def _add(archive: tarfile.TarFile, name: str, data: bytes, roots: set[str]) -> None:
    """Add one file, without its owner, mode and time."""
    if DEFINITIONS.fullmatch(name):
        data = json.dumps(_without(json.loads(data), roots), indent=1).encode()
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def _without(value: Any, roots: set[str]) -> Any:
    """The same JSON with every text that is one of the roots replaced."""
    if isinstance(value, dict):
        return {key: _without(inner, roots) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without(inner, roots) for inner in value]
    return ANYWHERE if isinstance(value, str) and value in roots else value


def _members(file: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of every file of an archive.

    Raises:
        ConfigError: it cannot be read, or it holds anything but the files of a grid.
    """
    known, total = [DEFINITIONS, RECORDS, WEIGHTS], 0
    try:
        with tarfile.open(file, "r:xz") as archive:
            for member in archive:
                total += member.size
                if not member.isfile() or not any(pattern.fullmatch(member.name) for pattern in known):
                    raise ConfigError(f"file: {file} holds {member.name!r}, which is no file of a grid")
                if total > LARGEST:
                    raise ConfigError(f"file: {file} holds more than {LARGEST / 2**30:.0f} GiB")
                opened = archive.extractfile(member)
                assert opened is not None
                yield member.name, opened.read()
    except (OSError, tarfile.TarError, EOFError) as error:
        raise ConfigError(f"file: {file} is no archive of a grid ({str(error).splitlines()[0]})") from None


def _located(name: str, data: bytes, fields: Mapping[str, Any]) -> bytes:
    """The content of a file; in the definition of a cell, with the fields that say where its data lie."""
    if not fields or not name.endswith("/cell.json"):
        return data
    cell = json.loads(data)
    for field, value in fields.items():
        cell = with_field(cell, field, value)
    return json.dumps(cell, indent=1).encode()
