"""The `launch` command line. Heavy modules are imported by the command that needs them: --help must be instant."""

import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from harness.commands.console import TrustOption, command_line, report_checks, report_damage, run_app, screen
from launch import completion

app = command_line("Plan, run and watch grids of cells.")

RunsOption = Annotated[Path, typer.Option("--runs", envvar="JFBENCH_RUNS", help="The runs directory.")]
GridArgument = Annotated[
    str,
    typer.Argument(help="Name of a launched grid.", show_default=False, autocompletion=completion.launched_grids),
]
CellsArgument = Annotated[
    str,
    typer.Argument(
        metavar="GRID[/CELL]",
        help="A launched grid, or its cells whose id begins with CELL.",
        autocompletion=completion.grids_and_cells,
    ),
]
OptionalCells = Annotated[
    str | None,
    typer.Argument(
        metavar="[GRID[/CELL]]",
        help="A launched grid, or its cells whose id begins with CELL; without it, all grids are listed.",
        autocompletion=completion.grids_and_cells,
    ),
]
ClusterOption = Annotated[
    str, typer.Option(help="A profile of slurm_templates/ or a YAML file.", autocompletion=completion.clusters)
]
WhereOption = Annotated[
    list[str] | None, typer.Option("--where", help="Only cells with field=value or field=value,value; repeatable.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="field=value or field=value,value", metavar="[FIELD=VALUE]...")
]
RUNS = Path("runs")


@app.command()
def grid(
    source: Annotated[
        str,
        typer.Argument(metavar="GRID", help="A shipped grid's name or a YAML file.", autocompletion=completion.grids),
    ],
    overrides: Overrides = None,
    cluster: ClusterOption = "local",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show cells, work, price and scripts; write nothing.")
    ] = False,
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Run only a short cell of each shape that has no price, then show the price."),
    ] = False,
    root: RunsOption = RUNS,
) -> None:
    """Run every cell of a grid that is not finished; safe to repeat.

    \b
    python -m launch grid demo --dry-run
    python -m launch grid demo --probe --cluster my-site.yaml
    python -m launch grid demo name=long model=de-admm,de-prox steps=200
    python -m launch grid demo name=faces data.name=folder data.root=~/photos
    """
    from launch.planning.changes import changed_fields, declared_grid
    from launch.planning.grid import plan
    from launch.planning.profiles import read_profile
    from launch.planning.runs_folder import Runs
    from launch.reconcile import describe, launch, launch_probes, plan_probes, require_ranks

    console = screen()
    declared, changes = declared_grid(source, overrides or [])
    cells = plan(declared)
    profile = read_profile(cluster)
    require_ranks(cells, profile)
    runs = Runs(root)
    if dry_run:
        shown = plan_probes(runs, declared, cells) if probe else (declared, cells)
        console.print(describe(runs, *shown, profile), soft_wrap=True)
        for line in changed_fields(changes, cells):
            console.print(line, soft_wrap=True, markup=False, highlight=False)
        return
    run = launch_probes if probe else launch
    raise typer.Exit(run(runs, declared, cells, profile, console))


@app.command()
def status(
    name: OptionalCells = None,
    where: WhereOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until Ctrl-C.")] = False,
    root: RunsOption = RUNS,
) -> None:
    """Show the progress of each cell of a grid, and what the unfinished ones are waiting for; or list all grids.

    \b
    The exit code is 1 if a cell cannot be read.
    \b
    python -m launch status
    python -m launch status demo --watch
    python -m launch status demo --where model=de-admm,de-prox --where seed=0
    python -m launch status demo --json
    """
    import json

    from rich.live import Live

    from launch.planning.runs_folder import Runs
    from launch.planning.selection import select
    from launch.tracking.status import WATCH_SECONDS, list_grids, read_rows, read_table, read_table_and_soundness

    runs = Runs(root)
    if name is None:
        screen().print(list_grids(runs))
        return
    folders = select(runs, name, where or [])
    if as_json:
        rows = read_rows(runs, folders)
        print(json.dumps([asdict(row) for row in rows]))
        raise typer.Exit(1 if any(row.state == "damaged" for row in rows) else 0)
    if not watch:
        shown, sound = read_table_and_soundness(runs, folders)
        screen().print(shown)
        raise typer.Exit(0 if sound else 1)
    with suppress(KeyboardInterrupt), Live(console=screen(), refresh_per_second=1) as live:
        while True:
            live.update(read_table(runs, folders))
            time.sleep(WATCH_SECONDS)


