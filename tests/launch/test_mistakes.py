"""A user's mistakes at the command line: one line each, which says what to do."""

import os
import pickle
import shutil
import signal
import socket
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from analysis.__main__ import app as analysis_app
from harness.commands.reconstruct import SHIPPED
from harness.config.errors import ConfigError
from harness.records.cell_folder import CellStatus
from harness.run import checkpoint
from harness.run.load_model import trained_model
from launch import reconcile
from launch.__main__ import app
from launch.local import queue, single
from launch.planning.grid import Grid, plan, read_grid
from launch.planning.profiles import Local
from launch.planning.runs_folder import Runs
from launch.planning.selection import select
from launch.slurm.retry_cancel import retry_cells
from tests.conftest import tiny_cell


def planned(runs: Runs) -> Runs:
    runs.write_plan(read_grid("demo"), plan(read_grid("demo")))
    return runs


def refusal(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, ConfigError), done.output
    assert "\n" not in str(done.exception)
    return str(done.exception)


@pytest.mark.parametrize("command", ["status", "retry", "sync", "logs", "run"])
def test_a_runs_directory_that_is_a_file_is_named(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refusal(command, "demo", "--runs", str(tmp_path / "file")) == f"--runs: {tmp_path}/file is not a directory"


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("bogus=1", "--where: no field 'bogus'; known: kind, seed, world_size, "),
        ("model.dampin=1", "--where: no cell has a field 'model.dampin'; known: model.damping, model.dual_step, "),
    ],
)
def test_a_field_that_no_cell_has_is_no_condition(where: str, said: str, runs: Runs) -> None:
    with pytest.raises(ConfigError) as error:
        select(planned(runs), "demo", [where])
    assert str(error.value).startswith(said)


@pytest.mark.parametrize(
    ("where", "count"), [("model.damping=0.45", 8), ("model=de-prox", 2), ("backprop.solver.tol=1e-2", 4)]
)
def test_a_field_that_some_cells_have_is_a_condition(where: str, count: int, runs: Runs) -> None:
    assert len(select(planned(runs), "demo", [where])) == count


def test_status_alone_lists_the_launched_grids(runs: Runs) -> None:
    done = CliRunner().invoke(app, ["status", "--runs", str(runs.root)])
    assert (done.exit_code, "no grid has been launched in" in done.output) == (0, True)
    planned(runs)
    runs.grid_folder("broken").mkdir()
    (runs.grid_folder("broken") / "grid.json").write_text("{")
    lines = CliRunner().invoke(app, ["status", "--runs", str(runs.root)]).output.splitlines()
    assert lines[1].split()[0] == "broken"
    assert "grid.json, line 1" in " ".join(lines[1:3])
    assert any(line.split() == ["demo", "14", "14", "planned"] for line in lines)


def test_a_port_in_use_is_named(runs: Runs) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refusal("ui", "--port", str(port), "--runs", str(runs.root))
    assert said == f"--port: {port} cannot be used (address already in use); choose another one"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="this system has no folder that nobody may write to")
def test_a_report_that_cannot_be_written_says_where_it_can(runs: Runs) -> None:
    planned(runs)
    (runs.grid_folder("demo") / "report").symlink_to("/proc")
    done = CliRunner().invoke(analysis_app, ["report", "demo", "--runs", str(runs.root)])
    assert isinstance(done.exception, ConfigError)
    assert str(done.exception).endswith("; --output DIR writes it elsewhere")


def test_hints_repeat_the_runs_directory(runs: Runs) -> None:
    planned(runs)
    assert refusal("run", "demo/de-prox_jfb", "--runs", str(runs.root)).endswith(f" --runs {runs.root}")
    assert Runs(Path("runs")).option == ""


def test_a_second_shell_on_the_same_grid_is_told_so(runs: Runs) -> None:
    cell = tiny_cell().needs
    assert cell is not None
    with (
        reconcile.only_launcher(runs, "g"),
        pytest.raises(ConfigError, match=r"grid: another shell is running g; python -m launch status g --runs \S+ --w"),
    ):
        reconcile.launch(runs, Grid(name="g"), [cell], Local(), Console(quiet=True))


def test_ctrl_c_says_how_to_go_on(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(queue, "run_locally", interrupted)
    cell = tiny_cell().needs
    assert cell is not None
    assert reconcile.launch(runs, Grid(name="g"), [cell], Local(), Console(width=200)) == 130
    assert "stopped; repeat the command to continue the unfinished cells (1)" in capsys.readouterr().out


def test_a_damaged_cell_keeps_no_other_from_running(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [tiny_cell(seed=0), tiny_cell(seed=1)]
    needed = [cell.needs for cell in cells if cell.needs]
    every = [*needed, *cells]
    runs.write_plan(Grid(name="g"), every)  # type: ignore[arg-type]
    (runs.cell(needed[0].cell_id).path / "status.json").write_text("")
    started: list[str] = []

    def note(runs: Runs, grid: str, folders: list[object], *others: object) -> None:
        started.extend(folder.cell_id for folder in folders)  # type: ignore[attr-defined]

    monkeypatch.setattr(queue, "run_locally", note)
    assert reconcile.launch(runs, Grid(name="g"), every, Local(), Console(quiet=True)) == 1  # type: ignore[arg-type]
    assert started == [needed[1].cell_id, cells[1].cell_id], "what needs the damaged one waits"


def test_torchrun_with_another_number_of_ranks_is_one_line(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    planned(runs)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match=r"world_size: pretrain\S+ needs 2 ranks \(got 3\); use torchrun --nproc-per"):
        single.run_alone(runs, "demo/pretrain", [])
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit):
        single.run_alone(runs, "demo/pretrain", [])


def test_retry_of_a_local_grid_says_what_to_do(runs: Runs) -> None:
    folders = planned(runs).cells_of("demo")
    folders[0].write_status(CellStatus(state="failed"))
    with pytest.raises(ConfigError) as error:
        retry_cells(runs, "demo", folders, {}, Console())
    assert "cell: 1 failed of 14 ran on this machine, without a scheduler; repeat the `python -m launch" in str(
        error.value
    )


def test_a_damaged_database_is_named(runs: Runs) -> None:
    planned(runs)
    (runs.root / "mlflow.db").write_bytes(b"no database" * 1000)
    assert "mlflow.db does not answer: " in refusal("sync", "demo", "--runs", str(runs.root))


def copy_of_shipped(path: Path) -> Path:
    shutil.copytree(SHIPPED, path)
    return path


def misnamed(path: Path) -> None:
    path.rename(path.with_name("step-weights.pt"))


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"model": Path("x")}))
    path.rename(path.with_name(f"step-00000130-{checkpoint._digest(path)}.pt"))


def of_another_kind(path: Path) -> None:
    folder = path.parent
    path.unlink()
    checkpoint.save(folder, 1, {"weights": {}}, keep=0)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (misnamed, "has no trained weights that are whole"),
        (truncated, "has no trained weights that are whole"),
        (pickled, "holds no checkpoint ("),
        (of_another_kind, "cannot be built ('model')"),
    ],
)
def test_weights_that_are_none_are_one_line(damage: object, said: str, tmp_path: Path) -> None:
    cell = copy_of_shipped(tmp_path / "cell")
    damage(next((cell / "weights").glob("*.pt")))  # type: ignore[operator]
    with pytest.raises(ConfigError) as error:
        trained_model(cell)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_cell_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is not the directory of a cell"):
        trained_model(tmp_path / "file")
