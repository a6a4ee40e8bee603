"""How a model is trained: its task, the order of its samples, its schedule and the loop.

Imports every room above it in the listing of `harness`, measure included; knows nothing of cells' directories.
"""

from harness.training.loop import LocalStep, train
from harness.training.task import Task, pretrain_task, train_task

__all__ = ["LocalStep", "Task", "pretrain_task", "train", "train_task"]
