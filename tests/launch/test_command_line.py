"""The front door: what a user types and sees."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from harness.records.cell_folder import CellFolder
from launch.planning.runs_folder import Runs
from tests.conftest import takes_less_than

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = [
    "data.image_size=32", "data.test_images=4", "data.train_images=32", "data.validation_images=4",
    "network.depth=3", "network.width=8", "solver.max_steps=5", "steps=6", "warm_up=0", "pretraining.steps=4",
    "optimizer.lr=0.001", "global_batch_size=4", "pool.size=8", "operations.checkpoint_every=2", "evaluate_every=6",
]  # fmt: skip


def launch(*arguments: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launch", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["model=de-foo"], "model: 'de-foo' is not one of de-admm, de-grad, de-hqs, de-prox"),
        (["optimiser.lr=1e-4"], "no field 'optimiser'; allowed: "),
        (["steps=many"], "steps: "),
        (["data.name=folder", "data.root=nowhere"], f"data.root: no folder {REPOSITORY / 'nowhere'}"),
        (["global_batch_size=7"], "global_batch_size 7 is not divisible by world_size 2"),
        (["model=[]"], "grid.model: an axis needs at least one value"),
        (["precision=half"], "precision: "),
        (["precision=tf32"], "precision: tf32 needs a GPU for each rank"),
        (["--cluster", "nowhere"], "--cluster: 'nowhere' is neither"),
        (["--cluster", "debug"], "world_size: --cluster debug runs one rank"),
        (["model"], "'model': an override is written"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2_and_writes_nothing(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    done = launch("grid", "demo", *arguments, "--runs", str(tmp_path / "runs"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_dry_run_lists_the_cells_and_writes_nothing(tmp_path: Path) -> None:
    done = launch("grid", "demo", "--dry-run", "--runs", str(tmp_path / "runs"))
    assert done.returncode == 0
    assert len(re.findall(r"^\S+-[0-9a-f]{8} ", done.stdout, re.MULTILINE)) == 14, "80 columns hold every name"
    assert "14 cells (14 planned)" in done.stdout
    assert "no price yet for 14 cells of 14 shapes" in done.stdout
    assert not list(tmp_path.iterdir())
    done = launch("grid", "demo", "--dry-run", "--probe", "--runs", str(tmp_path / "runs"))
    assert "demo-probe: 14 cells (14 planned)" in done.stdout
    assert not list(tmp_path.iterdir())


def test_help_is_instant_and_the_launcher_needs_no_torch(tmp_path: Path) -> None:
    assert takes_less_than(2, lambda: launch("--help").check_returncode())
    for command in (["--help"], ["grid", "demo", "--dry-run"], ["status", "demo", "--runs", str(tmp_path)]):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "launch", *command],
            cwd=REPOSITORY, capture_output=True, text=True,
        )  # fmt: skip
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert not imported & {"torch", "mlflow", "pandas"}
        assert "typer" in imported


def test_a_killed_launcher_leaves_no_cell_running(tmp_path: Path) -> None:
    runs = Runs(tmp_path / "runs")
    endless = [*TINY, "model=de-prox", "backprop=jfb", "baselines=[]", "steps=100000", "evaluate_every=100000"]
    command = [sys.executable, "-m", "launch", "grid", "demo", *endless, "--runs", str(runs.root)]

    def in_the_background() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, preexec_fn=in_the_background)

    def steps() -> int:
        return max((folder.status().step for folder in map(CellFolder, runs.root.glob("cells/de-*"))), default=0)

    try:
        deadline = time.monotonic() + 300
        while steps() < 10:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.1)
        process.terminate()
        assert process.wait(120) != 0
        deadline = time.monotonic() + 100
        while subprocess.run(["pgrep", "--full", str(runs.root)], capture_output=True).stdout:
            assert time.monotonic() < deadline, "a rank goes on"
            time.sleep(0.1)
    finally:
        subprocess.run(["pkill", "--signal", "KILL", "--full", str(runs.root)])


def test_a_grid_from_nothing_to_mlflow_and_a_second_time(tmp_path: Path) -> None:
    runs = ["--runs", str(tmp_path / "runs")]
    small = [*TINY, "model=de-prox", "backprop=jfb", "baselines=tikhonov"]
    first = launch("grid", "demo", *small, *runs)
    assert first.returncode == 0, first.stdout + first.stderr
    states = json.loads(launch("status", "demo", "--json", *runs).stdout)
    assert [row["state"] for row in states] == ["finished"] * 3

    client = MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    found = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert len(found) == 4
    assert found["demo"].info.status == "FINISHED"
    trained = next(run for name, run in found.items() if name.startswith("de-prox"))
    assert trained.info.status == "FINISHED"
    assert trained.data.tags["mlflow.parentRunId"] == found["demo"].info.run_id
    assert trained.data.params["optimizer.lr"] == "0.001"
    history = client.get_metric_history(trained.info.run_id, "train/loss")
    assert [metric.step for metric in history] == [1, 2, 3, 4, 5, 6]
    assert client.list_artifacts(trained.info.run_id, "reconstructions")

    assert "0 cells had news" in launch("sync", "demo", *runs).stdout
    again = launch("grid", "demo", *small, *runs)
    assert again.returncode == 0
    assert "3 cells, 3 finished before" in again.stdout
    assert launch("logs", "de-prox", *runs).stdout.startswith("==> ")
    assert launch("logs", "nothing", *runs).returncode == 2


def test_one_cell_runs_alone_and_as_ranks_of_torchrun(tmp_path: Path) -> None:
    options = [*TINY, "--runs", str(tmp_path / "runs")]
    for cell in ("demo/tikhonov", "demo/pretrain"):
        done = launch("run", cell, *options)
        assert done.returncode == 0, done.stderr
        assert "finished" in done.stdout
    refused = launch("run", "demo/de-", *options)
    assert refused.returncode == 2
    assert "matches 8 cells of demo" in refused.stderr


def test_others_cannot_change_what_a_launch_writes_whatever_the_umask(tmp_path: Path) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text("{name: small, baselines: [degraded], base: {data: {image_size: 32, test_images: 2}}}")
    command = [sys.executable, "-m", "launch", "grid", str(grid), "--runs", str(tmp_path / "runs")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, umask=0)
    assert done.returncode == 0, done.stderr
    assert not [path for path in (tmp_path / "runs").rglob("*") if path.stat().st_mode & 0o022]
