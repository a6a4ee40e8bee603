"""Newton's method for s = f(s): a reference for maps on which fixed-point solvers stall, not a solver to train with.

A map of convolutions, ReLU and an exact proximal step is piecewise affine, so one step within the right piece is exact:
in float64, two or three steps reach 1e-13. It makes no difference whether the fixed point attracts or repels.
"""

import warnings
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from harness.implicit.backprop import jvp
from harness.implicit.linear_solvers import Gmres
from harness.implicit.solvers import (
    Adjoint,
    Function,
    Solution,
    Solver,
    Status,
    at_least_float32,
    keep,
    per_sample_norm,
    ratio,
)

FORCING = (1e-2, 1e-4)
"""Relative residuals to which the linear systems of the first step, and of all later ones, are solved (Dembo, Eisenstat
& Steihaug 1982). They are the same for every sample, so that no result depends on the batch."""
SUFFICIENT = 1e-4
"""A step of length t must reduce |f(s) - s| by at least this fraction times t (Kelley 1995, section 8.1)."""
HALVINGS = 12
"""Number of times a step may be halved before the sample is given up."""


@dataclass(frozen=True)
class Newton:
    """Steps s <- s + t delta with (I - J) delta = f(s) - s, t the first of 1, 1/2, ... that reduces |f(s) - s|."""

    tol: float
    """Relative residual |f(s) - s| / |f(s)| at which a sample stops."""
    max_steps: int
    """Maximum number of Newton steps."""
    linear_products: int
    """Maximum number of products with J per step."""
    first: Solver
    """Brings the sample close; Newton's method continues from its best iterate."""

    def __call__(self, f: Function, x0: Tensor) -> Solution:
        """Solve from x0, (batch, ...). Evaluations of f and products with J count alike in `nfe`.

        A sample stops with the status MAX_STEPS if no step reduces its residual, because it has no fixed point nearby.
        A sample whose residual is not finite has diverged.
        """
        with torch.no_grad():
            run = _Run(f, self.first(f, at_least_float32(x0)), self.tol)
            for step in range(self.max_steps):
                if not run.searching.any():
                    break
                run.step(Gmres(FORCING[min(step, len(FORCING) - 1)], self.linear_products))
            return run.solution()


class _Run:
    """The state of one solve: each sample's iterate x, its residual f(x) - x, and whether it is still searching."""

    def __init__(self, f: Function, start: Solution, tol: float) -> None:
        self.f, self.tol, self.nfe = f, tol, start.nfe.clone()
        self.x, self.gap = start.value, f(start.value) - start.value
        self.searching = (self.relative > tol) & self.relative.isfinite()

    @property
    def relative(self) -> Tensor:
        """(batch,): |f(x) - x| / |f(x)|."""
        return ratio(per_sample_norm(self.gap), per_sample_norm(self.x + self.gap))

    def step(self, linear: Gmres) -> None:
        """Take one step for every sample that is still searching."""
        # A right-hand side of zero is solved at once.
        gap = keep(self.searching, self.gap, torch.zeros_like(self.gap))
        product = linearize(self.f, self.x)
        found = linear.solve_adjoint(Adjoint(gap, vjp=product, jvp=product))
        self.nfe += found.nfe.where(self.searching, 0)
        self.searching &= self._search(found.value) & (self.relative > self.tol)

    def _search(self, direction: Tensor) -> Tensor:
        """Move along `direction` by the longest step that reduces the residual enough; return which samples moved."""
        length, waiting = per_sample_norm(self.gap), self.searching.clone()
        for halving in range(HALVINGS + 1):
            t = 0.5**halving
            x = self.x + t * direction
            gap = self.f(x) - x
            self.nfe += waiting
            enough = waiting & (per_sample_norm(gap) <= (1 - SUFFICIENT * t) * length)
            self.x, self.gap = keep(enough, x, self.x), keep(enough, gap, self.gap)
            waiting &= ~enough
            if not waiting.any():
                break
        return self.searching & ~waiting

    def solution(self) -> Solution:
        """The iterates and how they ended."""
        residual = self.relative
        status = torch.where(residual <= self.tol, Status.CONVERGED, Status.MAX_STEPS)
        status = status.masked_fill(~residual.isfinite(), Status.DIVERGED)
        return Solution(self.x, residual.nan_to_num(nan=torch.inf), self.nfe, status)


def linearize(f: Function, at: Tensor) -> Function:
    """u -> J u at `at`: a recorded program, three times as fast as forward mode, which is used if recording fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return torch.func.linearize(f, at.detach())[1]
        except (RuntimeError, TypeError, ValueError):  # For instance, if f reads the value of a number.
            return partial(jvp, f, at)
