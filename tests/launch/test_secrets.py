"""A token stands where users keep them; it is searched for in all that a launch shows, passes on and writes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.config.errors import ConfigError
from launch import __main__ as command_line
from launch.planning.profiles import read_profile
from launch.planning.runs_folder import Runs
from launch.slurm.submissions import Submissions, secrets
from launch.tracking import server
from launch.tracking.sync import without_password

TOKEN = "t0ken'of $mine"
WRITTEN = "t0ken"
GRID = """
name: small
base:
  data: {name: pictures, image_size: 32, test_images: 2, validation_images: 2, train_images: 8}
  operations: {reconstructions: 1}
baselines: [degraded]
"""
PROFILE = f"""
executor: slurm
environment: {{API_KEY: "{TOKEN}", SECOND: two words}}
"""
COMMANDS = {
    "sinfo": "echo 'main*|infinite|1|64|64000|(null)'",
    "scontrol": "echo 'MaxArraySize = 1001'",
    "sbatch": "echo Submitted batch job 7",
    "squeue": "",
    "sacct": "",
    "scancel": "",
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a grid, a profile, and Slurm's commands, which note their arguments and environment."""
    (tmp_path / "bin").mkdir()
    for name, text in COMMANDS.items():
        command = tmp_path / "bin" / name
        command.write_text(f'#!/bin/sh\necho {name} "$@" >>{tmp_path}/called\nenv >>{tmp_path}/called\n{text}\n')
        command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "grid.yaml").write_text(GRID)
    (tmp_path / "site.yaml").write_text(PROFILE)
    return tmp_path


def launch(home: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "launch", *arguments, "--runs", "runs"]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=300)
    return done.stdout + done.stderr


def holding(folder: Path) -> set[str]:
    """The names of all files below a folder that hold the token."""
    return {path.name for path in folder.rglob("*") if path.is_file() and WRITTEN.encode() in path.read_bytes()}


def test_the_variables_of_a_profile_stand_in_one_private_file(home: Path) -> None:
    shown = launch(home, "grid", "grid.yaml", "--cluster", "site.yaml", "--dry-run")
    assert "environment.sh || exit 1  # sets API_KEY SECOND" in shown
    shown += launch(home, "grid", "grid.yaml", "--cluster", "site.yaml")
    assert "1 cells sent" in shown
    assert WRITTEN not in shown
    assert WRITTEN not in (home / "called").read_text()
    assert holding(home / "runs") == {"environment.sh"}
    folder = home / "runs" / "submissions"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert WRITTEN not in launch(home, "status", "small")


def test_a_job_and_a_retry_have_the_variables(home: Path) -> None:
    launch(home, "grid", "grid.yaml", "--cluster", "site.yaml")
    (name,) = Submissions(Runs(home / "runs")).names()
    folder = home / "runs" / "submissions" / name
    script = next(folder.glob("*_submission*.sh")).read_text().split("# command")[0]
    shown = subprocess.run(["sh", "-c", f'{script}\nprintf %s "$API_KEY, $SECOND"'], capture_output=True, text=True)
    assert shown.stdout == f"{TOKEN}, two words"
    assert "1 cells sent" in launch(home, "retry", "small")
    newest = Submissions(Runs(home / "runs")).readable[-1]
    assert newest.name != name
    assert secrets(newest.profile) == {"API_KEY": TOKEN, "SECOND": "two words"}
    assert holding(home / "runs") == {"environment.sh"}


@pytest.mark.parametrize("text", ["{API_KEY: 5271}", "{API_KEY: [5271]}", '{API_KEY: "5271', "{'5': {5271: x}}"])
def test_a_mistake_in_a_profile_does_not_show_its_values(text: str, tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(f"executor: slurm\nenvironment: {text}\n")
    with pytest.raises(ConfigError) as said:
        read_profile(str(path))
    assert "5271" not in str(said.value)


def test_the_password_of_a_tracking_uri_is_not_shown_and_not_written(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{WRITTEN}%27@127.0.0.1:9")
    shown = launch(home, "grid", "grid.yaml") + launch(home, "sync", "small")
    assert "MLflow at http://me:***@127.0.0.1:9 does not answer" in shown
    assert WRITTEN not in shown
    assert Runs(home / "runs").cells_of("small")[0].status().state == "finished"
    assert not holding(home / "runs")
    assert without_password("p' and p%27", "http://me:p%27@host") == "*** and ***"


def test_the_tracking_uri_is_no_argument_of_the_server(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[list[str], dict[str, str]]] = []

    def start(arguments: list[str], env: dict[str, str], **options: object) -> None:
        seen.append((arguments, env))
        raise KeyboardInterrupt

    monkeypatch.setattr(server.subprocess, "Popen", start)
    uri = f"postgresql://me:{WRITTEN}@host/mlflow"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "another")
    with pytest.raises(KeyboardInterrupt):
        command_line.ui(port=5987, root=runs.root)
    ((arguments, environment),) = seen
    assert WRITTEN not in " ".join(arguments)
    assert environment["MLFLOW_BACKEND_STORE_URI"] == uri
