"""Large grids: planning and status stay within seconds of processor time."""

import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from harness.config.cells import Cell
from harness.records.cell_folder import CellStatus
from harness.records.files import write_atomically
from launch.planning.grid import Grid, plan
from launch.planning.profiles import Slurm
from launch.planning.runs_folder import Runs
from launch.reconcile import describe
from launch.tracking.status import Row, read_rows, table
from tests.conftest import takes_less_than

REPOSITORY = Path(__file__).resolve().parents[2]


def declared(seeds: int) -> Grid:
    """20 cells a seed, and a pretraining."""
    axes = {
        "model": ["de-grad", "de-prox", "de-admm", "de-hqs"],
        "backprop": ["jfb", "implicit", "neumann", "phantom", "unrolled"],
    }
    base = {"network": {"name": "dncnn", "depth": 5, "width": 16}, "solver": "anderson", "pool": None}
    return Grid(name="large", base=base, grid={**axes, "seed": list(range(seeds))})


def planned(runs: Runs, seeds: int) -> list[str]:
    """A grid on disk; every other cell has run for a while."""
    cells = plan(declared(seeds))
    runs.write_plan(declared(seeds), cells)
    for cell in cells[::2]:
        status = CellStatus(state="running", step=3, steps=100, started=1.0, updated=2.0)
        write_atomically(runs.cell(cell.cell_id).path / "status.json", status.model_dump_json())
    return [cell.cell_id for cell in cells]


def test_ten_thousand_cells_are_planned_in_3_s_and_a_dry_run_shows_one_array_a_chunk(tmp_path: Path) -> None:
    def planning() -> None:
        planned_cells[:] = plan(declared(500))

    def describing() -> None:
        with open(tmp_path / "shown.txt", "w") as file:
            Console(file=file).print(describe(Runs(tmp_path), declared(500), planned_cells, profile), soft_wrap=True)

    planned_cells: list[Cell] = []
    profile = Slurm(executor="slurm", array_size=1000)
    assert takes_less_than(3, planning)
    assert len(planned_cells) == 10_500
    assert takes_less_than(3, describing)
    heads = [line for line in (tmp_path / "shown.txt").read_text().splitlines() if line.startswith("==> ")]
    assert len(heads) == 1 + 10
    assert all(": 1000 cells in 1000 jobs of 1 x 1 ranks, after pretrain_" in head for head in heads[1:])


def test_status_of_ten_thousand_cells_takes_3_s(runs: Runs) -> None:
    rows: list[Row] = []

    def reading() -> None:
        rows[:] = read_rows(runs, runs.cells_of("large"))
        with open(os.devnull, "w") as nowhere:
            Console(file=nowhere).print(table(rows))

    planned(runs, 480)
    assert takes_less_than(3, reading)
    assert len(rows) == 480 * 21
    assert {row.state for row in rows} == {"planned", "interrupted"}


def test_the_status_command_answers_for_a_thousand_cells_in_1_s(runs: Runs) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "launch", "status", "large", "--runs", str(runs.root)]
    answers: list[subprocess.CompletedProcess[str]] = []

    def asking() -> None:
        answers.append(subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True))

    planned(runs, 48)
    assert takes_less_than(1, asking)
    done = answers[-1]
    assert "1008 cells" in done.stdout, done.stderr
    assert done.stdout.endswith("\n")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "mlflow", "pandas", "submitit"}
