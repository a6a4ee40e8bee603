"""The device of the checks, and the report that they write: build/gpu-check.json and build/gpu-check.md.

Without a GPU the checks are skipped. JFBENCH_GPU_DRY_RUN=1 takes the same path on the CPU; its report says so.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.measure.device import accelerator, hardware
from harness.records.environment import git_state
from harness.records.files import write_atomically

DRY_RUN = os.environ.get("JFBENCH_GPU_DRY_RUN") == "1"
OUTPUT = Path("build")
Report = Callable[[str, float, float], None]
rows: list[dict[str, Any]] = []


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU, or the CPU in a dry run."""
    if DRY_RUN:
        return torch.device("cpu")
    found = accelerator()
    if found is None:
        pytest.skip("no GPU here: JFBENCH_GPU_DRY_RUN=1 takes the same path on the CPU")
    return torch.device(found.type, 0)


@pytest.fixture
def report() -> Report:
    """Records what was measured and its bound, and fails the check if it is exceeded."""

    def add(check: str, measured: float, bound: float) -> None:
        rows.append({"check": check, "measured": measured, "bound": bound, "passed": measured <= bound})
        assert measured <= bound, f"{check}: {measured:.3g} exceeds the proposed bound {bound:.3g}"

    return add


def pytest_sessionfinish() -> None:
    """Write the report of a session that measured something."""
    if not rows:
        return
    device = torch.device("cpu") if DRY_RUN else torch.device("cuda", 0)
    about = {**hardware(device), **git_state(), "driver": driver(), "torch": torch.__version__, "time": time.time()}
    write_atomically(OUTPUT / "gpu-check.json", json.dumps({"dry_run": DRY_RUN, **about, "checks": rows}, indent=1))
    write_atomically(OUTPUT / "gpu-check.md", markdown(about, rows))


def driver() -> str:
    """Version of the NVIDIA driver; empty without one."""
    path = Path("/proc/driver/nvidia/version")
    return path.read_text().splitlines()[0] if path.exists() else ""


def markdown(about: dict[str, Any], checks: list[dict[str, Any]]) -> str:
    """The report as a table."""
    where = "dry run on a CPU: says nothing about a GPU" if DRY_RUN else f"{about['gpu']}, {about['driver']}"
    dirty = " (dirty)" if about["git_dirty"] else ""
    lines = [
        f"Device: {where}. torch {about['torch']}, commit {about['git_commit'][:12]}{dirty}.",
        "Bounds are proposals until a first run on a GPU calibrates them.",
        "",
        "| check | measured | proposed bound | |",
        "|---|---|---|---|",
    ]
    for row in checks:
        verdict = "passed" if row["passed"] else "**failed**"
        lines.append(f"| {row['check']} | {row['measured']:.3g} | {row['bound']:.3g} | {verdict} |")
    return "\n".join(lines) + "\n"
