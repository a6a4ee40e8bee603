"""Groups cells into methods, which agree in everything that changes a result except the seed, and names the methods.

A method is named after its model and backprop method (or baseline), followed by whatever else differs among the cells
of that model. So two rows of a table never have the same name, and what all rows share is said once, in the caption.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from types import MappingProxyType
from typing import Any

from harness.config.cells import TIMED_ALIKE, BaselineCell, Cell, ModelCell, TimingCell, TrainCell
from harness.config.dotted import flatten
from harness.records.events import honest_name

Config = dict[str, Any]
"""The fields that change a result: dotted name to value."""

CHOICES = ("model", "backprop", "schedule", "baseline", "physics", "network")
"""Choices that may be part of a method's name; their parameters are compared only among cells with the same choice."""


TRAINING_ONLY = ("data.train_images", "data.crop")
"""Fields that decide which pictures a model is trained on, but not those that it is scored on."""


@dataclass(frozen=True)
class Name:
    """How a method is shown."""

    model: str
    """The model or baseline, which the facets and markers of figures distinguish."""
    variant: str
    """The backprop method and whatever else differs; empty for most baselines."""

    @property
    def label(self) -> str:
        """The full name, unique in its grid."""
        return f"{self.model} {self.variant}".strip()


def flat_config(cell: Cell) -> Config:
    """The fields that change the cell's result, under their dotted names, without those that a search decides."""
    hidden = {"operations", *(f"data.{field}" for field in cell.data.location_fields)}
    if isinstance(cell, TrainCell) and cell.tune:
        hidden |= cell.tune.axes.keys()
    fields = flatten(cell.to_json())
    return {key: value for key, value in fields if key not in hidden and key.partition(".")[0] not in hidden}


def key(config: Config, without: Collection[str] = ("seed",)) -> str:
    """A key that is equal for cells that differ at most in the fields `without`."""
    kept = {field: value for field, value in config.items() if field.partition(".")[0] not in without}
    return json.dumps(kept, sort_keys=True)


def protocol(config: Config) -> str:
    """A key that is equal for cells whose scores may be compared: the same pictures and the same physics."""
    kept = {f: value for f, value in config.items() if f.startswith(("data.", "physics.")) and f not in TRAINING_ONLY}
    return json.dumps(kept, sort_keys=True)


def timed(config: Config) -> str:
    """A key that is equal for trainings whose steps a timing cell would not tell apart."""
    kept = {f: value for f, value in config.items() if f.partition(".")[0] in {*TIMED_ALIKE, "backprop"}}
    return json.dumps(kept, sort_keys=True)


def trials_of(cells: Mapping[str, Cell]) -> set[str]:
    """The cell_ids of the trials by which trainings among these cells are tuned."""
    return {trial.cell_id for cell in cells.values() if isinstance(cell, TrainCell) for trial in cell.trials}


def over_seeds(shares: Mapping[str, float], cells: Mapping[str, Cell]) -> dict[str, float]:
    """For each cell with a share, the mean share of its method over all seeds."""
    keys = {cell_id: key(flat_config(cells[cell_id])) for cell_id in shares if cell_id in cells}
    found: dict[str, list[float]] = {}
    for cell_id, method in keys.items():
        found.setdefault(method, []).append(shares[cell_id])
    return {cell_id: fmean(found[method]) for cell_id, method in keys.items()}


def names(cells: Mapping[str, Cell], cut: Mapping[str, float] = MappingProxyType({})) -> dict[str, Name]:
    """Name the method of each cell; returns cell_id to name.

    `cut` holds the share of each cell's adjoint solves that ended at their limit; if it is too large, the name says so.
    """
    named: dict[str, Name] = {}
    for row in {_row(cell) for cell in cells.values()}:
        configs = {cell_id: flat_config(cell) for cell_id, cell in cells.items() if _row(cell) == row}
        differing = _differing(configs.values())
        usual = {field: value for field in differing if (value := _usual(field, configs.values())) is not None}
        named |= {
            cell_id: _name(cells[cell_id], config, differing, usual, cut.get(cell_id))
            for cell_id, config in configs.items()
        }
    return named


