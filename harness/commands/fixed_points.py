"""Looks for the fixed points of trained maps: `python -m harness fixed-points CELL...`."""

from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from harness.commands.console import TrustOption


def fixed_points(
    cells: Annotated[list[Path], typer.Argument(metavar="CELL...", help="Directories of finished training cells.")],
    pictures: Annotated[int, typer.Option(min=1, help="Number of validation pictures.")] = 32,
    trust: TrustOption = None,
) -> None:
    """Search the fixed point at each validation picture, before and after training, to a residual of 1e-10 in float64.

    \b
    Anderson's method comes first; where it stalls, Newton's method continues, which also finds fixed points that repel.
    \b
    python -m harness fixed-points runs/cells/de-hqs_jfb_cosine_s0-*
    """
    from rich.table import Table

    from harness.commands.console import screen
    from harness.records.cell_folder import CellFolder
    from harness.run.fixed_points import search

    table = Table(box=None, pad_edge=False)
    headings = ("cell", "training", "found", "by Anderson alone", "worst residual", "evaluations", "seconds", "at most")
    for column in headings:
        table.add_column(column, justify="left" if column in ("cell", "training") else "right")
    for path in cells:
        for trained in (False, True):
            found = list(search(CellFolder(path), trained, pictures, trust or ()))
            table.add_row(
                path.name,
                "after" if trained else "before",
                f"{sum(one.converged for one in found)} of {len(found)}",
                str(sum(one.converged_alone for one in found)),
                f"{max(one.residual for one in found):.1e}",
                f"{median(one.evaluations for one in found):.0f}",
                f"{median(one.seconds for one in found):.1f}",
                f"{max(one.seconds for one in found):.1f}",
            )
    screen().print(table, soft_wrap=True)
