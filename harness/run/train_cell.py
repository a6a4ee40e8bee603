"""Runs a training cell: resumes, trains, evaluates, checkpoints; finally scores the test pictures and probes cost."""

import time
from collections import ChainMap

from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from harness.config.cells import PretrainCell, TrainCell
from harness.data.batches import Batch
from harness.measure.clock import Clock
from harness.measure.probe import probe
from harness.records.cell_folder import State
from harness.records.events import Checkpoint, Cost, Exposure, Probe
from harness.run import checkpoint
from harness.run.attempt import Attempt
from harness.run.combined_steps import combined_steps
from harness.run.diagnostics import record_diagnostics
from harness.run.distributed import data_parallel, gather, gather_values, wait_less
from harness.run.load_model import denoiser_weights
from harness.training.loop import train
from harness.training.sample_order import exposure
from harness.training.task import Task, order_of, pretrain_task, train_task


def run_training(attempt: Attempt, cell: PretrainCell | TrainCell) -> State:
    """Train, score and profile one model; return early after a checkpoint if the ranks agree to stop."""
    clock = Clock(attempt.device)
    task = task_of(attempt, cell, clock)
    first = _resume(attempt, task)
    attempt.start(first)
    attempt.report(step=first, first_step=first, steps=task.steps, started=time.time(), message="")
    model = data_parallel(task.model, clock)
    if first == 0:
        attempt.evaluate(task.reconstruct, "validation", 0)
        if isinstance(cell, TrainCell):
            for search in attempt.folder.searches():
                attempt.write(search.model_copy(update={"time": time.time()}))
            attempt.evaluate(task.reconstruct, "test", 0)
            record_diagnostics(attempt, cell, task, 0)

    def load(step: int) -> Batch:
        return attempt.loader.batch(task.sample_order.samples(step), cell.seed)

    for step, stopping in combined_steps(attempt, train(task, model, load, clock, range(first, task.steps))):
        done = step.step == task.steps
        if step.step == first + 1:
            wait_less()
        attempt.write(step)
        attempt.report_step(step)
        if done or step.step % task.evaluate_every == 0:
            attempt.evaluate(task.reconstruct, "validation", step.step)
        if isinstance(cell, TrainCell):
            record_diagnostics(attempt, cell, task, step.step)
        if done or stopping or step.step % cell.operations.checkpoint_every == 0:
            _save(attempt, task, step.step, cell.operations.keep_checkpoints)
        if stopping and not done:
            return "interrupted"
    if isinstance(cell, TrainCell):
        if attempt.position.rank == 0:
            checkpoint.save(attempt.folder.weights, task.steps, {"model": task.model.state_dict()}, keep=0)
        attempt.report(message="evaluating")
        attempt.evaluate(task.reconstruct, "test", task.steps, keep=cell.operations.reconstructions)
        _probe(attempt, task, model, load(0))
        _record_exposure(attempt, cell)
    return "finished"


def task_of(attempt: Attempt, cell: PretrainCell | TrainCell, clock: Clock) -> Task:
    """What a cell trains on this rank.

    Raises:
        ValueError: there are too few training pictures, or the pretraining has not finished.
    """
    train_count = len(attempt.loader.dataset.train)
    if cell.global_batch_size > train_count:
        raise ValueError(
            f"global_batch_size: at most {train_count}, the training pictures (got {cell.global_batch_size})"
        )
    size = cell.global_batch_size // attempt.position.world_size
    share = slice(attempt.position.rank * size, (attempt.position.rank + 1) * size)
    if isinstance(cell, PretrainCell):
        return pretrain_task(cell, train_count, share, attempt.device)
    denoiser = denoiser_weights(attempt.folder, cell.needs) if cell.needs else None
    return train_task(cell, denoiser, train_count, share, attempt.device, clock)


def _resume(attempt: Attempt, task: Task) -> int:
    """Load the newest checkpoint into the task, and return the number of steps completed."""
    loaded = checkpoint.load_newest(attempt.folder.checkpoints)
    if loaded is None:
        return 0
    step, state = loaded
    task.model.load_state_dict(state["model"])
    task.optimizer.load_state_dict(state["optimizer"])
    task.schedule.load_state_dict(state["schedule"])
    task.sample_order.load({slot: kept.to(attempt.device) for slot, kept in state["states"].items()})
    return step


def _save(attempt: Attempt, task: Task, step: int, keep: int) -> None:
    states = gather_values(task.sample_order.states(), attempt.device)
    if attempt.position.rank == 0:
        state = {
            "model": task.model.state_dict(),
            "optimizer": task.optimizer.state_dict(),
            "schedule": task.schedule.state_dict(),
            "states": dict(ChainMap(*states)),
        }
        attempt.secure()
        checkpoint.save(attempt.folder.checkpoints, step, state, keep)
        attempt.write(Checkpoint(time=time.time(), step=step))


def _probe(attempt: Attempt, task: Task, model: DistributedDataParallel, batch: Batch) -> None:
    d, draws = task.observe(batch), task.sample_order.draws(0).to(attempt.device)

    def loss() -> Tensor:
        output = model(d, None, draws)
        return task.loss(output.image, batch.images) + output.penalty

    cost = probe(model, loss, attempt.device)
    names = list(Cost.model_fields)
    everyone = gather([float(getattr(cost, name)) for name in names], attempt.device)
    worst = dict(zip(names, (max(column) for column in zip(*everyone, strict=True)), strict=True))
    attempt.write(Probe(time=time.time(), step=task.steps, **worst))


def _record_exposure(attempt: Attempt, cell: TrainCell) -> None:
    """What all ranks together saw follows from the order of samples alone, resumed trainings included."""
    order = order_of(cell, len(attempt.loader.dataset.train), slice(0, cell.global_batch_size))
    pictures, draws = exposure(order, cell.steps)
    attempt.write(Exposure(time=time.time(), step=cell.steps, distinct_pictures=pictures, noise_draws=draws))
