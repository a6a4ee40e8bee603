"""A network of known pace: long enough to be disturbed, while the processors are left to the others."""

import os
import time

from torch import Tensor

from harness.models.networks import DnCNN

PAUSE = "JFBENCH_TEST_PAUSE"
"""Seconds, in the environment of a job."""


class Paced(DnCNN):
    """DnCNN that sleeps before each evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(float(os.environ.get(PAUSE, "0")))
        return super().forward(x)
