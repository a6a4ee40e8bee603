"""Writes RESULTS.md from the archives in results/, so that every number in it comes from records in the repository.

The text is a template, results/RESULTS.md.j2, which refers to the tables of each archive: `grid("demo")` is the archive
results/demo.tar.xz, its `table` a table of its report, and its `value` one entry of such a table.
"""

import tempfile
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import jinja2
import pandas as pd

from analysis.reading.conditions import commits
from analysis.reading.load import load
from analysis.rendering.tables import Column, Table, markdown_notes, markdown_rows
from analysis.report import Report, build
from harness.config.errors import ConfigError
from launch.planning.runs_folder import Runs
from launch.tracking.archive import unpack

TEMPLATE = "RESULTS.md.j2"


def render(folder: Path) -> str:
    """The text of RESULTS.md.

    Raises:
        ConfigError: an archive, a table, a column or a row that the template names does not exist.
    """

    @cache
    def grid(name: str) -> Archived:
        with tempfile.TemporaryDirectory() as scratch:
            runs = Runs(Path(scratch))
            unpack(folder / f"{name}.tar.xz", runs, {})
            return Archived(name, build(load(runs, name)))

    def csv(path: str, columns: dict[str, tuple[str, str]]) -> str:
        return csv_table(folder / path, columns)

    loader = jinja2.FileSystemLoader(folder)
    environment = jinja2.Environment(
        loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    try:
        return environment.get_template(TEMPLATE).render(grid=grid, csv=csv)
    except jinja2.TemplateError as error:
        raise ConfigError(f"{folder / TEMPLATE}: {type(error).__name__}: {error}") from None


@dataclass(frozen=True)
class Archived:
    """What the template can say about one archived grid."""

    name: str
    report: Report

    @cached_property
    def command(self) -> str:
        """The command that launches the grid."""
        return self._table("accuracy").command

    @cached_property
    def commit(self) -> str:
        """The commits of its finished cells."""
        return " / ".join(dict.fromkeys(commits(self.report.data.finished)))

    @cached_property
    def finished(self) -> str:
        """How many of its cells are finished."""
        return f"{len(self.report.data.finished)} of {len(self.report.data.cells)}"

    def caption(self, table: str) -> str:
        """The conditions of a table."""
        return self._table(table).caption

    def table(self, name: str, *columns: str) -> str:
        """A table as Markdown, with some of its columns in the order given, or with all of them."""
        table = self._table(name)
        chosen = tuple(_column(table, key) for key in columns) or table.columns
        return markdown_rows(replace(table, columns=chosen))

    def notes(self, name: str) -> str:
        """What explains a table, as a list."""
        return markdown_notes(self._table(name))

    def value(self, name: str, method: str, column: str) -> str:
        """One entry of a table, as it is shown there."""
        table = self._table(name)
        labels = [str(row["label"]) for row in table.records]
        if method not in labels:
            raise ConfigError(f"{TEMPLATE}: {self.name} {name} has no row {method!r} (rows: {', '.join(labels)})")
        return table.column(_column(table, column))[labels.index(method)].text

    def findings(self, *marks: str) -> str:
        """The computed sentences with one of these marks, as a list; without marks, all of them."""
        kept = [one for one in self.report.findings if not marks or one.mark in marks]
        return "\n".join(f"- {one.text}" for one in kept)

    def _table(self, name: str) -> Table:
        known = {table.name: table for table in self.report.tables}
        if name not in known:
            raise ConfigError(f"{TEMPLATE}: {self.name} has no table {name!r} (tables: {', '.join(known)})")
        return known[name]


def csv_table(path: Path, columns: dict[str, tuple[str, str]]) -> str:
    """Some columns of a CSV file as Markdown: each column's name to its heading and a format, empty for text."""
    frame = pd.read_csv(path)
    if missing := columns.keys() - set(frame.columns):
        raise ConfigError(f"{TEMPLATE}: {path} has no columns {', '.join(sorted(missing))}")
    shown = tuple(Column(key, heading, spec) for key, (heading, spec) in columns.items())
    return markdown_rows(Table(path.stem, "", frame, shown, "", ""))


def _column(table: Table, key: str) -> Column:
    known = {column.key: column for column in table.columns}
    if key not in known:
        raise ConfigError(f"{TEMPLATE}: {table.name} has no column {key!r} (columns: {', '.join(known)})")
    return known[key]
