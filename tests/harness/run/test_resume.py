"""A cell that is killed goes on where its checkpoint left it, and computes what it would have computed."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from harness.config.cells import Cell
from harness.records.cell_folder import CellBusy, CellFolder
from harness.records.events import Start, Step
from harness.run.cell import run_cell
from harness.run.checkpoint import load_newest, save
from harness.run.distributed import RankPosition
from harness.run.train_cell import _resume
from launch.planning.runs_folder import Runs
from tests.conftest import tiny_cell

COMMAND = "import sys; from pathlib import Path; from harness.run.cell import run_cell; " \
    "from harness.run.distributed import RankPosition; " \
    "run_cell(Path(sys.argv[1]), RankPosition.from_environment())"  # fmt: skip


def start(folder: CellFolder) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", COMMAND, str(folder.path)], stderr=subprocess.PIPE, text=True)


def finish(folder: CellFolder) -> None:
    process = start(folder)
    _, said = process.communicate(timeout=500)
    assert folder.status().state == "finished", said


def planned(runs: Runs, cell: Cell) -> CellFolder:
    """The directory of a cell whose pretraining is finished."""
    folder = runs.cell(cell.cell_id)
    folder.plan(cell)
    if cell.needs:
        needed = runs.cell(cell.needs.cell_id)
        needed.plan(cell.needs)
        finish(needed)
    return folder


def kill_after(folder: CellFolder, step: int, how: signal.Signals) -> None:
    process = start(folder)
    deadline = time.monotonic() + 300
    while sum(isinstance(event, Step) for event in folder.events()) < step:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(how)
    process.wait(60)


def test_killed_twice_it_ends_with_the_weights_and_losses_of_an_undisturbed_run(tmp_path: Path) -> None:
    cell = tiny_cell(steps=60, pool={"size": 12, "max_steps": 3, "refresh_every": 3}, evaluate_every=30,
                     operations={"checkpoint_every": 7, "reconstructions": 0})  # fmt: skip
    quiet = planned(Runs(tmp_path / "quiet"), cell)
    finish(quiet)
    killed = planned(Runs(tmp_path / "killed"), cell)
    kill_after(killed, 10, signal.SIGKILL)
    assert killed.status().state == "interrupted"
    kill_after(killed, 30, signal.SIGKILL)
    finish(killed)

    def losses(folder: CellFolder) -> list[tuple[int, float]]:
        return [(event.step, event.loss) for event in folder.events() if isinstance(event, Step)]

    resumed_from = [event.resumed_from for event in killed.events() if isinstance(event, Start)]
    assert resumed_from[0] == 0
    assert resumed_from[1] >= 7
    assert resumed_from[2] >= 28
    assert losses(killed) == losses(quiet)
    assert [step for step, _ in losses(killed)] == list(range(1, 61))
    weights = [load_newest(folder.checkpoints) for folder in (quiet, killed)]
    assert weights[0] is not None
    assert weights[1] is not None
    for name, tensor in weights[0][1]["model"].items():
        assert torch.equal(tensor, weights[1][1]["model"][name]), name


def test_a_cell_that_is_being_run_is_left_alone(runs: Runs) -> None:
    folder = runs.cell("some-cell")
    folder.path.mkdir(parents=True)
    with folder.locked(), pytest.raises(CellBusy, match="some-cell is being run"), CellFolder(folder.path).locked():
        pass


def test_no_rank_waits_for_a_cell_that_is_being_run(runs: Runs) -> None:
    cell = tiny_cell(world_size=2)
    folder = runs.cell(cell.cell_id)
    folder.plan(cell)
    with folder.locked():
        for rank in range(2):
            with pytest.raises(CellBusy, match="is being run"):
                run_cell(folder.path, RankPosition(rank, 2, rank, 2, launch="second"))


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8):
        save(tmp_path, step, {"model": torch.full((3,), float(step))}, keep=1)
    newest, older = sorted(tmp_path.glob("*.pt"), reverse=True)
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    loaded = load_newest(tmp_path)
    assert loaded is not None
    assert loaded[0] == 6
    assert older.name.startswith("step-00000006")


def test_a_resumed_optimizer_counts_its_steps_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On an accelerator, Adam would read the count of every parameter at every step, and each time wait for it."""
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([weight])
    weight.square().sum().backward()
    optimizer.step()
    kept = {"model": {}, "optimizer": optimizer.state_dict(), "schedule": {}, "states": {0: torch.ones(1)}}
    save(tmp_path / "checkpoints", 1, kept, keep=0)
    elsewhere, states = torch.nn.Parameter(torch.ones(2, device="meta")), {}
    task = SimpleNamespace(
        model=torch.nn.Module(),
        optimizer=torch.optim.Adam([elsewhere]),
        schedule=SimpleNamespace(load_state_dict=lambda state: None),
        sample_order=SimpleNamespace(load=states.update),
    )
    attempt = SimpleNamespace(folder=CellFolder(tmp_path), device=torch.device("meta"))
    assert _resume(attempt, task) == 1  # type: ignore[arg-type]
    state = task.optimizer.state[elsewhere]
    assert (state["step"].device.type, state["exp_avg"].device.type) == ("cpu", "meta")
    assert states[0].device.type == "meta"
