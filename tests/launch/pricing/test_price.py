"""What a plan costs, from what finished cells of the same shape took."""

import json
from collections import Counter
from typing import Any

import pytest
from rich.console import Console

from harness.config.cells import Cell, PretrainCell, TimingCell, TrainCell
from harness.records.cell_folder import CellFolder, CellStatus
from harness.records.events import Checkpoint, End, Start
from harness.records.files import write_atomically
from harness.training.sample_order import PoolOrder
from launch.planning.grid import Grid, plan, read_grid
from launch.planning.profiles import Local
from launch.planning.runs_folder import Runs
from launch.pricing.price import Finished, describe_price, finished_cells, price, short_cells
from launch.pricing.timing import Course, Shape
from launch.reconcile import launch, launch_probes
from tests.analysis.synthetic import ENVIRONMENT, Fake, append, contraction, evaluation, step
from tests.analysis.synthetic import events as made_up
from tests.conftest import tiny_cell

POOL = {"size": 12, "max_steps": 3, "refresh_every": 3}
IMPLICIT = {"name": "implicit", "solver": "gmres"}
HERE = Local(executor="debug")


def shape(**fields: Any) -> Shape:
    return Shape.of(tiny_cell(**fields))


def finished(runs: Runs, cell: Cell, seconds: float) -> Finished:
    """A finished cell without a record."""
    return Finished(cell, runs.cell(cell.cell_id), seconds)


def recorded(runs: Runs, cell: TrainCell, step_seconds: dict[str, float], slow: float = 0.0) -> Finished:
    """A finished cell: each kind of step takes so long, and the first one `slow` more.

    A validation takes 2 s, a test picture 3 s, a checkpoint 0.5 s, and what is done once 10 s.
    """
    fake, course, now = Fake(30.0), Course.of(cell), 1000.0
    indices = list(range(cell.data.test_images or 7))
    events = [Start(time=now, resumed_from=0, environment=ENVIRONMENT)]

    def after(event: Any, took: float) -> None:
        nonlocal now
        now += took
        events.append(event.model_copy(update={"time": now}))

    seen = set()
    after(evaluation("validation", 0, 30.0, fake), 2.0)
    after(evaluation("test", 0, 30.0, fake).model_copy(update={"indices": indices}), 3.0 * len(indices))
    after(contraction(0, fake), 10.0)
    for number in range(1, cell.steps + 1):
        kind = course.kind(number - 1)
        after(step(number, cell.steps, fake, cell), step_seconds[kind] + (0 if kind in seen else slow))
        seen.add(kind)
        if number == cell.steps or number % cell.evaluate_every == 0:
            after(evaluation("validation", number, 30.0, fake), 2.0)
        if number == cell.steps or number % cell.operations.checkpoint_every == 0:
            after(Checkpoint(time=0, step=number), 0.5)
    after(evaluation("test", cell.steps, 30.0, fake).model_copy(update={"indices": indices}), 3.0 * len(indices))
    after(End(time=0, seconds=0), 0.0)
    folder = runs.cell(cell.cell_id)
    folder.plan(cell)
    append(folder, events)
    return Finished(cell, folder, now - 1000)


