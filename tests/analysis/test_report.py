import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from analysis.__main__ import app
from analysis.reading.load import load
from analysis.report import Report, build, show, to_html
from analysis.sections import budgets, cost, curves, fidelity, paper, scaling, searches, time_to_target
from harness.commands.console import run_app
from harness.config.cells import Cell, TrainCell
from launch.planning.runs_folder import Runs
from tests.analysis.synthetic import Fake, make

SMALL = ("model=de-hqs", "steps=10", "pretraining.steps=4")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of `python -m analysis ...`."""
    monkeypatch.setattr(sys, "argv", ["analysis", *arguments])
    with pytest.raises(SystemExit) as ended:
        run_app(app)
    return int(ended.value.code or 0)


def built(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> Report:
    """The report without its figures, which take seconds to draw."""
    for module in (budgets, cost, curves, fidelity, paper, scaling, searches, time_to_target):
        for drawing in ("drawn", "drawn_all"):
            monkeypatch.setattr(module, drawing, lambda *figures: (), raising=False)
    return build(load(runs, "demo"))


def test_report_is_written_printed_and_self_contained(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make(runs, *SMALL)
    assert run(monkeypatch, "report", "demo", "--runs", str(runs.root)) == 0
    folder = runs.grid_folder("demo") / "report"
    figures = {"cost-quality", "phases", "loss", "validation", "searches", "pictures", "fidelity-cost"}
    figures |= {"fidelity-eigenvalue", "budgets"}
    tables = {
        f"{name}.{kind}"
        for name in ("accuracy", "cost", "conditions", "time-to-target", "contraction", "fidelity", "tuning")
        for kind in ("csv", "md", "tex")
    }
    drawn = {f"{name}.{kind}" for name in figures for kind in ("png", "pdf")}
    assert {path.name for path in folder.iterdir()} == {
        "report.html",
        "findings.md",
        "grid.yaml",
        "cells.csv",
        *tables,
        *drawn,
    }

    html = (folder / "report.html").read_text()
    assert "http" not in html
    assert not re.search(r"<(script|link|iframe)", html)
    sources = re.findall(r'(?:src|href)="([^"]*)', html)
    assert len(sources) == len(figures)
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert str(runs.root) not in html

    printed = capsys.readouterr().out
    assert "de-hqs implicit" in printed
    assert "Cost of one gradient" in printed
    assert printed.rstrip().endswith(str(folder / "report.html"))


def test_unfinished_grid_reports_what_there_is(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(cell: Cell, fake: Fake) -> None:
        if isinstance(cell, TrainCell):
            fake.state, fake.message = "failed", "rank 1: <out> of [memory]"

    made = built(make(runs, *SMALL, change=fail), monkeypatch)
    console = Console(file=io.StringIO(), width=80)
    show(made, console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert printed.count("rank 1: <out> of [memory]") == 2
    assert "total-variation" in printed
    html = to_html(made)
    assert html.count("rank 1: &lt;out&gt; of [memory]") == 2
    assert "total-variation" in html


def test_grid_where_nothing_has_started_has_a_report(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(cell: Cell, fake: Fake) -> None:
        fake.state = "planned"

    html = to_html(built(make(runs, *SMALL, change=wait), monkeypatch))
    assert "0 of 8 cells are finished" in html
    assert "No method is finished." in html
    assert html.count("not started") == 8


@pytest.mark.parametrize(("arguments", "says"), [(["nope"], "found: demo"), (["demo", "--output", "FILE"], "output: ")])
def test_users_mistake_is_one_line_and_exit_code_2(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    make(runs, *SMALL, "baselines=tikhonov", "backprop=jfb")
    file = runs.root / "file"
    file.write_text("")
    arguments = [str(file) if argument == "FILE" else argument for argument in arguments]
    assert run(monkeypatch, "report", *arguments, "--runs", str(runs.root)) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert says in said


def test_schedules_have_a_table_where_there_are_several(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Learning-rate schedules" not in to_html(built(make(runs, *SMALL), monkeypatch))
    several = make(Runs(tmp_path / "other"), *SMALL, "schedule=fixed,cosine")
    html = to_html(built(several, monkeypatch))
    assert "<h2>Learning-rate schedules</h2>" in html
    assert "cosine: PSNR" in html


def test_celeba_may_not_be_published_and_other_pictures_may(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warning = "do not publish"
    assert warning not in to_html(built(make(runs, *SMALL), monkeypatch))
    faces = tmp_path / "celeba/img_align_celeba"
    faces.mkdir(parents=True)
    for k in range(20):
        Image.new("RGB", (8, 8)).save(faces / f"{k}.jpg")
    celeba = f"data={{name: celeba, root: {tmp_path / 'celeba'}, split_at: 16}}"
    html = to_html(built(make(Runs(tmp_path / "other"), *SMALL, celeba), monkeypatch))
    assert warning in html


def test_command_line_is_light_and_nothing_needs_torch_or_mlflow() -> None:
    light = "import sys, analysis.__main__; assert not {'pandas', 'seaborn', 'matplotlib'} & sys.modules.keys()"
    whole = "import analysis.report; assert not {'torch', 'mlflow'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", f"{light}; {whole}"], check=True)
