"""Runs a cell without training: tune the one free parameter on validation pictures, then score the test pictures."""

import statistics
import time

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
from harness.precision import DTYPES
from harness.record import Search
from harness.session import EVALUATION_BATCH, Session
from harness.solvers import Solution, Status

SEARCH_PICTURES = 32
"""Validation pictures that the search looks at."""


def run_baseline(session: Session, cell: BaselineCell) -> State:
    """Tune, record the search, score."""
    physics = build(cell.physics, cell.data.image_size).to(session.device, DTYPES[cell.precision])
    baseline: Baseline = build(cell.baseline)

    def reconstruct(batch: Batch, value: float) -> Output:
        return _output(baseline(physics, measure(physics, batch.images, batch.noise), value))

    def validation_psnr(value: float) -> float:
        pictures = list(session.loader.dataset.validation)[:SEARCH_PICTURES]
        scores = evaluate(lambda batch: reconstruct(batch, value), session.loader, pictures, EVALUATION_BATCH)
        return statistics.fmean(scores.psnr)

    session.start(0)
    chosen = baseline.start
    if baseline.parameter:
        session.report(message=f"tuning {baseline.parameter}")
        tuned = tune(validation_psnr, baseline.start, baseline.ratio)
        chosen = tuned.chosen
        session.write(
            Search(
                time=time.time(),
                parameter=baseline.parameter,
                candidates=tuned.candidates,
                psnr=tuned.scores,
                chosen=chosen,
                interior=tuned.interior,
            )
        )
    session.evaluate(lambda batch: reconstruct(batch, chosen), "validation", 0)
    session.evaluate(lambda batch: reconstruct(batch, chosen), "test", 0, keep=cell.operations.reconstructions)
    return "finished"


def _output(image: Tensor) -> Output:
    """A reconstruction that no fixed-point solve made."""
    zero = torch.zeros(len(image), dtype=image.dtype, device=image.device)
    return Output(image, image, Solution(image, zero, zero.long(), zero.long() + Status.CONVERGED), [])
