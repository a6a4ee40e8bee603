"""`launch fields` leaves out no choice."""

from io import StringIO

from rich.console import Console

from harness.config.catalog.solvers import AdjointSolverSpec, SolverSpec
from launch.planning.fields import describe_fields


def test_choices_inside_of_a_choice_are_described_too() -> None:
    console = Console(width=200, record=True, file=StringIO())
    console.print(describe_fields())
    said = console.export_text()
    assert {"gmres", "cg-normal"} <= AdjointSolverSpec.choices().keys() - SolverSpec.choices().keys()
    for choice in AdjointSolverSpec.choices():
        assert f"backprop.solver (implicit): {choice}\n" in said
