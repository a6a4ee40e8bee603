"""A cell's fields to its model."""

import torch
from torch import nn

from harness.config.build import build
from harness.config.cells import BaselineCell, PretrainCell, TrainCell
from harness.implicit.backprop import Timed, untimed
from harness.implicit.solvers import Picard, Solver
from harness.models.equilibrium import Equilibrium
from harness.models.lipschitz import Projection
from harness.models.precision import Bfloat16


def build_network(cell: PretrainCell | TrainCell | BaselineCell, **more: int) -> tuple[nn.Module, Projection | None]:
    """The network of a cell with random weights, and what keeps it within its Lipschitz bound if it has one."""
    assert cell.network is not None
    network: nn.Module = build(cell.network, **more)
    bound = cell.network.lipschitz
    projection = Projection(network, bound, cell.data.image_size) if bound else None
    return Bfloat16(network) if cell.precision == "bfloat16" else network, projection


def build_equilibrium(cell: TrainCell, timed: Timed = untimed) -> tuple[Equilibrium, Projection | None]:
    """The model of a cell with random weights, and what keeps its network within its Lipschitz bound."""
    torch.manual_seed(cell.seed)
    # A feed-forward network sees two pictures, the measurement and its direct inverse.
    network, projection = build_network(cell) if cell.iterates else build_network(cell, inputs=6)
    map = build(cell.model, build(cell.physics, cell.data.image_size), network)
    if not cell.backprop.finds_fixed_point:
        map.requires_grad_()  # Of a fixed number of steps also their size matters.
    model = Equilibrium(
        map, build(cell.solver), build(cell.backprop), timed, _continuing(cell), cell.jacobian_penalty, cell.compile
    )
    return model, projection


def _continuing(cell: TrainCell) -> Solver | None:
    """What goes on with the states of the pool: plain steps, unless the backprop method needs the solver's own."""
    if cell.active_pool is None:
        return None
    steps, relaxation = cell.active_pool.max_steps, cell.active_pool.relaxation
    if relaxation is None or cell.backprop.forward_solvers:
        solver: Solver = build(cell.solver.model_copy(update={"max_steps": steps}))
        return solver
    return Picard(tol=None, max_steps=steps, relaxation=relaxation)
