"""The device of a rank comes from the profile, and a GPU that is missing is said to be missing."""

from pathlib import Path

import pytest
import torch

from harness.config.settings import ANYWHERE
from harness.measure import device as devices
from harness.measure import device_check
from harness.measure.device import hardware, shared_gpu
from harness.run.cell import run_cell
from harness.run.distributed import RankPosition, device_of
from launch.planning.profiles import Local, Slurm
from launch.planning.runs_folder import Runs
from tests.conftest import tiny_cell

ALONE = RankPosition(0, 1, 0, 1, threads=1)


def pretend(monkeypatch: pytest.MonkeyPatch, kind: str | None, count: int = 1) -> list[int]:
    """Let torch report `count` accelerators of this kind; returns the list of the devices that are then chosen."""
    chosen: list[int] = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: kind is not None)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind or "cpu"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)
    monkeypatch.setattr(torch.accelerator, "set_device_index", chosen.append)
    return chosen


def test_the_profile_says_whether_a_rank_needs_a_gpu() -> None:
    assert ANYWHERE.wants_gpu is None
    assert [Local().wants_gpu, Local(gpus=True, ranks=1).wants_gpu] == [False, True]
    assert [Slurm(executor="slurm").wants_gpu, Slurm(executor="slurm", gpu="gpu").wants_gpu] == [False, True]


def test_a_missing_gpu_is_an_error_that_names_node_build_and_visible_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setattr(devices, "host", lambda: "node7")
    with pytest.raises(RuntimeError, match=r"no GPU on node7 \(torch .*; CUDA_VISIBLE_DEVICES is '3'\)"):
        device_of(ALONE, wants_gpu=True)
    assert device_of(ALONE, wants_gpu=None) == torch.device("cpu")


def test_what_the_driver_says_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nPlease update")

    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "init", init)
    assert "too old (found version 11040).;" in devices.why_no_gpu()


def test_a_profile_without_gpus_computes_on_the_cpu_of_a_machine_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = pretend(monkeypatch, "cuda")
    assert device_of(ALONE, wants_gpu=False) == torch.device("cpu")
    assert device_of(ALONE, wants_gpu=None) == torch.device("cuda", 0)
    assert chosen == [0]


def test_a_device_without_float64_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "mps")
    assert device_of(ALONE) == torch.device("cpu")


def test_ranks_do_not_share_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = pretend(monkeypatch, "cuda", count=2)
    assert device_of(RankPosition(1, 4, 1, 4)) == torch.device("cuda", 1)
    with pytest.raises(RuntimeError, match=r"4 ranks on .* need as many GPUs, and 2 are visible"):
        device_of(RankPosition(2, 4, 2, 4))
    pretend(monkeypatch, "cuda", count=1)  # what a task of a scheduler sees that shows each its own
    assert device_of(RankPosition(3, 4, 3, 4)) == torch.device("cuda", 0)
    assert chosen == [1]


def test_two_ranks_that_met_on_one_gpu_are_told_so() -> None:
    def rank(host: str, gpu: str, uuid: str) -> dict[str, object]:
        return {"host": host, "device": "cuda:0", "gpu": gpu, "gpu_uuid": uuid}

    apart = [rank("a", "H100", "1"), rank("a", "H100", "2"), rank("b", "H100", "1")]
    assert shared_gpu(apart) == ""
    assert shared_gpu([*apart, rank("a", "H100", "2")]) == "ranks 1 and 3 share one GPU of a; give each rank its own"
    cpu = hardware(torch.device("cpu"))
    assert shared_gpu([cpu, cpu]) == ""


def test_a_cell_that_lost_its_gpu_fails_with_the_reason_in_its_status(runs: Runs) -> None:
    cell = tiny_cell(model="feed-forward", backprop={"name": "unrolled", "steps": 1})
    folder = runs.cell(cell.cell_id)
    folder.plan(cell)
    for attempt in (0, 1):
        with pytest.raises(RuntimeError, match="no GPU on"):
            run_cell(Path(folder.path), ALONE, site=Local(gpus=True, ranks=1))
        status = folder.status()
        assert (status.state, status.attempt) == ("failed", attempt)
        assert "rank 0 on " in status.message
        assert "no GPU on" in status.message
        assert sorted(folder.exits()) == list(range(attempt + 1))


def test_the_doctor_fails_without_a_gpu() -> None:
    first, *others = device_check.check_device()
    assert not first.passed
    assert "no GPU on" in first.said
    assert all(check.passed for check in others)


def test_the_gradient_that_the_doctor_compares_has_no_layer_that_is_zero() -> None:
    gradient = device_check._gradient(torch.device("cpu"), torch.float64)
    assert float((gradient == 0).double().mean()) < 0.5, "with a last layer of zeros, it is .8"


def test_the_doctor_compares_without_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert device_check.check_gradient(torch.device("cpu")).passed
    assert not torch.backends.cudnn.allow_tf32
