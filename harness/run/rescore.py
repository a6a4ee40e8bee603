"""Further measurements of a finished cell: more test pictures, and iteration far beyond the training depth."""

import time
from collections.abc import Collection
from dataclasses import asdict
from functools import partial

import torch

from harness.config.cells import BaselineCell, PretrainCell, TimingCell, TrainCell
from harness.config.errors import ConfigError
from harness.config.trust import require_trust
from harness.data.batches import Batch, Loader
from harness.data.dataset import load
from harness.implicit.contraction import iterate
from harness.measure.scores import CATALOG, Reconstruct, evaluate, psnr
from harness.models.equilibrium import Equilibrium, Output
from harness.models.precision import DTYPES
from harness.physics.base import observe
from harness.records import environment
from harness.records.cell_folder import CellFolder
from harness.records.events import AnyEvent, Evaluation, Longer, Search, Start
from harness.run.attempt import EVALUATION_BATCH
from harness.run.baseline_cell import plain_reconstruct
from harness.run.load_model import trained_model

FACTOR = 10
"""Multiple of the training depth to which a trained map is iterated."""
CPU = torch.device("cpu")


def measure_again(folder: CellFolder, pictures: int, longer: int, trusted: Collection[str] = ()) -> list[AnyEvent]:
    """Score the first `pictures` test pictures, and iterate a trained map longer on the first `longer` of them.

    The result is empty if both were done before, on at least as many pictures. `trusted` are the packages whose
    classes the cell may name.

    Raises:
        ConfigError: the cell reconstructs nothing, names a class of another package, or its weights or pictures are
            missing.
    """
    cell = folder.cell()
    require_trust(cell, trusted)
    if isinstance(cell, PretrainCell | TimingCell):
        does = "pretrains a denoiser" if isinstance(cell, PretrainCell) else "times methods"
        raise ConfigError(f"CELL: {folder.path} reconstructs nothing; it {does}")
    data = cell.data.model_copy(update={"test_images": pictures})
    try:
        dataset = load(data, folder.decoded_data)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    is_iterated = isinstance(cell, TrainCell) and cell.iterates and longer > 0
    if _is_measured(folder, len(dataset.test), longer if is_iterated else 0):
        return []
    loader = Loader(dataset, cell.physics.value_range, CPU, DTYPES[cell.precision])
    surroundings = {**environment.describe(), "device": str(CPU)}
    events: list[AnyEvent] = [Start(time=time.time(), resumed_from=0, environment=surroundings)]
    if isinstance(cell, BaselineCell):
        try:
            reconstruct = plain_reconstruct(folder, cell, CPU)
        except ValueError as error:  # its denoiser is missing
            raise ConfigError(f"CELL: {error}") from None
        chosen = [event.chosen for event in folder.events() if isinstance(event, Search)]
        events.append(_evaluation(cell, partial(reconstruct, values=chosen), loader))
        return events
    _, model = trained_model(folder.path, trusted)
    events.append(_evaluation(cell, partial(_reconstruct, model), loader))
    if is_iterated:
        events.append(_longer(cell, model, loader, longer))
    return events


def _is_measured(folder: CellFolder, pictures: int, longer: int) -> bool:
    """Whether both were done on at least as many pictures, of which the first are always the same."""
    before = folder.scores()
    scored = max((len(event.indices) for event in before if isinstance(event, Evaluation)), default=0)
    iterated = max((len(event.indices) for event in before if isinstance(event, Longer)), default=0)
    return scored >= pictures and iterated >= min(longer, pictures)


def _reconstruct(model: Equilibrium, batch: Batch) -> Output:
    return model.reconstruct(observe(model.map.physics, batch.images, batch.noise))


def _evaluation(cell: BaselineCell | TrainCell, reconstruct: Reconstruct, loader: Loader) -> Evaluation:
    metrics = (*CATALOG, *cell.operations.metrics)
    step = cell.steps if isinstance(cell, TrainCell) else 0
    scores = evaluate(reconstruct, loader, list(loader.dataset.test), EVALUATION_BATCH, metrics)
    return Evaluation.model_validate({"time": time.time(), "step": step, "split": "full", **asdict(scores)})


def _longer(cell: TrainCell, model: Equilibrium, loader: Loader, pictures: int) -> Longer:
    """Iterate the map plainly, to the training depth and far beyond it."""
    map, counts = model.map, [cell.depth, FACTOR * cell.depth]
    indices = list(loader.dataset.test)[:pictures]
    psnr_at: dict[int, list[float]] = {n: [] for n in counts}
    residual_at: dict[int, list[float]] = {n: [] for n in counts}
    for index in indices:
        batch = loader.held_out_batch([index])
        d = observe(map.physics, batch.images, batch.noise)
        for n, (state, left) in iterate(partial(map, d=d), map.initial(d).detach(), counts).items():
            image = map.output(state, d).detach()
            psnr_at[n].append(psnr(image[0], batch.images[0], loader.value_range))
            residual_at[n].append(left.item())
    return Longer(time=time.time(), step=cell.steps, indices=indices, psnr_at=psnr_at, residual_at=residual_at)
