"""Backprop methods whose cost is known, named by import path in timing cells."""

import time
from dataclasses import dataclass

from harness.implicit.backprop import Differentiable, Jfb, Problem


class Twin:
    """JFB by another name."""

    def __call__(self, problem: Problem) -> Differentiable:
        return Jfb()(problem)


@dataclass(frozen=True)
class Slowed:
    """JFB after a pause."""

    seconds: float

    def __call__(self, problem: Problem) -> Differentiable:
        time.sleep(self.seconds)
        return Jfb()(problem)
