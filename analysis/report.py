"""Writes a grid's report: one self-contained HTML file, and its tables and figures as separate files."""

import base64
import json
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from rich.console import Console
from rich.markup import escape

from analysis.reading import conditions
from analysis.reading.load import GridData, load
from analysis.rendering import tables
from analysis.rendering.latex import to_latex
from analysis.rendering.section import Section, SectionMaker
from analysis.rendering.tables import Table
from analysis.sections import SECTIONS
from analysis.sections.cells import cell_frame
from analysis.sections.findings import Finding, findings
from harness.config.build import resolve
from harness.config.errors import ConfigError
from harness.records.files import replacing, write_atomically
from launch.planning.runs_folder import Runs


@dataclass(frozen=True)
class Report:
    """Everything that a report shows."""

    data: GridData
    findings: list[Finding]
    sections: list[Section]

    @property
    def tables(self) -> list[Table]:
        """The tables of all sections, including empty ones that a report always shows."""
        return [section.table for section in self.sections if section.table is not None]


def report(runs: Runs, grid: str, output: Path | None, own: Sequence[str], console: Console) -> Report:
    """Compute, write and print the report of a grid.

    `own` lists import paths of the user's own sections, which come last.

    Raises:
        ConfigError: the grid has not been launched, a section cannot be imported, or `output` cannot be a folder.
    """
    makers = (*SECTIONS, *map(own_section, own))
    data = load(runs, grid)
    folder = output or runs.grid_folder(grid) / "report"
    made = build(data, makers)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = write(made, folder)
    except OSError as error:
        hint = "" if output else "; --output DIR writes it elsewhere"
        raise ConfigError(f"output: cannot write to {folder} ({error.strerror}){hint}") from None
    show(made, console)
    console.print(f"report: {path}", soft_wrap=True, highlight=False, markup=False)
    return made


def own_section(import_path: str) -> SectionMaker:
    """Import a user's own section.

    Raises:
        ConfigError: the import path does not name a function.
    """
    try:
        found = resolve(import_path)
    except ValueError as error:
        raise ConfigError(f"--section: {error}") from None
    if not callable(found):
        raise ConfigError(f"--section: {import_path} is not a function of a grid's data")
    maker: SectionMaker = found
    return maker


def build(data: GridData, makers: Iterable[SectionMaker] = SECTIONS) -> Report:
    """Compute the findings and sections of a report."""
    made = [make(data) for make in makers]
    return Report(data, findings(data), [section for section in made if section.is_shown])


def show(made: Report, console: Console) -> None:
    """Print the tables, and the cells that are missing from them."""
    for table in made.tables:
        if len(table.frame):
            console.print(tables.to_rich(table, console.width))
            console.print(f"[dim]{escape(f'{table.caption} Command: {table.command}')}[/]\n", highlight=False)
    for row in made.data.missing.itertuples():
        console.print(f"[yellow]missing[/] {escape(f'{row.cell_id}: {row.problem}')}", soft_wrap=True, highlight=False)


def write(made: Report, folder: Path) -> Path:
    """Write every file of the report, each atomically; returns the path of the HTML file."""
    for table in made.tables:
        write_atomically(folder / f"{table.name}.csv", tables.to_csv(table))
        write_atomically(folder / f"{table.name}.md", tables.to_markdown(table))
        write_atomically(folder / f"{table.name}.tex", to_latex(table))
    for figure in (figure for section in made.sections for figure in section.figures):
        for kind, content in (("png", figure.png), ("pdf", figure.pdf)):
            with replacing(folder / f"{figure.name}.{kind}") as partial:
                partial.write_bytes(content)
    write_atomically(folder / "findings.md", "".join(f"- {found.text}\n" for found in made.findings))
    write_atomically(folder / "cells.csv", cell_frame(made.data).to_csv(index=False))
    # JSON is valid YAML, so `launch grid` can read this file.
    write_atomically(folder / "grid.yaml", json.dumps(made.data.declared, indent=1))
    write_atomically(folder / "report.html", to_html(made))
    return folder / "report.html"


def to_html(made: Report) -> str:
    """The report as one HTML page, which refers to no other file."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
    environment.filters["minus"] = lambda text: re.sub(r"(?<!\w)-(?=[\d∞])", "\N{MINUS SIGN}", text)
    template = resources.files("analysis").joinpath("report.html").read_text(encoding="utf-8")
    data = made.data
    return environment.from_string(template).render(
        report=made,
        written=time.strftime("%Y-%m-%d %H:%M"),
        celeba=bool((data.cells["data"] == "celeba").any()),
        command=conditions.command(data.declared),
        cells=data.cells.to_dict("records"),
        missing=data.missing.to_dict("records"),
        environment=_environment(data.environments, len(data.finished)),
    )


def _environment(environments: pd.DataFrame, cells: int) -> list[dict[str, Any]]:
    """Each property with its values; if there are several, each with its number of cells."""
    rows = []
    for key, found in environments.groupby("key", sort=False) if cells else []:
        counts = found.groupby("value", sort=False)["cell_id"].nunique()
        shown = [
            f"{value or 'unknown'}" + (f" ({count} cells)" if len(counts) > 1 else "")
            for value, count in counts.items()
        ]
        rows.append({"key": str(key).removeprefix("version_").replace("_", " "), "values": shown})
    return rows
