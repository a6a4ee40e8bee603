"""Phases of a step: nested ones interrupt, a phase may turn into another, and together they are the wall time."""

import time

import pytest
import torch

from harness.measure.clock import Clock


def test_phases_share_the_time_between_them() -> None:
    clock = Clock(torch.device("cpu"))
    time.sleep(0.03)
    clock.reset()
    begin = time.perf_counter()
    with clock("outer"):
        time.sleep(0.02)
        with clock("inner"):
            time.sleep(0.03)
        time.sleep(0.02)
        clock.turn("rest")
        time.sleep(0.05)
    time.sleep(0.03)
    with clock("outer"):
        pass
    seconds, wall = clock.read(), time.perf_counter() - begin
    assert seconds == pytest.approx({"outer": 0.04, "inner": 0.03, "rest": 0.05, "other": 0.03}, abs=0.015)
    assert sum(seconds.values()) == pytest.approx(wall, rel=0.01)
