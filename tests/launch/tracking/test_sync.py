"""Records to MLflow: each cell once, with its own times, whatever happens in between."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Param, Run
from mlflow.exceptions import MlflowException

from harness.config.cells import Cell
from harness.config.errors import ConfigError
from harness.records.cell_folder import CellStatus
from harness.records.files import write_atomically
from launch.planning.grid import Grid
from launch.planning.runs_folder import Runs
from launch.tracking import rows
from launch.tracking.sync import sync_once
from launch.tracking.views import TABLE, VIEW_TAG
from tests.analysis import synthetic
from tests.conftest import tiny_cell

REPOSITORY = Path(__file__).resolve().parents[3]
BEGAN = 1_700_000_000.0
SMALL = ("steps=6", "pretraining.steps=6", "model=de-prox", "seed=0,1", "baselines=tikhonov,degraded")


def finished_grid(root: Path, *overrides: str) -> Runs:
    """A grid of eight finished cells; the k-th one began k minutes after the first and took 12 s."""
    runs = synthetic.make(Runs(root), *SMALL, *overrides)
    for place, folder in enumerate(runs.cells_of("demo")):
        times = {"began": BEGAN + 60 * place, "updated": BEGAN + 60 * place + synthetic.SECONDS}
        folder.write_status(folder.status().model_copy(update=times))
    return runs


def found(runs: Runs) -> dict[str, Run]:
    """Every run of the grid by cell_id, each of which exists once; the grid's own run has the empty one."""
    client = MlflowClient(runs.tracking_uri)
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    every = client.search_runs([experiment.experiment_id])
    by_cell = {run.data.tags.get("jfbench.cell_id", ""): run for run in every}
    assert len(by_cell) == len(every), "a cell has two runs"
    return by_cell


