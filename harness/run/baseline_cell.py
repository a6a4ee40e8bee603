"""Runs a baseline cell: tunes the free parameters on validation pictures, then scores the test pictures."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from harness.config.build import build
from harness.config.cells import BaselineCell
from harness.data.batches import Batch
from harness.implicit.solvers import Solution, Status
from harness.measure.scores import evaluate
from harness.models.baselines import Baseline, tune
from harness.models.build_model import build_network
from harness.models.equilibrium import Output
from harness.models.precision import DTYPES
from harness.physics.base import Physics, observe
from harness.records.cell_folder import CellFolder, State
from harness.records.events import Search
from harness.run.attempt import EVALUATION_BATCH, Attempt
from harness.run.load_model import denoiser_weights

SEARCH_PICTURES = 32
"""Number of validation pictures used in the search."""


def run_baseline(attempt: Attempt, cell: BaselineCell) -> State:
    """Tune the baseline, record the searches, and score the validation and test pictures."""
    reconstruct = plain_reconstruct(attempt.folder, cell, attempt.device)

    def validation_psnr(values: Sequence[float]) -> float:
        pictures = list(attempt.loader.dataset.validation)[:SEARCH_PICTURES]
        scores = evaluate(partial(reconstruct, values=values), attempt.loader, pictures, EVALUATION_BATCH)
        return statistics.fmean(scores.scores["psnr"])

    attempt.start(0)
    attempt.report(message="tuning")
    found = tune(validation_psnr, reconstruct.baseline.parameters)
    for tuned in found:
        attempt.write(
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
    attempt.evaluate(partial(reconstruct, values=chosen), "validation", 0)
    attempt.evaluate(partial(reconstruct, values=chosen), "test", 0, keep=cell.operations.reconstructions)
    return "finished"


@dataclass(frozen=True)
class PlainReconstruct:
    """Reconstructs batches by a baseline."""

    physics: Physics
    baseline: Baseline

    def __call__(self, batch: Batch, values: Sequence[float]) -> Output:
        """Simulate the batch's measurements and reconstruct them with the parameters set to `values`."""
        return _output(self.baseline(self.physics, observe(self.physics, batch.images, batch.noise), *values))


def plain_reconstruct(folder: CellFolder, cell: BaselineCell, device: torch.device) -> PlainReconstruct:
    """The baseline of a cell, with the pretrained network if it needs one."""
    dtype = DTYPES[cell.precision]
    physics = build(cell.physics, cell.data.image_size).to(device, dtype)
    if cell.network is None or cell.needs is None:
        return PlainReconstruct(physics, build(cell.baseline))
    network, _ = build_network(cell)
    network.load_state_dict(denoiser_weights(folder, cell.needs))
    return PlainReconstruct(physics, build(cell.baseline, network.to(device, dtype)))


def _output(image: Tensor) -> Output:
    """Wrap a reconstruction that did not come from a fixed-point solve."""
    zero = torch.zeros(len(image), dtype=image.dtype, device=image.device)
    return Output(image, image, Solution(image, zero, zero.long(), zero.long() + Status.CONVERGED), [])
