"""Builds the model that a cell describes."""

import torch
from torch import nn

from harness.config.build import build
from harness.config.cells import BaselineCell, PretrainCell, TrainCell
from harness.implicit.backprop import Timed, untimed
from harness.implicit.solvers import Picard, Solver
from harness.models.equilibrium import Equilibrium
from harness.models.lipschitz import Projection, SpectralProjection
from harness.models.precision import Bfloat16


def build_network(cell: PretrainCell | TrainCell | BaselineCell, **more: int) -> tuple[nn.Module, Projection | None]:
    """A cell's network with random weights, and the projection onto its Lipschitz bound if it has one."""
    assert cell.network is not None
    network: nn.Module = build(cell.network, **more)
    bound = cell.network.lipschitz
    projection: Projection | None = None
    if cell.network.contractive:
        projection = SpectralProjection(network, bound or 1.0)
    elif bound:
        projection = Projection(network, bound, cell.data.image_size)
    return Bfloat16(network) if cell.precision == "bfloat16" else network, projection


def build_equilibrium(cell: TrainCell, timed: Timed = untimed) -> tuple[Equilibrium, Projection | None]:
    """A cell's model with random weights, and the projection onto its network's Lipschitz bound if it has one."""
    torch.manual_seed(cell.seed)
    # A feed-forward network receives two pictures, the measurement and its regularized inverse.
    network, projection = build_network(cell) if cell.iterates else build_network(cell, inputs=6)
    map = build(cell.model, build(cell.physics, cell.data.image_size), network)
    if not cell.backprop.finds_fixed_point:
        map.requires_grad_()  # With a fixed number of steps, the step size affects the result.
    model = Equilibrium(
        map,
        build(cell.solver),
        build(cell.backprop),
        timed,
        _continuing_solver(cell),
        _evaluating(cell),
        cell.jacobian_penalty,
        cell.compile,
    )
    return model, projection


def _continuing_solver(cell: TrainCell) -> Solver | None:
    """The solver that continues from the pool's states: plain steps, unless the backprop method needs the cell's."""
    if cell.active_pool is None:
        return None
    steps, relaxation = cell.active_pool.max_steps, cell.active_pool.relaxation
    if relaxation is None or cell.backprop.forward_solvers:
        solver: Solver = build(cell.solver.model_copy(update={"max_steps": steps}))
        return solver
    return Picard(tol=None, max_steps=steps, relaxation=relaxation)


def _evaluating(cell: TrainCell) -> Solver | None:
    """The solver used for scoring; None means the training solver."""
    if cell.evaluation is None:
        return None
    limits = {"tol": cell.evaluation.tol, "max_steps": cell.evaluation.max_steps}
    solver: Solver = build(cell.solver.model_copy(update=limits))
    return solver
