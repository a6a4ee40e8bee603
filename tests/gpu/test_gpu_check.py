"""`make gpu-check`: whether results and measurements on this GPU can be trusted. All bounds are proposals."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.config.catalog.data import Pictures
from harness.config.cells import ACCELERATOR_ONLY, TrainCell
from harness.data.batches import Loader
from harness.data.dataset import load
from harness.measure.clock import Clock, synchronize
from harness.measure.probe import probe
from harness.models.build_model import build_equilibrium
from harness.models.equilibrium import Equilibrium
from harness.models.precision import DTYPES, set_precision
from harness.run.distributed import RankPosition, data_parallel, process_group
from tests.conftest import tiny_cell
from tests.gpu.conftest import DRY_RUN, Report

pytestmark = pytest.mark.gpu

SIZE, BATCH = (16, 2) if DRY_RUN else (64, 4)
CPU = torch.device("cpu")
MAPS = ("de-grad", "de-prox", "de-admm", "de-hqs")
METHODS = ("jfb", "implicit", "neumann", "stochastic-neumann", "shine", "phantom", "truncated", "unrolled")
GRADIENT_BOUND = {"float64": 1e-9, "float32": 2e-2, "tf32": 5e-2, "bfloat16": 2e-1}
"""Relative errors. A CPU's own float32 is up to 4e-3 away, because accelerated solvers magnify rounding errors."""
ALONE = RankPosition(0, 1, 0, 1)


def model_of(device: torch.device, precision: str, steps: int = 6, **fields: Any) -> Equilibrium:
    """A model with random weights in every layer, the same on every device."""
    solver = {"name": "broyden" if fields.get("backprop") == "shine" else "anderson", "tol": None, "max_steps": steps}
    cell = tiny_cell(data={"name": "pictures", "image_size": SIZE}, precision=precision, **{"solver": solver} | fields)
    assert isinstance(cell, TrainCell)
    model, _ = build_equilibrium(cell)
    torch.manual_seed(1)
    for parameter in model.map.network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return model.to(device, DTYPES[precision])


def gradient(model: Equilibrium, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The gradient of all parameters on a batch that is the same on every device, in float64 on the CPU."""
    generator = torch.Generator().manual_seed(2)
    d = torch.rand(BATCH, 3, SIZE, SIZE, generator=generator).to(device, dtype)
    draws = torch.rand(BATCH, generator=generator, dtype=torch.float64).to(device)
    model.zero_grad()
    model(d, None, draws).image.square().mean().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).double().cpu()


@pytest.mark.parametrize("precision", GRADIENT_BOUND)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("map", MAPS)
def test_gradients_are_those_of_a_cpu_in_float64(
    device: torch.device, report: Report, map: str, method: str, precision: str
) -> None:
    if device.type == "cpu" and precision in ACCELERATOR_ONLY:
        pytest.skip("a CPU lacks this precision")
    exact = gradient(model_of(CPU, "float64", model=map, backprop=method), CPU, torch.float64)
    set_precision(precision, device)
    found = gradient(model_of(device, precision, model=map, backprop=method), device, DTYPES[precision])
    error = float((found - exact).norm() / exact.norm())
    report(f"gradient of {map} by {method} in {precision}, relative error", error, GRADIENT_BOUND[precision])


@pytest.mark.parametrize("solver", ["picard", "anderson", "broyden"])
def test_solvers_find_the_point_that_a_cpu_finds(device: torch.device, report: Report, solver: str) -> None:
    fields = {"model": "de-hqs", "solver": {"name": solver, "tol": 1e-9, "max_steps": 300}}
    d = torch.rand(BATCH, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = model_of(device, "float64", **fields).reconstruct(d.to(device)).image.cpu()
    exact = model_of(CPU, "float64", **fields).reconstruct(d).image
    report(f"fixed point by {solver}, relative difference", float((found - exact).norm() / exact.norm()), 1e-6)


def saved_bytes(device: torch.device, tmp_path: Path, method: str, steps: int) -> int:
    with process_group(ALONE, device, tmp_path):
        backprop: Any = {"name": "unrolled", "steps": steps} if method == "unrolled" else method
        model = model_of(device, "float32", steps, backprop=backprop)
        wrapped, d = data_parallel(model, Clock(device)), torch.rand(BATCH, 3, SIZE, SIZE, device=device)
        return probe(wrapped, lambda: wrapped(d).image.square().mean(), device, repeats=2).saved_bytes


def test_saved_bytes_are_those_of_a_cpu_and_do_not_grow_with_the_solve(
    device: torch.device, report: Report, tmp_path: Path
) -> None:
    here, deeper = (saved_bytes(device, tmp_path, "jfb", steps) for steps in (4, 12))
    report("saved bytes of jfb, 12 steps over 4, minus 1", abs(deeper / here - 1), 0.0)
    report("saved bytes of jfb, over a CPU's, minus 1", abs(here / saved_bytes(CPU, tmp_path, "jfb", 4) - 1), 0.0)


def test_unrolled_saves_each_step(device: torch.device, report: Report, tmp_path: Path) -> None:
    few, more, most = (saved_bytes(device, tmp_path, "unrolled", steps) for steps in (4, 8, 12))
    report("saved bytes of unrolled: second slope over the first, minus 1", abs((most - more) / (more - few) - 1), 0.05)


@pytest.mark.parametrize("phase", ["data", "parameter_gradient", "optimizer"])
def test_phases_add_up_to_wall_time_and_a_sleep_is_found_in_its_own(
    device: torch.device, report: Report, phase: str
) -> None:
    clock = Clock(device)
    clock.reset()
    synchronize(device)
    begin = time.perf_counter()
    for one in ("data", "parameter_gradient", "optimizer"):
        with clock(one):
            torch.ones(8, device=device).sum()
            time.sleep(0.2 if one == phase else 0)
    seconds = clock.read()
    wall = time.perf_counter() - begin
    report(f"clock: sum of phases over wall time, minus 1 ({phase})", abs(sum(seconds.values()) / wall - 1), 0.05)
    report(f"clock: seconds missing of a sleep of .2 in {phase}", 0.2 - seconds[phase], 0.01)


def test_a_gradient_of_fixed_length_never_waits_for_the_device(device: torch.device, report: Report) -> None:
    model = model_of(device, "float32", backprop="jfb")
    d = torch.rand(BATCH, 3, SIZE, SIZE, device=device)
    model(d).image.sum().backward()
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        model(d).image.sum().backward()
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    report("host synchronizations in a gradient by jfb (an error if there is one)", 0, 0)


def test_one_rank_under_ddp_has_the_gradient_of_no_ranks(device: torch.device, report: Report, tmp_path: Path) -> None:
    set_precision("float32", device)
    alone = gradient(model_of(device, "float32"), device, torch.float32)
    model = model_of(device, "float32")
    with process_group(ALONE, device, tmp_path):
        wrapped = data_parallel(model, Clock(device))
        d = torch.rand(BATCH, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2)).to(device)
        wrapped(d).image.square().mean().backward()
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).double().cpu()
    report("gradient under DDP with one rank, largest difference", float((found - alone).abs().max()), 0.0)


def test_noise_is_that_of_a_cpu(device: torch.device, report: Report, tmp_path: Path) -> None:
    dataset = load(Pictures(image_size=SIZE), tmp_path)
    here, there = (
        Loader(dataset, (0.0, 1.0), one, torch.float32).held_out_batch([0, 1]).noise.cpu() for one in (device, CPU)
    )
    report("held-out noise, largest difference from a CPU's", float((here - there).abs().max()), 0.0)
