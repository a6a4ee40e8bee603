"""A user's own section of a report, named by import path."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from analysis.report import report
from harness.config.errors import ConfigError
from launch.planning.runs_folder import Runs
from tests.analysis.synthetic import make

MODULE = '''
"""Written as a user would."""

from analysis.rendering.section import Section
from analysis.rendering.tables import Column, Table


def section(data):
    frame = data.trained.groupby("label", sort=False)["seconds"].sum().reset_index()
    columns = (Column("label", "Method"), Column("seconds", "Wall time, s", ".1f"))
    return Section("Wall time", Table("wall-time", "Wall time", frame, columns, "Every finished cell.", "none"))


nothing = 3
'''
SMALL = ("model=de-hqs", "steps=10", "pretraining.steps=4")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the user's on the Python path."""
    (tmp_path / "own_sections.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("own")
def test_an_own_section_comes_last_and_has_its_files(runs: Runs) -> None:
    report(make(runs, *SMALL), "demo", None, ["own_sections:section"], Console(file=io.StringIO()))
    folder = runs.grid_folder("demo") / "report"
    html = (folder / "report.html").read_text()
    assert html.index("<h2>Training</h2>") < html.index("<h2>Wall time</h2>") < html.index("<h2>Environment</h2>")
    written = (folder / "wall-time.csv").read_text().splitlines()
    assert written[0] == "label,seconds,command"
    assert written[1].startswith("de-hqs jfb,12.0")


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("name", ["own_sections:missing", "own_sections:nothing", "no_module:section"])
def test_a_section_that_is_not_there_is_one_line(runs: Runs, name: str) -> None:
    with pytest.raises(ConfigError, match=r"^--section: [^\n]+$"):
        report(make(runs, *SMALL), "demo", None, [name], Console(file=io.StringIO()))
