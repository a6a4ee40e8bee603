"""What is worth another start within a job."""

import pytest

from harness.records import environment
from launch.planning.runs_folder import Runs
from launch.slurm.bundle import may_retry


@pytest.mark.parametrize(
    ("reason", "again"),
    [("rank 0 on a: torch.OutOfMemoryError: CUDA out of memory", False), ("rank 0 was killed by SIGKILL on a", True)],
)
def test_what_did_not_fit_into_memory_is_not_tried_again_in_the_same_job(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, reason: str, again: bool
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    folder = runs.cell("cell")
    folder.new_attempt()
    folder.end_attempt("failed", reason)
    assert may_retry(folder, retries=2) == again
    assert not may_retry(folder, retries=0)
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    assert environment.job() == "8"
    assert may_retry(folder, retries=2), "a later job may have more memory"
