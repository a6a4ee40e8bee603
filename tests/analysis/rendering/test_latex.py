import math
from dataclasses import replace

import pandas as pd
import pytest

from analysis.rendering.latex import escape_latex, to_latex
from analysis.rendering.tables import NOTHING, Column, Table


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b & 5 % #1 $2 {x}", "a\\_b \\& 5 \\% \\#1 \\$2 \\{x\\}"),
        ("~^\\", "\\textasciitilde{}\\textasciicircum{}\\textbackslash{}"),
        ("1.2e-4", "$1.2\\times 10^{-4}$"),
        ("-0.52 ± 0.08", "$-$0.52 $\\pm$ 0.08"),
        ("-∞", "$-$$\\infty$"),
        ("de-prox 2026-11-22", "de-prox 2026-11-22"),
        ("0eb6bad604a5", "0eb6bad604a5"),
        (NOTHING, "--"),
    ],
)
def test_latex_is_escaped(text: str, expected: str) -> None:
    assert escape_latex(text) == expected


def table(count: int = 1) -> Table:
    frame = pd.DataFrame(
        {"label": ["a_b & 100 %", "second"], "psnr": [30.1234, math.nan], "group": ["baseline", "train"]}
    )
    columns = [Column("label", "Method"), *(Column("psnr", f"PSNR {k}, dB", ".2f") for k in range(count))]
    return Table("accuracy", "Accuracy", frame, tuple(columns), "50 % of a_b", "python 'a=[\"b\"]'", ["n_1", "n_2"])


def test_table_is_whole_with_a_rule_between_groups_and_caption_and_command() -> None:
    text = to_latex(table())
    body = text[text.index("\\begin{tabular}") : text.index("\\end{table}")].splitlines()
    assert body == [
        "\\begin{tabular}{lr}",
        "\\toprule",
        "Method & \\shortstack[r]{PSNR\\\\0, dB} \\\\",
        "\\midrule",
        "a\\_b \\& 100 \\% & 30.12 \\\\",
        "\\midrule",
        "second & -- \\\\",
        "\\bottomrule",
        "\\end{tabular}}",
        "\\parbox{\\linewidth}{\\medskip n\\_1 n\\_2}",
    ]
    quoted = "\\texttt{python \\textquotesingle{}a=[{\\char34}b{\\char34}]\\textquotesingle{}}"
    assert f"\\caption{{Accuracy. 50 \\% of a\\_b Command: {quoted}}}" in text
    assert text.count("{") - text.count("\\{") == text.count("}") - text.count("\\}")


def test_column_that_says_the_same_in_all_rows_becomes_a_note() -> None:
    whole = table()
    columns = (*whole.columns, Column("seeds", "Seeds", "d"))
    text = to_latex(replace(whole, columns=columns, frame=whole.frame.assign(seeds=3)))
    assert "In all rows: Seeds 3. n\\_1 n\\_2" in text
    assert "& Seeds" not in text


def test_wide_table_goes_on_in_blocks_that_repeat_the_method() -> None:
    lines = to_latex(table(30)).splitlines()
    headers = [line for line in lines if line.startswith("Method & ")]
    assert len(headers) == len([line for line in lines if line.startswith("\\begin{tabular}")]) > 1
    assert sum(header.count("dB") for header in headers) == 30
    assert max(header.count("dB") for header in headers) < 15
