"""Shared fixtures: small cells and a runs directory."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.config.cells import Cell, parse_cell
from launch.planning.runs_folder import Runs

REFERENCE_SECONDS = 0.26
"""What `_reference` takes on a machine of 2026 that does nothing else."""


def pytest_configure() -> None:
    """Before torch is imported: the tensors are tiny, and several processes share the processors."""
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """An empty runs directory."""
    return Runs(tmp_path / "runs")


@pytest.fixture(scope="session")
def celeba() -> Path:
    """The folder that holds img_align_celeba/, from JFBENCH_CELEBA."""
    root = os.environ.get("JFBENCH_CELEBA")
    if not root:
        pytest.skip("CelebA is not here: set JFBENCH_CELEBA to the folder that holds img_align_celeba/")
    return Path(root)


def tiny_cell(**fields: Any) -> Cell:
    """A cell that runs in about a second."""
    small: dict[str, Any] = {
        "model": "de-prox",
        "data": {"name": "pictures", "image_size": 32, "test_images": 4, "validation_images": 4, "train_images": 32},
        "network": {"name": "dncnn", "depth": 3, "width": 8},
        "solver": {"name": "anderson", "tol": None, "max_steps": 4},
        "evaluation": None,
        "pool": None,
        "global_batch_size": 6,
        "steps": 4,
        "warm_up": 0,
        "pretraining": {"steps": 4},
        "evaluate_every": 4,
        "operations": {"checkpoint_every": 2, "reconstructions": 1},
    }
    return parse_cell({**small, **fields})


def takes_less_than(seconds: float, work: Callable[[], object]) -> bool:
    """Whether one of the attempts takes less processor time, here and in child processes.

    The processor time of the same work triples where other machines use the processors too, so that each attempt is
    held against a piece of known work around it. It takes REFERENCE_SECONDS where nobody else computes.
    """

    def spent(work: Callable[[], object]) -> float:
        begin = sum(os.times()[:4])
        work()
        return sum(os.times()[:4]) - begin

    for _ in range(5):
        before, taken, after = spent(_reference), spent(work), spent(_reference)
        slowdown = max(1.0, (before + after) / 2 / REFERENCE_SECONDS)
        if taken < seconds * slowdown:
            return True
    return False


def _reference() -> None:
    json.loads(json.dumps([{"number": number, "words": str(number)} for number in range(100_000)]))
