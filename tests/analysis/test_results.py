"""RESULTS.md is rendered from archived records: every entry is one of a table's, and a wrong reference is one line."""

from pathlib import Path

import pytest

from analysis.reading.load import load
from analysis.report import build
from analysis.results import render
from harness.config.errors import ConfigError
from launch.planning.runs_folder import Runs
from launch.tracking.archive import pack
from tests.analysis.synthetic import make

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(runs: Runs, tmp_path: Path) -> Path:
    make(runs, "model=de-hqs", "steps=10", "warm_up=0")
    pack(runs, "demo", tmp_path / "results" / "demo.tar.xz")
    return tmp_path / "results"


def rendered(folder: Path, template: str) -> str:
    (folder / "RESULTS.md.j2").write_text(template)
    return render(folder)


def test_an_entry_is_that_of_the_reports_table(runs: Runs, folder: Path) -> None:
    report = build(load(runs, "demo"))
    table = next(table for table in report.tables if table.name == "accuracy")
    column = next(column for column in table.columns if column.key == "psnr")
    place = [row["label"] for row in table.records].index("de-hqs jfb")
    text = rendered(folder, "{{ grid('demo').value('accuracy', 'de-hqs jfb', 'psnr') }} dB\n")
    assert text == f"{table.column(column)[place].text} dB\n"


def test_a_table_has_the_columns_and_rows_that_are_named(folder: Path) -> None:
    lines = rendered(folder, "{{ grid('demo').table('accuracy', 'label', 'psnr') }}").splitlines()
    assert lines[0] == "| Method | PSNR, dB |"
    assert any(line.startswith("| de-hqs jfb | ") for line in lines)


def test_conditions_and_sentences_come_from_the_records(folder: Path) -> None:
    text = rendered(
        folder, "{{ grid('demo').commit }}\n{{ grid('demo').command }}\n{{ grid('demo').findings('note') }}\n"
    )
    assert text.startswith("aaaaaaaaaaaa\npython -m launch grid demo steps=10 warm_up=0 model=de-hqs\n")
    assert "- implicit is better than jfb" in text


def test_an_older_table_is_read_from_its_csv(folder: Path) -> None:
    (folder / "old.csv").write_text("label,psnr,rest\nde-hqs,33.3333,1\n")
    text = rendered(folder, "{{ csv('old.csv', {'label': ('Method', ''), 'psnr': ('PSNR, dB', '.2f')}) }}")
    assert text.splitlines() == ["| Method | PSNR, dB |", "| :--- | ---: |", "| de-hqs | 33.33 |"]


def test_the_published_page_is_what_the_records_give() -> None:
    assert (ROOT / "RESULTS.md").read_text(encoding="utf-8") == render(ROOT / "results"), "run `make results`"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ grid('none').commit }}", "none.tar.xz is no archive"),
        ("{{ grid('demo').table('nothing') }}", "demo has no table 'nothing'"),
        ("{{ grid('demo').table('accuracy', 'nothing') }}", "accuracy has no column 'nothing'"),
        ("{{ grid('demo').value('accuracy', 'de-hqs magic', 'psnr') }}", "accuracy has no row 'de-hqs magic'"),
        ("{{ typo }}", "'typo' is undefined"),
    ],
)
def test_a_reference_that_leads_nowhere_is_one_line(folder: Path, template: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        rendered(folder, template)
    assert "\n" not in str(refused.value)
