"""A damaged file is reported with its place and reason, the command goes on, and its exit code says so."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from analysis.__main__ import app as analysis_app
from harness.config.errors import ConfigError
from launch.__main__ import app as launch_app
from launch.planning.runs_folder import Runs
from launch.tracking.sync import sync_once
from tests.analysis.synthetic import make

SMALL = ["model=de-prox", "backprop=jfb", "baselines=tikhonov", "steps=20", "warm_up=0", "evaluate_every=20"]
COMMANDS = {
    "status": (launch_app, ["status", "demo"]),
    "grid": (launch_app, ["grid", "demo", *SMALL]),
    "retry": (launch_app, ["retry", "demo"]),
    "sync": (launch_app, ["sync", "demo"]),
    "report": (analysis_app, ["report", "demo"]),
    "best": (analysis_app, ["best", "demo"]),
}
ALL = set(COMMANDS)
READ_RECORDS = {"sync", "report", "best"}
READ_CELLS = ALL - {"grid", "sync"}
"""A launch knows what each cell computes, and writes cell.json again. A sync reads only cells that have news."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three finished cells, which MLflow knows."""
    runs = Runs(tmp_path_factory.mktemp("whole") / "runs")
    make(runs, *SMALL)
    assert sync_once(runs, "demo") == 3
    return runs.root


def run(command: str, root: Path) -> Result:
    app, arguments = COMMANDS[command]
    done = CliRunner().invoke(app, [*arguments, "--runs", str(root)])
    assert done.exception is None or isinstance(done.exception, SystemExit | ConfigError), done.exception
    return done


def text_of(done: Result) -> str:
    return done.output + (f"error: {done.exception}" if isinstance(done.exception, ConfigError) else "")


def cell(root: Path) -> Path:
    return next(root.glob("cells/de-prox*"))


def written(path: str, text: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        found = next(cell(root).glob(path)) if "grids" not in path else root / path
        found.write_text(text)

    return damage


def edited(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        path = cell(root) / "attempts/0/record.jsonl"
        path.write_text("".join(change(path.read_text().splitlines(keepends=True))))

    return damage


def removed(path: str) -> Callable[[Path], None]:
    return lambda root: (cell(root) / path).unlink()


RECORD = "attempts/0/record.jsonl"
DAMAGE: dict[str, tuple[Callable[[Path], None], str, set[str]]] = {
    "status broken": (written("status.json", '{"state": "fin'), "status.json, line 1: ", ALL),
    "status empty": (written("status.json", ""), "status.json, line 1: the file is empty", ALL),
    "status of another kind": (written("status.json", '{"state": "odd"}'), "status.json, line 1: state: ", ALL),
    "record empty": (written(RECORD, ""), "record.jsonl: the cell is finished, but its record", READ_RECORDS),
    "record missing": (removed(RECORD), "record.jsonl: the cell is finished, but its record", READ_RECORDS),
    "first line lost": (edited(lambda lines: lines[1:]), "record.jsonl, line 1: the record does not", READ_RECORDS),
    "a garbage line": (edited(lambda lines: [*lines[:4], "x\n", *lines[4:]]), "record.jsonl, line 5: ", READ_RECORDS),
    "a step lost": (edited(lambda lines: [one for one in lines if '"step":7,"loss"' not in one]),
                    "attempts: step 7 is missing", READ_RECORDS),
    "cell is a list": (written("cell.json", "[1]"), "cell.json, line 1: a cell is a mapping, not list", READ_CELLS),
    "cell broken": (written("cell.json", '{\n "kind": x'), "cell.json, line 2: ", READ_CELLS),
    "cell missing": (removed("cell.json"), "cell.json: no such file", READ_CELLS),
    "grid broken": (written("grids/demo/grid.json", "{\n\n]"), "grid.json, line 3: ", ALL),
    "grid is a list": (written("grids/demo/grid.json", "[]"), "grid.json, line 1: a launched grid has", ALL),
    "estimates broken": (written("grids/demo/estimates.json", "{"), "estimates.json, line 1: ",
                         {"grid", "report", "best"}),
    "a picture broken": (written("reconstructions/*-output.png", "png"), "-output.png: the picture cannot be read",
                         {"report", "best"}),
}  # fmt: skip
GOES_ON = {
    "status": "tikhonov",
    "grid": "3 cells",
    "report": "report.html",
    "best": "tikhonov",
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named_and_contained(kind: str, command: str, whole: Path, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    shutil.copytree(whole, root)
    damage, said, noticed = DAMAGE[kind]
    damage(root)
    done = run(command, root)
    text = " ".join(text_of(done).split())
    assert (said in text) == (command in noticed), text
    if command in noticed:
        assert done.exit_code
    elif command != "retry":
        assert done.exit_code == 0, text
    if command in GOES_ON and not (kind.startswith("grid") and command != "grid"):
        assert GOES_ON[command] in text


def test_whole_cells_are_not_called_damaged(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "runs")
    for command in ALL - {"retry"}:
        done = run(command, tmp_path / "runs")
        assert (done.exit_code, "damaged" in done.output) == (0, False), done.output
    assert "none of 3 failed or lost its job" in text_of(run("retry", tmp_path / "runs"))