def undisturbed(cell: TrainCell, step_seconds: dict[str, float]) -> float:
    """What such a cell takes without slow first steps."""
    steps = sum(step_seconds[Course.of(cell).kind(number)] for number in range(cell.steps))
    evaluations = 1 + -(-cell.steps // cell.evaluate_every)
    pictures = 2 * (cell.data.test_images or 7)
    return 10 + 3 * pictures + steps + 2 * evaluations + 0.5 * -(-cell.steps // cell.operations.checkpoint_every)


def test_the_shape_is_what_decides_how_long_a_cell_takes() -> None:
    same = {"seed": 3, "schedule": "fixed", "operations": {"checkpoint_every": 2, "reconstructions": 0},
            "optimizer": {"name": "adam", "lr": 1e-5}, "pretraining": {"steps": 7}}  # fmt: skip
    assert shape(**same) == shape()
    for more in ({"steps": 8}, {"warm_up": 2, "backprop": IMPLICIT}, {"evaluate_every": 1}):
        assert shape(**more).fields == shape(**{**more, "steps": 4, "warm_up": 0, "evaluate_every": 4}).fields
        assert shape(**more) != shape(**{**more, "steps": 4, "warm_up": 0, "evaluate_every": 4})
    for other in ({"model": "de-hqs"}, {"backprop": "neumann"}, {"world_size": 2}, {"global_batch_size": 12}):
        assert shape(**other).fields != shape().fields


@pytest.mark.parametrize("refresh_every", [1, 2, 5])
def test_a_step_has_a_new_batch_where_the_pool_has_no_state_for_it(refresh_every: int) -> None:
    import torch

    pool = PoolOrder(0, 40, batch_size=2, share=slice(0, 2), size=6, refresh_every=refresh_every)
    course = Course(batches=3, refresh_every=refresh_every)
    for number in range(40):
        assert (pool.start(number) is None) == ("new" in course.kind(number))
        pool.keep(number, torch.zeros(2, 1, 1, 1))


@pytest.mark.parametrize("test_images", [4, 200, None])
def test_a_long_training_is_priced_by_the_parts_of_a_short_one(runs: Runs, test_images: int | None) -> None:
    data = {"name": "pictures", "image_size": 32, "test_images": test_images}
    long = tiny_cell(steps=2000, warm_up=90, pool=POOL, backprop=IMPLICIT, evaluate_every=100, data=data,
                     operations={"checkpoint_every": 50})  # fmt: skip
    (needed, short) = short_cells([long])
    assert long.needs is not None
    assert needed == long.needs
    assert isinstance(short, TrainCell)
    assert short.steps < 20
    assert short.data.test_images == (test_images and min(test_images, 16))
    assert short.cell_id != long.cell_id
    took = {"step of warm-up with a new batch": 1.0, "step of warm-up": 0.1, "step with a new batch": 3.0, "step": 0.4}
    known = recorded(runs, short, took, slow=7.0)
    priced = price([long], [known])
    assert isinstance(long, TrainCell)
    expected = undisturbed(long, took) + 4 * 7
    assert priced.seconds[long.cell_id] == pytest.approx(expected)


def test_a_longer_timing_cell_is_priced_by_its_rounds(runs: Runs) -> None:
    def timing_cell(steps: int, rate: float = 1e-3, **base: Any) -> TimingCell:
        axes = {"model": ["de-hqs"], "backprop": ["jfb", "implicit"]}
        grid = {"name": "test", "base": {"optimizer": {"lr": rate}, **base}, "grid": axes, "timing": {"steps": steps}}
        cell = plan(Grid.model_validate(grid))[-1]
        assert isinstance(cell, TimingCell)
        return cell

    short, long, other = timing_cell(10), timing_cell(100, rate=1e-4), timing_cell(100, warm_up=0)
    times = [0.0, *(20 + 0.5 * number for number in range(10)), 25.0]
    record = zip(made_up(short, Fake(30.0), 0), times, strict=True)
    events = [event.model_copy(update={"time": time}) for event, time in record]
    folder = runs.cell(short.cell_id)
    folder.plan(short)
    append(folder, events)
    priced = price([short, long, other], [Finished(short, folder, 25.0)])
    assert priced.seconds == {short.cell_id: 25.0, long.cell_id: pytest.approx(25 + 90 * 0.5)}
    assert short_cells([long])[-1] == long, "a probe runs it whole"


def test_a_kind_of_step_that_was_not_seen_counts_as_the_dearest(runs: Runs) -> None:
    without, with_warm_up = (tiny_cell(steps=20, warm_up=n, backprop=IMPLICIT, evaluate_every=4) for n in (0, 10))
    assert isinstance(without, TrainCell)
    took = {"step with a new batch": 2.0}
    priced = price([with_warm_up], [recorded(runs, without, took)])
    assert priced.seconds[with_warm_up.cell_id] == pytest.approx(undisturbed(without, took))


def test_cells_are_priced_whole_else_by_their_parts_else_not_at_all(runs: Runs) -> None:
    done = tiny_cell(steps=10)
    assert isinstance(done, TrainCell)
    known = [recorded(runs, done, {"step with a new batch": 1.0})]
    known += [finished(runs, tiny_cell(steps=10, seed=seed), seconds) for seed, seconds in ((7, 20.0), (8, 46.0))]
    cells = [tiny_cell(steps=10, seed=1), tiny_cell(steps=100, seed=1), tiny_cell(steps=10, model="de-hqs")]
    priced = price(cells, known)
    assert priced.seconds == {cells[0].cell_id: 46.0, cells[1].cell_id: pytest.approx(34 + 100 + 2 * 26 + 0.5 * 50)}
    seconds = sum(priced.seconds.values())
    assert priced.rank_hours == pytest.approx(seconds / 3600)
    assert priced.unknown == [cells[2]]
    assert priced.finish_hours(at_once=1) == pytest.approx(seconds / 3600)
    assert priced.finish_hours(at_once=50) == pytest.approx(211 / 3600)
    assert "no price yet for 1 cells of 1 shapes" in describe_price(priced, 50)


def test_each_shape_has_one_probe_that_trains_a_few_steps_and_is_valid() -> None:
    cells = plan(read_grid("demo"))
    short = short_cells(cells)
    assert {Shape.of(cell).fields for cell in short} == {Shape.of(cell).fields for cell in cells}
    assert len(short) == len(cells)
    whole = {cell.cell_id for cell in cells}
    for cell in short:
        assert (cell.cell_id in whole) == (not isinstance(cell, TrainCell))
        if isinstance(cell, TrainCell):
            kinds = Counter(Course.of(cell).kind(number) for number in range(cell.steps))
            assert cell.steps <= 16
            assert min(kinds.values()) >= 2, "the first of each kind does not count"


def test_only_one_seed_is_probed_and_a_training_shorter_than_its_probe_is_run_itself() -> None:
    cells = [tiny_cell(seed=seed, steps=100) for seed in range(3)]
    assert [type(cell) for cell in short_cells(cells)] == [PretrainCell, TrainCell]
    assert {cell.seed for cell in short_cells(cells)} == {0}
    assert short_cells([tiny_cell(steps=2)])[1].cell_id == tiny_cell(steps=2).cell_id


def test_cells_and_records_of_other_code_have_no_say(runs: Runs) -> None:
    cell = tiny_cell()
    folder = CellFolder(runs.cell(cell.cell_id).path)
    folder.plan(cell)
    folder.write_status(CellStatus(state="finished", seconds=9.0))
    append(folder, [])
    (folder.path / "attempts/0/record.jsonl").write_text('{"event": "bang"}\n')
    other = runs.root / "cells/other"
    write_atomically(other / "status.json", '{"state": "finished", "seconds": 9.0}')
    write_atomically(other / "cell.json", '{"kind": "bang"}')
    longer = tiny_cell(steps=50)
    assert price([longer], finished_cells(runs)).unknown == [longer]


def test_ranks_count(runs: Runs) -> None:
    cell = tiny_cell(world_size=2)
    folder = runs.cell(cell.cell_id)
    folder.plan(cell)
    assert finished_cells(runs) == []
    write_atomically(folder.path / "status.json", json.dumps({"state": "finished", "seconds": 1800.0}))
    assert folder.status() == CellStatus(state="finished", seconds=1800.0)
    assert price([tiny_cell(world_size=2, seed=5)], finished_cells(runs)).rank_hours == pytest.approx(1.0)


def test_a_launch_notes_what_its_unfinished_cells_are_expected_to_take(runs: Runs) -> None:
    first, second = tiny_cell(seed=0).needs, tiny_cell(seed=1).needs
    assert first is not None
    assert second is not None
    assert launch(runs, Grid(name="g"), [first], HERE, Console(quiet=True)) == 0
    assert runs.estimates("g") == {}
    assert launch(runs, Grid(name="g"), [first, second], HERE, Console(quiet=True)) == 0
    assert runs.estimates("g") == {second.cell_id: runs.cell(first.cell_id).status().seconds}


def test_probes_run_like_any_cells_and_then_every_cell_has_a_price(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"name": "pictures", "image_size": 32, "test_images": 20, "validation_images": 4, "train_images": 32}
    cells: list[Cell] = [tiny_cell(seed=seed, steps=40, evaluate_every=20, data=data) for seed in (0, 1)]
    cells = [one for cell in cells for one in (cell.needs, cell) if one is not None]
    assert launch_probes(runs, Grid(name="g"), cells, HERE, Console(width=200)) == 0
    assert [folder.status().steps for folder in runs.cells_of("g-probe")] == [4, 6]
    said = capsys.readouterr().out
    assert "for 3 cells" in said
    assert "no price" not in said
    assert not (runs.root / "grids/g").exists()
    before = len(list((runs.root / "cells").iterdir()))
    assert launch_probes(runs, Grid(name="g"), cells, HERE, Console(width=200)) == 0
    assert len(list((runs.root / "cells").iterdir())) == before
