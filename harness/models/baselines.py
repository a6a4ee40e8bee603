"""Reconstructions without training for the task. Their few free parameters are tuned on the validation split alone."""

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
"""Pixels by which a picture is continued past its edges for methods that know no boundary."""


@dataclass(frozen=True)
class Parameter:
    """A free parameter, searched on the geometric grid start * ratio^k."""

    name: str
    start: float
    ratio: float
    whole: bool = False
    """Rounded to a whole number."""

    def at(self, power: int) -> float:
        """The value k steps from the start."""
        value = self.start * self.ratio**power
        return float(round(value)) if self.whole else value


class Baseline(Protocol):
    """One method."""

    parameters: tuple[Parameter, ...]

    def __call__(self, physics: Physics, d: Tensor, *values: float) -> Tensor:
        """Reconstruct measurements d, (batch, 3, height, width), with the parameters at `values`."""


class Degraded:
    """The measurement itself."""

    parameters = ()

    def __call__(self, physics: Physics, d: Tensor) -> Tensor:
        """d."""
        return d


class DirectInverse:
    """A^-1 d (paper, section 5): what the noise becomes without regularisation."""

    parameters = ()

    def __call__(self, physics: Physics, d: Tensor) -> Tensor:
        """A^-1 d."""
        return physics.inverse(d)


class GradientDescent:
    """Gradient descent on 1/2 |Ax - d|^2 from d with step 1/|A|^2; early stopping is the regularisation."""

    parameters = (Parameter("iterations", 20, 1.25, whole=True),)

    def __call__(self, physics: Physics, d: Tensor, iterations: float) -> Tensor:
        """`iterations`, a whole number."""
        x = d
        for _ in range(int(iterations)):
            x = x - physics.A_adjoint(physics.A(x) - d) / physics.norm**2
        return x


class Tikhonov:
    """The argmin of 1/2 |Ax - d|^2 + weight/2 |x|^2, exactly (paper, eq. 2 with R = |x|^2 / 2)."""

    parameters = (Parameter("weight", 0.01, 1.25),)

    def __call__(self, physics: Physics, d: Tensor, weight: float) -> Tensor:
        """A proximal step from zero."""
        return physics.prox_l2(torch.zeros_like(d), d, 1 / weight)


class Wiener:
    """Wiener-Hunt deconvolution of scikit-image: least squares with a penalty on the Laplacian (Hunt 1971)."""

    parameters = (Parameter("balance", 0.01, 1.5),)

    def __call__(self, physics: Physics, d: Tensor, balance: float) -> Tensor:
        """Each channel alone."""
        from skimage.restoration import wiener

        def solve(channels: Array, spread: Array) -> Array:
            return np.stack([wiener(channel, spread, balance, clip=False) for channel in channels])

        return _deconvolve(physics, d, solve)


class RichardsonLucy:
    """Richardson-Lucy deconvolution of scikit-image (Richardson 1972); early stopping is the regularisation."""

    parameters = (Parameter("iterations", 10, 1.25, whole=True),)

    def __call__(self, physics: Physics, d: Tensor, iterations: float) -> Tensor:
        """`iterations`, a whole number; it takes and makes non-negative pictures."""
        from skimage.restoration import richardson_lucy

        def solve(channels: Array, spread: Array) -> Array:
            return richardson_lucy(channels.clip(min=0), spread[None], int(iterations), clip=False)

        return _deconvolve(physics, d, solve)


@dataclass(frozen=True)
class TotalVariation:
    """The argmin of 1/2 |Ax - d|^2 + weight TV(x), TV joint over colours (Chambolle & Pock 2011, algorithm 1)."""

    iterations: int
    parameters = (Parameter("weight", 1e-3, 1.5),)

    def __call__(self, physics: Physics, d: Tensor, weight: float) -> Tensor:
        """Primal-dual iteration with the exact proximal step of the data fidelity."""
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
    """Plug-and-play proximal gradient (Venkatakrishnan et al. 2013): DE-PROX with the denoiser as it was pretrained."""

    network: nn.Module
    iterations: int
    parameters = (Parameter("step_size", 1.5, 1.1), Parameter("weight", 0.5, 1.25))

    def __call__(self, physics: Physics, d: Tensor, step_size: float, weight: float) -> Tensor:
        """A fixed number of steps."""
        return _iterate(DeProx(physics, self.network, step_size, weight), d, self.iterations)


