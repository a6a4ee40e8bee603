"""Reconstruction methods that are not trained. Their few free parameters are tuned on the validation split only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from harness.models.maps import DeAdmm, DeProx, Map
from harness.physics.base import Physics

Array = npt.NDArray[np.float64]

RIM = 8
"""Number of pixels by which a picture is padded on each side for methods that do not model its boundary."""


@dataclass(frozen=True)
class Parameter:
    """A free parameter, searched on the geometric grid start * ratio^k."""

    name: str
    start: float
    ratio: float
    whole: bool = False
    """Whether values are rounded to whole numbers."""

    def at(self, power: int) -> float:
        """The value `power` grid steps from the start."""
        value = self.start * self.ratio**power
        return float(round(value)) if self.whole else value


class Baseline(Protocol):
    """A reconstruction method with free parameters."""

    parameters: tuple[Parameter, ...]

    def __call__(self, physics: Physics, d: Tensor, *values: float) -> Tensor:
        """Reconstruct the measurements d, (batch, 3, height, width), with the parameters set to `values`."""


class Degraded:
    """The measurement itself."""

    parameters = ()

    def __call__(self, physics: Physics, d: Tensor) -> Tensor:
        """Return d unchanged."""
        return d


class DirectInverse:
    """A^-1 d (paper, section 5), which shows how noise is amplified without regularization."""

    parameters = ()

    def __call__(self, physics: Physics, d: Tensor) -> Tensor:
        """Return A^-1 d."""
        return physics.inverse(d)


class GradientDescent:
    """Gradient descent on 1/2 |Ax - d|^2 from d with step size 1/|A|^2, regularized by early stopping."""

    parameters = (Parameter("iterations", 20, 1.25, whole=True),)

    def __call__(self, physics: Physics, d: Tensor, iterations: float) -> Tensor:
        """Take `iterations` steps; the value must be a whole number."""
        x = d
        for _ in range(int(iterations)):
            x = x - physics.A_adjoint(physics.A(x) - d) / physics.norm**2
        return x


class Tikhonov:
    """The exact argmin of 1/2 |Ax - d|^2 + weight/2 |x|^2 (paper, eq. 2 with R = |x|^2 / 2)."""

    parameters = (Parameter("weight", 0.01, 1.25),)

    def __call__(self, physics: Physics, d: Tensor, weight: float) -> Tensor:
        """Take one proximal step from zero."""
        return physics.prox_l2(torch.zeros_like(d), d, 1 / weight)


class Wiener:
    """Wiener-Hunt deconvolution by scikit-image: least squares with a penalty on the Laplacian (Hunt 1971)."""

    parameters = (Parameter("balance", 0.01, 1.5),)

    def __call__(self, physics: Physics, d: Tensor, balance: float) -> Tensor:
        """Deconvolve each channel separately."""
        from skimage.restoration import wiener

        def solve(channels: Array, spread: Array) -> Array:
            return np.stack([wiener(channel, spread, balance, clip=False) for channel in channels])

        return _deconvolve(physics, d, solve)


class RichardsonLucy:
    """Richardson-Lucy deconvolution by scikit-image (Richardson 1972), regularized by early stopping."""

    parameters = (Parameter("iterations", 10, 1.25, whole=True),)

    def __call__(self, physics: Physics, d: Tensor, iterations: float) -> Tensor:
        """Take `iterations` steps, a whole number; input and output are non-negative."""
        from skimage.restoration import richardson_lucy

        def solve(channels: Array, spread: Array) -> Array:
            return richardson_lucy(channels.clip(min=0), spread[None], int(iterations), clip=False)

        return _deconvolve(physics, d, solve)


@dataclass(frozen=True)
class TotalVariation:
    """The argmin of 1/2 |Ax - d|^2 + weight TV(x), with TV joint over colors (Chambolle & Pock 2011, algorithm 1)."""

    iterations: int
    parameters = (Parameter("weight", 1e-3, 1.5),)

    def __call__(self, physics: Physics, d: Tensor, weight: float) -> Tensor:
        """Run the primal-dual iteration with the exact proximal step of the data fidelity."""
        primal_step = 10.0
        dual_step = 1 / (8 * primal_step)
        x = x_bar = d
        dual = d.new_zeros(2, *d.shape)
        for _ in range(self.iterations):
            dual = dual + dual_step * _differences(x_bar)
            length = dual.square().sum(dim=(0, 2), keepdim=True).sqrt()
            dual = dual / (length / weight).clamp_min(1)
            x_new = physics.prox_l2(x - primal_step * _differences_adjoint(dual), d, primal_step)
            x, x_bar = x_new, 2 * x_new - x
        return x


@dataclass(frozen=True)
class PnpPgd:
    """Plug-and-play proximal gradient (Venkatakrishnan et al. 2013): DE-PROX with the unchanged pretrained denoiser."""

    network: nn.Module
    iterations: int
    parameters = (Parameter("step_size", 1.5, 1.1), Parameter("weight", 0.5, 1.25))

    def __call__(self, physics: Physics, d: Tensor, step_size: float, weight: float) -> Tensor:
        """Take a fixed number of steps."""
        return _iterate(DeProx(physics, self.network, step_size, weight), d, self.iterations)


@dataclass(frozen=True)
class PnpAdmm:
    """Plug-and-play ADMM (Venkatakrishnan et al. 2013): DE-ADMM with the unchanged pretrained denoiser."""

    network: nn.Module
    iterations: int
    parameters = (Parameter("penalty", 4.0, 1.5), Parameter("weight", 1.0, 1.25))

    def __call__(self, physics: Physics, d: Tensor, penalty: float, weight: float) -> Tensor:
        """Take a fixed number of steps with a dual step of 1, which does not affect the fixed point."""
        return _iterate(DeAdmm(physics, self.network, penalty, weight, dual_step=1.0), d, self.iterations)


@dataclass(frozen=True)
class Tuned:
    """Result of the search for one parameter while the others have their chosen values; candidates increase."""

    name: str
    chosen: float
    candidates: list[float]
    scores: list[float]

    @property
    def interior(self) -> bool:
        """Whether the chosen candidate is neither the first nor the last."""
        return self.candidates[0] < self.chosen < self.candidates[-1]


def tune(score: Callable[[Sequence[float]], float], parameters: Sequence[Parameter], most: int = 30) -> list[Tuned]:
    """Climb the grid start * ratio^k of all parameters until every neighbor of the best candidate is worse.

    Neighbors differ by one step in one or several parameters at once: the effects of two parameters are often coupled,
    and climbing along one at a time gets stuck on a ridge. The search stops after about `most` candidates per
    parameter.
    """

    def values(powers: Sequence[int]) -> list[float]:
        return [p.at(k) for p, k in zip(parameters, powers, strict=True)]

    best = (0,) * len(parameters)
    scores = {best: score(values(best))} if parameters else {}
    while len(scores) < most * len(parameters):
        around = product(*((k, k - 1, k + 1) for k in best))
        unseen = [powers for powers in around if powers not in scores]
        if not unseen:
            break
        scores.update({powers: score(values(powers)) for powers in unseen})
        best = max(scores, key=lambda powers: scores[powers])
    found = []
    for i, parameter in enumerate(parameters):
        line = sorted(powers for powers in scores if (*powers[:i], best[i], *powers[i + 1 :]) == best)
        candidates = [values(powers)[i] for powers in line]
        found.append(Tuned(parameter.name, values(best)[i], candidates, [scores[powers] for powers in line]))
    return found


def _iterate(map: Map, d: Tensor, iterations: int) -> Tensor:
    """The picture after `iterations` steps of an untrained map."""
    map = map.to(d.device, d.dtype)
    state = map.initial(d)
    for _ in range(iterations):
        state = map(state, d)
    return map.output(state, d)


def _deconvolve(physics: Physics, d: Tensor, solve: Callable[[Array, Array], Array]) -> Tensor:
    """Call `solve` with the input scikit-image expects: channels (batch * 3, height, width) on [0, 1], point spread.

    scikit-image treats the blur as a convolution without a boundary. Pixels near the edges are therefore rescaled to
    compensate for the light lost beyond the boundary, and the picture is padded; this gains 4 to 8 dB in the tests.
    """
    low, high = physics.value_range
    ones = physics.A(torch.ones_like(d))
    channels = np.asarray(((d - low * ones) / (high - low) / ones).flatten(0, 1).double().cpu())
    padded = np.pad(channels, ((0, 0), (RIM, RIM), (RIM, RIM)), mode="edge")
    solved = solve(padded, _point_spread(physics, d))[:, RIM:-RIM, RIM:-RIM]
    return torch.as_tensor(solved).to(d).view_as(d) * (high - low) + low


def _point_spread(physics: Physics, d: Tensor) -> Array:
    """The image under A of a point in the middle of a picture, cropped to the smallest odd square containing it."""
    point = torch.zeros_like(d[:1, :1])
    middle = (point.shape[-2] // 2, point.shape[-1] // 2)
    point[..., middle[0], middle[1]] = 1
    spread = physics.A(point)[0, 0]
    rows, columns = (spread.nonzero() - spread.new_tensor(middle)).abs().amax(dim=0).long().tolist()
    radius = max(rows, columns)
    around = [slice(m - radius, m + radius + 1) for m in middle]
    return np.asarray(spread[around[0], around[1]].double().cpu())


def _differences(x: Tensor) -> Tensor:
    """Forward differences, (batch, 3, h, w) to (2, batch, 3, h, w); zero in the last row and column."""
    out = x.new_zeros(2, *x.shape)
    out[0, ..., :-1, :] = x[..., 1:, :] - x[..., :-1, :]
    out[1, ..., :, :-1] = x[..., :, 1:] - x[..., :, :-1]
    return out


def _differences_adjoint(y: Tensor) -> Tensor:
    """The transpose of `_differences`."""
    out = torch.zeros_like(y[0])
    out[..., :-1, :] -= y[0, ..., :-1, :]
    out[..., 1:, :] += y[0, ..., :-1, :]
    out[..., :, :-1] -= y[1, ..., :, :-1]
    out[..., :, 1:] += y[1, ..., :, :-1]
    return out
