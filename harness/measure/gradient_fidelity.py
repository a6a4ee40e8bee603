"""Compares each backprop method's gradient with the exact one, converged in float64, on a fixed batch.

To isolate the methods, all that work at a given fixed point receive the reference's. `unrolled` and `shine` have to
find their own from the initial state. `unrolled` takes K plain steps, as many as the cell's reconstructions, so its row
is the exact gradient of the K-step loss: what a training without an equilibrium would follow. One more row is the
gradient with which the cell itself is trained, with its own parameters and its own forward solve.

Each picture is a problem of its own, with its own reference and its own errors. The gradient of the batch is the mean
of the pictures' gradients, since every loss is a mean over the pictures.
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
from harness.implicit.contraction import spectrum
from harness.implicit.linear_solvers import Gmres
from harness.implicit.newton import Newton
from harness.implicit.solvers import Anderson, Picard, Solution, Solver, Status
from harness.models.losses import Loss
from harness.models.maps import Map
from harness.records.events import GradientError

NEAR = Anderson(tol=1e-10, max_steps=120, memory=20, ridge=1e-14, mixing=1.0)
FORWARD = Newton(tol=1e-10, max_steps=20, linear_products=400, first=NEAR)
"""Trained maps have eigenvalues next to 1 and above: 250 Anderson evaluations reached only 1e-6 on the demo's map."""
ADJOINT = Gmres(tol=1e-10, max_steps=400)
TIGHT = ImplicitSpec(solver=AndersonSpec(tol=1e-8, max_steps=400, memory=20, ridge=1e-14))
"""Uses a different solver from the reference's, so that the two check each other."""
GIVEN = Picard(tol=1.0, max_steps=1)
"""Evaluates the map once at its start, which already is the fixed point, and returns the start."""


@dataclass(frozen=True)
class Method:
    """A backprop method, and how it obtains its fixed point."""

    backprop: Backprop
    solver: Solver = GIVEN
    from_fixed_point: bool = True
    """Whether it starts from the reference's fixed point rather than from the map's initial state."""


@dataclass(frozen=True)
class Comparison:
    """The reference, and each method's gradient against it."""

    left_out: list[int]
    """Places in the batch of pictures without a reference, since its forward or its adjoint solve did not converge:
    they have no part in any gradient. A map may have a fixed point for one picture and none for another."""
    forward_residual: float
    """The largest of the pictures compared, or of all where none has a reference."""
    adjoint_residual: float | None
    """The same of the adjoint equation; None where no forward solve converged, and there is no point to solve it at."""
    methods: dict[str, GradientError] | None
    """Of the whole batch; None where no picture has a reference."""
    pictures: dict[str, list[GradientError]]
    """Of each picture that is compared, in the order of the batch: the gradient of its own loss."""
    eigenvalues: list[complex]
    """The dominant eigenvalue of each picture's Jacobian at its fixed point."""


@dataclass(frozen=True)
class _Gradient:
    """One gradient, and the passes through T, forward and back, that it took."""

    value: Tensor
    """All parameters' as one vector."""
    evaluations: int
    products: int


@dataclass(frozen=True)
class _Reference:
    """What is known exactly of one picture."""

    forward: Solution
    adjoint: Solution | None = None
    """None where the forward solve did not converge."""
    gradient: Tensor | None = None
    """None where one of the two did not."""


def methods(cell: TrainCell) -> dict[str, Method]:
    """Every method of the catalog with default parameters, `implicit` also at a tight tolerance, and the cell's own."""
    found = {name: _default(choice, cell) for name, choice in BackpropSpec.choices().items()}
    own = Method(build(cell.backprop), build(cell.solver), from_fixed_point=False)
    return {**found, "implicit-tight": Method(build(TIGHT)), "as trained": own}


