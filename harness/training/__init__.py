"""Training: the task, the order of its samples, the schedules and the loop.

Imports every room listed before it in `harness`, measure included; knows nothing of cells' directories.
"""

from harness.training.loop import LocalStep, train
from harness.training.task import Task, pretrain_task, train_task

__all__ = ["LocalStep", "Task", "pretrain_task", "train", "train_task"]