def names_in_tasks(cells: Mapping[str, Cell], cut: Mapping[str, float] = MappingProxyType({})) -> dict[str, Name]:
    """Name the method of each cell among the cells of its pictures and physics only, which its name then leaves out.

    So a method has the same name in every task.
    """
    tasks: dict[str, dict[str, Cell]] = {}
    for cell_id, cell in cells.items():
        tasks.setdefault(protocol(flat_config(cell)), {})[cell_id] = cell
    return {cell_id: name for task in tasks.values() for cell_id, name in names(task, cut).items()}


def varying(cells: Iterable[Cell]) -> list[str]:
    """The fields, as `--where` writes them, in which trainings differ besides model, backprop and seed."""
    fields = _differing([flat_config(cell) for cell in cells if isinstance(cell, TrainCell)])
    return list(dict.fromkeys(field.removesuffix(".name") for field in fields))


def short(name: str) -> str:
    """The short name of a choice: the class name if the choice is an import path."""
    return name.rpartition(":")[2]


def _row(cell: Cell) -> tuple[str, str]:
    """What the cell's name starts with; only cells that agree in it must be distinguished further."""
    if isinstance(cell, ModelCell):
        return cell.kind, cell.model.name if cell.iterates else cell.network.name
    return cell.kind, cell.baseline.name if isinstance(cell, BaselineCell) else cell.network.name


def _name(cell: Cell, config: Config, differing: list[str], usual: Config, cut: float | None) -> Name:
    special = [field for field in differing if usual.get(field) != _shown_value(field, config)]
    settings = [shown for field in special if (shown := _setting(field, config, differing))]
    if isinstance(cell, TrainCell) and not cell.iterates:
        return Name(short(cell.network.name), " ".join([short(cell.model.name), *settings]))
    if isinstance(cell, TrainCell):
        model, backprop = short(cell.model.name), short(cell.backprop.name)
        # The literature calls a fixed number of steps of the same map deep unrolling, DU.
        model = re.sub("^de-", "du-", model) if backprop == "unrolled" else model
        return Name(model, " ".join([honest_name(backprop, cut), *settings]))
    if isinstance(cell, TimingCell):
        return Name(f"timing {short(cell.model.name)}", " ".join(settings))
    if isinstance(cell, BaselineCell):
        return Name(short(cell.baseline.name), " ".join(settings))
    return Name(f"pretrain {short(cell.network.name)}", " ".join(settings))


def _setting(field: str, config: Config, differing: list[str]) -> str:
    """One setting by which a method differs; empty if the method does not have the field."""
    last = _last(field)
    name = last if [_last(other) for other in differing].count(last) == 1 else field
    if field not in config:
        return name if _has_part(config, field) else ""
    if field == "schedule.name":
        return short(str(config[field]))
    return f"no {name}" if config[field] is None else f"{name}={config[field]}"


def _usual(field: str, configs: Collection[Config]) -> str | None:
    """The value that most cells have and that names therefore omit; None if there is no such value."""
    value, count = Counter(_shown_value(field, config) for config in configs).most_common(1)[0]
    return value if 2 * count > len(configs) else None


def _shown_value(field: str, config: Config) -> str:
    return repr(config.get(field, "a mapping" if _has_part(config, field) else "no such field"))


def _last(field: str) -> str:
    return field.removesuffix(".name").rpartition(".")[2]


def _differing(configs: Collection[Config]) -> list[str]:
    """Fields, in the order of the config, that must be part of the names to distinguish cells of one kind.

    What a search tried is none: it is said in the table of searches.
    """
    values: dict[str, dict[str, set[str]]] = {}
    for config in configs:
        for field, value in config.items():
            head = field.partition(".")[0]
            among = str(config.get(f"{head}.name")) if head in CHOICES and field != f"{head}.name" else ""
            values.setdefault(field, {}).setdefault(among, set()).add(repr(value))
    named_already = {"seed", "model.name", "backprop.name", "baseline.name", "methods"}
    return [
        field
        for field, found in values.items()
        if field not in named_already
        and not field.startswith("tune.")
        and (any(len(distinct) > 1 for distinct in found.values()) or any(_has_part(c, field) for c in configs))
    ]


def _has_part(config: Config, field: str) -> bool:
    """Whether `field`, which is null in other configs, is a mapping in this one."""
    return any(other.startswith(f"{field}.") for other in config)
