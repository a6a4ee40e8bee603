"""The equilibrium model: maps a measurement to the fixed point's picture, differentiable by the chosen method."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch._functorch import config as functorch_config

from harness.implicit.backprop import Backprop, Jfb, Problem, Timed, Unrolled, untimed
from harness.implicit.contraction import mean_square_jacobian, normal_directions
from harness.implicit.solvers import Solution, Solver
from harness.models.maps import Map


@dataclass
class Output:
    """The result of one forward pass."""

    image: Tensor
    """(batch, 3, height, width), attached to the graph."""
    state: Tensor
    """The map's final state, detached; a later solve of the same sample can start from it."""
    forward: Solution
    adjoint: list[Solution]
    """Filled during `loss.backward()` by methods that solve an adjoint equation."""
    unit_step: float = 1.0
    """Divisor that makes a residual of the map comparable across maps."""
    penalty: Tensor = field(default_factory=lambda: torch.zeros(()))
    """Term to add to the loss; computed in the forward pass so that DistributedDataParallel sees it."""


class Equilibrium(nn.Module):
    """d -> output(T(s*; d)) with s* = T(s*; d), for any map, solver and backprop method."""

    def __init__(
        self,
        map: Map,
        solver: Solver,
        backprop: Backprop,
        timed: Timed = untimed,
        continuing_solver: Solver | None = None,
        evaluation_solver: Solver | None = None,
        jacobian_penalty: float | None = None,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.map = map
        self.solver = solver
        self.backprop = backprop
        self.timed = timed
        self.continuing_solver = continuing_solver or solver
        self.evaluation_solver = evaluation_solver or solver
        self.jacobian_penalty = jacobian_penalty
        self._T = compile_map(map) if compiled else map.forward

    def forward(
        self,
        d: Tensor,
        start: Tensor | None = None,
        draws: Tensor | None = None,
        adjoint_start: Tensor | None = None,
        warming_up: bool = False,
        progress: float = 1.0,
    ) -> Output:
        """Reconstruct d, (batch, 3, height, width), starting from `start`, the states of an earlier solve, if given.

        `adjoint_start` holds the earlier adjoint solution, for methods that can continue from it. `draws`, (batch,),
        are uniform random numbers for randomized backprop methods and the Jacobian penalty; without them, as outside
        training, there is no penalty. While `warming_up`, the gradient is JFB's.
        """
        solver = self.solver if start is None else self.continuing_solver
        start = self.map.initial(d).detach() if start is None else start
        backprop = Jfb() if warming_up else self.backprop
        found = backprop(
            Problem(lambda state: self._T(state, d), start, solver, self.timed, draws, adjoint_start, progress)
        )
        output = Output(self.map.output(found.state, d), found.state.detach(), found.forward, found.adjoint)
        if self.jacobian_penalty and draws is not None:
            at = found.forward.value
            # Not compiled, because torch.compile does not support second derivatives.
            squares = mean_square_jacobian(lambda state: self.map(state, d), at, normal_directions(draws, at))
            output.penalty = self.jacobian_penalty * squares.mean()
        return output

    @torch.no_grad()
    def reconstruct(self, d: Tensor, start: Tensor | None = None, solver: Solver | None = None) -> Output:
        """Reconstruct d, (batch, 3, height, width), for a score, without a gradient.

        The evaluation solver starts from the initial state; another start or solver continues a reconstruction.
        """
        method = self.backprop if isinstance(self.backprop, Unrolled) else Jfb()
        start = self.map.initial(d) if start is None else start
        found = method(Problem(lambda state: self._T(state, d), start, solver or self.evaluation_solver))
        return Output(self.map.output(found.state, d), found.state, found.forward, [], self.map.unit_step)


def compile_map(map: Map) -> Callable[[Tensor, Tensor], Tensor]:
    """T(state, d), compiled so that an adjoint solve can run backward through its graph many times.

    Every shape of a batch has its own graph with fixed sizes, and DistributedDataParallel does not split it.
    """
    # Imported here, because it takes seconds.
    from torch._dynamo import config as dynamo_config

    functorch_config.donated_buffer = False
    dynamo_config.optimize_ddp = False
    return torch.compile(map.forward, dynamic=False)
