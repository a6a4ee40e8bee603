"""Solvers of fixed points and of the adjoint equation."""

from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
)

from harness.config.spec import Spec


class AdjointSolverSpec(Spec):
    """A solver of the adjoint equation w = v + J^T w: a linear solver, or any fixed-point solver."""

    default_name = "anderson"

    tol: PositiveFloat | None = 1e-4
    """Stop a sample at |T(x) - x| <= tol |T(x)|, a linear solver at |v + J^T w - w| <= tol |v|; null never stops."""
    max_steps: PositiveInt = 50
    """Most evaluations of T, or products with the Jacobian, for one solve."""

    @classmethod
    def choices(cls) -> dict[str, type[Self]]:
        """The family's own choices and those of the narrower families inside it."""
        narrower = [family for family in cls.__subclasses__() if Spec in family.__bases__]
        own = {name: spec for name, spec in super().choices().items() if spec not in narrower}
        return own | {name: spec for family in narrower for name, spec in family.choices().items()}


class Gmres(AdjointSolverSpec):
    """GMRES without restart (Saad & Schultz 1986): the best w that max_steps products can reach, all of them kept."""

    target = "harness.implicit.linear_solvers:Gmres"
    name: Literal["gmres"] = "gmres"


class CgNormal(AdjointSolverSpec):
    """Conjugate gradients on the normal equations; half of its products are with J itself, in forward mode."""

    target = "harness.implicit.linear_solvers:CgNormal"
    name: Literal["cg-normal"] = "cg-normal"
    max_steps: Annotated[int, Field(ge=2)] = 50
    """Most products with the Jacobian for one solve; a step takes two."""


class SolverSpec(AdjointSolverSpec, Spec):
    """A fixed-point solver, for the forward solve and for the adjoint solve alike."""


class Picard(SolverSpec):
    """Relaxed iteration x <- x + relaxation (T(x) - x); with 1 it is the plain one."""

    target = "harness.implicit.solvers:Picard"
    name: Literal["picard"] = "picard"
    relaxation: float = Field(1.0, gt=0, le=2)
    """1 is the plain iteration; less damps it, more shows how much margin a map has."""


class Anderson(SolverSpec):
    """Anderson acceleration, type II (Walker & Ni 2011), per sample, with a relative ridge."""

    target = "harness.implicit.solvers:Anderson"
    name: Literal["anderson"] = "anderson"
    memory: int = Field(10, ge=1, le=50)
    """Iterates combined in one step; 10 takes a quarter fewer evaluations than 5 where the spectral radius is .96."""
    ridge: NonNegativeFloat = 1e-6
    """Ridge on the Gram matrix of the residuals, in units of its diagonal."""
    mixing: float = Field(1.0, gt=0, le=1)
    """Weight of T(x) against x in the combination."""


class Broyden(SolverSpec):
    """Broyden's good method (Broyden 1965), per sample, its inverse Jacobian made of the steps taken."""

    target = "harness.implicit.broyden:Broyden"
    name: Literal["broyden"] = "broyden"
    memory: int = Field(20, ge=1, le=200)
    """Steps remembered before it starts afresh; `shine` reuses what is remembered at the end."""
