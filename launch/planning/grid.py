"""Turns a grid file and command-line overrides into cells: pure functions, without torch.

name: demo
base: {...}            fields that every cell shares
grid: {model: [...]}   axes: every combination is a cell; a key may be dotted (optimizer.lr)
baselines: [...]       methods without training, on the same pictures and physics
timing: {steps: 50}    time the backprop methods against each other, taking turns step by step
exclude: [{model: de-grad, backprop: unrolled}]
tune: {axes: {optimizer.lr: [1e-4, 1e-3]}}   trials on validation pictures, by which each method is tuned
blocks:                parts with their own fields and axes, in addition to those above
  - {base: {pool: null}, grid: {backprop: [unrolled]}}
"""

import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib import resources
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from harness.config.catalog.data import DataSpec
from harness.config.cells import BaseCell, BaselineCell, Cell, PretrainCell, TrainCell, in_order, parse_cell
from harness.config.dotted import flatten, get, with_field, with_fields
from harness.config.errors import ConfigError, explain
from harness.config.spec import Frozen, imported_specs
from harness.config.tune import Tune
from launch.planning.dotted_fields import require_reach, set_if_reached
from launch.planning.timing_cells import timing_cells
from launch.planning.yaml_text import parse_yaml, read_yaml

SHIPPED = resources.files("launch.grids")
MOST_COMBINATIONS = 50_000
"""Combinations of all parts of one grid; planning them takes some twenty seconds."""
LONGEST_ID = 200
"""Characters of a cell_id, which names directories and jobs."""


class Block(Frozen):
    """A part of a grid, with its own fields and axes."""

    base: dict[str, Any] = {}
    """Fields that replace or extend the grid's own in the cells of this block; names may be dotted."""
    grid: dict[str, list[Any]] = {}
    """Axes in addition to the grid's own; if both list the same field, the block's list is used."""


class Timing(Frozen):
    """Comparison of the backprop methods by time: they take turns, step by step, in one cell for each model."""

    steps: int = Field(ge=2)
    """Timed steps of each method."""


class Grid(Frozen):
    """The content of a grid file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    """Name of the grid, its folder, its MLflow experiment and its report."""
    base: dict[str, Any] = {}
    """Fields that every cell shares."""
    grid: dict[str, list[Any]] = {}
    """Axes: each maps a field to the list of its values; every combination is a cell."""
    baselines: list[Any] = []
    """Methods without training."""
    timing: Timing | None = None
    """Time the backprop methods that share a model and all settings against each other; null does not."""
    exclude: list[dict[str, Any]] = []
    """Combinations to leave out: each maps fields to values, all of which must match; defaults are matched too."""
    tune: Tune | None = None
    """Fields of every training cell that a search decides, by validation scores and with the same trials for all."""
    blocks: list[Block] = []
    """Parts that each combine the grid's fields and axes with their own; without blocks, the grid is a single part."""

    @field_validator("base")
    @classmethod
    def _written_out(cls, base: dict[str, Any]) -> dict[str, Any]:
        """Dotted names of the base, such as `optimizer.lr`, as mappings."""
        return with_fields({}, base)

    def parts(self) -> list[Block]:
        """Every part, complete with the fields and axes that it takes from the grid."""
        base = self.base | ({"tune": self.tune.model_dump()} if self.tune else {})
        return [
            Block(base=with_fields(base, block.base), grid={**self.grid, **block.grid})
            for block in self.blocks or [Block()]
        ]


def shipped_names() -> list[str]:
    """The names of the grids that come with the package."""
    return sorted(path.name.removesuffix(".yaml") for path in SHIPPED.iterdir() if path.name.endswith(".yaml"))


def read_grid(source: str) -> Grid:
    """Read a grid, given the name of a shipped grid or the path of a YAML file.

    Raises:
        ConfigError: the grid does not exist or is not valid; the message is one line.
    """
    path = Path(source)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ConfigError(f"grid: no file {path}")
        content = read_yaml(path, "grid")
    elif source in shipped_names():
        content = parse_yaml((SHIPPED / f"{source}.yaml").read_text(encoding="utf-8"), f"grid: {source}")
    else:
        raise ConfigError(f"grid: {source!r} is neither a .yaml file nor one of {', '.join(shipped_names())}")
    if not isinstance(content, dict):
        raise ConfigError(f"grid: {source} must be a mapping with name, base and grid")
    return validated(content)


