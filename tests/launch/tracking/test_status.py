"""What `status` makes of a cell's own words and the scheduler's."""

import time
from io import StringIO

import pytest
from rich.console import Console

from harness.commands.console import screen
from harness.records.cell_folder import CellStatus, State
from launch.slurm.queue import Job
from launch.tracking.status import ROWS_SHOWN, Row, table


def job(state: str, reason: str = "", nodes: str = "") -> Job:
    return Job("7_1", state, reason, nodes)


def shown(rows: list[Row], width: int = 200) -> str:
    text = StringIO()
    Console(file=text, width=width).print(table(rows))
    return text.getvalue()


@pytest.mark.parametrize(
    ("written", "said", "state", "queue"),
    [
        ({"state": "planned"}, None, "planned", ""),
        ({"state": "planned"}, job("PENDING", "Priority"), "queued", "pending Priority"),
        ({"state": "planned"}, job("RUNNING", nodes="n1"), "queued", "on n1"),
        ({"state": "running"}, job("RUNNING", nodes="n1"), "running", "on n1"),
        # The lock of another node may be invisible here.
        ({"state": "interrupted"}, job("RUNNING", nodes="n1"), "running", "on n1"),
        ({"state": "interrupted", "message": "time limit"}, job("PENDING", "BeginTime"), "queued", "pending BeginTime"),
        ({"state": "interrupted"}, job("NODE_FAIL", nodes="n3"), "interrupted", "node_fail on n3"),
        ({"state": "failed", "message": "no"}, job("PENDING", "BeginTime"), "queued", "pending BeginTime"),
        ({"state": "failed", "message": "no"}, job("FAILED", nodes="n2"), "failed", "failed on n2"),
        ({"state": "interrupted"}, job("TIMEOUT", nodes="n2"), "interrupted", "timeout on n2"),
        # The cell decides: a job that Slurm calls lost may have finished it.
        ({"state": "finished"}, job("NODE_FAIL", nodes="n3"), "finished", ""),
    ],
)
def test_the_cell_decides_and_the_scheduler_explains(
    written: dict[str, str], said: Job | None, state: str, queue: str
) -> None:
    row = Row.of("cell", CellStatus.model_validate(written), said)
    assert (row.state, row.queue) == (state, queue)


def test_finished_cells_of_different_code_are_flagged() -> None:
    def finished(code: str) -> Row:
        return Row.of("cell", CellStatus(state="finished", code=code), None)

    assert "code" not in shown([finished("abc"), finished("abc")])
    assert "2 states of the code: abc (2), def (dirty) (1)" in shown(
        [finished("abc"), finished("abc"), finished("def (dirty)")]
    )
    assert "changed files: abc (dirty)" in shown([finished("abc (dirty)")])


def test_of_a_large_grid_the_failed_cells_are_shown_and_all_are_counted() -> None:
    rows = [Row.of(f"cell{number}", CellStatus(state="finished"), None) for number in range(1000)]
    rows[777] = Row.of("culprit", CellStatus(state="failed", message="[red] herring"), None)
    text = shown(rows)
    assert "[red] herring" in text
    assert "1000 cells  1 failed  999 finished" in text
    assert text.count("\n") < ROWS_SHOWN + 5


@pytest.mark.parametrize("waits", [False, True])
def test_a_terminal_of_80_columns_shows_every_cell_id_in_full_and_no_empty_column(waits: bool) -> None:
    names = [f"de-admm_implicit_cosine_s0-{digest}" for digest in ("1a2b3c4d", "9f8e7d6c")]
    written = CellStatus(state="interrupted", step=100, steps=10000)
    rows = [Row.of(name, written, job("PENDING", "BeginTime") if waits else None) for name in names]
    text = shown(rows, width=80)
    head, *lines = text.splitlines()
    assert "message" not in head
    assert ("queue" in head) == waits
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    first = "".join(line.split(" ")[0] for line in lines[:-1])
    assert first == "".join(names)
    assert all(len(line) <= 80 for line in lines)
    assert ("pending" in text) == waits


def test_what_cells_say_has_a_column_where_one_says_something() -> None:
    rows = [
        Row.of(name, CellStatus(state="running", message=said), None) for name, said in (("a", ""), ("b", "tuning"))
    ]
    assert "message" in shown(rows).splitlines()[0]
    assert "tuning" in shown(rows)


def test_names_of_cells_stay_whole_where_no_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    name, message = "feed-forward_stochastic-neumann_cosine_s10-0123456789ab", "cannot be read: " + "x " * 60
    screen().print(table([Row.of(name, CellStatus(state="interrupted", message=message), None)]))
    assert name in capsys.readouterr().out


def test_a_running_cell_that_has_been_silent_says_for_how_long() -> None:
    def message(state: State, age: float) -> str:
        return Row.of("cell", CellStatus(state=state, updated=time.time() - age), None).message

    assert message("running", 750) == "last sign of life 12:30 ago"
    assert [message("running", 10), message("finished", 750)] == ["", ""]
