"""The `launch` command line. Heavy modules are imported by the command that needs them: --help must be instant."""

import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Plan, run and watch grids of cells.",
)

RunsOption = Annotated[Path, typer.Option("--runs", envvar="JFBENCH_RUNS", help="Where results lie.")]
GridArgument = Annotated[str, typer.Argument(help="Name of a launched grid.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="field=value or field=value,value", metavar="[FIELD=VALUE]...")
]
RUNS = Path("runs")


@app.command()
def grid(
    source: Annotated[str, typer.Argument(metavar="GRID", help="A shipped grid's name or a YAML file.")],
    overrides: Overrides = None,
    cluster: Annotated[str, typer.Option(help="local, debug, or a profile's YAML file.")] = "local",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells and the work; write nothing.")] = False,
    runs: RunsOption = RUNS,
) -> None:
    """Run every cell of a grid that is not finished; safe to repeat.

    \b
    python -m launch grid demo --dry-run
    python -m launch grid demo model=de-admm,de-prox optimizer.lr=1e-4
    python -m launch grid demo name=faces data.name=folder data.root=~/photos
    """
    from rich.console import Console

    from launch.cluster import read_profile
    from launch.grid import override, parse_assignment, plan, read_grid
    from launch.reconcile import describe, launch
    from launch.runs import Runs

    console = Console()
    declared = override(read_grid(source), map(parse_assignment, overrides or []))
    cells = plan(declared)
    profile = read_profile(cluster)
    where = Runs(runs)
    if dry_run:
        console.print(describe(where, declared, cells))
        return
    raise typer.Exit(launch(where, declared, cells, profile, console))


@app.command()
def status(
    name: GridArgument,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until Ctrl-C.")] = False,
    runs: RunsOption = RUNS,
) -> None:
    """Show how far each cell of a grid is.

    \b
    python -m launch status demo --watch
    python -m launch status demo --json
    """
    import json

    from rich.console import Console
    from rich.live import Live

    from launch.runs import Runs
    from launch.status import read_rows, table

    folders = Runs(runs).cells_of(name)
    if as_json:
        print(json.dumps([asdict(row) for row in read_rows(folders)]))
        return
    with Live(console=Console(), refresh_per_second=1) as live:
        live.update(table(read_rows(folders)))
        while watch:
            time.sleep(1)
            live.update(table(read_rows(folders)))


@app.command()
def logs(
    cell: Annotated[str, typer.Argument(help="A cell_id or its beginning.")],
    runs: RunsOption = RUNS,
) -> None:
    """Print what every rank of a cell wrote, oldest job first."""
    from launch.runs import Runs

    for path in sorted((Runs(runs).find_cell(cell).path / "logs").glob("*_log.*"), key=os.path.getmtime):
        print(f"==> {path} <==")
        print(path.read_text(encoding="utf-8", errors="replace"))


@app.command()
def sync(
    name: GridArgument,
    follow: Annotated[bool, typer.Option("--follow", help="Repeat until standard input closes.")] = False,
    runs: RunsOption = RUNS,
) -> None:
    """Bring MLflow up to date with a grid's records; may run at any time, and twice changes nothing."""
    from launch.runs import Runs
    from launch.sync import sync_once, sync_until_closed

    where = Runs(runs)
    where.cells_of(name)
    if follow:
        sync_until_closed(where, name)
    else:
        print(f"{sync_once(where, name)} cells had news")


@app.command()
def run(
    cell: Annotated[str, typer.Argument(help="A planned cell's id or its beginning, or GRID/CELL of any grid.")],
    overrides: Overrides = None,
    runs: RunsOption = RUNS,
) -> None:
    """Run one cell here, alone or as a rank of torchrun.

    \b
    python -m launch run demo/de-prox_jfb
    torchrun --nproc-per-node 2 -m launch run demo/de-prox_jfb
    """
    from launch.alone import run_alone
    from launch.runs import Runs

    print(run_alone(Runs(runs), cell, overrides or []))


@app.command()
def fields() -> None:
    """Document every field of a grid file and every choice there is."""
    from rich.console import Console

    from launch.fields import describe_fields

    Console().print(describe_fields())


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 5000,
    runs: RunsOption = RUNS,
) -> None:
    """Open MLflow's UI on this machine's loopback address."""
    from launch.runs import Runs

    os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port)]
    os.execv(sys.executable, [*command, "--backend-store-uri", Runs(runs).tracking_uri])


def main() -> None:
    """Run a command; a user's mistake is one line and exit code 2."""
    try:
        app()
    except ValueError as error:
        from harness.config import ConfigError

        if not isinstance(error, ConfigError):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
