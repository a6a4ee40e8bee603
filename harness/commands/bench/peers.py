"""torchdeq (Geng & Kolter 2023), called as its users would, with the same T, tensors, start and relative tolerance.

It is in the optional extra `[peers]`. Its defaults are kept except for the solver, the tolerance and the step limits.
"""

from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from torch import Tensor

from harness.commands.bench.methods import ADJOINT_TOL, MAX_PRODUCTS, MAX_STEPS
from harness.commands.bench.observation import Gradient, Method
from harness.implicit.solvers import Function

NAME = "torchdeq"


def installed() -> str | None:
    """The installed version of torchdeq, or None."""
    try:
        return version(NAME)
    except PackageNotFoundError:
        return None


def at_depth(depth: int) -> list[Method]:
    """torchdeq's gradients after exactly `depth` plain steps, because a tolerance of zero is never met."""
    forward = {"f_solver": "fixed_point_iter", "f_max_iter": depth, "f_tol": 0.0}
    implicit = {"ift": True, "b_tol": ADJOINT_TOL, "b_max_iter": MAX_PRODUCTS}
    rows: dict[str, dict[str, Any]] = {
        "jfb": {},
        "implicit, anderson": {**implicit, "b_solver": "anderson"},
        "implicit, anderson, hook": {**implicit, "b_solver": "anderson", "ift": False, "hook_ift": True},
        "implicit, broyden": {**implicit, "b_solver": "broyden"},
        "implicit, picard": {**implicit, "b_solver": "fixed_point_iter"},
        "phantom, steps 5, tau 0.5": {"grad": 5, "tau": 0.5},
    }
    return [Method(NAME, name, _gradient(**forward, **options)) for name, options in rows.items()]


def implicit(tol: float) -> list[Method]:
    """torchdeq's implicit differentiation, with forward and adjoint solves stopped at the relative residual `tol`."""
    limits = {"f_tol": tol, "b_tol": tol, "f_max_iter": MAX_STEPS, "b_max_iter": MAX_STEPS}
    rows: dict[str, dict[str, Any]] = {
        "anderson / anderson": {"f_solver": "anderson", "b_solver": "anderson", "ift": True},
        "anderson / anderson, hook": {"f_solver": "anderson", "b_solver": "anderson", "hook_ift": True},
        "broyden / broyden": {"f_solver": "broyden", "b_solver": "broyden", "ift": True},
        "picard / picard": {"f_solver": "fixed_point_iter", "b_solver": "fixed_point_iter", "ift": True},
    }
    return [Method(NAME, name, _gradient(**limits, **options)) for name, options in rows.items()]


def forward_solvers(tol: float) -> dict[str, Callable[[Function, Tensor], Tensor]]:
    """torchdeq's solvers with their defaults, each mapping (T, start) to a fixed point."""
    from torchdeq.solver import get_solver

    def solve(name: str, f: Function, start: Tensor) -> Tensor:
        return get_solver(name)(f, start, tol=tol, max_iter=MAX_STEPS, stop_mode="rel")[0]

    return {name: partial(solve, name) for name in ("anderson", "broyden")}


def _gradient(**options: Any) -> Gradient:
    from torchdeq import get_deq

    deq = get_deq(f_stop_mode="rel", b_stop_mode="rel", **options)
    return lambda f, start: deq(f, start)[0][-1]