def _default(choice: type[BackpropSpec], cell: TrainCell) -> Method:
    """A method by its default parameters; its forward solver or number of steps has the same limits as the cell's."""
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
    """Compare on one batch of measurements and pictures, (batch, 3, height, width); `map` is not modified."""
    map = copy.deepcopy(map).double()
    draws = torch.rand(len(d), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(d.device)
    pictures = [_Picture(map, *one, loss) for one in zip(d.split(1), images.split(1), draws.split(1), strict=True)]
    references = [picture.reference() for picture in pictures]
    gradients = {place: one.gradient for place, one in enumerate(references) if one.gradient is not None}
    known, exact = list(gradients), list(gradients.values())
    residuals = _residuals([references[place] for place in known] or references)
    left_out = [place for place in range(len(d)) if place not in known]
    if not known:
        return Comparison(left_out, *residuals, None, {}, [])
    at = [(pictures[place], references[place].forward.value) for place in known]
    taken = {name: [picture.gradient(method, point)[0] for picture, point in at] for name, method in compared.items()}
    return Comparison(
        left_out,
        *residuals,
        {name: _error(_mean(found), torch.stack(exact).mean(dim=0)) for name, found in taken.items()},
        {name: [_error(*pair) for pair in zip(found, exact, strict=True)] for name, found in taken.items()},
        [complex(spectrum(picture.f, point, norm_products=1).eigenvalue) for picture, point in at],
    )


def _residuals(references: list[_Reference]) -> tuple[float, float | None]:
    """The largest of the forward solves, and of the adjoint solves if there are any."""
    adjoint = [float(one.adjoint.residual) for one in references if one.adjoint is not None]
    return max(float(one.forward.residual) for one in references), max(adjoint, default=None)


def _mean(gradients: list[_Gradient]) -> _Gradient:
    """The gradient of the batch. A pass through T is one of all pictures, so that the longest solve counts."""
    return _Gradient(
        torch.stack([one.value for one in gradients]).mean(dim=0),
        max(one.evaluations for one in gradients),
        max(one.products for one in gradients),
    )


def _error(taken: _Gradient, exact: Tensor) -> GradientError:
    """How far a gradient is from the exact one, and what it took."""
    return GradientError(
        cosine=float(cosine_similarity(taken.value, exact, dim=0)),
        relative_error=float((taken.value - exact).norm() / exact.norm()),
        norm_ratio=float(taken.value.norm() / exact.norm()),
        evaluations=taken.evaluations,
        products=taken.products,
    )


class _Picture:
    """A map in float64 on one picture, its loss, and how often T is passed through."""

    def __init__(self, map: Map, d: Tensor, image: Tensor, draw: Tensor, loss: Loss) -> None:
        self.map, self.draw, self.loss = map, draw, loss
        self.d, self.image = d.double(), image.double()
        self.start = map.initial(self.d).detach()
        self.evaluations = self.products = 0

    def f(self, state: Tensor) -> Tensor:
        """T(state), counting this evaluation and, later, the backward pass through it."""
        self.evaluations += 1
        stepped: Tensor = self.map(state, self.d)
        if stepped.requires_grad:
            stepped.register_hook(self._count_product)
        return stepped

    def _count_product(self, gradient: Tensor) -> None:
        self.products += 1

    def reference(self) -> _Reference:
        """The fixed point, and the exact gradient at it."""
        forward = FORWARD(lambda state: self.map(state, self.d), self.start)
        if not (forward.status == Status.CONVERGED).all():
            return _Reference(forward)
        gradient, found = self.gradient(Method(Implicit(ADJOINT)), forward.value)
        (adjoint,) = found.adjoint
        solved = bool((adjoint.status == Status.CONVERGED).all())
        return _Reference(forward, adjoint, gradient.value if solved else None)

    def gradient(self, method: Method, fixed_point: Tensor) -> tuple[_Gradient, Differentiable]:
        """By one method, from the fixed point or from the initial state."""
        self.map.zero_grad()
        self.evaluations = self.products = 0
        start = fixed_point if method.from_fixed_point else self.start
        found = method.backprop(Problem(self.f, start, method.solver, draws=self.draw))
        self.loss(self.map.output(found.state, self.d), self.image).backward()
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.map.parameters()]
        return _Gradient(torch.cat([part.flatten() for part in parts]), self.evaluations, self.products), found
