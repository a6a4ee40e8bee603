"""Backprop methods."""

from typing import ClassVar, Literal, Self

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from pydantic_core import PydanticCustomError

from harness.config.catalog.solvers import AdjointSolverSpec, Gmres
from harness.config.spec import Spec


class BackpropSpec(Spec):
    """How the gradient is propagated through the fixed point."""

    interface = "harness.implicit.backprop:Backprop"
    default_name = "jfb"
    finds_fixed_point: ClassVar[bool] = True
    """False if the method takes a fixed number of steps from the initial state."""
    forward_solvers: ClassVar[frozenset[str]] = frozenset()
    """Names of the forward solvers that the method works with; empty if it works with all."""
    solves_adjoint: ClassVar[bool] = False
    """True if the method solves the adjoint equation, so that an earlier solution is a good start."""

    @property
    def fixed_steps(self) -> int | None:
        """The number of steps from the initial state; None if the method looks for a fixed point."""
        return None


class Jfb(BackpropSpec):
    """Jacobian-free backpropagation: the inverse of I - J is replaced by I (Fung et al. 2022; paper, eq. 6)."""

    target = "harness.implicit.backprop:Jfb"
    name: Literal["jfb"] = "jfb"


class Implicit(BackpropSpec):
    """Implicit differentiation, exact to a tolerance: solve w = v + J^T w, then compute w dT/dTheta (eq. 5).

    A solve that ends at max_steps above its tolerance is counted, and a report labels a row with more than a few
    percent of such solves "implicit, cut".
    """

    target = "harness.implicit.backprop:Implicit"
    solves_adjoint = True
    refused_solvers: ClassVar[frozenset[str]] = frozenset({"picard"})
    """Names of the adjoint solvers that amount to a backprop method of their own."""
    name: Literal["implicit"] = "implicit"
    solver: AdjointSolverSpec = Gmres(tol=1e-2, max_steps=80)
    """Solver of the adjoint equation; its tolerance is the residual |v + J^T w - w| relative to |v|."""
    first_tol: PositiveFloat | None = None
    """Tolerance at the first training step, from which it falls geometrically to the solver's own at the last step, so
    that early solves are loose and late ones tight (as in MAID, Salehi et al. 2025); null always uses the solver's."""

    @model_validator(mode="after")
    def _is_solved(self) -> Self:
        if self.solver.name in self.refused_solvers:
            raise PydanticCustomError(
                "choice",
                "solver picard, cut after max_steps products, is a Neumann series: write "
                "name: neumann with order: {order}, or use one of {allowed}",
                {"order": self.solver.max_steps - 1, "allowed": "anderson, broyden, cg-normal, gmres"},
            )
        if self.solver.tol is None:
            raise PydanticCustomError(
                "choice", "solver {name} needs a tol: without one nothing is solved", {"name": self.solver.name}
            )
        if self.first_tol is not None and self.first_tol < self.solver.tol:
            raise PydanticCustomError(
                "choice",
                "first_tol {first} must not be less than the solver's tol {tol}",
                {"first": self.first_tol, "tol": self.solver.tol},
            )
        return self


class Neumann(BackpropSpec):
    """The Neumann series of the exact gradient, truncated after a fixed number of terms."""

    target = "harness.implicit.backprop:Neumann"
    name: Literal["neumann"] = "neumann"
    order: NonNegativeInt = 5
    """Number of products with the Jacobian; 0 is JFB."""


class StochasticNeumann(BackpropSpec):
    """The Neumann series truncated at random, its terms weighted to make the gradient unbiased (Chen et al. 2019)."""

    target = "harness.implicit.backprop:StochasticNeumann"
    name: Literal["stochastic-neumann"] = "stochastic-neumann"
    continuation: float = Field(0.9, gt=0, lt=1)
    """Probability c of adding another term: c / (1 - c) products on average; the variance is finite if |J|^2 < c."""


class Shine(BackpropSpec):
    """Broyden's estimate of the inverse from the forward solve, reused for the adjoint (Ramzi et al. 2022)."""

    target = "harness.implicit.backprop:Shine"
    forward_solvers = frozenset({"broyden"})
    name: Literal["shine"] = "shine"


class Phantom(BackpropSpec):
    """Automatic differentiation through a few damped steps from the fixed point (Geng et al. 2021)."""

    target = "harness.implicit.backprop:Phantom"
    name: Literal["phantom"] = "phantom"
    steps: PositiveInt = 5
    """Number of steps with a graph."""
    tau: float = Field(0.5, gt=0, le=1)
    """Weight of T(x) relative to x in each step."""


class Truncated(BackpropSpec):
    """Automatic differentiation through the last steps only, taken at the fixed point; one step is JFB."""

    target = "harness.implicit.backprop:Truncated"
    name: Literal["truncated"] = "truncated"
    steps: PositiveInt = 5
    """Number of steps with a graph."""


class Unrolled(BackpropSpec):
    """Plain automatic differentiation through every step of x <- T(x) (deep unrolling; paper, section 3.1)."""

    target = "harness.implicit.backprop:Unrolled"
    finds_fixed_point = False
    name: Literal["unrolled"] = "unrolled"
    steps: PositiveInt = 10
    """Number of steps K; the cell's solver is not used."""
    checkpoint: bool = False
    """Store only the states and compute each step twice: less memory, a third more time."""

    @property
    def fixed_steps(self) -> int:
        """The number of steps K."""
        return self.steps
