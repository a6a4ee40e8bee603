"""Runs what is left of a declared grid: finished cells are skipped, and interrupted ones resume."""

import fcntl
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from harness.commands.console import report_damage
from harness.config.cells import ACCELERATOR_ONLY, Cell, PretrainCell, TimingCell, TrainCell, in_order
from harness.config.errors import ConfigError
from harness.config.trust import packages_of
from harness.records.cell_folder import CellFolder
from harness.records.environment import processors
from launch.planning.grid import Grid
from launch.planning.profiles import Local, Profile, Slurm
from launch.planning.runs_folder import Runs
from launch.pricing.price import Price, describe_price, finished_cells, price, short_cells
from launch.tracking.status import read_table_and_soundness

CELLS_SHOWN = 60
INTERRUPTED = 130
"""Exit code after Ctrl-C, as that of a shell."""


def launch(runs: Runs, grid: Grid, cells: list[Cell], profile: Profile, console: Console) -> int:
    """Write the plan and run it; returns exit code 0 if every cell is finished or submitted to a scheduler, else 1.

    Raises:
        ConfigError: the cells do not fit the cluster, or were planned here with their pictures in another folder.
    """
    require_ranks(cells, profile)
    runs.require_own(cells)
    runs.require_same_folders(cells)
    if isinstance(profile, Slurm):
        from launch.slurm.enqueue import check, enqueue

        check(grid.name, cells, profile)
        damage = _write_plan(runs, grid, cells, console)
        enqueue(runs, grid.name, sound_cells(runs, cells, damage), profile, console)
        console.print(f"python -m launch status {grid.name}{runs.option} --watch", soft_wrap=True, highlight=False)
        return 1 if report_damage(damage) else 0
    with only_launcher(runs, grid.name):
        damage = _write_plan(runs, grid, cells, console)
        folders = [runs.cell(cell.cell_id) for cell in cells]
        unfinished = [runs.cell(cell.cell_id) for cell in sound_cells(runs, cells, damage)]
        unfinished = [folder for folder in unfinished if folder.status().state != "finished"]
        finished = sum(folder.status().state == "finished" for folder in folders)
        console.print(f"{grid.name}: {len(folders)} cells, {finished} finished before")
        report_damage(damage)
        interrupted = _run(runs, grid, cells, unfinished, profile, console)
    shown, sound = read_table_and_soundness(runs, folders)
    console.print(shown)
    if interrupted:
        left = sum(folder.status().state != "finished" for folder in folders)
        console.print(f"stopped; repeat the command to continue the unfinished cells ({left}) from their checkpoints")
        return INTERRUPTED
    return 1 if damage or not sound or any(folder.status().state != "finished" for folder in folders) else 0


def _run(
    runs: Runs, grid: Grid, cells: list[Cell], unfinished: list[CellFolder], profile: Local, console: Console
) -> bool:
    """Run cells on this machine; returns whether a signal ended it early."""
    try:
        if profile.executor == "debug":
            from launch.local.single import run_here

            for folder in unfinished:
                run_here(folder, profile, packages_of(cells))
        elif unfinished:
            from launch.local.queue import run_locally

            run_locally(runs, grid.name, unfinished, profile, console, packages_of(cells))
    except KeyboardInterrupt:
        return True
    return False


@contextmanager
def only_launcher(runs: Runs, grid: str) -> Iterator[None]:
    """Be the only process that runs this grid on this machine.

    Raises:
        ConfigError: another one does.
    """
    runs.require_space()
    folder = runs.grid_folder(grid)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "launcher.lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            watch = f"python -m launch status {grid}{runs.option} --watch"
            raise ConfigError(f"grid: another shell is running {grid}; {watch} shows its progress") from None
        yield


def sound_cells(runs: Runs, cells: list[Cell], damage: list[str]) -> list[Cell]:
    """The cells that can be read and do not need one that cannot; appends to `damage` what is wrong with the others."""
    broken: dict[str, str] = {}
    for cell in cells:
        folder = runs.cell(cell.cell_id)
        status = folder.status()
        try:
            if status.state == "damaged":
                raise ConfigError(status.message)
            if status.state != "finished":
                folder.cell()
        except ConfigError as error:
            broken[cell.cell_id] = str(error)
    damage += broken.values()
    sound = [cell for cell in cells if cell.cell_id not in broken]
    if not broken:
        return sound
    return [cell for cell in sound if not any(one.cell_id in broken for one in in_order(cell))]


def require_ranks(cells: list[Cell], profile: Profile) -> None:
    """Check that this machine has the ranks and GPUs that the cells need.

    Raises:
        ConfigError: it does not have them.
    """
    if isinstance(profile, Slurm):
        return
    if profile.executor == "debug" and any(cell.world_size > 1 for cell in cells):
        raise ConfigError("world_size: --cluster debug runs one rank; add world_size=1")
    short = sorted({cell.precision for cell in cells} & ACCELERATOR_ONLY)
    if short and profile.executor == "local" and not profile.gpus:
        raise ConfigError(f"precision: {short[0]} needs a GPU for each rank, and this --cluster has gpus: false")
    largest = max((cell.world_size for cell in cells), default=1)
    if profile.gpus and largest > profile.ranks:
        raise ConfigError(f"world_size: {largest} needs as many GPUs, and this --cluster has ranks: {profile.ranks}")


