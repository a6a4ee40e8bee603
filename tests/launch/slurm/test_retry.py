"""`launch retry` resubmits cells as they were submitted."""

import pytest
from rich.console import Console

from harness.config.errors import ConfigError
from launch.planning.profiles import Slurm
from launch.planning.runs_folder import Runs
from launch.slurm import submissions
from launch.slurm.arrays import Submission
from launch.slurm.retry_cancel import retry_cells
from launch.slurm.submissions import Submissions
from tests.conftest import tiny_cell


def test_a_cell_that_names_another_class_than_when_it_was_submitted_is_refused(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submissions, "queued", lambda names: {})
    cell = tiny_cell(model="theirs.maps:Map")
    folder = runs.cell(cell.cell_id)
    folder.plan(cell)
    profile = Slurm(executor="slurm")
    sent = Submission(
        name="g-0", grid="g", profile=profile, world_size=1, needs=[], jobs=[[cell.cell_id]], trusted=["mine"]
    )
    path = Submissions(runs).root / "g-0" / "submission.json"
    path.parent.mkdir(parents=True)
    path.write_text(sent.model_dump_json())
    with pytest.raises(ConfigError, match="--trust theirs runs it"):
        retry_cells(runs, "g", [folder], {}, Console())
