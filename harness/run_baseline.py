"""Runs a cell without training: tune the free parameters on validation pictures, then score the test pictures."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from harness.baselines import Baseline, tune
from harness.build import build
from harness.config import BaselineCell
from harness.data import Batch
from harness.evaluate import evaluate
from harness.folder import CellFolder, State
from harness.model import Output
from harness.physics import Physics, measure
from harness.precision import DTYPES
from harness.record import Search
from harness.session import EVALUATION_BATCH, Session
from harness.solvers import Solution, Status
from harness.tasks import build_network
from harness.trained import denoiser_weights

SEARCH_PICTURES = 32
"""Validation pictures that the search looks at."""


def run_baseline(session: Session, cell: BaselineCell) -> State:
    """Tune, record the searches, score."""
    reconstruct = plain_reconstruct(session.folder, cell, session.device)

    def validation_psnr(values: Sequence[float]) -> float:
        pictures = list(session.loader.dataset.validation)[:SEARCH_PICTURES]
        scores = evaluate(partial(reconstruct, values=values), session.loader, pictures, EVALUATION_BATCH)
        return statistics.fmean(scores.psnr)

    session.start(0)
    session.report(message="tuning")
    found = tune(validation_psnr, reconstruct.baseline.parameters)
    for tuned in found:
        session.write(
            Search(
                time=time.time(),
                parameter=tuned.name,
                candidates=tuned.candidates,
                psnr=tuned.scores,
                chosen=tuned.chosen,
                interior=tuned.interior,
            )
        )
    chosen = [tuned.chosen for tuned in found]
    session.evaluate(partial(reconstruct, values=chosen), "validation", 0)
    session.evaluate(partial(reconstruct, values=chosen), "test", 0, keep=cell.operations.reconstructions)
    return "finished"


@dataclass(frozen=True)
class PlainReconstruct:
    """A batch to its reconstructions, with the method's parameters at `values`."""

    physics: Physics
    baseline: Baseline

    def __call__(self, batch: Batch, values: Sequence[float]) -> Output:
        """Measure and reconstruct."""
        return _output(self.baseline(self.physics, measure(self.physics, batch.images, batch.noise), *values))


def plain_reconstruct(folder: CellFolder, cell: BaselineCell, device: torch.device) -> PlainReconstruct:
    """The method of a cell, with the pretrained network where it needs one."""
    dtype = DTYPES[cell.precision]
    physics = build(cell.physics, cell.data.image_size).to(device, dtype)
    if cell.network is None or cell.needs is None:
        return PlainReconstruct(physics, build(cell.baseline))
    network, _ = build_network(cell)
    network.load_state_dict(denoiser_weights(folder, cell.needs))
    return PlainReconstruct(physics, build(cell.baseline, network.to(device, dtype)))


def _output(image: Tensor) -> Output:
    """A reconstruction that no fixed-point solve made."""
    zero = torch.zeros(len(image), dtype=image.dtype, device=image.device)
    return Output(image, image, Solution(image, zero, zero.long(), zero.long() + Status.CONVERGED), [])
