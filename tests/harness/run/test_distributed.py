"""Ranks against one process: the same samples and noise, and the same losses, for every map and backprop method."""

import json
import multiprocessing
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.config.catalog.backprop import BackpropSpec
from harness.config.catalog.maps import MapSpec
from harness.config.cells import TrainCell
from harness.data.batches import Loader
from harness.data.dataset import load
from harness.measure.clock import Clock
from harness.models.build_model import build_network
from harness.run.distributed import RankPosition, data_parallel, gather, gather_values, process_group
from harness.training.loop import train
from harness.training.task import train_task
from tests.conftest import tiny_cell

STEPS = 5
CPU = torch.device("cpu")
POOL = {"size": 12, "max_steps": 3, "refresh_every": 3}
SMALL = {"name": "pictures", "image_size": 16, "train_images": 32}
EXACT: dict[str, Any] = {"precision": "float64", "steps": STEPS, "data": SMALL}
EARLY_STOPPING: dict[str, Any] = {
    "precision": "float32", "steps": STEPS, "data": SMALL, "solver": {"name": "anderson", "tol": 1e-3, "max_steps": 30},
}  # fmt: skip


def cases() -> dict[str, dict[str, Any]]:
    """Every map with every method from the start, a feed-forward network, and the variants."""
    found = {}
    for model in (name for name, spec in MapSpec.choices().items() if spec.iterated):
        for backprop in BackpropSpec.choices():
            solver = {"name": "broyden" if backprop == "shine" else "anderson", "tol": None, "max_steps": 4}
            method: Any = {"name": backprop}
            if backprop == "implicit":
                method["solver"] = {"name": "anderson", "tol": 1e-15, "max_steps": 4}
            found[f"{model} {backprop}"] = EXACT | {"model": model, "backprop": method, "solver": solver}
    found["feed-forward"] = EXACT | {"model": "feed-forward", "backprop": {"name": "unrolled", "steps": 1}}
    found["lipschitz"] = EXACT | {"model": "de-prox", "network": {"depth": 3, "width": 8, "lipschitz": 0.5}}
    found["penalty"] = EXACT | {"model": "de-hqs", "jacobian_penalty": 0.1}
    found["rmse"] = EXACT | {"model": "de-prox", "loss": "rmse"}
    found["pool"] = EXACT | {"model": "de-admm", "pool": POOL}
    found["float32"] = EARLY_STOPPING | {"model": "de-hqs"}
    return found


def losses(fields: dict[str, Any], place: RankPosition, cache: Path) -> list[float]:
    """The global loss of each training step."""
    cell = tiny_cell(**fields, world_size=place.world_size)
    assert isinstance(cell, TrainCell)
    torch.manual_seed(0)
    network, _ = build_network(cell)
    denoiser = {name: 0.1 * torch.randn_like(tensor) for name, tensor in network.state_dict().items()}
    dtype = {"float32": torch.float32, "float64": torch.float64}[cell.precision]
    loader = Loader(load(cell.data, cache), cell.physics.value_range, CPU, dtype)
    size = cell.global_batch_size // place.world_size
    share, clock = slice(place.rank * size, (place.rank + 1) * size), Clock(CPU)
    task = train_task(cell, denoiser if cell.needs else None, len(loader.dataset.train), share, CPU, clock)
    model = data_parallel(task.model, clock)
    steps = train(task, model, lambda step: loader.batch(task.sample_order.samples(step), 0), clock, range(STEPS))
    local = [step.loss for step in steps]
    return [sum(column) / len(column) for column in zip(*gather(local, CPU), strict=True)]


def listening() -> list[str]:
    """The addresses at which this process listens, in the notation of /proc/net: little-endian hexadecimal."""
    mine = {link.readlink().name for link in Path("/proc/self/fd").iterdir() if link.is_symlink()}
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return [row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in mine]


def rank_main(rank: int, world_size: int, folder: Path) -> None:
    """One rank: all cases, one after the other, in one process group."""
    torch.set_num_threads(1)
    place = RankPosition(rank, world_size, rank, world_size, launch="test")
    with process_group(place, CPU, folder):
        (folder / f"listening-{rank}.json").write_text(json.dumps(listening()))
        measured = {name: losses(fields, place, folder) for name, fields in cases().items()}
    if rank == 0:
        (folder / "losses.json").write_text(json.dumps(measured))


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, list[float]]]:
    """World size to case to losses."""
    found = {}
    spawn = multiprocessing.get_context("spawn")
    for world_size in (1, 2, 3):
        folder = tmp_path_factory.mktemp(f"world{world_size}")
        ranks = [spawn.Process(target=rank_main, args=(rank, world_size, folder)) for rank in range(world_size)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(1000)
            assert process.exitcode == 0
        found[world_size] = json.loads((folder / "losses.json").read_text())
    return found


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs /proc")
def test_the_ranks_of_one_node_listen_on_the_loopback_interface_only(
    measured: dict[int, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    found = [
        json.loads(path.read_text()) for path in tmp_path_factory.getbasetemp().glob("world[23]*/listening-*.json")
    ]
    assert sum(map(len, found)) > 5, "the stores, and gloo in every rank"
    assert {address for addresses in found for address in addresses} == {"0100007F"}


def test_ranks_exchange_plain_data_and_no_objects(tmp_path: Path) -> None:
    value = {"slot": {3: torch.arange(4)}, "scores": [1.5, float("-inf")], "name": "x", "nothing": None}
    with process_group(RankPosition(0, 1, 0, 1), CPU, tmp_path):
        (found,) = gather_values(value, CPU)
        assert found.pop("slot")[3].tolist() == [0, 1, 2, 3]
        assert found == {"scores": [1.5, float("-inf")], "name": "x", "nothing": None}
        with pytest.raises(pickle.UnpicklingError):
            gather_values(Touch(tmp_path / "ran"), CPU)
    assert not (tmp_path / "ran").exists()


@dataclass
class Touch:
    """An object whose unpickling makes a file."""

    path: Path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("case", [case for case in cases() if case != "float32"])
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_give_the_losses_of_one_process(
    measured: dict[int, dict[str, list[float]]], world_size: int, case: str
) -> None:
    alone, together = measured[1][case], measured[world_size][case]
    assert len(set(alone)) == STEPS, "the loss moves"
    assert together == pytest.approx(alone, rel=1e-6)


def test_float32_with_early_stopping_drifts_little(
    measured: dict[int, dict[str, list[float]]], record_property: Callable[[str, object], None]
) -> None:
    """Rounding may end a solve one evaluation earlier, which moves a loss by about the tolerance of the solve.

    The drift itself is reported (as a property of this test in the JUnit file); the bound only says that it is the
    same training.
    """
    pairs = zip(measured[1]["float32"], measured[2]["float32"], strict=True)
    drift = max(abs(together - alone) / alone for alone, together in pairs)
    record_property("largest_relative_drift", drift)
    assert 0 <= drift < 0.2
