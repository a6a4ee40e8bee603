"""Writes a grid's report: one self-contained HTML file, and its tables and figures as files of their own."""

import base64
import json
import os
import re
import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from rich.console import Console
from rich.markup import escape

from analysis.reading import conditions as context
from analysis.reading.load import GridData, load
from analysis.rendering import tables
from analysis.rendering.figures import Figure, grid_figures
from analysis.rendering.latex import to_latex
from analysis.rendering.pictures import comparisons
from analysis.rendering.tables import Table
from analysis.sections.accuracy import accuracy_frame, accuracy_table
from analysis.sections.all_pictures import final_frame, final_table
from analysis.sections.cells import cell_frame
from analysis.sections.cost import cost_frame, cost_table
from analysis.sections.fidelity import contraction_frame, contraction_table, gradient_frame, gradient_table
from analysis.sections.findings import Finding, findings
from analysis.sections.paper import paper_figures
from analysis.sections.price import price_frame, price_table
from analysis.sections.scaling import scaling_frame, scaling_table
from analysis.sections.schedules import schedule_frame, schedule_table
from harness.config.errors import ConfigError
from harness.records.cell_folder import write_atomically
from launch.planning.runs_folder import Runs


@dataclass(frozen=True)
class Report:
    """All that a report shows."""

    data: GridData
    findings: list[Finding]
    accuracy: Table
    schedules: Table
    final: Table
    cost: Table
    contraction: Table
    fidelity: Table
    scaling: Table
    price: Table
    figures: list[Figure]
    pictures: list[Figure]

    @property
    def tables(self) -> list[Table]:
        """Those that every report has, and those for which something was measured."""
        others = (self.schedules, self.final, self.contraction, self.fidelity, self.scaling, self.price)
        return [self.accuracy, self.cost, *(table for table in others if len(table.frame))]


def report(runs: Runs, grid: str, output: Path | None, console: Console) -> Path:
    """Read, compute, write and print the report of a grid; the path of its HTML file.

    Raises:
        ConfigError: no such grid was launched, or there can be no folder at `output`.
    """
    data = load(runs, grid)
    folder = output or runs.grid_folder(grid) / "report"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"output: cannot write to {folder} ({error.strerror})") from None
    made = build(data)
    path = write(made, folder)
    show(made, console)
    console.print(f"report: {path}", soft_wrap=True, highlight=False, markup=False)
    return path


def build(data: GridData) -> Report:
    """Compute everything."""
    accuracy, cost = accuracy_frame(data), cost_frame(data)
    contraction, gradients, scaling = contraction_frame(data), gradient_frame(data), scaling_frame(data)
    return Report(
        data,
        findings(data, accuracy, cost, contraction, gradients),
        accuracy_table(data, accuracy),
        schedule_table(data, schedule_frame(data, accuracy)),
        final_table(data, final_frame(data)),
        cost_table(data, cost),
        contraction_table(data, contraction),
        gradient_table(data, gradients),
        scaling_table(data, scaling),
        price_table(data, price_frame(data)),
        grid_figures(data, accuracy, cost, gradients, scaling),
        [*paper_figures(data), *comparisons(data)],
    )


def show(made: Report, console: Console) -> None:
    """Print the tables and what is missing from them."""
    for table in made.tables:
        if len(table.frame):
            console.print(tables.to_rich(table, console.width))
            console.print(f"[dim]{escape(f'{table.caption} Command: {table.command}')}[/]\n", highlight=False)
    for row in made.data.missing.itertuples():
        console.print(f"[yellow]missing[/] {escape(f'{row.cell_id}: {row.problem}')}", soft_wrap=True, highlight=False)


def write(made: Report, folder: Path) -> Path:
    """Write every file of the report, each atomically; the path of the HTML file."""
    for table in made.tables:
        write_atomically(folder / f"{table.name}.csv", tables.to_csv(table))
        write_atomically(folder / f"{table.name}.md", tables.to_markdown(table))
        write_atomically(folder / f"{table.name}.tex", to_latex(table))
    for figure in (*made.figures, *made.pictures):
        _write_bytes(folder / f"{figure.name}.png", figure.png)
        _write_bytes(folder / f"{figure.name}.pdf", figure.pdf)
    write_atomically(folder / "cells.csv", cell_frame(made.data).to_csv(index=False))
    # JSON is YAML, so a launch can read the declared grid again.
    write_atomically(folder / "grid.yaml", json.dumps(made.data.declared, indent=1))
    write_atomically(folder / "report.html", to_html(made))
    return folder / "report.html"


def to_html(made: Report) -> str:
    """The page; it refers to nothing outside itself."""
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
        command=context.command(data.declared),
        cells=data.cells.to_dict("records"),
        missing=data.missing.to_dict("records"),
        environment=_environment(data.environments, len(data.finished)),
    )


def _write_bytes(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(path)


def _environment(environments: pd.DataFrame, cells: int) -> list[dict[str, Any]]:
    """Each property with its values, and the number of cells where there are several."""
    rows = []
    for key, found in environments.groupby("key", sort=False) if cells else []:
        counts = found.groupby("value", sort=False)["cell_id"].nunique()
        shown = [
            f"{value or 'unknown'}" + (f" ({count} cells)" if len(counts) > 1 else "")
            for value, count in counts.items()
        ]
        rows.append({"key": str(key).removeprefix("version_").replace("_", " "), "values": shown})
    return rows
