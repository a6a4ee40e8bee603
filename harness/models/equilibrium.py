"""The model: a measurement goes in, the fixed point's picture comes out, differentiable by the chosen method."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch._functorch import config as functorch_config

from harness.implicit.backprop import Backprop, Jfb, Problem, Timed, untimed
from harness.implicit.contraction import mean_square_jacobian, normal_directions
from harness.implicit.solvers import Solution, Solver
from harness.models.maps import Map


@dataclass
class Output:
    """What one forward pass returns."""

    image: Tensor
    """(batch, 3, height, width), attached to the graph."""
    state: Tensor
    """The map's state at the end, detached: where a later solve of the same sample can start."""
    forward: Solution
    adjoint: list[Solution]
    """Filled during `loss.backward()` by methods that solve an adjoint equation."""
    penalty: Tensor = field(default_factory=lambda: torch.zeros(()))
    """What to add to the loss; computed in the forward pass, where DistributedDataParallel sees it."""


class Equilibrium(nn.Module):
    """measurement -> output(T(s*)) with s* = T(s*; measurement); knows neither which map nor which method it has."""

    def __init__(
        self,
        map: Map,
        solver: Solver,
        backprop: Backprop,
        timed: Timed = untimed,
        continuing_solver: Solver | None = None,
        jacobian_penalty: float | None = None,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.map = map
        self.solver = solver
        self.backprop = backprop
        self.timed = timed
        self.continuing_solver = continuing_solver or solver
        self.jacobian_penalty = jacobian_penalty
        self._T = compile_map(map) if compiled else map.forward

    def forward(
        self,
        d: Tensor,
        start: Tensor | None = None,
        draws: Tensor | None = None,
        adjoint_start: Tensor | None = None,
        warming_up: bool = False,
    ) -> Output:
        """Reconstruct d, (batch, 3, height, width): afresh, or going on from the states of an earlier solve.

        `adjoint_start` is what that one's adjoint solve found, for a method that goes on from it. `draws`, (batch,),
        are the uniform numbers that a random backprop method and the Jacobian penalty use; without them, outside
        training, there is no penalty. While `warming_up` the gradient is JFB's.
        """
        solver = self.solver if start is None else self.continuing_solver
        start = self.map.initial(d).detach() if start is None else start
        backprop = Jfb() if warming_up else self.backprop
        found = backprop(Problem(lambda state: self._T(state, d), start, solver, self.timed, draws, adjoint_start))
        output = Output(self.map.output(found.state, d), found.state.detach(), found.forward, found.adjoint)
        if self.jacobian_penalty and draws is not None:
            at = found.forward.value
            # Not compiled: torch.compile has no derivative of a derivative.
            squares = mean_square_jacobian(lambda state: self.map(state, d), at, normal_directions(draws, at))
            output.penalty = self.jacobian_penalty * squares.mean()
        return output


def compile_map(map: Map) -> Callable[[Tensor, Tensor], Tensor]:
    """T(state, d) by torch.compile, its graph fit for the many passes back of an adjoint solve."""
    functorch_config.donated_buffer = False
    return torch.compile(map.forward)
