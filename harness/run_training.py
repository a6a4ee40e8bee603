"""Runs a cell that trains: resume, train, evaluate, checkpoint, and at the end probe and score the test pictures."""

import time
from collections import ChainMap
from collections.abc import Iterator
from dataclasses import fields
from itertools import chain

from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from harness import checkpoint
from harness.clock import Clock
from harness.config import PretrainCell, TrainCell
from harness.data import Batch
from harness.distributed import data_parallel, gather, gather_objects
from harness.folder import State
from harness.measure import measure
from harness.probe import Cost, probe
from harness.record import Checkpoint, Probe, Step
from harness.session import Session
from harness.solvers import Status
from harness.tasks import Task, pretrain_task, train_task
from harness.train import LocalStep, train
from harness.trained import denoiser_weights


def run_training(session: Session, cell: PretrainCell | TrainCell) -> State:
    """Train, profile and score one model; returns early after a checkpoint when the ranks agree to stop."""
    clock = Clock(session.device)
    task = _task(session, cell, clock)
    first = _resume(session, task)
    session.start(first)
    session.report(step=first, first_step=first, steps=task.steps, started=time.time(), message="")
    model = data_parallel(task.model, clock)
    if first == 0:
        session.evaluate(task.reconstruct, "validation", 0)
        if isinstance(cell, TrainCell):
            session.evaluate(task.reconstruct, "test", 0)
            measure(session, cell, task, 0)

    def load(step: int) -> Batch:
        return session.loader.batch(task.order.samples(step), cell.seed)

    for step, stopping in _agree(session, train(task, model, load, clock, range(first, task.steps))):
        done = step.step == task.steps
        session.write(step)
        session.report(step=step.step)
        if done or step.step % task.evaluate_every == 0:
            session.evaluate(task.reconstruct, "validation", step.step)
        if isinstance(cell, TrainCell):
            measure(session, cell, task, step.step)
        if done or stopping or step.step % cell.operations.checkpoint_every == 0:
            _save(session, task, step.step, cell.operations.keep_checkpoints)
        if stopping and not done:
            return "interrupted"
    if isinstance(cell, TrainCell):
        if session.place.rank == 0:
            checkpoint.save(session.folder.weights, task.steps, {"model": task.model.state_dict()}, keep=0)
        session.report(message="evaluating")
        session.evaluate(task.reconstruct, "test", task.steps, keep=cell.operations.reconstructions)
        _probe(session, task, model, load(0))
    return "finished"


def _task(session: Session, cell: PretrainCell | TrainCell, clock: Clock) -> Task:
    train_count = len(session.loader.dataset.train)
    if cell.global_batch_size > train_count:
        raise ValueError(
            f"global_batch_size: at most {train_count}, the training pictures (got {cell.global_batch_size})"
        )
    size = cell.global_batch_size // session.place.world_size
    share = slice(session.place.rank * size, (session.place.rank + 1) * size)
    if isinstance(cell, PretrainCell):
        return pretrain_task(cell, train_count, share, session.device)
    denoiser = denoiser_weights(session.folder, cell.needs) if cell.needs else None
    return train_task(cell, denoiser, train_count, share, session.device, clock)


def _agree(session: Session, steps: Iterator[LocalStep]) -> Iterator[tuple[Step, bool]]:
    """What all ranks together saw of each step, and whether any of them was asked to stop.

    One small gather a step, after the step's own synchronisation.
    """
    for local in steps:
        numbers, names = _numbers(local)
        everyone = gather([float(bool(session.stop())), *numbers.values(), *local.seconds.values()], session.device)
        stopping = any(row[0] for row in everyone)
        columns = list(zip(*everyone, strict=True))[1:]
        ranks = dict(zip([*numbers, *local.seconds], columns, strict=True))
        diverged = gather_objects(names) if any(ranks.pop("diverged")) else [[]]
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
                seconds={phase: max(ranks[phase]) for phase in local.seconds},
                updated=local.updated,
            ),
            stopping,
        )


def _numbers(local: LocalStep) -> tuple[dict[str, float], list[int]]:
    """One rank's figures of a step, and the indices of its diverged pictures."""
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
        "diverged": float(len(names)),
    }
    return numbers, names


def _resume(session: Session, task: Task) -> int:
    """Load the newest checkpoint into the task; the number of steps it has done."""
    loaded = checkpoint.load_newest(session.folder.checkpoints, session.device)
    if loaded is None:
        return 0
    step, state = loaded
    task.model.load_state_dict(state["model"])
    task.optimizer.load_state_dict(state["optimizer"])
    task.schedule.load_state_dict(state["schedule"])
    task.order.load(state["states"])
    return step


def _save(session: Session, task: Task, step: int, keep: int) -> None:
    states = gather_objects({slot: state.cpu() for slot, state in task.order.states().items()})
    if session.place.rank == 0:
        state = {
            "model": task.model.state_dict(),
            "optimizer": task.optimizer.state_dict(),
            "schedule": task.schedule.state_dict(),
            "states": dict(ChainMap(*states)),
        }
        session.secure()
        checkpoint.save(session.folder.checkpoints, step, state, keep)
        session.write(Checkpoint(time=time.time(), step=step))


def _probe(session: Session, task: Task, model: DistributedDataParallel, batch: Batch) -> None:
    d, draws = task.measure(batch), task.order.draws(0).to(session.device)

    def loss() -> Tensor:
        output = model(d, None, draws)
        return task.loss(output.image, batch.images) + output.penalty

    cost = probe(model, loss, session.device)
    names = [field.name for field in fields(Cost)]
    everyone = gather([float(getattr(cost, name)) for name in names], session.device)
    worst = dict(zip(names, (max(column) for column in zip(*everyone, strict=True)), strict=True))
    session.write(Probe(time=time.time(), step=task.steps, **worst))


def _mean(values: tuple[float, ...]) -> float:
    return sum(values) / len(values)
