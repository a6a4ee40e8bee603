import io
import math

import pandas as pd
import pytest
from rich.console import Console

from analysis.rendering.tables import NOTHING, Column, Table, to_csv, to_markdown, to_rich

COMMAND = "python -m x 'a=[\"b\"]'"
COLUMNS = (
    Column("label", "Method", rank=1),
    Column("psnr", "PSNR, dB", ".2f", ("error",), best="max", rank=1),
    Column("residual", "Worst residual", ".1e", rank=2),
    Column("count", "Diverged", "d", rank=3),
)


def table(**columns: list[object]) -> Table:
    fields = {
        "label": ["a_b & 100 %", "second"],
        "psnr": [30.123456789, 29.0],
        "error": [0.5, math.nan],
        "residual": [1.234e-4, math.inf],
        "count": [0, 3],
        "group": ["baseline", "train"],
        **columns,
    }
    return Table(
        "accuracy", "Accuracy", pd.DataFrame(fields), COLUMNS, "50 % of a_b", "python -m x 'a=[\"b\"]'", ["n_1"]
    )


def texts(shown: Table) -> list[list[str]]:
    return [[place.text for place in row] for row in shown.rows()]


def test_values_are_formatted_and_the_unknown_is_a_dash() -> None:
    assert texts(table()) == [["a_b & 100 %", "30.12 ± 0.50", "1.2e-4", "0"], ["second", "29.00", "∞", "3"]]
    assert texts(table(psnr=[-math.inf, None]))[0][1].startswith("-∞")
    assert texts(table(psnr=[-math.inf, None]))[1][1] == NOTHING


@pytest.mark.parametrize(
    ("values", "bold"),
    [
        ([30.0, 29.0, 28.0], [True, False, False]),
        ([30.001, 30.002, 28.0], [True, True, False]),
        ([30.001, 30.002, math.nan], [False, False, False]),
        ([30.0, math.nan, -math.inf], [False, False, False]),
    ],
)
def test_best_is_bold_at_the_shown_precision_where_there_is_a_choice(values: list[float], bold: list[bool]) -> None:
    three = {"label": ["a"] * 3, "error": [0.1] * 3, "residual": [0.1] * 3, "count": [0] * 3, "group": [""] * 3}
    assert [row[1].bold for row in table(**three, psnr=values).rows()] == bold


def test_best_is_looked_for_within_one_protocol() -> None:
    shown = table(label=list("abcd"), psnr=[1.0, 2, 30, 40], error=[math.nan] * 4, residual=[0.1] * 4, count=[0] * 4,
                  group=[""] * 4, protocol=["p", "p", "q", "q"])  # fmt: skip
    assert [row[1].bold for row in shown.rows()] == [False, True, False, True]


def test_csv_keeps_full_precision_and_the_command() -> None:
    back = pd.read_csv(io.StringIO(to_csv(table())))
    assert back["psnr"][0] == 30.123456789
    assert back["residual"][1] == math.inf
    assert set(back["command"]) == {COMMAND}


def test_markdown_has_equal_columns_bold_best_caption_and_command() -> None:
    lines = to_markdown(table(label=["a|b", "second"])).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 4
    assert {line.replace("\\|", "").count("|") for line in rows} == {5}
    assert "**30.12 ± 0.50**" in rows[2]
    assert "50 % of a\\_b" in lines[2]
    assert f"`{COMMAND}`" in lines[2]


@pytest.mark.parametrize(("width", "last"), [(200, "Diverged"), (40, "residual"), (26, "dB")])
def test_terminal_drops_whole_columns_and_breaks_no_number(width: int, last: str) -> None:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(to_rich(table(), width))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    header = shown.split("a_b & 100 %")[0]
    assert header.rstrip().endswith(last)
    assert "30.12 ± 0.50" in shown
    assert "…" not in shown


def test_a_value_of_which_only_a_bound_is_known_is_shown_as_that_bound() -> None:
    column = Column("time", "Time, s", ",d", interval=("low", "high"))
    ends = [(math.inf, 1234.0, math.inf), (math.nan, -math.inf, 5.0), (math.inf, math.nan, math.nan), (7, 7, math.inf)]
    frame = pd.DataFrame(ends, columns=["time", "low", "high"])
    shown = Table("times", "Times", frame, (column,), "", "")
    assert texts(shown) == [["> 1,234"], ["< 5"], ["∞"], ["7"]]
    assert r"| \< 5 |" in to_markdown(shown)
