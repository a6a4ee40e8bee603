"""Our methods and the plain loops that anybody would write, at a fixed depth or at a tolerance."""

import torch
from torch import Tensor

from harness.commands.bench.observation import Gradient, Method
from harness.config.build import build
from harness.config.catalog.solvers import Anderson, Broyden, CgNormal, Gmres, Picard
from harness.implicit.backprop import (
    Backprop,
    Implicit,
    Jfb,
    Neumann,
    Phantom,
    Problem,
    Shine,
    StochasticNeumann,
    Truncated,
    Unrolled,
)
from harness.implicit.solvers import Function, Solver

ADJOINT_TOL = 1e-4
"""Relative residual at which adjoint solves stop in the table of depths, ours and the peers'."""
MAX_PRODUCTS = 50
MAX_STEPS = 200
"""For a forward solve that stops at a tolerance."""


def floor(depth: int) -> Gradient:
    """What no Jacobian-free gradient can go below: `depth` evaluations without a graph, then one there and back.

    It is also the plain loop for JFB, which the table shows as a row of its own: the floor measured a second time.
    """

    def gradient(f: Function, start: Tensor) -> Tensor:
        state = start
        with torch.no_grad():
            for _ in range(depth):
                state = f(state)
        return f(state)

    return gradient


def backpropagation_through_time(depth: int) -> Gradient:
    """The plain loop with a graph."""

    def gradient(f: Function, start: Tensor) -> Tensor:
        state = start
        for _ in range(depth):
            state = f(state)
        return state

    return gradient


def plain_loops(depth: int) -> list[Method]:
    """What needs no library."""
    return [
        Method("plain loop", "jfb", floor(depth)),
        Method("plain loop", "unrolled", backpropagation_through_time(depth), flat=False),
    ]


def our_methods(depth: int) -> list[Method]:
    """Every backprop method after exactly `depth` plain steps; `shine` takes as many Broyden steps."""
    plain: Solver = build(Picard(tol=None, max_steps=depth))
    broyden: Solver = build(Broyden(tol=None, max_steps=depth))
    adjoints = [spec(tol=ADJOINT_TOL, max_steps=MAX_PRODUCTS) for spec in (Anderson, Broyden, Gmres, Picard, CgNormal)]
    return [
        Method("jfbench", "jfb", _with(Jfb(), plain)),
        *(Method("jfbench", f"implicit, {spec.name}", _with(Implicit(build(spec)), plain)) for spec in adjoints),
        Method("jfbench", "neumann, order 5", _with(Neumann(5), plain)),
        Method("jfbench", "stochastic-neumann, .8", _with(StochasticNeumann(0.8), plain)),
        Method("jfbench", "shine", _with(Shine(), broyden)),
        Method("jfbench", "phantom, 5 steps, tau .5", _with(Phantom(5, 0.5), plain)),
        Method("jfbench", "truncated, 5 steps", _with(Truncated(5), plain)),
        Method("jfbench", "unrolled", _with(Unrolled(depth), plain), flat=False),
        Method("jfbench", "unrolled, checkpointed", _with(Unrolled(depth, checkpoint=True), plain), flat=False),
    ]


def our_implicit(tol: float) -> list[Method]:
    """Implicit differentiation with forward and adjoint solve stopped at the relative residual `tol`."""
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
