"""`launch ui`: it says when MLflow answers, and its addresses open the prepared views."""

import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from launch.planning.runs_folder import Runs
from launch.tracking.sync import sync_once
from tests.analysis import synthetic

REPOSITORY = Path(__file__).resolve().parents[3]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def ui(root: Path, port: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "launch", "ui", "--port", str(port), "--runs", str(root)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def page(address: str, profile: Path) -> str:
    """What a browser shows at an address, as HTML."""
    assert CHROMIUM
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--dump-dom"]
    budget = ["--virtual-time-budget=60000", "--timeout=90000", "--window-size=1900,2600"]
    return subprocess.run(
        [CHROMIUM, *options, *budget, address], capture_output=True, text=True, timeout=300, check=True
    ).stdout


def test_a_port_in_use_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = ui(tmp_path, port)
        said, errors = process.communicate(timeout=120)
    assert (process.returncode, said) == (2, "")
    assert errors == f"error: --port: {port} cannot be used (address already in use); choose another one\n"


def test_the_addresses_are_printed_when_mlflow_answers_and_open_the_views(tmp_path: Path) -> None:
    runs = synthetic.make(Runs(tmp_path / "runs"), "steps=6", "pretraining.steps=6", "model=de-prox")
    sync_once(runs, "demo")
    port = free_port()
    process = ui(runs.root, port)
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline() for _ in range(6)]
        assert lines[0].startswith("starting MLflow")
        assert re.match(r"MLflow is ready after \d+ s; Ctrl-C stops it", lines[1])
        with urlopen(f"http://127.0.0.1:{port}/health", timeout=30) as answer:
            assert answer.status == 200
        views = dict(line.strip().split(": ", 1) for line in lines[3:])
        assert [*views] == ["demo, table", "demo, charts by method", "demo, charts by cell"]
        if CHROMIUM:
            table, charts, cells = (page(address, tmp_path / "profile") for address in views.values())
            assert all(f">{name}<" in table for name in ("total-variation", "de-prox implicit", "backprop", "state"))
            assert ">pretrain dncnn<" not in table
            assert all(f">{name}<" in charts for name in ("Quality and cost", "Training against time"))
            assert ">tikhonov<" not in charts
            assert "Parallel Coordinates" in cells
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "the server goes on"


@pytest.mark.parametrize("root", ["http://127.0.0.1:9"])
def test_a_server_elsewhere_is_not_started_and_its_silence_is_one_line(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", root)
    process = ui(tmp_path, free_port())
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert re.match(r"^error: MLflow at http://127.0.0.1:9 does not answer: [^\n]+\n$", errors)