@pytest.fixture(scope="module")
def synced(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    runs = finished_grid(tmp_path_factory.mktemp("synced"))
    assert sync_once(runs, "demo") == 8
    return runs


def test_runs_have_the_times_of_their_cells_and_a_late_sync_changes_nothing(synced: Runs) -> None:
    def times() -> dict[str, tuple[int, int]]:
        return {cell_id: (run.info.start_time, run.info.end_time) for cell_id, run in found(synced).items()}

    first = times()
    for place, folder in enumerate(synced.cells_of("demo")):
        began = round(1000 * (BEGAN + 60 * place))
        assert first[folder.cell_id] == (began, began + 12_000)
    assert first[""] == (round(1000 * BEGAN), round(1000 * (BEGAN + 60 * 7 + 12)))
    assert {run.data.tags.get("kind") for run in found(synced).values()} == {"train", "baseline", "pretrain", None}
    assert sync_once(synced, "demo") == 0
    assert times() == first


def test_runs_are_named_by_what_varies_and_tagged_by_what_they_are(synced: Runs) -> None:
    by_name = {run.info.run_name: run for run in found(synced).values()}
    assert {"demo", "de-prox jfb s0", "de-prox implicit s1", "tikhonov", "pretrain dncnn s1"} <= by_name.keys()
    tags = by_name["de-prox implicit s1"].data.tags
    expected = {"model": "de-prox", "backprop": "implicit", "seed": "1", "state": "finished"}
    assert expected.items() <= tags.items()
    assert tags["method"] == "de-prox implicit"
    assert {"test/psnr", "cost/step_ms", "cost/gradient_ms"} <= by_name["de-prox jfb s0"].data.metrics.keys()


def test_the_experiment_has_views_and_a_description_and_the_report_comes_later(synced: Runs) -> None:
    client = MlflowClient(synced.tracking_uri)

    def tags() -> dict[str, str]:
        experiment = client.get_experiment_by_name("demo")
        assert experiment is not None
        return dict(experiment.tags)

    assert tags()[f"{VIEW_TAG}{TABLE}"].startswith("deflate;")
    assert "8 cells: 8 finished" in tags()["mlflow.note.content"]
    report = synced.grid_folder("demo") / "report"
    write_atomically(report / "findings.md", "- JFB is worse.\n")
    write_atomically(report / "report.html", "<html>")
    assert sync_once(synced, "demo") == 0
    assert "JFB is worse" in tags()["mlflow.note.content"]
    listed = {file.path for file in client.list_artifacts(found(synced)[""].info.run_id, "report")}
    assert listed == {"report/findings.md", "report/report.html"}


def test_a_run_deleted_in_mlflow_comes_back_with_the_next_news_and_a_second_one_goes(synced: Runs) -> None:
    client = MlflowClient(synced.tracking_uri)
    deleted, doubled = (folder.cell_id for folder in synced.cells_of("demo")[-2:])
    client.delete_run(found(synced)[deleted].info.run_id)
    kept = found(synced)[doubled]
    client.create_run(kept.info.experiment_id, tags={"jfbench.cell_id": doubled}, start_time=kept.info.start_time - 1)
    assert sync_once(synced, "demo") == 0, "nothing is looked up without news"
    synced.write_plan(
        Grid.model_validate(json.loads((synced.grid_folder("demo") / "grid.json").read_text())["grid"]),
        [folder.cell() for folder in synced.cells_of("demo")],
    )
    assert sync_once(synced, "demo") == 1
    runs = found(synced)
    assert runs[deleted].data.metrics["test/psnr"] > 0
    assert sync_once(synced, "demo") == 0


def after(call: Callable[..., Any], number: int) -> Callable[..., Any]:
    """The same function, whose answer to the call of this number is lost."""
    calls = 0

    def called(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        answer = call(*arguments, **options)
        if calls == number:
            raise MlflowException("API request failed: connection reset\nmore")
        return answer

    return called


@pytest.mark.parametrize(("method", "number"), [("create_run", 4), ("log_batch", 3), ("set_terminated", 5)])
def test_a_server_that_goes_down_in_the_middle_gets_the_rest_later_and_each_row_once(
    method: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = finished_grid(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, method, after(getattr(MlflowClient, method), number))
        with pytest.raises(ConfigError, match=r"does not answer: API request failed: connection reset$"):
            sync_once(runs, "demo")
    sync_once(runs, "demo")
    trained = [run for run in found(runs).values() if run.data.tags.get("kind") == "train"]
    assert len(trained) == 4
    client = MlflowClient(runs.tracking_uri)
    for run in trained:
        history = client.get_metric_history(run.info.run_id, "train/loss")
        assert [metric.step for metric in history] == [1, 2, 3, 4, 5, 6]
    assert sync_once(runs, "demo") == 0


def test_two_syncs_at_once_send_each_cell_once(tmp_path: Path) -> None:
    runs = finished_grid(tmp_path)
    command = [sys.executable, "-m", "launch", "sync", "demo", "--runs", str(tmp_path)]
    both = [subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = sorted(process.communicate(timeout=300)[0] for process in both)
    assert said == ["0 cells had news\n", "8 cells had news\n"]
    assert len(found(runs)) == 9


def test_a_cell_that_mlflow_refuses_or_that_cannot_be_read_is_one_line_and_the_others_are_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = finished_grid(tmp_path, "seed=0")
    *_, refused, unreadable = (folder.cell_id for folder in runs.cells_of("demo"))
    write_atomically(runs.cell(unreadable).path / "attempts" / "0" / "record.jsonl", "{}\n")
    honest = rows.params

    def params(cell: Cell) -> list[Param]:
        return honest(cell) + ([Param("no*such", "1")] if cell.cell_id == refused else [])

    monkeypatch.setattr(rows, "params", params)
    with pytest.raises(ConfigError, match=rf"^2 of 5 cells with news did not reach MLflow at \S+; {refused}: [^\n]+$"):
        sync_once(runs, "demo")
    sent = [cell_id for cell_id, run in found(runs).items() if "jfbench.synced" in run.data.tags]
    assert len(sent) == 3


def test_an_experiment_deleted_in_mlflow_is_one_line(tmp_path: Path) -> None:
    runs = finished_grid(tmp_path, "seed=0")
    client = MlflowClient(runs.tracking_uri)
    client.delete_experiment(client.create_experiment("demo"))
    with pytest.raises(ConfigError, match=r"experiment 'demo' was deleted; `mlflow experiments restore [^\n]*$"):
        sync_once(runs, "demo")


def launched(runs: Runs) -> None:
    cell = tiny_cell()
    runs.write_plan(Grid(name="test"), [cell])
    runs.cell(cell.cell_id).write_status(CellStatus(state="interrupted", updated=1.0))


def test_a_sync_that_dies_after_it_made_a_run_is_made_up_for(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    launched(runs)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", die)
        with pytest.raises(KeyboardInterrupt):
            sync_once(runs, "test")
    assert sync_once(runs, "test") == 1
    client = MlflowClient(runs.tracking_uri)
    experiment = client.get_experiment_by_name("test")
    assert experiment is not None
    _, run = sorted(client.search_runs([experiment.experiment_id]), key=lambda run: len(run.data.params))
    assert run.data.params["solver.max_steps"] == "4"


def test_a_server_that_is_away_is_one_line(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    launched(runs)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"^MLflow at http://127.0.0.1:9 does not answer: [^\n]+$"):
        sync_once(runs, "test")


def test_a_server_that_never_answers_is_one_line(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    launched(runs)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        with pytest.raises(ConfigError, match=rf"^MLflow at {address} does not answer: [^\n]+$"):
            sync_once(runs, "test")