@app.command()
def logs(
    cell: Annotated[str, typer.Argument(help="A cell_id or its beginning.", autocompletion=completion.cells)],
    root: RunsOption = RUNS,
) -> None:
    """Print the output of every rank of a cell in every attempt, oldest first, and how each attempt ended."""
    from launch.planning.runs_folder import Runs
    from launch.planning.selection import find_cell
    from launch.tracking.logs import print_logs

    print_logs(Runs(root), find_cell(Runs(root), cell))


@app.command()
def cancel(
    name: CellsArgument,
    where: WhereOption = None,
    root: RunsOption = RUNS,
) -> None:
    """Cancel the jobs of a grid, or of some of its cells; `launch grid` resumes them from their checkpoints.

    \b
    python -m launch cancel demo
    python -m launch cancel demo/de-prox_jfb
    python -m launch cancel demo --where backprop=implicit
    """
    from launch.planning.runs_folder import Runs
    from launch.planning.selection import select
    from launch.slurm.retry_cancel import cancel_cells

    print(cancel_cells(Runs(root), select(Runs(root), name, where or [])))


@app.command()
def retry(
    name: CellsArgument,
    where: WhereOption = None,
    timeout_min: Annotated[float | None, typer.Option(help="A new time limit, in minutes.")] = None,
    memory: Annotated[str | None, typer.Option(help="New memory per rank, such as 32G.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="A node to avoid; repeatable.")] = None,
    root: RunsOption = RUNS,
) -> None:
    """Resubmit the cells that failed or lost their job, with the settings they were submitted with.

    \b
    python -m launch retry demo
    python -m launch retry demo --where backprop=implicit --timeout-min 240 --memory 32G
    """
    from launch.planning.runs_folder import Runs
    from launch.planning.selection import select
    from launch.slurm.retry_cancel import retry_cells

    changes = {"timeout_min": timeout_min, "memory": memory, "exclude": exclude or None}
    changes = {field: value for field, value in changes.items() if value is not None}
    folders = select(Runs(root), name, where or [])
    damage = retry_cells(Runs(root), name.partition("/")[0], folders, changes, screen())
    raise typer.Exit(1 if report_damage(damage) else 0)


@app.command()
def sync(
    name: GridArgument,
    follow: Annotated[bool, typer.Option("--follow", help="Repeat until standard input closes.")] = False,
    root: RunsOption = RUNS,
) -> None:
    """Bring MLflow up to date with a grid's records; safe to run at any time, and idempotent."""
    from launch.planning.runs_folder import Runs
    from launch.tracking.sync import sync_once, sync_until_closed

    runs = Runs(root)
    runs.cells_of(name)
    if follow:
        sync_until_closed(runs, name)
    else:
        print(f"{sync_once(runs, name)} cells had news")


@app.command()
def pack(
    name: GridArgument,
    file: Annotated[Path, typer.Argument(help="The archive to write, such as results/demo.tar.xz.")],
    weights: Annotated[bool, typer.Option("--weights", help="Include weights and checkpoints.")] = False,
    root: RunsOption = RUNS,
) -> None:
    """Write the records of a grid into one file that can be unpacked anywhere.

    \b
    python -m launch pack demo demo.tar.xz
    """
    from launch.planning.runs_folder import Runs
    from launch.tracking.archive import pack as write

    count = write(Runs(root), name, file, weights)
    print(f"{count} cells, {file.stat().st_size / 2**20:.1f} MiB: {file}")


@app.command()
def unpack(
    file: Annotated[Path, typer.Argument(help="An archive that `launch pack` wrote.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Where the data lie, such as data.root=PATH.", metavar="[FIELD=VALUE]...")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Only plan the cells, to run them again and compare.")] = False,
    root: RunsOption = RUNS,
) -> None:
    """Bring the records of a grid back into a runs directory: its finished cells count as finished.

    \b
    python -m launch unpack results/exactness.tar.xz --runs from-archive
    python -m analysis report exactness --runs from-archive
    """
    from launch.planning.runs_folder import Runs
    from launch.tracking.archive import data_fields
    from launch.tracking.archive import unpack as read

    for grid in read(file, Runs(root), data_fields(overrides or []), fresh):
        print(f"{grid}: {len(Runs(root).cells_of(grid))} cells in {root}")


@app.command()
def rerun(
    file: Annotated[Path, typer.Argument(help="An archive that `launch pack` wrote.")],
    cell: Annotated[str, typer.Argument(help="A cell_id or its beginning.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Where the data lie, such as data.root=PATH.", metavar="[FIELD=VALUE]...")
    ] = None,
    root: Annotated[Path, typer.Option("--runs", help="An empty runs directory, or that of another rerun.")] = Path(
        "runs-again"
    ),
    trust: TrustOption = None,
) -> None:
    """Run one archived cell again and print how far its losses and scores are from those in the archive.

    \b
    python -m launch rerun results/exactness.tar.xz de-hqs_jfb_cosine_tuned_s0 data.root=PATH
    """
    from launch.local.rerun import rerun as run_again
    from launch.planning.runs_folder import Runs
    from launch.tracking.archive import data_fields

    found = run_again(file, cell, data_fields(overrides or []), Runs(root), trust or ())
    print(f"{found.cell_id}: {found.steps} steps, losses within {found.loss:.1e}, PSNR within {found.psnr:.1e} dB")


@app.command()
def pull(
    name: Annotated[str, typer.Argument(metavar="GRID", help="Name of a grid in MLflow.", show_default=False)],
    source: Annotated[str, typer.Option("--from", help="MLflow: http://HOST:PORT or sqlite:///FILE.")],
    root: RunsOption = RUNS,
) -> None:
    """Rebuild the directories of a grid from MLflow, to write its report on a machine that does not see its disk.

    \b
    python -m launch pull demo --from http://127.0.0.1:5000 --runs pulled
    python -m analysis report demo --runs pulled
    """
    from launch.planning.runs_folder import Runs
    from launch.tracking.pull import pull

    print(f"{pull(Runs(root), name, source)} cells pulled")


@app.command()
def run(
    cell: Annotated[
        str,
        typer.Argument(
            help="A planned cell's id or its beginning, or GRID/CELL of any grid.", autocompletion=completion.cells
        ),
    ],
    overrides: Overrides = None,
    root: RunsOption = RUNS,
    trust: TrustOption = None,
) -> None:
    """Run one cell here, alone or as a rank of torchrun.

    \b
    python -m launch run demo/de-prox_jfb
    torchrun --nproc-per-node 2 -m launch run demo/de-prox_jfb
    """
    from launch.local.single import run_alone
    from launch.planning.runs_folder import Runs

    print(run_alone(Runs(root), cell, overrides or [], trust or ()))


@app.command()
def doctor(
    cluster: Annotated[
        str | None,
        typer.Option(
            help="A profile to check against this cluster; queues nothing.", autocompletion=completion.clusters
        ),
    ] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="Check this machine's GPU; a missing one fails.")] = False,
    collectives: Annotated[
        bool,
        typer.Option("--collectives", help="Time all-reduces between this machine's devices, for reports."),
    ] = False,
    root: RunsOption = RUNS,
) -> None:
    """Check a cluster before a launch, or a device before a measurement; exit code 1 if something is wrong.

    \b
    python -m launch doctor --cluster my-site.yaml
    srun --gres=gpu:2 python -m launch doctor --gpu
    srun --gres=gpu:8 python -m launch doctor --collectives
    """
    from harness.config.errors import ConfigError

    if cluster is None and not gpu and not collectives:
        raise ConfigError("doctor: give --cluster FILE, --gpu, --collectives or several of them")
    sound = True
    if cluster is not None:
        from launch.planning.profiles import Slurm, read_profile
        from launch.planning.runs_folder import Runs
        from launch.slurm.doctor import check_cluster

        profile = read_profile(cluster)
        if not isinstance(profile, Slurm):
            raise ConfigError(f"--cluster: {cluster} has executor {profile.executor}; there is no cluster to check")
        sound = report_checks(check_cluster(profile, Runs(root)))
    if gpu:
        from harness.measure.device_check import check_device

        sound = report_checks(check_device()) and sound
    if collectives:
        from harness.measure.collectives import check_collectives

        sound = report_checks(check_collectives(root)) and sound
    raise typer.Exit(0 if sound else 1)


@app.command()
def fields() -> None:
    """Document every field of a grid file and every available choice."""
    from launch.planning.fields import describe_fields

    screen().print(describe_fields())


@app.command()
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
    root: RunsOption = RUNS,
) -> None:
    """Show MLflow on this machine's loopback address, with prepared views of each grid: a table and charts."""
    from launch.planning.runs_folder import Runs
    from launch.tracking.server import show

    show(Runs(root), port)


if __name__ == "__main__":
    run_app(app)
