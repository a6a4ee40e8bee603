"""Small problems in float64 of which dense linear algebra knows everything: fixed point, Jacobian, exact gradient."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from harness.implicit.backprop import Backprop, Differentiable, Problem
from harness.implicit.solvers import Anderson, Solver
from harness.models.maps import DeAdmm, DeGrad, DeHqs, DeProx, Map
from harness.models.networks import DnCNN
from harness.physics.blur import GaussianBlur

SHAPE = (2, 3, 6, 6)
TIGHT = Anderson(tol=1e-14, max_steps=200, memory=10, ridge=1e-12, mixing=1.0)
"""Reaches rounding error on every problem below."""

MAPS = ("de-grad", "de-prox", "de-admm", "de-hqs")


class Network(nn.Module):
    """N(x) = 0.6 x + 0.3 DnCNN(x): curved, not symmetric, and every map with it contracts."""

    def __init__(self) -> None:
        super().__init__()
        self.dncnn = DnCNN(depth=3, width=8)
        generator = torch.Generator().manual_seed(1)
        for name, parameter in self.dncnn.named_parameters():
            spread = 0.05 if name.endswith("bias") else (2 / parameter[0].numel()) ** 0.5
            nn.init.normal_(parameter, std=spread, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return 0.6 * x + 0.3 * self.dncnn(x)


@dataclass(frozen=True)
class Case:
    """One map on one batch of measurements."""

    map: Map
    d: Tensor

    def f(self, state: Tensor) -> Tensor:
        return self.map(state, self.d)

    @property
    def start(self) -> Tensor:
        return self.map.initial(self.d).detach()

    def fixed_point(self) -> Tensor:
        with torch.no_grad():
            return TIGHT(self.f, self.start).value

    def parameters(self) -> list[nn.Parameter]:
        return [p for p in self.map.parameters() if p.requires_grad]

    def jacobian(self, at: Tensor) -> Tensor:
        """(batch, size, size): dT/ds of each sample."""
        batch, size = len(at), at[0].numel()
        blocks = torch.func.jacrev(lambda state: self.f(state).flatten(1).sum(dim=0))(at)
        return blocks.reshape(size, batch, size).transpose(0, 1).detach()

    def adjoint(self, at: Tensor, v: Tensor) -> Tensor:
        """(I - J)^-T v by dense elimination."""
        matrix = torch.eye(at[0].numel(), dtype=at.dtype) - self.jacobian(at)
        return torch.linalg.solve(matrix.mT, v.flatten(1)[:, :, None]).view_as(v)

    def target(self) -> Tensor:
        return torch.rand(self.start.shape, dtype=self.d.dtype, generator=torch.Generator().manual_seed(2))

    def loss(self, state: Tensor) -> Tensor:
        return 0.5 * (state - self.target()).square().sum()

    def backward(
        self, method: Backprop, solver: Solver = TIGHT, scale: float = 1.0, draws: Tensor | None = None
    ) -> tuple[Tensor, Differentiable]:
        """The gradient of all parameters by `method`, flat, through `loss.backward()`."""
        self.map.zero_grad()
        found = method(Problem(self.f, self.start, solver, draws=draws))
        (scale * self.loss(found.state)).backward()
        return flat([p.grad for p in self.parameters()]), found

    def gradient(self, method: Backprop, solver: Solver = TIGHT) -> Tensor:
        return self.backward(method, solver)[0]

    def exact_gradient(self) -> Tensor:
        """v (I - J)^-1 dT/dTheta at the fixed point, with v = dl/ds there, by dense elimination."""
        at = self.fixed_point()
        state = self.f(at)
        w = self.adjoint(at, state.detach() - self.target())
        return flat(torch.autograd.grad(state, self.parameters(), w))


@cache
def problem(name: str, seed: int = 0) -> Case:
    """One of the four maps on SHAPE; `seed` draws the pictures that are measured."""
    physics = GaussianBlur(SHAPE[-1], 3, 1.0, 0.01, (0.0, 1.0), "zero")
    made: Map
    match name:
        case "de-grad":
            made = DeGrad(physics, Network(), step_size=0.8, weight=0.5)
        case "de-prox":
            made = DeProx(physics, Network(), step_size=1.2, weight=0.5)
        case "de-admm":
            made = DeAdmm(physics, Network(), penalty=2.0, weight=0.7, dual_step=0.9)
        case "de-hqs":
            made = DeHqs(physics, Network(), penalty=2.0)
    d = physics.double().A(torch.rand(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))
    return Case(made.double(), d)


def linear_map(
    radius: float, size: int = 12, batch: int = 3, seed: int = 0, symmetric: bool = False
) -> tuple[Tensor, Tensor]:
    """Matrices (batch, size, size) of spectral norm `radius` and vectors b: f(x) = matrix x + b."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(batch, size, size, dtype=torch.float64, generator=generator)
    if symmetric:
        matrix = matrix + matrix.mT
    matrix = radius * matrix / torch.linalg.matrix_norm(matrix, 2)[:, None, None]
    return matrix, torch.randn(batch, size, dtype=torch.float64, generator=generator)


def affine(matrix: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """matrix x + b, sample by sample, so that no sample can meet another."""
    return torch.stack([m @ row + c for m, row, c in zip(matrix, x, b, strict=True)])


def flat(tensors: "list[Tensor | None] | tuple[Tensor, ...]") -> Tensor:
    """All entries as one vector."""
    return torch.cat([t.flatten() for t in tensors if t is not None])


def relative_error(a: Tensor, b: Tensor) -> float:
    """|a - b| / |b|."""
    return float((a - b).detach().norm() / b.detach().norm())
