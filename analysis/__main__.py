"""The `analysis` command line. Heavy modules are imported by the command that needs them: --help must be instant."""

from pathlib import Path
from typing import Annotated

import typer

from harness.commands.console import run_app, screen

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Turn what cells recorded into tables, figures and a report.",
)


@app.callback()
def commands() -> None:
    """Turn what cells recorded into tables, figures and a report."""


@app.command()
def report(
    name: Annotated[str, typer.Argument(metavar="GRID", help="Name of a launched grid.", show_default=False)],
    runs: Annotated[Path, typer.Option("--runs", envvar="JFBENCH_RUNS", help="Where results lie.")] = Path("runs"),
    output: Annotated[Path | None, typer.Option(help="Where to write.", show_default="RUNS/grids/GRID/report")] = None,
) -> None:
    """Write the tables, the figures and report.html of a grid, finished or not.

    \b
    python -m analysis report demo
    python -m analysis report demo --output paper/demo
    """
    from analysis.report import report as make
    from launch.planning.runs_folder import Runs

    make(Runs(runs), name, output, screen())


@app.command()
def best(
    name: Annotated[str, typer.Argument(metavar="GRID", help="Name of a launched grid.", show_default=False)],
    runs: Annotated[Path, typer.Option("--runs", envvar="JFBENCH_RUNS", help="Where results lie.")] = Path("runs"),
) -> None:
    """Print the directory of each method's best cell on validation pictures, to be scored on all test pictures.

    \b
    python -m harness score $(python -m analysis best paper-cpu)
    """
    from analysis.reading.load import load
    from analysis.sections.all_pictures import best_cells
    from launch.planning.runs_folder import Runs

    data = load(Runs(runs), name)
    for cell_id in best_cells(data)["cell_id"]:
        print(data.folders[cell_id].path)


if __name__ == "__main__":
    run_app(app)
