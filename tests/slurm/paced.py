"""A network of known pace: long enough to be disturbed, while the processors are left to the others."""

import time

from torch import Tensor

from harness.networks import DnCNN


class Paced(DnCNN):
    """DnCNN that sleeps before each evaluation."""

    def __init__(self, depth: int, width: int, pause: float) -> None:
        super().__init__(depth, width)
        self.pause = pause

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.pause)
        return super().forward(x)
