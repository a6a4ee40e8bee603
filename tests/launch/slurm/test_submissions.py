"""What was sent to a scheduler that is made up: where a shell died in between, or other code wrote it down."""

from types import SimpleNamespace
from typing import Any

import pytest
import submitit

from harness.config.errors import ConfigError
from launch.planning.profiles import Slurm
from launch.planning.runs_folder import Runs
from launch.slurm import submissions
from launch.slurm.arrays import Submission
from launch.slurm.queue import Job
from launch.slurm.submissions import Submissions, send
from launch.tracking.logs import log_files


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
    assert Submissions(runs).tasks["one"].key == ("test-0", 0)


def test_what_other_code_wrote_down_is_passed_over_unless_a_job_of_it_lives(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = submission("new", "one")
    for name, text in (("old", '{"name": "old", "jobs": [["one"]], "partition": "main"}'), ("new", "")):
        folder = Submissions(runs).root / name
        folder.mkdir(parents=True)
        (folder / "submission.json").write_text(text or written.model_dump_json())
    assert Submissions(runs).tasks["one"].submission == written
    assert not log_files(runs, runs.cell("one"))

    def queued(names: set[str]) -> dict[tuple[str, int], Job]:
        return {(name, 0): Job("7", state, "", "") for name in names}

    monkeypatch.setattr(submissions, "queued", queued)
    state = "COMPLETED"
    assert not Submissions(runs).living(["one"])
    state = "RUNNING"
    with pytest.raises(ConfigError, match=r"^submissions: \S+/old/submission.json was .* scancel --name=old$"):
        Submissions(runs).living(["two"])
