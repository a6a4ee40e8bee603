"""The `analysis` command line. Heavy modules are imported by the command that needs them: --help must be instant."""

from pathlib import Path
from typing import Annotated

import typer

from harness.commands.console import command_line, report_damage, run_app, screen
from launch.completion import launched_grids

app = command_line("Turn what cells recorded into tables, figures and a report.")

GridArgument = Annotated[
    str,
    typer.Argument(metavar="GRID", help="Name of a launched grid.", show_default=False, autocompletion=launched_grids),
]
RunsOption = Annotated[Path, typer.Option("--runs", envvar="JFBENCH_RUNS", help="The runs directory.")]
RUNS = Path("runs")


@app.command()
def report(
    name: GridArgument,
    runs: RunsOption = RUNS,
    output: Annotated[Path | None, typer.Option(help="Where to write.", show_default="RUNS/grids/GRID/report")] = None,
    section: Annotated[
        list[str] | None, typer.Option(help="A section of your own, as package.module:function; repeatable.")
    ] = None,
) -> None:
    """Write the tables, the figures and report.html of a grid, finished or not.

    \b
    The exit code is 1 if a file cannot be read.
    \b
    python -m analysis report demo
    python -m analysis report demo --output paper/demo
    python -m analysis report demo --section mypackage.mymodule:section
    """
    from analysis.report import report as make
    from launch.planning.runs_folder import Runs

    made = make(Runs(runs), name, output, section or [], screen())
    raise typer.Exit(1 if report_damage(made.data.damage) else 0)


@app.command()
def best(
    name: GridArgument,
    runs: RunsOption = RUNS,
) -> None:
    """Print the directory of each method's best cell on validation pictures, for `harness score` to score further.

    \b
    python -m harness score $(python -m analysis best paper-cpu)
    """
    from analysis.reading.load import load
    from analysis.sections.all_pictures import best_cells
    from launch.planning.runs_folder import Runs

    data = load(Runs(runs), name)
    for cell_id in best_cells(data)["cell_id"]:
        print(data.folders[cell_id].path)
    raise typer.Exit(1 if report_damage(data.damage) else 0)


@app.command()
def results(
    folder: Annotated[Path, typer.Option(help="The archives and the template.")] = Path("results"),
    output: Annotated[Path, typer.Option(help="The page to write.")] = Path("RESULTS.md"),
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail if the page would change.")] = False,
) -> None:
    """Write RESULTS.md from the archived records of published grids.

    \b
    python -m analysis results
    """
    from analysis.results import render
    from harness.config.errors import ConfigError
    from harness.records.files import write_atomically

    text = render(folder)
    if not check:
        write_atomically(output, text)
    elif not output.exists() or output.read_text(encoding="utf-8") != text:
        raise ConfigError(f"output: {output} is not what {folder} gives; run `python -m analysis results`")


if __name__ == "__main__":
    run_app(app)
