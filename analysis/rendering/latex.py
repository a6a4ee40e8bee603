"""Renders a table in LaTeX with booktabs; wide tables are split into blocks, one below the other."""

import re
import textwrap
from collections.abc import Iterator

from analysis.rendering.tables import INFINITY, NOTHING, Column, Table

LINE_CHARACTERS = 104
"""Characters of \\scriptsize that fit in the text width; a block that is a little wider is shrunk."""


def to_latex(table: Table) -> str:
    """A table environment to paste into a paper; needs booktabs and graphicx."""
    command = escape_latex(table.command).replace("'", "\\textquotesingle{}")
    caption = escape_latex(f"{table.title}. {table.caption}")
    lines = [
        "% needs \\usepackage{booktabs} and \\usepackage{graphicx}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{caption} Command: \\texttt{{{command}}}}}",
        f"\\label{{tab:{table.name}}}",
        "\\scriptsize",
    ]
    constant = _constant(table)
    for columns in _blocks(table, [column for column in table.columns if column.key not in constant]):
        lines += _tabular(table, columns)
    same = [f"In all rows: {', '.join(constant.values())}."] if constant else []
    notes = " ".join(escape_latex(note) for note in [*same, *table.notes])
    return "\n".join([*lines, f"\\parbox{{\\linewidth}}{{\\medskip {notes}}}", "\\end{table}"]) + "\n"


def escape_latex(text: str) -> str:
    """Escape text so that LaTeX typesets it literally in any font encoding."""
    escaped = "".join(_ESCAPED.get(character, character) for character in text)
    negative = re.sub(r"(?<!\w)-(?=[\d$])", "$-$", escaped)
    return re.sub(r"(?<![\w.])(\d\.\d+)e(-?\d+)(?!\w)", r"$\1\\times 10^{\2}$", negative)


_ESCAPED = {
    "\\": "\\textbackslash{}", "&": "\\&", "%": "\\%", "$": "\\$", "#": "\\#", "_": "\\_", "{": "\\{", "}": "\\}",
    "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$", '"': "{\\char34}",
    "±": "$\\pm$", "\N{MULTIPLICATION SIGN}": "$\\times$", INFINITY: "$\\infty$", NOTHING: "--",
}  # fmt: skip


def _constant(table: Table) -> dict[str, str]:
    """The columns with the same text in every row: key to label and text."""
    shown = {column: {place.text for place in table.column(column)} for column in table.columns[1:]}
    return {c.key: f"{c.label} {texts.pop()}" for c, texts in shown.items() if len(texts) == 1 and len(table.frame) > 1}


def _blocks(table: Table, columns: list[Column]) -> Iterator[tuple[Column, ...]]:
    """The columns of each block; the first column is repeated in every block."""
    first, *others = columns
    block: list[Column] = [first]
    for column in others:
        if len(block) > 1 and sum(table.width(one) + 2 for one in [*block, column]) > LINE_CHARACTERS:
            yield tuple(block)
            block = [first]
        block.append(column)
    yield tuple(block)


def _tabular(table: Table, columns: tuple[Column, ...]) -> list[str]:
    alignment = "".join("r" if column.spec else "l" for column in columns)
    header = [_header(column, table.width(column)) for column in columns]
    return [
        "\\par\\medskip",
        "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%",
        f"\\begin{{tabular}}{{{alignment}}}",
        "\\toprule",
        _row(header),
        "\\midrule",
        *_body(table, columns),
        "\\bottomrule",
        "\\end{tabular}}",
    ]


def _body(table: Table, columns: tuple[Column, ...]) -> Iterator[str]:
    groups = table.groups()
    for position, row in enumerate(table.rows(columns)):
        if position and groups[position] != groups[position - 1]:
            yield "\\midrule"
        texts = (escape_latex(shown.text) for shown in row)
        yield _row([f"{{\\boldmath\\textbf{{{t}}}}}" if s.bold else t for t, s in zip(texts, row, strict=True)])


def _row(texts: list[str]) -> str:
    return " & ".join(texts) + " \\\\"


def _header(column: Column, width: int) -> str:
    """A label, broken into as many lines as the width of its column requires."""
    lines = [escape_latex(line) for line in textwrap.wrap(column.label, width, break_on_hyphens=False)]
    stacked, side = "\\\\".join(lines), "r" if column.spec else "l"
    return stacked if len(lines) == 1 else f"\\shortstack[{side}]{{{stacked}}}"
