"""Timing cells on one and two ranks: whose turn it is, which batches they see, and what the times say."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from analysis.inference import bootstrap_ratio
from harness.config.cells import TimingCell, parse_cell
from harness.config.errors import ConfigError
from harness.data.batches import Batch, Loader, Sample
from harness.records.cell_folder import CellFolder
from harness.records.events import End, Round, Start
from harness.run.cell import run_cell
from harness.run.distributed import RankPosition
from launch.planning.runs_folder import Runs
from tests.conftest import tiny_cell

SLOWED = "tests.timed_methods:Slowed"
TWIN = "tests.timed_methods:Twin"
PAUSE = 0.03
METHODS: list[Any] = ["jfb", TWIN, {"name": SLOWED, "seconds": PAUSE}, {"name": "unrolled", "steps": 4}]


def timing_cell(methods: list[Any] = METHODS, **fields: Any) -> TimingCell:
    defaults: dict[str, Any] = {"steps": 48, "warm_up": 2, "pool": {"size": 12, "max_steps": 2, "refresh_every": 3}}
    small = tiny_cell(**defaults).to_json()
    shared = {name: small[name] for name in TimingCell.model_fields if name in small}
    changed = {"kind": "timing", "methods": [{"backprop": method} for method in methods], **fields}
    cell = parse_cell({**shared, **changed})
    assert isinstance(cell, TimingCell)
    return cell


def rank_main(denoiser: Path, path: Path, rank: int, world_size: int) -> None:
    """One rank, which pretrains, and then notes the pictures and noise of every batch that the timing cell loads."""
    place = RankPosition(rank, world_size, rank, world_size, launch="test", threads=1)
    run_cell(denoiser, place, trusted=("tests",))
    loaded: list[list[tuple[int, int]]] = []
    batch = Loader.batch

    def noted(self: Loader, samples: list[Sample], seed: int) -> Batch:
        loaded.append([(sample.index, sample.epoch) for sample in samples])
        return batch(self, samples, seed)

    Loader.batch = noted  # type: ignore[method-assign]
    run_cell(path, place, trusted=("tests",))
    (path / f"loaded-{rank}.json").write_text(json.dumps(loaded))


def planned(runs: Runs, cell: TimingCell) -> tuple[CellFolder, CellFolder]:
    """The directories of the pretraining cell and of the timing cell."""
    assert cell.needs is not None
    folders = runs.cell(cell.needs.cell_id), runs.cell(cell.cell_id)
    for folder, one in zip(folders, (cell.needs, cell), strict=True):
        folder.plan(one)
    return folders


@pytest.fixture(scope="module", params=[1, 2])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CellFolder:
    """A finished timing cell on one and on two ranks."""
    spawn, world_size = multiprocessing.get_context("spawn"), request.param
    denoiser, folder = planned(Runs(tmp_path_factory.mktemp("runs")), timing_cell(world_size=world_size))
    places = ((denoiser.path, folder.path, rank, world_size) for rank in range(world_size))
    ranks = [spawn.Process(target=rank_main, args=place) for place in places]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(300)
        assert process.exitcode == 0, folder.status().message
    assert folder.status().state == "finished"
    return folder


def rounds_of(folder: CellFolder) -> list[Round]:
    return [event for event in folder.events() if isinstance(event, Round)]


def seconds_of(folder: CellFolder, method: str) -> list[float]:
    return [one.steps[method].duration for one in rounds_of(folder)]


def test_the_methods_take_turns_after_every_step_in_changing_order(finished: CellFolder) -> None:
    cell, rounds = finished.cell(), rounds_of(finished)
    assert isinstance(cell, TimingCell)
    assert [one.step for one in rounds] == list(range(cell.untimed + 1, cell.rounds + 1))
    taken = [(step.time, step.step, method) for one in rounds for method, step in one.steps.items()]
    assert taken == sorted(taken, key=lambda step: step[0]), "the recorded order is that of the clock"
    for one in rounds:
        assert {step.step for step in one.steps.values()} == {one.step}
        assert set(one.steps) == set(cell.trainings)
    followers = {order[place + 1] for one in rounds for order in [list(one.steps)]
                 for place in range(3) if order[place] == "jfb"}  # fmt: skip
    assert followers == set(cell.trainings) - {"jfb"}, "each of the others follows jfb at some time"


def test_every_method_sees_the_same_batches(finished: CellFolder) -> None:
    """Also a method without a pool. The first round loads each batch twice: one gradient is discarded."""
    cell = finished.cell()
    assert isinstance(cell, TimingCell)
    count, visited = len(cell.methods), []
    for rank in range(cell.world_size):
        loaded = json.loads((finished.path / f"loaded-{rank}.json").read_text())[count:]
        rounds = [loaded[k : k + count] for k in range(0, len(loaded), count)]
        assert len(rounds) == cell.rounds
        assert all(batch == batches[0] for batches in rounds for batch in batches)
        visited.append([batches[0] for batches in rounds])
    assert len({json.dumps(batches) for batches in visited[0]}) > 2, "the batches change"
    assert len(visited) == 1 or visited[0] != visited[1], "each rank has its own share"


def test_a_planted_pause_is_found_and_a_twin_is_not_slower(finished: CellFolder) -> None:
    jfb, twin, slowed = (seconds_of(finished, method) for method in ("jfb", TWIN, SLOWED))
    added = (sum(slowed) - sum(jfb)) / len(jfb)
    assert PAUSE * 0.9 < added < PAUSE * 2
    ratio, low, high = bootstrap_ratio(slowed, jfb, level=0.99)
    assert 1 < low < ratio < high
    _, low, high = bootstrap_ratio(twin, jfb, level=0.99)
    assert low < 1 < high


def test_the_slowest_rank_counts_and_its_phases_add_up(finished: CellFolder) -> None:
    cell = finished.cell()
    for one in rounds_of(finished):
        step = one.steps[SLOWED]
        totals = [sum(seconds) for seconds in zip(*step.seconds.values(), strict=True)]
        assert len(totals) == cell.world_size
        assert step.duration == max(totals) > PAUSE
        assert one.steps["unrolled"].nfe == 4


def test_an_interrupted_attempt_counts_for_nothing(tmp_path: Path) -> None:
    denoiser, folder = planned(Runs(tmp_path), timing_cell(["jfb", TWIN], steps=6))
    run_cell(denoiser.path, RankPosition.from_environment())
    asked = iter(range(10**6))
    state = run_cell(
        folder.path,
        RankPosition.from_environment(),
        trusted=("tests",),
        stop=lambda: "time" if next(asked) > 20 else "",
    )
    assert state == "interrupted"
    assert 0 < len(rounds_of(folder)) < 6
    assert run_cell(folder.path, RankPosition.from_environment(), trusted=("tests",)) == "finished"
    events = folder.events()
    assert [type(event) for event in events] == [Start, *[Round] * 6, End]
    assert folder.status().step == folder.status().steps == timing_cell(["jfb", TWIN], steps=6).rounds


@pytest.mark.parametrize(
    ("methods", "fields", "said"),
    [
        (["jfb"], {}, "methods: at least two backprop methods, each once, are compared (got jfb)"),
        (["jfb", "jfb"], {}, "methods: at least two backprop methods, each once, are compared (got jfb, jfb)"),
        (["jfb", "guess"], {}, "methods.1.backprop: 'guess' is not one of "),
        (["jfb", "shine"], {}, "methods: backprop shine needs solver broyden, not anderson"),
        (["jfb", TWIN], {"steps": 1}, "steps: input should be greater than or equal to 2 (got 1)"),
    ],
)
def test_a_mistake_gets_one_line(methods: list[Any], fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        timing_cell(methods, **fields)
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


def test_methods_of_one_name_are_told_apart_by_what_differs() -> None:
    cell = timing_cell(["jfb", {"name": "neumann", "order": 5}, {"name": "neumann", "order": 2}])
    assert list(cell.trainings) == ["jfb", "neumann order=5", "neumann order=2"]
