"""Solvers for fixed points and for the adjoint equation."""

from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
)

from harness.config.spec import Spec


class AdjointSolverSpec(Spec):
    """A solver for the adjoint equation w = v + J^T w: a linear solver, or any fixed-point solver."""

    interface = "harness.implicit.solvers:AdjointSolver"
    default_name = "anderson"

    tol: PositiveFloat | None = 1e-4
    """Relative residual at which a sample stops: |T(x) - x| <= tol |T(x)| in a forward solve, and in an adjoint solve
    |v + J^T w - w| <= tol |v|; null runs for max_steps."""
    max_steps: PositiveInt = 50
    """Maximum evaluations of T, or products with the Jacobian, per solve."""

    @classmethod
    def choices(cls) -> dict[str, type[Self]]:
        """The family's own choices and those of its subfamilies."""
        subfamilies = [family for family in cls.__subclasses__() if Spec in family.__bases__]
        own = {name: spec for name, spec in super().choices().items() if spec not in subfamilies}
        return own | {name: spec for family in subfamilies for name, spec in family.choices().items()}


class Gmres(AdjointSolverSpec):
    """GMRES without restart (Saad & Schultz 1986): the best w within max_steps products, which are all stored."""

    target = "harness.implicit.linear_solvers:Gmres"
    name: Literal["gmres"] = "gmres"


class CgNormal(AdjointSolverSpec):
    """Conjugate gradients on the normal equations; half of its products are with J itself, in forward mode."""

    target = "harness.implicit.linear_solvers:CgNormal"
    name: Literal["cg-normal"] = "cg-normal"
    max_steps: Annotated[int, Field(ge=2)] = 50
    """Maximum products with the Jacobian per solve; each step takes two."""


class SolverSpec(AdjointSolverSpec, Spec):
    """A fixed-point solver, for the forward solve and the adjoint solve alike."""

    interface = "harness.implicit.solvers:Solver"


class Picard(SolverSpec):
    """Relaxed iteration x <- x + relaxation (T(x) - x)."""

    target = "harness.implicit.solvers:Picard"
    name: Literal["picard"] = "picard"
    relaxation: float = Field(1.0, gt=0, le=2)
    """1 is the plain iteration; a smaller value damps it, and a larger one shows how much margin a map has."""


class Anderson(SolverSpec):
    """Anderson acceleration, type II (Walker & Ni 2011), per sample, with a relative ridge."""

    target = "harness.implicit.solvers:Anderson"
    name: Literal["anderson"] = "anderson"
    memory: int = Field(10, ge=1, le=50)
    """Number of iterates combined; at a spectral radius of .96, 10 takes a quarter fewer evaluations than 5."""
    ridge: NonNegativeFloat = 1e-6
    """Ridge on the Gram matrix of the residuals, relative to its diagonal."""
    mixing: float = Field(1.0, gt=0, le=1)
    """Weight of T(x) relative to x in the combination."""


class Broyden(SolverSpec):
    """Broyden's good method (Broyden 1965), per sample; the estimate of the inverse is built from the steps taken."""

    target = "harness.implicit.broyden:Broyden"
    name: Literal["broyden"] = "broyden"
    memory: int = Field(20, ge=1, le=200)
    """Number of steps remembered before the estimate restarts; `shine` reuses what is remembered at the end."""