@dataclass(frozen=True)
class PnpAdmm:
    """Plug-and-play ADMM (Venkatakrishnan et al. 2013): DE-ADMM with the denoiser as it was pretrained."""

    network: nn.Module
    iterations: int
    parameters = (Parameter("penalty", 4.0, 1.5), Parameter("weight", 1.0, 1.25))

    def __call__(self, physics: Physics, d: Tensor, penalty: float, weight: float) -> Tensor:
        """A fixed number of steps with a dual step of 1, which does not move the fixed point."""
        return _iterate(DeAdmm(physics, self.network, penalty, weight, dual_step=1.0), d, self.iterations)


@dataclass(frozen=True)
class Tuned:
    """Outcome of the search for one parameter, the others at their chosen values; candidates in increasing order."""

    name: str
    chosen: float
    candidates: list[float]
    scores: list[float]

    @property
    def interior(self) -> bool:
        """The chosen candidate is neither the first nor the last."""
        return self.candidates[0] < self.chosen < self.candidates[-1]


def tune(score: Callable[[Sequence[float]], float], parameters: Sequence[Parameter], most: int = 30) -> list[Tuned]:
    """Climb the grid start * ratio^k of all parameters until every neighbour of the best candidate is worse.

    Neighbours differ by a step in any of the parameters, in several at once too: what two of them do is often coupled,
    and climbing along one at a time stops on a ridge. At most `most` candidates a parameter are tried.
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
    for place, parameter in enumerate(parameters):
        line = sorted(powers for powers in scores if (*powers[:place], best[place], *powers[place + 1 :]) == best)
        candidates = [values(powers)[place] for powers in line]
        found.append(Tuned(parameter.name, values(best)[place], candidates, [scores[powers] for powers in line]))
    return found


def _iterate(map: Map, d: Tensor, iterations: int) -> Tensor:
    """The picture after so many steps of an untrained map."""
    map = map.to(d.device, d.dtype)
    state = map.initial(d)
    for _ in range(iterations):
        state = map(state, d)
    return map.output(state, d)


def _deconvolve(physics: Physics, d: Tensor, solve: Callable[[Array, Array], Array]) -> Tensor:
    """Give `solve` what scikit-image wants: channels (batch * 3, height, width) on [0, 1], and the point spread.

    Its methods take the blur for a convolution with no boundary. So what a boundary took from the pixels near it is
    given back, and the picture is continued past its edges: 4 to 8 dB on the pictures of the tests.
    """
    low, high = physics.value_range
    ones = physics.A(torch.ones_like(d))
    channels = np.asarray(((d - low * ones) / (high - low) / ones).flatten(0, 1).double().cpu())
    padded = np.pad(channels, ((0, 0), (RIM, RIM), (RIM, RIM)), mode="edge")
    solved = solve(padded, _point_spread(physics, d))[:, RIM:-RIM, RIM:-RIM]
    return torch.as_tensor(solved).to(d).view_as(d) * (high - low) + low


def _point_spread(physics: Physics, d: Tensor) -> Array:
    """What A makes of a point in the middle of a picture, cut to the smallest odd square that holds it."""
    point = torch.zeros_like(d[:1, :1])
    middle = (point.shape[-2] // 2, point.shape[-1] // 2)
    point[..., middle[0], middle[1]] = 1
    spread = physics.A(point)[0, 0]
    rows, columns = (spread.nonzero() - spread.new_tensor(middle)).abs().amax(dim=0).long().tolist()
    radius = max(rows, columns)
    around = [slice(m - radius, m + radius + 1) for m in middle]
    return np.asarray(spread[around[0], around[1]].double().cpu())


def _differences(x: Tensor) -> Tensor:
    """Forward differences, (batch, 3, h, w) to (2, batch, 3, h, w); zero across the last row and column."""
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
