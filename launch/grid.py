"""A grid file and command-line overrides to cells: pure functions, no torch.

name: demo
base: {...}            fields every cell shares
grid: {model: [...]}   axes: every combination is a cell; a key may be dotted (optimizer.lr)
baselines: [...]       methods without training, on the same pictures and physics
exclude: [{model: de-grad, backprop: unrolled}]
"""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from harness.config import BaseCell, BaselineCell, Cell, ConfigError, TrainCell, explain, parse_cell
from harness.spec import Frozen

SHIPPED = resources.files("launch.grids")


class Grid(Frozen):
    """What a user declares: the content of a grid file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the grid: of its folder, its MLflow experiment and its report."""
    base: dict[str, Any] = {}
    """Fields that every cell shares."""
    grid: dict[str, list[Any]] = {}
    """Axes: field to the list of its values; every combination is a cell."""
    baselines: list[Any] = []
    """Methods without training."""
    exclude: list[dict[str, Any]] = []
    """Combinations to leave out: field to value, all of which must match."""


@dataclass(frozen=True)
class Assignment:
    """One `field=value` of the command line; several values replace an axis."""

    field: str
    values: list[Any]


def shipped_names() -> list[str]:
    """The grids that come with the package."""
    return sorted(path.name.removesuffix(".yaml") for path in SHIPPED.iterdir() if path.name.endswith(".yaml"))


def read_grid(source: str) -> Grid:
    """A grid by the name of a shipped one or by the path of a YAML file.

    Raises:
        ConfigError: one line that names what is wrong.
    """
    path = Path(source)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ConfigError(f"grid: no file {path}")
        text = path.read_text(encoding="utf-8")
    elif source in shipped_names():
        text = (SHIPPED / f"{source}.yaml").read_text(encoding="utf-8")
    else:
        raise ConfigError(f"grid: {source!r} is neither a .yaml file nor one of {', '.join(shipped_names())}")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"grid: {source} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"grid: {source} must be a mapping with name, base and grid")
    return validated(content)


def parse_assignment(text: str) -> Assignment:
    """`field=value` or `field=value,value`; values are YAML, so lists and mappings keep their commas.

    Raises:
        ConfigError: the text is not an assignment.
    """
    field, equals, value = text.partition("=")
    if not equals or not field or not value:
        raise ConfigError(f"{text!r}: an override is written field=value or field=value,value")
    try:
        return Assignment(field, yaml.safe_load(f"[{value}]"))
    except yaml.YAMLError:
        raise ConfigError(f"{field}: {value!r} is not a value") from None


def override(grid: Grid, assignments: Iterable[Assignment]) -> Grid:
    """The grid with command-line overrides: an axis gets a new list, `name` and `baselines` change the grid itself."""
    fields = grid.model_dump()
    for assignment in assignments:
        field, values = assignment.field, assignment.values
        is_one_list = len(values) == 1 and isinstance(values[0], list)
        if field == "name":
            fields["name"] = values[0]
        elif field == "baselines":
            fields["baselines"] = values[0] if is_one_list else values
        elif field in fields["grid"] or len(values) > 1:
            fields["grid"][field] = values[0] if is_one_list else values
        else:
            fields["base"] = _set(fields["base"], field, values[0])
    return validated(fields)


def plan(grid: Grid) -> list[Cell]:
    """The cells of a grid, each once, in an order in which what is needed comes first.

    Raises:
        ConfigError: a field is wrong, or there is no cell at all.
    """
    for axis, values in grid.grid.items():
        if not values:
            raise ConfigError(f"grid.{axis}: an axis needs at least one value (got [])")
    trained = _trained_cells(grid)
    baselines = [_baseline_cell(grid, baseline) for baseline in grid.baselines]
    needed = [needs for cell in trained if (needs := cell.needs) is not None]
    cells = list({cell.cell_id: cell for cell in [*baselines, *needed, *trained]}.values())
    if not cells:
        raise ConfigError("grid: no cells; give at least one axis (model: [...]) or one of baselines")
    check_data(cells)
    return cells


def check_data(cells: Iterable[BaseCell]) -> None:
    """Look at every distinct data source once.

    Raises:
        ConfigError: a folder is missing or holds something that is not an image.
    """
    for data in {cell.data for cell in cells}:
        try:
            data.files()
        except ValueError as error:
            raise ConfigError(str(error)) from None


def matches(cell: Mapping[str, Any], pattern: Mapping[str, Any]) -> bool:
    """Whether every field of `pattern` (dotted; a choice also by its name) has the pattern's value in `cell`."""
    return all(_matches_one(_get(cell, field), value) for field, value in pattern.items())


def _trained_cells(grid: Grid) -> list[Cell]:
    """One cell for each combination. What all of them share is validated once, for there may be thousands."""
    combinations = _combinations(grid)
    varied = {axis.partition(".")[0] for axis in grid.grid}
    shared: dict[str, Any] = {}
    cells = []
    for fields in combinations:
        cell = parse_cell({**fields, **shared})
        shared = shared or {field: getattr(cell, field) for field in grid.base if field not in varied}
        cells.append(cell)
    return cells


def _combinations(grid: Grid) -> list[dict[str, Any]]:
    if not grid.grid and "model" not in grid.base:
        return []
    combinations = []
    for values in itertools.product(*grid.grid.values()):
        point = dict(zip(grid.grid, values, strict=True))
        fields = grid.base
        for field, value in point.items():
            fields = _set(fields, field, value)
        if not any(matches(fields, pattern) for pattern in grid.exclude):
            combinations.append(fields)
    return combinations


def _baseline_cell(grid: Grid, baseline: Any) -> Cell:
    """Baselines share the base's pictures and physics; they run in one process."""
    for field in grid.base:
        if field not in TrainCell.model_fields:
            parse_cell(grid.base)
    shared = {key: grid.base[key] for key in ("data", "physics", "precision", "operations") if key in grid.base}
    assert shared.keys() <= BaselineCell.model_fields.keys()
    fields: dict[str, Any] = {"kind": "baseline", "baseline": baseline}
    return parse_cell(fields | shared)


def validated(fields: dict[str, Any]) -> Grid:
    """A grid from the content of a file.

    Raises:
        ConfigError: one line that names what is wrong.
    """
    try:
        return Grid.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(explain(error)) from None


def _set(fields: Mapping[str, Any], dotted: str, value: Any) -> dict[str, Any]:
    """A copy with one dotted field set; a choice written by its name becomes a mapping when a part of it is set."""
    head, _, rest = dotted.partition(".")
    if not rest:
        return {**fields, head: value}
    inner = fields.get(head, {})
    inner = {"name": inner} if isinstance(inner, str) else inner
    return {**fields, head: _set(inner, rest, value)}


def _get(fields: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        if not isinstance(fields, Mapping):
            return None
        fields = fields.get(part)
    return fields


def _matches_one(actual: Any, wanted: Any) -> bool:
    if isinstance(actual, Mapping) and not isinstance(wanted, Mapping):
        actual = actual.get("name")
    return actual == wanted or str(actual) == str(wanted)