def plan(grid: Grid) -> list[Cell]:
    """The cells of a grid, checked against the pictures and modules that they need.

    Raises:
        ConfigError: a field is wrong, the grid has no cells, or what they need is missing.
    """
    cells = declared_cells(grid)
    check_data(cells)
    check_imports(cells)
    return cells


def declared_cells(grid: Grid) -> list[Cell]:
    """The cells of a grid, each once, ordered so that a cell comes after the cell that it needs.

    Raises:
        ConfigError: a field is wrong, or the grid has no cells.
    """
    for axis, values in itertools.chain(*(part.grid.items() for part in grid.parts())):
        if not values:
            raise ConfigError(f"grid.{axis}: an axis needs at least one value (got [])")
    for axis in grid.tune.axes if grid.tune else ():
        if any(axis in part.grid for part in grid.parts()):
            raise ConfigError(f"tune.axes: {axis} is also an axis of the grid; a field is compared or tuned, not both")
    _require_effect(grid)
    combinations = sum(math.prod(map(len, part.grid.values())) for part in grid.parts())
    if combinations > MOST_COMBINATIONS:
        said = f"its axes have {combinations:,} combinations; at most {MOST_COMBINATIONS:,} are planned as one grid"
        raise ConfigError(f"grid: {said}, so split it, for instance by seed and name")
    for field in itertools.chain(*grid.exclude):
        if field.partition(".")[0] not in TrainCell.model_fields:
            raise ConfigError(f"exclude: no field {field!r}; allowed: {', '.join(TrainCell.model_fields)}")
    trained = [cell for part in grid.parts() for cell in _trained_cells(part, grid.exclude)]
    baselines = [cell for baseline in grid.baselines for cell in _baseline_cells(grid, baseline, trained)]
    models = (cell for cell in trained if isinstance(cell, TrainCell))
    timed = timing_cells(grid.timing.steps, models) if grid.timing else []
    cells = list({cell.cell_id: cell for row in [*baselines, *trained, *timed] for cell in in_order(row)}.values())
    if not cells:
        raise ConfigError("grid: no cells; give at least one axis (model: [...]) or one of baselines")
    longest = max((cell.cell_id for cell in cells), key=len)
    if len(longest) > LONGEST_ID:
        raise ConfigError(
            f"grid: a cell_id has at most {LONGEST_ID} characters (got {len(longest)}: {longest[:40]}...)"
        )
    return cells


def _require_effect(grid: Grid) -> None:
    """Check that no axis hides what is declared beside it, and that something has the field of each dotted axis.

    Raises:
        ConfigError: a declaration has no effect.
    """
    for base, axes in ((grid.base, grid.grid), *((block.base, grid.grid | block.grid) for block in grid.blocks)):
        for field in base:
            if (head := field.partition(".")[0]) in axes:
                inner = next(flatten({field: base[field]}))[0]
                hint = f"; grid: {{{inner}: [...]}} sets a field of each value" if "." in inner else ""
                raise ConfigError(f"base.{field}: {head} is an axis beside it, whose values replace it{hint}")
    parts = grid.parts()
    for axis in dict.fromkeys(axis for part in parts for axis in part.grid if "." in axis):
        head = axis.partition(".")[0]
        with_axis = [part for part in parts if axis in part.grid]
        if head in TrainCell.model_fields:
            require_reach(axis, [one for part in with_axis for one in part.grid.get(head, [part.base.get(head) or {}])])