def launch_probes(runs: Runs, grid: Grid, cells: list[Cell], profile: Profile, console: Console) -> int:
    """Run a short cell of each shape that has no price, then print what is known about the price of the grid.

    Returns the exit code of the short cells.

    Raises:
        ConfigError: the short cells do not fit the cluster.
    """
    short_ones = plan_probes(runs, grid, cells)
    code = launch(runs, *short_ones, profile, console) if short_ones[1] else 0
    console.print(describe_price(price_unfinished(runs, cells), _at_once(cells, profile)), soft_wrap=True)
    return code


def plan_probes(runs: Runs, grid: Grid, cells: list[Cell]) -> tuple[Grid, list[Cell]]:
    """One short cell per shape of the grid that has no price, as a separate grid."""
    return Grid(name=f"{grid.name}-probe"), short_cells(price_unfinished(runs, cells).unknown)


def price_unfinished(runs: Runs, cells: list[Cell]) -> Price:
    """The estimated price of the cells that are not finished."""
    left = [cell for cell in cells if runs.cell(cell.cell_id).status().state != "finished"]
    return price(left, finished_cells(runs))


def describe(runs: Runs, grid: Grid, cells: list[Cell], profile: Profile) -> Group:
    """What a launch would do: the cells, their number, an estimate of the work, and the scripts for sbatch."""
    runs.require_same_folders(cells)
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("cell", no_wrap=True)
    for column in ("state", "ranks", "steps", "evaluations of T, at most"):
        shown.add_column(column)
    states = {cell.cell_id: runs.cell(cell.cell_id).status().state for cell in cells}
    unfinished = [cell for cell in cells if states[cell.cell_id] != "finished"]
    for cell in cells[:CELLS_SHOWN]:
        steps, evaluations = _steps(cell), _evaluations(cell)
        numbers = (str(cell.world_size), str(steps) if steps else "", f"{evaluations:,}" if evaluations else "")
        shown.add_row(cell.cell_id, states[cell.cell_id], *numbers)
    more = [f"... and {len(cells) - CELLS_SHOWN} more"] if len(cells) > CELLS_SHOWN else []
    counts = ", ".join(f"{count} {state}" for state, count in Counter(states.values()).items())
    work = sum(map(_evaluations, unfinished))
    total = f"{grid.name}: {len(cells)} cells ({counts}); at most {work:,} evaluations of T left to run"
    priced = price(unfinished, finished_cells(runs))
    scripts = _scripts(runs, grid, unfinished, profile) if isinstance(profile, Slurm) else []
    return Group(shown, *more, total, describe_price(priced, _at_once(unfinished, profile)), *scripts)


def _write_plan(runs: Runs, grid: Grid, cells: list[Cell], console: Console) -> list[str]:
    """Save the plan and its estimates; prints how many cells of an earlier launch are no longer part of the grid.

    Returns what was wrong with the files of an earlier launch, which are replaced.
    """
    runs.require_space()
    damage = []
    try:
        before = {folder.cell_id for folder in runs.cells_of(grid.name)} if runs.is_launched(grid.name) else set()
        runs.estimates(grid.name)
    except ConfigError as error:
        before = set()
        damage.append(f"{error}; it is replaced")
    if gone := before - {cell.cell_id for cell in cells}:
        line = f"{len(gone)} of {len(before)} cells launched as {grid.name} are not in this plan and leave the grid"
        console.print(f"{line}; name=... keeps both", soft_wrap=True)
    runs.write_plan(grid, cells)
    runs.write_estimates(grid.name, price_unfinished(runs, cells).seconds)
    return damage


def _at_once(cells: list[Cell], profile: Profile) -> int:
    """Upper limit on the cells that run at the same time, as far as the profile sets one."""
    if isinstance(profile, Slurm):
        return profile.throttle * profile.cells_at_once
    ranks = profile.ranks or processors()
    return max(1, ranks // max((cell.world_size for cell in cells), default=1))


def _scripts(runs: Runs, grid: Grid, cells: list[Cell], profile: Slurm) -> list[Text]:
    """The script of every job array; JOB stands for the id of a job that the array waits for."""
    from launch.slurm.arrays import arrange, describe_array, script
    from launch.slurm.submissions import Submissions

    submissions = Submissions(runs)
    unfinished = {cell.cell_id for cell in cells}
    arrays = arrange(grid.name, cells, profile, unfinished, submissions.root, submissions.names())
    texts = [script(array, submissions.root / array.name, ["JOB"] * len(array.needs)) for array in arrays]
    return [
        Text(f"\n==> {array.name}: {describe_array(array)} <==\n{text}")
        for array, text in zip(arrays, texts, strict=True)
    ]


def _steps(cell: Cell) -> int:
    if isinstance(cell, TrainCell):
        return cell.steps
    if isinstance(cell, TimingCell):
        return cell.rounds
    return cell.pretraining.steps if isinstance(cell, PretrainCell) else 0


def _evaluations(cell: Cell) -> int:
    """Upper limit of the network's evaluations in training: per picture and step, max_steps plus 3 for the gradient."""
    if isinstance(cell, TimingCell):
        return sum(map(_evaluations, cell.trainings.values()))
    per_step = cell.solver.max_steps + 3 if isinstance(cell, TrainCell) else 3
    batch = 0 if not isinstance(cell, TrainCell | PretrainCell) else cell.global_batch_size
    return _steps(cell) * per_step * batch
