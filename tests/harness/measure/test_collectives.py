"""The sweep of all-reduces: what is measured, saved and said."""

from pathlib import Path

import pytest

from harness.measure import collectives
from harness.records.collectives import AllReduce, Sweep, read_sweep

MADE_UP = Sweep(
    device="cpu", backend="gloo", host="node1", processors=4,
    times=tuple(AllReduce(ranks=n, bytes=size, seconds=n * size / 1e9) for n in (2, 4) for size in (1024, 2**20)),
)  # fmt: skip


def test_a_sweep_times_every_size_over_two_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collectives, "processors", lambda: 3)
    found = collectives.sweep(sizes=(1024, 2**22), repeats=3)
    assert [(one.ranks, one.bytes) for one in found.times] == [(2, 1024), (2, 2**22)]
    small, large = (one.seconds for one in found.times)
    assert 0 < small < large < 10
    assert found.processors == 3


def test_what_was_measured_is_saved_and_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(collectives, "sweep", lambda: MADE_UP)
    checks = list(collectives.check_collectives(tmp_path))
    assert all(check.passed for check in checks)
    assert checks[1].said == "collectives: 4 ranks by gloo: 1024 B in 4 us, 1 MiB in 4.2 ms"
    assert read_sweep([tmp_path / "missing", tmp_path]) == MADE_UP


def test_one_device_has_nobody_to_reduce_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(collectives, "sweep", lambda: MADE_UP.model_copy(update={"times": ()}))
    [check] = collectives.check_collectives(tmp_path)
    assert not check.passed
    assert read_sweep([tmp_path]) is None
