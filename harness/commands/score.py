"""Scores finished cells on more test pictures than their grid did: `python -m harness score CELL...`."""

from pathlib import Path
from typing import Annotated

import typer

from harness.commands.console import TrustOption


def score(
    cells: Annotated[list[Path], typer.Argument(metavar="CELL...", help="Directories of finished cells.")],
    pictures: Annotated[int, typer.Option(min=1, help="Number of test pictures to score.")] = 1000,
    longer: Annotated[int, typer.Option(min=0, help="Number of these to iterate 10 times longer.")] = 64,
    trust: TrustOption = None,
) -> None:
    """Score finished cells on more test pictures; the next report shows the scores in a table.

    \b
    Cells that have already been scored on at least this many pictures are skipped.
    \b
    python -m harness score $(python -m analysis best paper-cpu)
    """
    from harness.config.errors import ConfigError
    from harness.records.cell_folder import CellFolder
    from harness.run.rescore import measure_again

    folders = [CellFolder(path) for path in cells]
    for folder in folders:
        if not (folder.path / "cell.json").is_file() or folder.status().state != "finished":
            raise ConfigError(f"CELL: {folder.path} is not the directory of a finished cell")
    for number, folder in enumerate(folders, 1):
        events = measure_again(folder, pictures, longer, trust or ())
        if events:
            folder.write_scores(events)
        done = ", ".join(event.event for event in events[1:]) or "scored before"
        print(f"{number} of {len(folders)} {folder.path}: {done}", flush=True)
