"""How good each backprop method's gradient is: against the exact one, converged in float64, on a fixed probe batch.

What is compared is the method: those that work at a fixed point are all given the reference's. `unrolled` and `shine`
find their own from the initial state, as they must. One more row is the gradient as the cell itself is trained, with
its own parameters and its own forward solve.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, mse_loss

from harness.config.build import build
from harness.config.catalog.backprop import BackpropSpec
from harness.config.catalog.backprop import Implicit as ImplicitSpec
from harness.config.catalog.solvers import Anderson as AndersonSpec
from harness.config.catalog.solvers import SolverSpec
from harness.config.cells import TrainCell
from harness.implicit.backprop import Backprop, Differentiable, Implicit, Problem
from harness.implicit.linear_solvers import Gmres
from harness.implicit.solvers import Anderson, Picard, Solver, Status
from harness.models.losses import Loss
from harness.models.maps import Map
from harness.records.events import GradientError

FORWARD = Anderson(tol=1e-10, max_steps=600, memory=20, ridge=1e-14, mixing=1.0)
"""Maps trained without damping have spectral radii next to 1: 250 evaluations brought the demo's to 1e-6 only."""
ADJOINT = Gmres(tol=1e-10, max_steps=400)
TIGHT = ImplicitSpec(solver=AndersonSpec(tol=1e-8, max_steps=400, memory=20, ridge=1e-14))
"""By another solver than the reference's, so that the two check each other."""
GIVEN = Picard(tol=1.0, max_steps=1)
"""Looks at its start once and returns it."""


@dataclass(frozen=True)
class Method:
    """A backprop method, and how it comes by its fixed point."""

    backprop: Backprop
    solver: Solver = GIVEN
    from_fixed_point: bool = True
    """Whether it is given the reference's fixed point to start from, or the map's initial state."""


@dataclass(frozen=True)
class Comparison:
    """The reference, and each method's gradient against it."""

    left_out: list[int]
    """Places in the batch of pictures whose forward solve did not converge: they have no part in any gradient. A map
    may have an attractive fixed point for one picture and none for another."""
    forward_residual: float
    """The largest of the pictures compared, or of all where none converged."""
    adjoint_residual: float | None
    """None where the forward solve did not converge: there is no point at which to solve the adjoint equation."""
    methods: dict[str, GradientError] | None
    """None where the reference did not converge."""


def methods(cell: TrainCell) -> dict[str, Method]:
    """Every method of the catalog with its default parameters, `implicit` also in full, and the cell's own."""
    found = {name: _default(choice, cell) for name, choice in BackpropSpec.choices().items()}
    own = Method(build(cell.backprop), build(cell.solver), from_fixed_point=False)
    return {**found, "implicit-tight": Method(build(TIGHT)), "as trained": own}


def _default(choice: type[BackpropSpec], cell: TrainCell) -> Method:
    """What needs a solver of its own may go as far as the cell's; so may what takes a fixed number of steps."""
    if not choice.finds_fixed_point:
        spec = choice.model_validate({"steps": cell.depth})
        return Method(build(spec), from_fixed_point=False)
    if not choice.forward_solvers:
        return Method(build(choice.model_validate({})))
    solver = SolverSpec.choices()[min(choice.forward_solvers)]
    limits = {"tol": cell.solver.tol, "max_steps": cell.solver.max_steps}
    return Method(build(choice.model_validate({})), build(solver.model_validate(limits)), from_fixed_point=False)


def compare_gradients(
    map: Map, d: Tensor, images: Tensor, compared: dict[str, Method], loss: Loss = mse_loss
) -> Comparison:
    """Compare on one batch of measurements and pictures, (batch, 3, height, width); `map` is left as it is."""
    batch = _FixedBatch(map, d, images, loss)
    with torch.no_grad():
        forward = FORWARD(batch.f, batch.start)
    kept = forward.status == Status.CONVERGED
    left_out = (~kept).nonzero().flatten().tolist()
    if not kept.any():
        return Comparison(left_out, float(forward.residual.max()), None, None)
    residual, fixed_point = float(forward.residual[kept].max()), forward.value[kept]
    fixed = _FixedBatch(map, d[kept], images[kept], loss)
    exact, found = fixed.gradient(Method(Implicit(ADJOINT)), fixed_point)
    (adjoint,) = found.adjoint
    adjoint_residual = float(adjoint.residual.max())
    if not (adjoint.status == Status.CONVERGED).all():
        return Comparison(left_out, residual, adjoint_residual, None)
    errors = {name: fixed.error(method, fixed_point, exact) for name, method in compared.items()}
    return Comparison(left_out, residual, adjoint_residual, errors)


class _FixedBatch:
    """A copy of the map in float64 on a fixed batch, its loss, and how often T is passed through."""

    def __init__(self, map: Map, d: Tensor, images: Tensor, loss: Loss) -> None:
        self.map = copy.deepcopy(map).double()
        self.d, self.images, self.loss = d.double(), images.double(), loss
        self.start = self.map.initial(self.d).detach()
        self.draws = torch.rand(len(d), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(d.device)
        self.evaluations = self.products = 0

    def f(self, state: Tensor) -> Tensor:
        """T, counted on the way forward and on the way back."""
        self.evaluations += 1
        stepped: Tensor = self.map(state, self.d)
        if stepped.requires_grad:
            stepped.register_hook(self._came_back)
        return stepped

    def _came_back(self, gradient: Tensor) -> None:
        self.products += 1

    def gradient(self, method: Method, fixed_point: Tensor) -> tuple[Tensor, Differentiable]:
        """All parameters' gradient as one vector."""
        self.map.zero_grad()
        start = fixed_point if method.from_fixed_point else self.start
        found = method.backprop(Problem(self.f, start, method.solver, draws=self.draws))
        self.loss(self.map.output(found.state, self.d), self.images).backward()
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.map.parameters()]
        return torch.cat([part.flatten() for part in parts]), found

    def error(self, method: Method, fixed_point: Tensor, exact: Tensor) -> GradientError:
        """How far a method's gradient is from the exact one, and what it took."""
        self.evaluations = self.products = 0
        gradient, _ = self.gradient(method, fixed_point)
        return GradientError(
            cosine=float(cosine_similarity(gradient, exact, dim=0)),
            relative_error=float((gradient - exact).norm() / exact.norm()),
            norm_ratio=float(gradient.norm() / exact.norm()),
            evaluations=self.evaluations,
            products=self.products,
        )
