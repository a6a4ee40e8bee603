"""The scientific core: fixed-point and linear solvers, backprop methods, and how contractive a map is.

This room needs only torch and imports no other room.
"""

from harness.implicit.backprop import (
    Backprop,
    Differentiable,
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
from harness.implicit.broyden import Broyden
from harness.implicit.contraction import spectrum
from harness.implicit.linear_solvers import CgNormal, Gmres, LinearSolver
from harness.implicit.solvers import Adjoint, AdjointSolver, Anderson, Picard, Solution, Solver, Status

__all__ = [
    "Adjoint",
    "AdjointSolver",
    "Anderson",
    "Backprop",
    "Broyden",
    "CgNormal",
    "Differentiable",
    "Gmres",
    "Implicit",
    "Jfb",
    "LinearSolver",
    "Neumann",
    "Phantom",
    "Picard",
    "Problem",
    "Shine",
    "Solution",
    "Solver",
    "Status",
    "StochasticNeumann",
    "Truncated",
    "Unrolled",
    "spectrum",
]