def check_data(cells: Iterable[BaseCell]) -> None:
    """Check every distinct data source once, and each cell against its pictures.

    Raises:
        ConfigError: a folder is missing or contains a file that is not an image, or a cell does not suit its pictures.
    """
    training: dict[DataSpec, int | None] = {}
    try:
        for cell in cells:
            if cell.data not in training:
                counts = cell.data.counts()
                training[cell.data] = len(cell.data.splits(counts).train) if counts else None
            _check_sizes(cell, training[cell.data])
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _check_sizes(cell: BaseCell, training: int | None) -> None:
    """Check that a batch and the kernel fit the pictures; `training` is their number if it is known."""
    if training is not None and isinstance(cell, TrainCell | PretrainCell) and cell.global_batch_size > training:
        raise ConfigError(
            f"global_batch_size: at most {training}, the training pictures (got {cell.global_batch_size})"
        )
    size = (isinstance(cell, TrainCell) and cell.data.crop) or cell.data.image_size
    kernel = getattr(cell.physics, "kernel_size", 1) if isinstance(cell, TrainCell | BaselineCell) else 1
    if isinstance(kernel, int) and kernel // 2 >= size:
        raise ConfigError(f"physics.kernel_size: {kernel} does not fit a picture of {size} pixels")


def check_imports(cells: Iterable[BaseCell]) -> None:
    """Check that the module of every user-defined class exists.

    Raises:
        ConfigError: a module is not on the Python path.
    """
    # Thousands of cells share most of their parts, so each distinct part is checked once.
    parts = {id(part): (field, part) for cell in cells for field, part in cell if isinstance(part, Frozen)}
    named = {found for field, part in parts.values() for found in imported_specs(part, field)}
    for field, spec in named:
        if not _module_exists(spec.module):
            raise ConfigError(f"{field}: {spec.name!r} names no module on the Python path ({spec.module} not found)")


def _module_exists(name: str) -> bool:
    """Search for a module without importing it: a package of models imports torch, which planning must not load."""
    head, *rest = name.split(".")
    found = find_spec(head)
    for part in rest:
        if found is None or found.submodule_search_locations is None:
            return False
        found = PathFinder.find_spec(f"{found.name}.{part}", found.submodule_search_locations)
    return found is not None


def matches(cell: Mapping[str, Any], pattern: Mapping[str, Any]) -> bool:
    """Whether every field of `pattern` has the same value in `cell`.

    Fields may be dotted, and a choice also matches by its name alone.
    """
    return all(_matches_one(get(cell, field), value) for field, value in pattern.items())


def _parse(fields: dict[str, Any]) -> Cell:
    """Parse one cell; expands ~ in data.root, because a shell does not expand it in data.root=~/photos.

    Links and relative paths are resolved too, so that data.root names one folder and cells on two folders differ. What
    it means to a source of a user's own is not known here.
    """
    root = get(fields, "data.root")
    if not isinstance(root, str):
        return parse_cell(fields)
    expanded = os.path.expanduser(root)
    is_own = ":" in str(get(fields, "data.name"))
    return parse_cell(with_field(fields, "data.root", expanded if is_own else os.path.realpath(expanded)))


def _trained_cells(part: Block, exclude: Sequence[Mapping[str, Any]]) -> list[Cell]:
    """One cell per combination. Shared fields are validated only once, because there may be thousands of cells."""
    varied = {axis.partition(".")[0] for axis in part.grid}
    shared: dict[str, Any] = {}
    cells = []
    for fields in _combinations(part):
        try:
            cell = _parse({**fields, **shared})
        except ConfigError:
            if any(matches(fields, pattern) for pattern in exclude):
                continue  # an excluded combination need not be a valid cell
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
    return [_at(part.base, point) for point in points]


def _at(base: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of one combination: choices first, then the dotted fields that they have."""
    fields = dict(base)
    for axis in sorted(point, key=lambda axis: axis.count(".")):
        head, dot, _ = axis.partition(".")
        declared = fields.get(head) if head in point else fields.get(head) or {}
        fields[head] = set_if_reached(axis, declared, point[axis]) if dot else point[axis]
    return fields


def _baseline_cells(grid: Grid, baseline: Any, trained: Iterable[Cell]) -> list[Cell]:
    """A single cell or, if the baseline plugs in a denoiser, one cell per seed with that seed's first denoiser.

    Baselines use the pictures and physics of the grid's base, and one rank unless their denoiser was trained on more.
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
    """Validate the content of a grid file.

    Raises:
        ConfigError: a field is not valid; the message is one line.
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
            return actual == float(wanted)  # YAML reads 1e-4 as text
    return actual == wanted or str(actual) == str(wanted)
