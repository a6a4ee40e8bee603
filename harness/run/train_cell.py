"""Runs a training cell: resumes, trains, evaluates, checkpoints; finally scores the test pictures and probes cost."""

import time
from collections import ChainMap
from collections.abc import Iterator
from itertools import chain

from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from harness.config.cells import PretrainCell, TrainCell
from harness.data.batches import Batch
from harness.implicit.solvers import Solution, Status
from harness.measure.clock import Clock
from harness.measure.probe import probe
from harness.measure.step_time import with_waiting
from harness.records.cell_folder import State
from harness.records.events import Checkpoint, Cost, Exposure, Probe, Step
from harness.run import checkpoint
from harness.run.attempt import Attempt
from harness.run.diagnostics import record_diagnostics
from harness.run.distributed import data_parallel, gather, gather_values
from harness.run.load_model import denoiser_weights
from harness.training.loop import LocalStep, train
from harness.training.sample_order import exposure
from harness.training.task import Task, order_of, pretrain_task, train_task


def run_training(attempt: Attempt, cell: PretrainCell | TrainCell) -> State:
    """Train, score and profile one model; return early after a checkpoint if the ranks agree to stop."""
    clock = Clock(attempt.device)
    task = _task(attempt, cell, clock)
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

    for step, stopping in _combined_steps(attempt, train(task, model, load, clock, range(first, task.steps))):
        done = step.step == task.steps
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


def _task(attempt: Attempt, cell: PretrainCell | TrainCell, clock: Clock) -> Task:
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


def _combined_steps(attempt: Attempt, steps: Iterator[LocalStep]) -> Iterator[tuple[Step, bool]]:
    """Yield each step's results combined over all ranks, and whether any rank was asked to stop.

    This costs one small gather per step, after the step's own synchronization.
    """
    for local in steps:
        numbers, names = _rank_numbers(local)
        everyone = gather([float(bool(attempt.stop())), *numbers.values(), *local.seconds.values()], attempt.device)
        stopping = any(row[0] for row in everyone)
        columns = list(zip(*everyone, strict=True))[1:]
        ranks = dict(zip([*numbers, *local.seconds], columns, strict=True))
        diverged = gather_values(names, attempt.device) if any(ranks.pop("diverged")) else [[]]
        busiest = ranks.pop("busiest")
        yield (
            Step(
                time=time.time(),
                step=local.step,
                loss=_mean(ranks["loss"]),
                penalty=_mean(ranks["penalty"]),
                learning_rate=local.learning_rate,
                gradient_norm=local.gradient_norm,
                nfe=_mean(ranks["nfe"]),
                nfe_imbalance=max(busiest) / _mean(busiest),
                residual=max(ranks["residual"]),
                diverged=sorted(chain(*diverged)),
                adjoint_nfe=_mean(ranks["adjoint_nfe"]),
                adjoint_residual=max(ranks["adjoint_residual"]),
                unconverged=_mean(ranks["unconverged"]),
                adjoint_unconverged=_mean(ranks["adjoint_unconverged"]) if min(ranks["has_tolerance"]) else None,
                seconds=with_waiting({phase: ranks[phase] for phase in local.seconds}),
                updated=local.updated,
            ),
            stopping,
        )


def _rank_numbers(local: LocalStep) -> tuple[dict[str, float], list[int]]:
    """One rank's numbers for a step, and the indices of its diverged pictures."""
    forward, adjoint = local.output.forward, local.output.adjoint
    failed = forward.status == Status.DIVERGED
    for solution in adjoint:
        failed = failed | (solution.status == Status.DIVERGED)
    names = [index for index, bad in zip(local.batch.indices, failed.tolist(), strict=True) if bad]
    numbers = {
        "loss": local.loss,
        "penalty": local.penalty,
        "nfe": float(forward.nfe.double().mean()),
        "busiest": float(forward.nfe.max() + sum(solution.nfe.max() for solution in adjoint)),
        "residual": float(forward.residual.max()),
        "adjoint_nfe": sum(float(solution.nfe.double().mean()) for solution in adjoint),
        "adjoint_residual": max((float(solution.residual.max()) for solution in adjoint), default=0.0),
        "unconverged": _share(forward),
        "adjoint_unconverged": max((_share(solution) for solution in adjoint), default=0.0),
        "has_tolerance": float(any(bool((solution.status != Status.FIXED_STEPS).any()) for solution in adjoint)),
        "diverged": float(len(names)),
    }
    return numbers, names


def _share(solution: Solution) -> float:
    """The share of samples that ended at the largest number of steps."""
    return float((solution.status == Status.MAX_STEPS).double().mean())


def _resume(attempt: Attempt, task: Task) -> int:
    """Load the newest checkpoint into the task, and return the number of steps completed."""
    loaded = checkpoint.load_newest(attempt.folder.checkpoints, attempt.device)
    if loaded is None:
        return 0
    step, state = loaded
    task.model.load_state_dict(state["model"])
    task.optimizer.load_state_dict(state["optimizer"])
    task.schedule.load_state_dict(state["schedule"])
    task.sample_order.load(state["states"])
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


def _mean(values: tuple[float, ...]) -> float:
    return sum(values) / len(values)


def _record_exposure(attempt: Attempt, cell: TrainCell) -> None:
    """What all ranks together saw follows from the order of samples alone, resumed trainings included."""
    order = order_of(cell, len(attempt.loader.dataset.train), slice(0, cell.global_batch_size))
    pictures, draws = exposure(order, cell.steps)
    attempt.write(Exposure(time=time.time(), step=cell.steps, distinct_pictures=pictures, noise_draws=draws))
