"""The model: a measurement goes in, the fixed point's picture comes out, differentiable by the chosen method."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from harness.backprop import Backprop, Timed, untimed
from harness.contraction import mean_square_jacobian, normal_probes
from harness.maps import Map
from harness.solvers import Solution, Solver


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
    ) -> None:
        super().__init__()
        self.map = map
        self.solver = solver
        self.backprop = backprop
        self.timed = timed
        self.continuing_solver = continuing_solver or solver
        self.jacobian_penalty = jacobian_penalty

    def forward(
        self,
        d: Tensor,
        start: Tensor | None = None,
        draws: Tensor | None = None,
        adjoint_start: Tensor | None = None,
    ) -> Output:
        """Reconstruct d, (batch, 3, height, width): afresh, or going on from the states of an earlier solve.

        `adjoint_start` is what that one's adjoint solve found, for a method that goes on from it.

        `draws`, (batch,), are the uniform numbers that a random backprop method and the Jacobian penalty use; without
        them, outside training, there is no penalty.
        """
        solver = self.solver if start is None else self.continuing_solver
        start = self.map.initial(d).detach() if start is None else start

        def f(state: Tensor) -> Tensor:
            return self.map(state, d)

        found = self.backprop(f, start, solver, self.timed, draws)
        found.adjoint_start = adjoint_start
        output = Output(self.map.output(found.state, d), found.state.detach(), found.forward, found.adjoint)
        if self.jacobian_penalty and draws is not None:
            at = found.forward.value
            output.penalty = self.jacobian_penalty * mean_square_jacobian(f, at, normal_probes(draws, at)).mean()
        return output
