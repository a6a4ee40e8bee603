"""The checks for a GPU are skipped without one, and a dry run on the CPU writes a report that says that it is one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def checks(folder: Path, **environment: str) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT), "-m", "gpu"]
    command += ["-c", str(ROOT / "pyproject.toml"), str(ROOT / "tests/gpu"), "-k", "noise"]
    hidden = {"CUDA_VISIBLE_DEVICES": "", "JFBENCH_GPU_DRY_RUN": ""}
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **hidden, **environment}, capture_output=True, text=True, check=False
    )
    return done.stdout.strip().splitlines()[-1]


def test_without_a_gpu_they_are_skipped_and_nothing_is_written(tmp_path: Path) -> None:
    assert "1 skipped" in checks(tmp_path)
    assert not (tmp_path / "build").exists()


@pytest.mark.parametrize("name", ["gpu-check.json", "gpu-check.md"])
def test_a_dry_run_says_that_it_is_one(tmp_path: Path, name: str) -> None:
    assert "1 passed" in checks(tmp_path, JFBENCH_GPU_DRY_RUN="1")
    said = (tmp_path / "build" / name).read_text()
    if name.endswith("json"):
        report = json.loads(said)
        assert report["dry_run"]
        assert report["checks"] == [{"check": "held-out noise, largest difference from a CPU's", "measured": 0.0,
                                     "bound": 0.0, "passed": True}]  # fmt: skip
    else:
        assert said.startswith("Device: dry run on a CPU")
        assert "Bounds are proposals" in said
