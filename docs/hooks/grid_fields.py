"""The reference of grid files, read off the validated models: every field and every choice of every family."""

from collections.abc import Iterator
from typing import get_args

from page_parts import code, fields_table, is_model, prose, summary
from pydantic import BaseModel

from harness.config.cells import BaseCell, BaselineCell, PretrainCell, TimingCell, TrainCell
from harness.config.spec import Imported, Spec
from launch.planning.grid import Block, Grid, Timing

TITLES = {
    "MapSpec": "Maps: `model`",
    "BackpropSpec": "Backprop methods: `backprop`",
    "SolverSpec": "Fixed-point solvers: `solver` and `backprop.solver`",
    "AdjointSolverSpec": "Linear solvers: `backprop.solver`",
    "ScheduleSpec": "Learning-rate schedules: `schedule`",
    "PhysicsSpec": "Physics: `physics`",
    "NetworkSpec": "Networks: `network`",
    "OptimizerSpec": "Optimizers: `optimizer`",
    "DataSpec": "Data sources: `data`",
    "BaselineSpec": "Baselines: `baselines`",
    "MetricSpec": "Metrics: `operations.metrics`",
}
"""Headings of the families; a new family appears under its class name until it is given one here."""
CELLS: dict[type[BaseCell], str] = {
    TrainCell: "Training cells",
    BaselineCell: "Baseline cells",
    PretrainCell: "Pretraining cells",
    TimingCell: "Timing cells",
}


def grid_file_section() -> str:
    """The fields of a grid file itself."""
    parts = [fields_table(Grid, _link), "### Blocks { #block }", fields_table(Block, _link)]
    parts += ["### Timing { #timing }", prose(summary(Timing)), fields_table(Timing, _link)]
    return "\n\n".join(parts)


def cells_section() -> str:
    """The fields of every kind of cell, and of the parts that they have."""
    parts = []
    for cell, title in CELLS.items():
        parts += [f"### {title}", prose(summary(cell)), fields_table(cell, _link, without=["kind"])]
    for part in _parts(*CELLS):
        parts += [f"### {code(part.__name__)} {{ #{_anchor(part)} }}", prose(summary(part)), fields_table(part, _link)]
    return "\n\n".join(parts)


def choices_section() -> str:
    """Every family with every choice."""
    return "\n\n".join(part for family in families() for part in _family(family))


def families() -> list[type[Spec]]:
    """Every family of choices, in the order of the headings above."""
    found = [family for family in Spec.__subclasses__() if family is not Imported]
    order = list(TITLES)
    return sorted(found, key=lambda family: order.index(family.__name__) if family.__name__ in order else len(order))


def own_choices(family: type[Spec]) -> dict[str, type[Spec]]:
    """The choices of a family, without those of a narrower family that it also accepts."""
    narrower = {name for other in families() if other is not family and issubclass(other, family)
                for name in other.choices()}  # fmt: skip
    return {name: choice for name, choice in family.choices().items() if name not in narrower}


def _family(family: type[Spec]) -> Iterator[str]:
    yield f"### {TITLES.get(family.__name__, family.__name__)} {{ #{_anchor(family)} }}"
    yield prose(summary(family))
    for name, choice in own_choices(family).items():
        yield f"#### `{name}` {{ #{_anchor(family)}-{name} }}"
        yield f"{prose(summary(choice))} Implementation: {code(choice.target)}."
        yield fields_table(choice, _link, without=["name"]) or "It has no parameters."


def _parts(*models: type[BaseModel]) -> list[type[BaseModel]]:
    """The parts with fields of their own in some models, each once, without the families."""
    found: dict[type[BaseModel], None] = {}
    for model in models:
        for field in model.model_fields.values():
            parts = [part for part in get_args(field.annotation) or (field.annotation,) if is_model(part)]
            found.update({part: None for part in parts if not issubclass(part, Spec)})
    return list(found)


def _link(model: type[BaseModel]) -> str:
    title = "a choice of" if issubclass(model, Spec) else ""
    return f"{title} [{model.__name__}](#{_anchor(model)})".strip()


def _anchor(model: type[BaseModel]) -> str:
    return model.__name__.lower()
