"""Our methods and hand-written plain loops, at a fixed depth or to a tolerance."""

import torch
from torch import Tensor

from harness.commands.bench.observation import Gradient, Method
from harness.config.build import build
from harness.config.catalog.backprop import BackpropSpec
from harness.config.catalog.backprop import Implicit as ImplicitSpec
from harness.config.catalog.solvers import AdjointSolverSpec, Anderson, Broyden, Gmres, Picard, SolverSpec
from harness.implicit.backprop import Backprop, Implicit, Problem
from harness.implicit.solvers import Function, Solver

ADJOINT_TOL = 1e-4
"""Relative residual at which our and the peers' adjoint solves stop in the table of depths."""
MAX_PRODUCTS = 50
"""Step limit of adjoint solves in the table of depths."""
MAX_STEPS = 200
"""Step limit of solves that stop at a tolerance."""


def floor(depth: int) -> Gradient:
    """The least work of a Jacobian-free gradient: `depth` evaluations without a graph, one with its backward pass.

    It is also the plain loop for JFB, so that row of the table is a second measurement of the floor.
    """

    def gradient(f: Function, start: Tensor) -> Tensor:
        state = start
        with torch.no_grad():
            for _ in range(depth):
                state = f(state)
        return f(state)

    return gradient


def backpropagation_through_time(depth: int) -> Gradient:
    """The plain loop with a graph through all `depth` evaluations."""

    def gradient(f: Function, start: Tensor) -> Tensor:
        state = start
        for _ in range(depth):
            state = f(state)
        return state

    return gradient


def plain_loops(depth: int) -> list[Method]:
    """Gradients that need no library."""
    return [
        Method("plain loop", "jfb", floor(depth)),
        Method("plain loop", "unrolled", backpropagation_through_time(depth), flat=False),
    ]


def our_methods(depth: int) -> list[Method]:
    """Every backprop method of the catalog after exactly `depth` forward steps, with its default parameters."""
    return [
        Method("jfbench", _name(spec), _with(build(spec), _forward(spec, depth)), flat=spec.finds_fixed_point)
        for choice in BackpropSpec.choices().values()
        for spec in _variants(choice, depth)
    ]


def _variants(choice: type[BackpropSpec], depth: int) -> list[BackpropSpec]:
    """The variants of a method: one per adjoint solver if it has one; unrolled with and without checkpoints."""
    if choice.solves_adjoint:
        limits = {"tol": ADJOINT_TOL, "max_steps": MAX_PRODUCTS}
        solvers = [
            {"name": name, **limits} for name in AdjointSolverSpec.choices() if name not in ImplicitSpec.refused_solvers
        ]
        return [choice.model_validate({"solver": solver}) for solver in solvers]
    if choice.finds_fixed_point:
        return [choice.model_validate({})]
    return [choice.model_validate({"steps": depth, "checkpoint": checkpoint}) for checkpoint in (False, True)]


def _name(spec: BackpropSpec) -> str:
    """The method and its parameters, without the depth, which the column headings state."""
    shown = [spec.name]
    for field, value in spec.parameters().items():
        if field == "solver":
            shown.append(value.name)
        elif value is True:
            shown.append(field)
        elif value not in (False, None) and not (field == "steps" and spec.fixed_steps):
            shown.append(f"{field} {value:g}")
    return ", ".join(shown)


def _forward(spec: BackpropSpec, depth: int) -> Solver:
    """A solver that takes exactly `depth` steps: plain ones, or those of the solver that the method needs."""
    name = min(spec.forward_solvers, default="picard")
    solver: Solver = build(SolverSpec.choices()[name].model_validate({"tol": None, "max_steps": depth}))
    return solver


def our_implicit(tol: float) -> list[Method]:
    """Our implicit differentiation, with forward and adjoint solves stopped at the relative residual `tol`."""
    anderson, broyden, picard, gmres = (
        spec(tol=tol, max_steps=MAX_STEPS) for spec in (Anderson, Broyden, Picard, Gmres)
    )
    pairs = [(anderson, anderson), (anderson, gmres), (broyden, broyden), (picard, picard)]
    return [
        Method(
            "jfbench",
            f"{forward.name} / {adjoint.name}",
            _with(Implicit(build(adjoint)), build(forward)),
        )
        for forward, adjoint in pairs
    ]


def _with(backprop: Backprop, solver: Solver) -> Gradient:
    def gradient(f: Function, start: Tensor) -> Tensor:
        draws = torch.rand(len(start), generator=torch.Generator().manual_seed(0))
        return backprop(Problem(f, start, solver, draws=draws)).state

    return gradient
