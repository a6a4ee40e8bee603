"""Searches the fixed points of a trained map, and of the same map before training, by Newton's method in float64."""

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch

from harness.config.cells import TrainCell
from harness.config.errors import ConfigError
from harness.data.batches import Loader
from harness.data.dataset import load
from harness.implicit.solvers import Status
from harness.measure.gradient_fidelity import FORWARD, GIVEN, NEAR
from harness.models.build_model import build_equilibrium
from harness.models.equilibrium import Equilibrium
from harness.physics.base import observe
from harness.records.cell_folder import CellFolder
from harness.run.load_model import denoiser_weights, trained_model

CONTINUED = replace(FORWARD, first=GIVEN)
"""Newton's method from where Anderson's, which is its first part otherwise, has ended."""


@dataclass(frozen=True)
class Search:
    """The search at one validation picture."""

    residual: float
    """Relative residual where Newton's method ended."""
    converged: bool
    """Whether that is within the tolerance, `harness.measure.gradient_fidelity.FORWARD.tol`."""
    converged_alone: bool
    """Whether Anderson's method, from which Newton's continues, was enough."""
    evaluations: int
    """Evaluations of T and products with its Jacobian."""
    seconds: float


def search(folder: CellFolder, trained: bool, pictures: int, trusted: Collection[str] = ()) -> Iterator[Search]:
    """Search at the first `pictures` validation pictures, one by one.

    `trusted` are the packages whose classes the cell may name.

    Raises:
        ConfigError: the cell trains no map, names a class of another package, or its weights or pictures are missing.
    """
    cell, model = _model(folder, trained, trusted)
    try:
        dataset = load(cell.data, folder.decoded_data)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    loader = Loader(dataset, cell.physics.value_range, torch.device("cpu"), torch.float64)
    map = model.map.double()
    for index in list(dataset.validation)[:pictures]:
        batch = loader.held_out_batch([index])
        d = observe(map.physics, batch.images, batch.noise)
        step, start = partial(map, d=d), map.initial(d).detach()
        before = time.perf_counter()
        with torch.no_grad():
            alone = NEAR(step, start)
        found = CONTINUED(step, alone.value)
        seconds = time.perf_counter() - before
        yield Search(
            residual=found.residual.item(),
            converged=bool(found.status.item() == Status.CONVERGED),
            converged_alone=bool(alone.status.item() == Status.CONVERGED),
            evaluations=int(alone.nfe.item() + found.nfe.item()),
            seconds=seconds,
        )


def _model(folder: CellFolder, trained: bool, trusted: Collection[str]) -> tuple[TrainCell, Equilibrium]:
    cell, model = trained_model(folder.path, trusted)
    if not cell.iterates:
        raise ConfigError(f"CELL: {folder.path} trains a feed-forward network, which has no fixed point")
    if trained:
        return cell, model
    assert cell.needs is not None
    model = build_equilibrium(cell)[0]
    try:
        model.map.network.load_state_dict(denoiser_weights(folder, cell.needs))
    except ValueError as error:
        raise ConfigError(f"CELL: {error}") from None
    return cell, model
