"""Shell completion of grids, cluster profiles and cells. Reads little more than file names, because the shell waits."""

import glob
import json
import os
from collections.abc import Iterator
from pathlib import Path

import typer

import launch.grids
import slurm_templates


def grids(incomplete: str) -> list[str]:
    """Grids that can be launched: the shipped ones and YAML files."""
    return _starting(incomplete, _stems(launch.grids.__path__[0])) + _yaml_files(incomplete)


def clusters(incomplete: str) -> list[str]:
    """Cluster profiles: the templates and YAML files."""
    return _starting(incomplete, _stems(slurm_templates.__path__[0])) + _yaml_files(incomplete)


def launched_grids(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of the grids that were launched in the runs directory."""
    return _starting(incomplete, (path.parent.name for path in _root(ctx).glob("grids/*/grid.json")))


def grids_and_cells(ctx: typer.Context, incomplete: str) -> list[str]:
    """GRID, or GRID/CELL once the name of the grid is typed."""
    grid, slash, _ = incomplete.partition("/")
    if not slash:
        return launched_grids(ctx, incomplete)
    try:
        planned = json.loads((_root(ctx) / "grids" / grid / "grid.json").read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, LookupError, TypeError):
        return []
    return _starting(incomplete, (f"{grid}/{cell}" for cell in planned))


def cells(ctx: typer.Context, incomplete: str) -> list[str]:
    """Ids of the cells in the runs directory."""
    return _starting(incomplete, (path.parent.name for path in _root(ctx).glob("cells/*/cell.json")))


def _root(ctx: typer.Context) -> Path:
    """The runs directory; during completion, an option has a value only if it was typed."""
    typed = ctx.params.get("root") or ctx.params.get("runs")
    return Path(typed or os.environ.get("JFBENCH_RUNS") or "runs")


def _stems(folder: str) -> Iterator[str]:
    return (path.stem for path in Path(folder).glob("*.yaml"))


def _yaml_files(incomplete: str) -> list[str]:
    return sorted(glob.glob(f"{glob.escape(incomplete)}*.yaml"))


def _starting(incomplete: str, names: Iterator[str]) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete))
