"""Phases of a step: nested ones interrupt, and a phase may turn into another."""

import time

import pytest
import torch

from harness.measure.clock import Clock


def test_phases_share_the_time_between_them() -> None:
    clock = Clock(torch.device("cpu"))
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
    assert clock.read() == pytest.approx({"outer": 0.04, "inner": 0.03, "rest": 0.05}, abs=0.015)
    assert clock.read() == {}
