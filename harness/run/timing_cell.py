"""Runs a timing cell: several methods train side by side and take turns after every step, in a random order.

Whatever slows the machine down for longer than a step then slows all methods down alike. A timing cell has no
checkpoints: an attempt that is interrupted counts for nothing, and the next one starts from the beginning.
"""

import time
from collections.abc import Iterator

import numpy as np

from harness.config.cells import TimingCell, TrainCell
from harness.data.batches import Batch
from harness.measure.clock import Clock
from harness.records.cell_folder import State
from harness.records.events import Round, Step
from harness.run.attempt import Attempt
from harness.run.combined_steps import combined_steps
from harness.run.distributed import data_parallel
from harness.run.train_cell import task_of
from harness.training.loop import train
from harness.training.sample_order import SampleOrder
from harness.training.task import Task

Turns = Iterator[tuple[Step, bool]]
"""The steps of one method, each with whether a rank was asked to stop."""


def run_timing(attempt: Attempt, cell: TimingCell) -> State:
    """Let the methods take turns for all rounds and record the timed ones; return early if a rank has to stop."""
    methods = _start_methods(attempt, cell)
    attempt.start(0)
    attempt.report(step=0, first_step=0, steps=cell.rounds, started=time.time(), message="")
    random = np.random.default_rng(cell.seed)  # the same on all ranks
    for number in range(1, cell.rounds + 1):
        steps: dict[str, Step] = {}
        for name in random.permutation(list(methods)).tolist():
            steps[name], stopping = next(methods[name])
            attempt.report_step(steps[name])
            if stopping:
                return "interrupted"
        if number > cell.untimed:
            attempt.write(Round(time=time.time(), step=number, steps=steps))
    return "finished"


def _start_methods(attempt: Attempt, cell: TimingCell) -> dict[str, Turns]:
    """The steps of each method, none of which has been taken; all start from the same weights."""
    clocks = {name: Clock(attempt.device) for name in cell.trainings}
    tasks = {name: task_of(attempt, training, clocks[name]) for name, training in cell.trainings.items()}
    order = _shared_order(cell.trainings, tasks)
    return {name: _steps(attempt, cell, tasks[name], clocks[name], order) for name in tasks}


def _shared_order(trainings: dict[str, TrainCell], tasks: dict[str, Task]) -> SampleOrder:
    """The pool's order if any method has a pool; methods without a pool then visit the same samples."""
    with_pool = [name for name, training in trainings.items() if training.active_pool]
    return tasks[with_pool[0] if with_pool else next(iter(tasks))].sample_order


def _steps(attempt: Attempt, cell: TimingCell, task: Task, clock: Clock, order: SampleOrder) -> Turns:
    def load(step: int) -> Batch:
        return attempt.loader.batch(order.samples(step), cell.seed)

    model = data_parallel(task.model, clock)
    return combined_steps(attempt, train(task, model, load, clock, range(cell.rounds)))
