"""The conditions under which numbers were produced, in one line and as columns, and the command to reproduce them."""

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from analysis.reading.load import GridData
from harness.config.dotted import flatten
from harness.config.errors import ConfigError
from launch.planning.grid import Grid, read_grid, shipped_names
from launch.planning.methods import short
from launch.planning.overrides import override, parse_assignment

COMMIT_DIGITS = 12


def caption(data: GridData, cells: pd.DataFrame, split: str = "test") -> str:
    """One line with the data, protocol, device, seeds, ranks, steps and commit of cells that were scored on a split."""
    if cells.empty:
        return "No cell of this kind is finished."
    test = data.evaluations[data.evaluations["split"] == split]
    sizes = test[test["cell_id"].isin(cells["cell_id"])].groupby("cell_id")["picture"].nunique()
    pictures = "validation pictures" if split == "validation" else "test pictures"
    source = f"Data: {_join(map(short, cells['data']))}, {_join(cells['data.image_size'])} px"
    parts = [
        source + (f", {_join(sizes)} {pictures}" if len(sizes) else ""),
        _protocols(cells),
        f"device: {_join(cells['device'])}",
        _training(cells),
        f"commit: {_join(commits(cells))}",
    ]
    return "; ".join(parts) + "."


def commits(cells: pd.DataFrame) -> list[str]:
    """The commit of each cell, such as `0eb6bad604a5 (dirty)`; `unknown` if it ran outside a repository."""
    return [
        " ".join(commit[:COMMIT_DIGITS] for commit in str(row.commit).split()) + (" (dirty)" if row.dirty else "")
        if row.commit
        else "unknown"
        for row in cells[["commit", "dirty"]].itertuples()
    ]


def columns(cells: pd.DataFrame) -> dict[str, Any]:
    """The same conditions as columns of a CSV file, for the row of one method."""
    values = {str(field): list(column) for field, column in cells.items()}
    conditions = ("world_size", "steps", "global_batch_size", "device")
    shown = {
        field: text
        for field, found in values.items()
        if (field.startswith(("data.", "physics.")) or field in conditions) and (text := _join(found))
    }
    return {
        "seeds": _join(values["seed"]),
        **shown,
        "commit": _join(commit for found in values["commit"] for commit in found.split()),
        "dirty": any(values["dirty"]),
        "cells": _join(values["cell_id"], " "),
    }


def command(declared: Mapping[str, Any]) -> str:
    """The shortest command that launches this grid: a shipped grid with overrides or, if none fits, its own file."""
    candidates = [found for name in shipped_names() if (found := _overrides(name, declared)) is not None]
    if not candidates:
        return "python -m launch grid grid.yaml (the file beside this report)"
    return shlex.join(["python", "-m", "launch", "grid", *min(candidates, key=len)])


def _overrides(shipped: str, declared: Mapping[str, Any]) -> list[str] | None:
    """The arguments that turn a shipped grid into the declared one, or None if overrides cannot do so."""
    base = read_grid(shipped)
    before, after = _leaves(base.model_dump(mode="json")), _leaves(dict(declared))
    changed = {field: value for field, value in after.items() if before.get(field, ...) != value}
    axes = {"baselines", *declared["grid"]}
    arguments = [f"{field}={_words(value) if field in axes else _yaml(value)}" for field, value in changed.items()]
    try:
        again = override(base, map(parse_assignment, arguments))
        return [shipped, *arguments] if again == Grid.model_validate(declared) else None
    except ConfigError:
        return None


def _leaves(grid: dict[str, Any]) -> dict[str, Any]:
    """The parts of a grid under their names on the command line: dotted fields of the base, axes, and baselines."""
    leaves = {"name": grid["name"], "baselines": grid["baselines"], "timing": grid.get("timing"), **grid["grid"]}
    return {**dict(flatten(grid["base"])), **leaves}


def _words(values: list[Any]) -> str:
    """The values of an axis as one argument."""
    return ",".join(map(_yaml, values)) if values else "[]"


def _yaml(value: Any) -> str:
    """A value as YAML that parses to the same value; without a decimal point, YAML would read 1e-4 as text."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return re.sub(r"^(-?\d+)e", r"\1.0e", repr(value))
    return json.dumps(value)


def _protocols(cells: pd.DataFrame) -> str:
    """The name of each protocol, with its physics."""
    known = cells[~cells["kind"].isin(["pretrain", "trial"])]
    fields = sorted(field for field in cells.columns if field.startswith("physics.") and field != "physics.name")
    shown = []
    for name, rows in known.groupby("physics.name", sort=False):
        values = {field: _join(rows[field].map(_rounded)) for field in fields}
        parts = [f"{field.removeprefix('physics.').replace('_', ' ')} {text}" for field, text in values.items() if text]
        shown.append(f"{short(str(name))} ({', '.join(parts)})")
    return f"protocol: {', '.join(shown)}"


def _rounded(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) and value == value else value


def _training(cells: pd.DataFrame) -> str:
    """How the models were trained or, if the cells only time methods, how these were timed."""
    for kind, done in (("train", "trained"), ("timing", "timed")):
        some = cells[cells["kind"] == kind]
        if len(some):
            return (
                f"{done}: {_join(some['steps'])} steps, global batch {_join(some['global_batch_size'])}, "
                f"seed {_join(some['seed'], ', ')}, world size {_join(some['world_size'])}"
            )
    return "nothing trained"


def _join(values: Iterable[Any], separator: str = " / ") -> str:
    """Each distinct value once, in order of appearance."""
    return separator.join(dict.fromkeys(str(value) for value in values if value is not None and value == value))
