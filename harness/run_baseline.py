"""Runs a cell without training: tune the free parameters on validation pictures, then score the test pictures."""

import statistics
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from harness.baselines import Baseline, tune
from harness.build import build
from harness.config import BaselineCell
from harness.data import Batch
from harness.evaluate import evaluate
from harness.folder import State
from harness.model import Output
from harness.physics import measure
from harness.record import Search
from harness.session import EVALUATION_BATCH, Session
from harness.solvers import Solution, Status
from harness.tasks import DTYPES
from harness.trained import denoiser_weights

SEARCH_PICTURES = 32
"""Validation pictures that the search looks at."""


def run_baseline(session: Session, cell: BaselineCell) -> State:
    """Tune, record the searches, score."""
    physics = build(cell.physics, cell.data.image_size).to(session.device, DTYPES[cell.precision])
    baseline = _baseline(session, cell)

    def reconstruct(batch: Batch, values: Sequence[float]) -> Output:
        return _output(baseline(physics, measure(physics, batch.images, batch.noise), *values))

    def validation_psnr(values: Sequence[float]) -> float:
        pictures = list(session.loader.dataset.validation)[:SEARCH_PICTURES]
        scores = evaluate(lambda batch: reconstruct(batch, values), session.loader, pictures, EVALUATION_BATCH)
        return statistics.fmean(scores.psnr)

    session.start(0)
    session.report(message="tuning")
    found = tune(validation_psnr, baseline.parameters)
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
    session.evaluate(lambda batch: reconstruct(batch, chosen), "validation", 0)
    session.evaluate(lambda batch: reconstruct(batch, chosen), "test", 0, keep=cell.operations.reconstructions)
    return "finished"


def _baseline(session: Session, cell: BaselineCell) -> Baseline:
    """The method, with the pretrained network where it needs one."""
    if cell.network is None or cell.needs is None:
        baseline: Baseline = build(cell.baseline)
        return baseline
    network = build(cell.network)
    network.load_state_dict(denoiser_weights(session.folder, cell.needs))
    plugged: Baseline = build(cell.baseline, network.to(session.device, DTYPES[cell.precision]))
    return plugged


def _output(image: Tensor) -> Output:
    """A reconstruction that no fixed-point solve made."""
    zero = torch.zeros(len(image), dtype=image.dtype, device=image.device)
    return Output(image, image, Solution(image, zero, zero.long(), zero.long() + Status.CONVERGED), [])
