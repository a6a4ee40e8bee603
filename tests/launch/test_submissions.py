"""What was sent to the scheduler, where a shell died in between or other code wrote it down; the scheduler is made up."""

from types import SimpleNamespace
from typing import Any

import pytest
import submitit

from launch.batch import Submission
from launch.cluster import Slurm
from launch.runs import Runs
from launch.submissions import Submissions, send


def submission(name: str, *cells: str) -> Submission:
    profile = Slurm(executor="slurm")
    return Submission(name=name, grid="test", profile=profile, world_size=1, needs=[], jobs=[list(cells)])


class Executor:
    """Takes everything."""

    def __init__(self, *arguments: Any, **options: Any) -> None: ...

    def update_parameters(self, **options: Any) -> None: ...

    def submit_array(self, jobs: list[Any]) -> list[SimpleNamespace]:
        return [SimpleNamespace(job_id="7") for _ in jobs]


def test_a_name_is_used_again_where_a_shell_died_before_it_wrote_what_it_sends(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitit, "SlurmExecutor", Executor)
    folder = Submissions(runs).root / "test-0"
    folder.mkdir(parents=True)
    assert send(submission("test-0", "one"), folder, runs, after=[]) == ["7"]
    assert Submissions(runs).places["one"].key == ("test-0", 0)
