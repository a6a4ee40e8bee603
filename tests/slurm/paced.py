"""A network that sleeps, so that tests have time to disturb its cells without keeping the processors busy."""

import os
import time

from torch import Tensor

from harness.models.networks import DnCNN

PAUSE = "JFBENCH_TEST_PAUSE"
"""Environment variable of a job with the seconds to sleep."""


class Paced(DnCNN):
    """DnCNN that sleeps before each evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(float(os.environ.get(PAUSE, "0")))
        return super().forward(x)
