"""A grid file and command-line overrides to cells: pure functions, no torch.

name: demo
base: {...}            fields every cell shares
grid: {model: [...]}   axes: every combination is a cell; a key may be dotted (optimizer.lr)
baselines: [...]       methods without training, on the same pictures and physics
exclude: [{model: de-grad, backprop: unrolled}]
blocks:                parts with fields and axes of their own, on top of those above
  - {base: {pool: null}, grid: {backprop: [unrolled]}}
"""

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from harness.config.cells import BaseCell, BaselineCell, Cell, PretrainCell, TrainCell, parse_cell
from harness.config.dotted import get, with_field, with_fields
from harness.config.errors import ConfigError, explain
from harness.config.spec import Frozen, imported_specs

SHIPPED = resources.files("launch.grids")


class Block(Frozen):
    """A part of a grid, with fields and axes of its own."""

    base: dict[str, Any] = {}
    """Fields (dotted ones too) that its cells have instead of, or beside, the grid's own."""
    grid: dict[str, list[Any]] = {}
    """Axes beside the grid's own; of two lists for one field, the block's counts."""


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
    """Combinations to leave out: field to value, all of which must match; defaults count."""
    blocks: list[Block] = []
    """Parts that each combine the grid's fields and axes with their own; without any, the grid is one part."""

    def parts(self) -> list[Block]:
        """Each part with all of its fields and axes."""
        return [
            Block(base=with_fields(self.base, block.base), grid={**self.grid, **block.grid})
            for block in self.blocks or [Block()]
        ]


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
    """The grid with command-line overrides: an axis gets a new list, `name` and `baselines` change the grid itself.

    What blocks have of a field, as an axis or else as a value, is overridden there too.
    """
    fields = grid.model_dump()
    for assignment in assignments:
        field, values = assignment.field, assignment.values
        is_one_list = len(values) == 1 and isinstance(values[0], list)
        if field == "name":
            fields["name"] = values[0]
        elif field == "baselines":
            fields["baselines"] = values[0] if is_one_list else values
        elif with_axis := [part for part in (fields, *fields["blocks"]) if field in part["grid"]]:
            for part in with_axis:
                part["grid"][field] = values[0] if is_one_list else values
        elif len(values) > 1:
            fields["grid"][field] = values
        else:
            fields["base"] = with_field(fields["base"], field, values[0])
            for block in fields["blocks"]:
                if get(with_fields({}, block["base"]), field) is not None:
                    block["base"] = with_fields({}, {**block["base"], field: values[0]})
    return validated(fields)


def plan(grid: Grid) -> list[Cell]:
    """The cells of a grid, each once, in an order in which what is needed comes first.

    Raises:
        ConfigError: a field is wrong, or there is no cell at all.
    """
    for axis, values in itertools.chain(*(part.grid.items() for part in grid.parts())):
        if not values:
            raise ConfigError(f"grid.{axis}: an axis needs at least one value (got [])")
    for field in itertools.chain(*grid.exclude):
        if field.partition(".")[0] not in TrainCell.model_fields:
            raise ConfigError(f"exclude: no field {field!r}; allowed: {', '.join(TrainCell.model_fields)}")
    trained = [cell for part in grid.parts() for cell in _trained_cells(part, grid.exclude)]
    baselines = [cell for baseline in grid.baselines for cell in _baseline_cells(grid, baseline, trained)]
    ordered = [cell for row in [*baselines, *trained] for cell in (row.needs, row) if cell is not None]
    cells = list({cell.cell_id: cell for cell in ordered}.values())
    if not cells:
        raise ConfigError("grid: no cells; give at least one axis (model: [...]) or one of baselines")
    check_data(cells)
    check_imports(cells)
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


def check_imports(cells: Iterable[BaseCell]) -> None:
    """Look for the module of every user's own class.

    Raises:
        ConfigError: there is none of that name.
    """
    # Thousands of cells share most of their parts.
    parts = {id(part): (field, part) for cell in cells for field, part in cell if isinstance(part, Frozen)}
    named = {found for field, part in parts.values() for found in imported_specs(part, field)}
    for field, spec in named:
        if not _module_exists(spec.module):
            raise ConfigError(f"{field}: {spec.name!r} names no module on the Python path ({spec.module} not found)")


