"""How contractive a map is near a state, per sample, from products with its Jacobian J alone.

Arnoldi's method makes the most of the products and resolves rotations and signs. On the maps of the tests, whose norms
and spectral radii (.4 to .76) are known from the dense J, both estimates are right to 1 %, the norm from below. Near 1,
where trained maps end up, plain power iteration misleads. In one run of the demo, whose eight maps had radii of .998 to
1.002 according to 60 Arnoldi steps, the growth of |J^n v| gave .977 to .988 after 30 products, and 30 Arnoldi steps
gave .995 to 1.001. Power iteration on J^T J made maps look contractive (|J| of .98 to .998 after 15 steps) whose |J|
was above 1.01. On larger pictures, 30 steps are too few to decide on which side of 1 a radius lies: on four of
128 x 128, in two trained maps, they gave .995, 1.002, .986 and .987, each with a residual of about .02; 100 steps gave
1.004, 1.007, .994 and .992, with residuals of .0004 to .009.
"""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.implicit.solvers import Function, at_least_float32, keep, per_sample_norm, ratio

NORM_PRODUCTS = 15
"""Number of products with J^T J, each of which costs about four evaluations of T."""
SPECTRUM_PRODUCTS = 100
"""Number of products with J^T, each of which costs about one evaluation of T."""


@dataclass(frozen=True)
class Spectrum:
    """Estimates for J at one state per sample. Every tensor has shape (batch,), with nan where J is not finite."""

    norm: Tensor
    """Largest singular value, approached from below."""
    eigenvalue: Tensor
    """The eigenvalue of largest modulus, complex. Of a conjugate pair, the one with positive imaginary part."""
    residual: Tensor
    """|J^T v - mu v| / |mu| for that eigenvalue mu and its unit eigenvector v: how accurately it is known."""


def spectrum(
    f: Function, at: Tensor, norm_products: int = NORM_PRODUCTS, spectrum_products: int = SPECTRUM_PRODUCTS
) -> Spectrum:
    """Norm and dominant eigenvalue of the Jacobian of f at `at`, (batch, ...).

    J^T has the eigenvalues of J and cheaper products. J u is computed as the derivative along u of the linear map
    w -> J^T w: forward mode is a third slower, and its first use costs a process almost two seconds. Every sample
    starts from the same random vector, so no estimate depends on the batch.
    """
    at = at.detach().requires_grad_()
    output, weights = f(at), torch.zeros_like(at).requires_grad_()
    (pulled,) = torch.autograd.grad(output, at, weights, create_graph=True)

    def transposed(w: Tensor) -> Tensor:
        return torch.autograd.grad(output, at, w, retain_graph=True)[0]

    def gram(u: Tensor) -> Tensor:
        return transposed(torch.autograd.grad(pulled, weights, u, retain_graph=True)[0])

    start = torch.randn(at.shape[1:], generator=torch.Generator().manual_seed(0)).to(at).expand_as(at)
    with torch.no_grad():
        eigenvalue, residual = dominant_eigenvalue(transposed, start, spectrum_products)
        square, _ = dominant_eigenvalue(gram, start, norm_products)
    return Spectrum(square.abs().sqrt(), eigenvalue, residual)


def mean_square_jacobian(f: Function, at: Tensor, probes: Tensor) -> Tensor:
    """|J^T e|^2 / n of each sample, (batch,), differentiable in the parameters of f; n is the size of a state.

    e is `probes`, of the shape of `at`, (batch, ...). If it is standard normal, the expected value is |J|_F^2 / n, the
    mean squared singular value of J (Hutchinson's estimate; Bai et al. 2021). The cost is one evaluation of f and one
    second derivative.
    """
    at = at.detach().requires_grad_()
    (product,) = torch.autograd.grad(f(at), at, probes, create_graph=True)
    return product.flatten(1).square().mean(dim=1)


def normal_directions(draws: Tensor, like: Tensor) -> Tensor:
    """Standard normal numbers in the shape of `like`, (batch, ...); each sample's are seeded by its draw in [0, 1)."""
    # On the CPU, because another device's generator gives other numbers.
    generators = [torch.Generator().manual_seed(int(draw * 2**53)) for draw in draws.tolist()]
    drawn = torch.stack([torch.randn(like.shape[1:], generator=one, dtype=torch.float32) for one in generators])
    return drawn.to(like.device).to(like.dtype)


def dominant_eigenvalue(product: Function, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The Ritz value of largest modulus and its relative residual, each (batch,), after `steps` Arnoldi steps.

    `product` applies one matrix per sample; `start`, (batch, ...), must not be zero for any sample (Saad 2011,
    sections 6.1 and 6.2).
    """
    v = at_least_float32(start).flatten(1)
    steps = min(steps, v.shape[1])
    basis = v.new_zeros(len(v), steps + 1, v.shape[1])
    matrix = v.new_zeros(len(v), steps + 1, steps)
    basis[:, 0] = v / per_sample_norm(v)[:, None]
    for k in range(steps):
        image = product(basis[:, k].view_as(start).to(start.dtype)).to(v.dtype).flatten(1)
        length, known = per_sample_norm(image), basis[:, : k + 1]
        for _ in range(2):  # Gram-Schmidt once loses orthogonality; twice is enough.
            parts = known @ image[:, :, None]
            image = image - (parts.mT @ known).squeeze(1)
            matrix[:, : k + 1, k] += parts.squeeze(-1)
        height = per_sample_norm(image)
        # What remains of an exhausted space is rounding error: add no vector, and leave all later columns zero.
        goes_on = ~(height <= 100 * torch.finfo(v.dtype).eps * length)
        matrix[:, k + 1, k] = height.where(goes_on, 0)
        basis[:, k + 1] = keep(goes_on, image / height[:, None], torch.zeros_like(image))
    return _dominant_ritz_value(matrix)


def _dominant_ritz_value(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """From Hessenberg matrices (batch, steps + 1, steps), with its residual; nan where they are not finite."""
    finite = matrix.flatten(1).isfinite().all(dim=1)
    device = matrix.device
    # On the CPU: the matrices are small, and some devices have no such decomposition, or a slow one.
    finite, matrix = finite.cpu(), keep(finite, matrix, torch.zeros_like(matrix)).double().cpu()
    values, vectors = torch.linalg.eig(matrix[:, :-1])
    which = values.abs().argmax(dim=1, keepdim=True)
    value = values.gather(1, which).squeeze(1)
    last = vectors[:, -1].gather(1, which).squeeze(1)
    residual = ratio(matrix[:, -1, -1].abs() * last.abs(), value.abs())
    upper = torch.complex(value.real, value.imag.abs())
    return upper.where(finite, torch.nan).to(device), residual.where(finite, torch.nan).to(device)


@torch.no_grad()
def iterate(f: Function, start: Tensor, counts: Collection[int]) -> dict[int, tuple[Tensor, Tensor]]:
    """Iterate f: for each number of evaluations in `counts`, the state and the relative residual of the last step."""
    found: dict[int, tuple[Tensor, Tensor]] = {}
    x = start
    for evaluations in range(1, max(counts, default=0) + 1):
        previous, x = x, f(x)
        if evaluations in counts:
            found[evaluations] = (x, ratio(per_sample_norm(x - previous), per_sample_norm(x)))
    return found
