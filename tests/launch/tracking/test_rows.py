"""What MLflow is told about one cell."""

import pytest

from analysis.reading.load import load
from analysis.sections.cost import cost_frame
from harness.config.cells import BaselineCell, PretrainCell, TrainCell
from harness.records.cell_folder import CellStatus
from harness.records.events import Checkpoint, End, Probe, Start, Step
from launch.planning.runs_folder import Runs
from launch.tracking.rows import began_and_ended, choice_tags, metrics
from launch.tracking.shown import read_shown
from tests.analysis import synthetic
from tests.conftest import tiny_cell


def start(time: float, resumed_from: int = 0) -> Start:
    return Start(time=time, resumed_from=resumed_from, environment={})


@pytest.mark.parametrize(
    ("status", "events", "span"),
    [
        # The first attempt began before it wrote its first line; the newest one started later.
        ({"began": 10, "started": 50, "updated": 70}, [start(12), start(52), End(time=69, seconds=19)], (10, 70)),
        ({"began": 10, "started": 10, "updated": 11}, [], (10, 11)),
        # Records of 0.1.0 do not say when the first attempt began.
        ({"started": 10, "updated": 70}, [start(12), End(time=70, seconds=60)], (10, 70)),
        ({"started": 50, "updated": 70}, [start(12), start(52), End(time=70, seconds=20)], (12, 70)),
        ({"started": 50, "updated": 70}, [], (50, 70)),
        ({"updated": 70}, [], (70, 70)),
        # The clock of the node that wrote the end runs behind.
        ({"began": 10, "updated": 9}, [], (10, 10)),
    ],
)
def test_a_cell_has_its_own_times(
    status: dict[str, float], events: list[Start | End], span: tuple[float, float]
) -> None:
    found = began_and_ended(CellStatus.model_validate(status), events)
    assert found == tuple(1000 * time for time in span)


def test_costs_are_metrics_with_units_and_the_step_time_is_that_of_the_report(runs: Runs) -> None:
    synthetic.make(runs, "model=de-prox", "backprop=implicit", "warm_up=3", "steps=20", "baselines=[]")
    _, folder = runs.cells_of("demo")
    events = folder.events()
    last = {metric.key: metric for metric in metrics(folder.cell(), events)}
    (probe,) = (event for event in events if isinstance(event, Probe))
    assert last["cost/gradient_ms"].value == 1000 * probe.seconds
    assert last["cost/peak_memory_mib"].value == probe.peak_allocated_bytes / 2**20
    (row,) = cost_frame(load(runs, "demo")).to_dict("records")
    assert last["cost/step_ms"].value == pytest.approx(1000 * row["seconds_total_median"])
    assert last["cost/step_ms"].step == 20


def test_methods_have_the_names_of_the_report(runs: Runs) -> None:
    synthetic.make(runs, "model=de-prox", "steps=20", "optimizer.lr=0.001,0.01")
    named = read_shown({folder: folder.status() for folder in runs.cells_of("demo")})
    label = load(runs, "demo").cells["label"]
    assert named.labels == dict(label)


def test_zeros_that_only_say_that_there_is_no_penalty_or_adjoint_are_not_sent(runs: Runs) -> None:
    synthetic.make(runs, "model=de-prox", "backprop=jfb", "steps=20", "baselines=[]")
    _, folder = runs.cells_of("demo")
    keys = {metric.key for metric in metrics(folder.cell(), folder.events())}
    assert keys.isdisjoint({"train/penalty", "train/adjoint_nfe", "train/adjoint_residual"})
    assert {"train/loss", "train/unconverged", "seconds/step", "seconds/forward_solve"} <= keys


def test_rows_that_were_sent_are_not_made_again(runs: Runs) -> None:
    synthetic.make(runs, "model=de-prox", "backprop=jfb", "steps=20", "baselines=[]")
    _, folder = runs.cells_of("demo")
    cell, events = folder.cell(), folder.events()
    half = next(place for place, event in enumerate(events) if isinstance(event, Step) and event.step == 10)
    first, rest = metrics(cell, events[:half]), metrics(cell, events, sent=half)
    assert [*map(str, first), *map(str, rest)] == [*map(str, metrics(cell, events))]
    assert not metrics(cell, [Checkpoint(time=1, step=1)])


def test_tags_have_the_names_and_values_of_where() -> None:
    varying = ["optimizer.lr", "solver", "pool"]
    trained = tiny_cell(model={"name": "mine.maps:MyMap"}, solver="picard", optimizer={"lr": 0.01})
    assert isinstance(trained, TrainCell)
    assert choice_tags(trained, varying) == {
        "seed": "0", "model": "MyMap", "backprop": "jfb", "schedule": "cosine",
        "optimizer.lr": "0.01", "solver": "picard", "pool": "null",
    }  # fmt: skip
    assert trained.needs is not None
    assert isinstance(trained.needs, PretrainCell)
    assert choice_tags(trained.needs, varying) == {"seed": "0"}
    assert choice_tags(BaselineCell.model_validate({"baseline": {"name": "tikhonov"}}), varying) == {
        "seed": "0", "baseline": "tikhonov",
    }  # fmt: skip
