import pytest

from analysis.reading import conditions as context
from analysis.reading.load import load
from harness.config.cells import Cell, TrainCell
from launch.planning.grid import read_grid
from launch.planning.overrides import override, parse_assignment
from launch.planning.runs_folder import Runs
from tests.analysis.synthetic import Fake, make


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["steps=20", "name=mine"],
        ["model=de-hqs", "seed=0,1,2", "baselines=tikhonov"],
        ["optimizer.lr=1.0e-05", "baselines=[]"],
        ["physics.value_range=[-1, 1]"],
        ["schedule=cosine,fixed"],
        ["timing.steps=20"],
    ],
)
def test_command_launches_the_declared_grid_again(overrides: list[str]) -> None:
    import shlex

    declared = override(read_grid("demo"), map(parse_assignment, overrides))
    words = shlex.split(context.command(declared.model_dump(mode="json")))
    assert words[:5] == ["python", "-m", "launch", "grid", "demo"]
    assert override(read_grid("demo"), map(parse_assignment, words[5:])) == declared


def test_grid_that_no_override_reaches_is_launched_from_its_file() -> None:
    declared = read_grid("demo").model_dump(mode="json")
    declared["exclude"] = [{"model": "de-grad"}]
    assert "grid.yaml" in context.command(declared)


def test_commits_show_what_no_commit_holds(runs: Runs) -> None:
    def versions(cell: Cell, fake: Fake) -> None:
        commit = {"train": "b" * 40, "baseline": "a" * 40, "pretrain": ""}[cell.kind]
        fake.environment = {"git_commit": commit, "git_dirty": isinstance(cell, TrainCell), "device": "cpu"}

    data = load(make(runs, "model=de-hqs", "backprop=jfb", "baselines=tikhonov", change=versions), "demo")
    assert context.commits(data.cells) == ["a" * 12, "unknown", f"{'b' * 12} (dirty)"]
