"""Many tiny cells share a few jobs, each in its own process."""

import time
from pathlib import Path

from harness.config.cells import Cell, parse_cell
from harness.records.events import End, Start
from launch.planning.runs_folder import Runs
from tests.slurm.cluster import Cluster, wait_until
from tests.slurm.helpers import all_finished, send

DATA = {"name": "pictures", "image_size": 32, "test_images": 1, "validation_images": 1, "train_images": 8}
PATIENCE = 1000.0


def tiny_cells(count: int) -> list[Cell]:
    """Cells that take only a moment: they score the unprocessed measurement at `count` noise levels."""
    return [
        parse_cell({"kind": "baseline", "baseline": "degraded", "data": DATA, "physics": {"noise_std": 0.001 * number}})
        for number in range(1, count + 1)
    ]


def test_a_thousand_cells_are_sent_in_5_s(cluster: Cluster, tmp_path: Path) -> None:
    cells = tiny_cells(1000)
    cluster.run("scontrol", "update", "partitionname=main", "state=down")
    try:
        begin = time.process_time()
        send(Runs(tmp_path), cells, cells_per_job=5)
        assert time.process_time() - begin < 5
        waiting = cluster.run("squeue", "--noheader", "--array").splitlines()
    finally:
        cluster.reset()
        cluster.run("scontrol", "update", "partitionname=main", "state=up")
    assert len(waiting) == 200


def test_each_cell_of_a_bundle_runs_once_side_by_side_on_a_gpu_of_its_own(cluster: Cluster, tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    folders = send(runs, tiny_cells(60), cells_per_job=20, cells_at_once=2)
    wait_until(lambda: all_finished(folders), "the cells do not finish", PATIENCE)
    gpus = set()
    for folder in folders:
        events = folder.events()
        (start,) = [event for event in events if isinstance(event, Start)]
        assert isinstance(events[-1], End)
        gpus.add(start.environment["cuda_visible_devices"])
    assert gpus == {"0", "1"}
    assert len({folder.exits()[0].job for folder in folders}) == 3
