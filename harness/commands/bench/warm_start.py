"""Measures what warm starts save: the same short training from one pretrained denoiser, without and with pools."""

import copy
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from harness.commands.bench.observation import Spread, spread
from harness.config.catalog.data import Pictures
from harness.config.catalog.maps import DeHqs
from harness.config.catalog.networks import DnCNN
from harness.config.catalog.optimization import Adam
from harness.config.catalog.solvers import Anderson
from harness.config.cells import PretrainCell, TrainCell
from harness.config.settings import Pool, Pretraining
from harness.data.batches import Batch, Loader
from harness.data.dataset import load
from harness.measure.clock import Clock
from harness.measure.scores import evaluate
from harness.models.precision import DTYPES
from harness.training.loop import LocalStep, train
from harness.training.task import Task, pretrain_task, train_task

CPU = torch.device("cpu")
BATCH = 16
"""Number of test pictures reconstructed at once."""
AFRESH = "afresh"
WARM = "pool of 64, 3 visits"
"""The row that the claim is about. The default pool saves more but trains on fewer samples: it visits each 12 times."""
WAYS = {
    AFRESH: None,
    "default pool": Pool(),
    WARM: Pool(size=64, refresh_every=3),
    "pool, solved to the end": Pool(max_steps=50, relaxation=None),
}
"""The last one continues with the cell's solver from a sample's previous fixed point until it reaches the new one."""


@dataclass(frozen=True)
class Length:
    """The length of the training."""

    pretraining: int = 300
    steps: int = 240
    seeds: int = 5
    test_images: int = 24


@dataclass(frozen=True)
class WarmStart:
    """One way to start the solves of a training; lists have one entry per seed."""

    name: str
    evaluations: list[float]
    """Evaluations of T without a graph, per sample and gradient, including first visits."""
    psnr: list[float]
    """Mean standard PSNR of the test pictures after training, solved without a warm start."""
    gain: list[float]
    """Improvement of this PSNR over the map before training, in dB."""


def warm_starts(length: Length, cache: Path) -> list[WarmStart]:
    """Train on scikit-image's photographs by JFB and Anderson to 1e-4, equally long with each start in WAYS."""
    cell = TrainCell(
        data=Pictures(image_size=32, test_images=length.test_images),
        model=DeHqs(),
        network=DnCNN(depth=4, width=16),
        solver=Anderson(tol=1e-4, max_steps=50),
        optimizer=Adam(lr=2e-4),
        pretraining=Pretraining(steps=length.pretraining),
        steps=length.steps,
        pool=None,
    )
    loader = Loader(load(cell.data, cache), cell.physics.value_range, CPU, DTYPES[cell.precision])
    assert cell.needs is not None
    denoiser = _pretrained(cell.needs, loader)
    return [
        _trained(name, cell.model_copy(update={"pool": pool}), denoiser, loader, length) for name, pool in WAYS.items()
    ]


def _pretrained(cell: PretrainCell, loader: Loader) -> dict[str, Tensor]:
    task = pretrain_task(cell, len(loader.dataset.train), slice(0, cell.global_batch_size), CPU)
    list(_steps(task, loader, cell.seed))
    return {name.removeprefix("network."): tensor for name, tensor in task.model.state_dict().items()}


def _trained(name: str, cell: TrainCell, denoiser: dict[str, Tensor], loader: Loader, length: Length) -> WarmStart:
    evaluations, before, after = [], [], []
    for seed in range(length.seeds):
        seeded = cell.model_copy(update={"seed": seed})
        whole = slice(0, cell.global_batch_size)
        task = train_task(seeded, copy.deepcopy(denoiser), len(loader.dataset.train), whole, CPU, Clock(CPU))
        before.append(_psnr(task, loader))
        nfe = [float(step.output.forward.nfe.double().mean()) for step in _steps(task, loader, seed)]
        evaluations.append(statistics.fmean(nfe))
        after.append(_psnr(task, loader))
    return WarmStart(name, evaluations, after, [b - a for a, b in zip(before, after, strict=True)])


def _steps(task: Task, loader: Loader, seed: int) -> Iterator[LocalStep]:
    def batch(step: int) -> Batch:
        return loader.batch(task.sample_order.samples(step), seed)

    return train(task, task.model, batch, Clock(CPU), range(task.steps))


def _psnr(task: Task, loader: Loader) -> float:
    return statistics.fmean(evaluate(task.reconstruct, loader, list(loader.dataset.test), BATCH).scores["psnr"])


def saved(rows: Sequence[WarmStart], row: WarmStart) -> Spread:
    """Share of the evaluations without a warm start that `row` saves, over the seeds."""
    (afresh,) = [other for other in rows if other.name == AFRESH]
    return spread([1 - b / a for a, b in zip(afresh.evaluations, row.evaluations, strict=True)])