def _module_exists(name: str) -> bool:
    """Without importing anything: a package of models imports torch, which planning does without."""
    head, *rest = name.split(".")
    found = find_spec(head)
    for part in rest:
        if found is None or found.submodule_search_locations is None:
            return False
        found = PathFinder.find_spec(f"{found.name}.{part}", found.submodule_search_locations)
    return found is not None


def matches(cell: Mapping[str, Any], pattern: Mapping[str, Any]) -> bool:
    """Whether every field of `pattern` (dotted; a choice also by its name) has the pattern's value in `cell`."""
    return all(_matches_one(get(cell, field), value) for field, value in pattern.items())


def _parse(fields: dict[str, Any]) -> Cell:
    """A cell; a shell expands no ~ in data.root=~/photos."""
    root = get(fields, "data.root")
    return parse_cell(with_field(fields, "data.root", os.path.expanduser(root)) if isinstance(root, str) else fields)


def _trained_cells(part: Block, exclude: Sequence[Mapping[str, Any]]) -> list[Cell]:
    """One cell for each combination. What all of them share is validated once, for there may be thousands."""
    varied = {axis.partition(".")[0] for axis in part.grid}
    shared: dict[str, Any] = {}
    cells = []
    for fields in _combinations(part):
        try:
            cell = _parse({**fields, **shared})
        except ConfigError:
            if any(matches(fields, pattern) for pattern in exclude):
                continue  # what can be no cell is left out as it is written
            raise
        if exclude and any(matches(cell.to_json(), pattern) for pattern in exclude):
            continue
        shared = shared or {field: getattr(cell, field) for field in part.base if field not in varied}
        cells.append(cell)
    return cells


def _combinations(part: Block) -> list[dict[str, Any]]:
    if not part.grid and "model" not in part.base:
        return []
    points = (dict(zip(part.grid, values, strict=True)) for values in itertools.product(*part.grid.values()))
    return [with_fields(part.base, point) for point in points]


def _baseline_cells(grid: Grid, baseline: Any, trained: Iterable[Cell]) -> list[Cell]:
    """One cell, in one process; one for each seed, with its first denoiser, where the method plugs that in.

    Baselines share the base's pictures and physics.
    """
    for field in grid.base:
        if field not in TrainCell.model_fields:
            parse_cell(grid.base)
    shared = {key: grid.base[key] for key in ("data", "physics", "precision", "operations") if key in grid.base}
    assert shared.keys() <= BaselineCell.model_fields.keys()
    fields: dict[str, Any] = {"kind": "baseline", "baseline": baseline} | shared
    cell = _parse(fields)
    assert isinstance(cell, BaselineCell)
    if not cell.baseline.needs_denoiser:
        return [cell]
    denoisers: dict[int, PretrainCell] = {}
    for one in trained:
        if one.needs:
            denoisers.setdefault(one.seed, one.needs)
    if not denoisers:
        raise ConfigError(f"baselines: {cell.baseline.name} plugs in a pretrained denoiser; the grid trains none")
    own = {"seed", "world_size", "global_batch_size", "network", "pretraining"}
    return [_parse(fields | needed.model_dump(include=own, serialize_as_any=True)) for needed in denoisers.values()]


def validated(fields: dict[str, Any]) -> Grid:
    """A grid from the content of a file.

    Raises:
        ConfigError: one line that names what is wrong.
    """
    try:
        return Grid.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(explain(error)) from None


def _matches_one(actual: Any, wanted: Any) -> bool:
    if isinstance(actual, Mapping):
        if isinstance(wanted, Mapping):
            return matches(actual, wanted)
        actual = actual.get("name", actual)
    if isinstance(actual, float) and isinstance(wanted, str):
        with suppress(ValueError):
            return actual == float(wanted)  # to YAML, 1e-4 is text
    return actual == wanted or str(actual) == str(wanted)
