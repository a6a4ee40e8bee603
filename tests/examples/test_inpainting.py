"""The example of a user's own package trains, and its metric is recorded and reported."""

import subprocess
import sys
from pathlib import Path

import pytest

from harness.records.events import Evaluation
from launch.planning.grid import plan, read_grid
from launch.planning.runs_folder import Runs

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "inpainting"
TINY = [
    "data.image_size=32", "data.crop=16", "data.test_images=2", "data.validation_images=2", "data.train_images=8",
    "network.depth=3", "network.width=4", "steps=3", "evaluate_every=3", "pretraining.steps=2", "global_batch_size=4",
    "pool=null", "solver.max_steps=5", "model={name: jfbench_example.maps:ProxThenDenoise, penalty: 4, damping: 0.9}",
]  # fmt: skip


def test_the_grid_can_be_planned_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    assert len(plan(read_grid(str(EXAMPLE / "inpainting.yaml")))) == 7


def test_the_inpainting_example_runs_to_its_report(tmp_path: Path) -> None:
    def python(*command: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", *command, "--runs", str(tmp_path)],
            cwd=EXAMPLE, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    python("launch", "grid", "inpainting.yaml", *TINY)
    python("analysis", "report", "inpainting")
    folders = Runs(tmp_path).cells_of("inpainting")
    assert [folder.status().state for folder in folders] == ["finished"] * 5
    for folder in folders:
        if folder.cell_id.startswith("pretrain"):
            continue
        tested = [event for event in folder.events() if isinstance(event, Evaluation) and event.split == "test"]
        assert all(0 < error < 1 for event in tested for error in event.scores["mean_absolute_error"])
        assert tested
    assert "Mean absolute error" in (tmp_path / "grids" / "inpainting" / "report" / "accuracy.md").read_text()
