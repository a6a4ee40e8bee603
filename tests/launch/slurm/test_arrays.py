"""Cells to job arrays and their scripts."""

from pathlib import Path

import pytest

from harness.config.cells import Cell, in_order
from launch.planning.profiles import Slurm
from launch.slurm.arrays import Layout, Submission, arrange, script
from launch.slurm.queue import Job, parse_sacct, parse_squeue
from tests.conftest import tiny_cell

SLURM = Slurm(executor="slurm")


def cells(count: int, **fields: object) -> list[Cell]:
    return [tiny_cell(seed=0, steps=steps, **fields) for steps in range(1, count + 1)]


def arranged(all_cells: list[Cell], unfinished: list[Cell], **profile: object) -> list[Submission]:
    changed = Slurm.model_validate({**SLURM.model_dump(), **profile})
    return arrange("g", all_cells, changed, {cell.cell_id for cell in unfinished}, Path("/runs"), used=[])


def test_cells_that_wait_stand_apart_from_those_that_do_not() -> None:
    trained = [*cells(2), *cells(2, world_size=2)]
    needed = [trained[0].needs, trained[2].needs]
    everything = [*trained, *(cell for cell in needed if cell)]
    arrays = arranged(everything, everything)
    assert [(array.world_size, len(array.jobs), len(array.needs)) for array in arrays] == [
        (1, 1, 0), (2, 1, 0), (1, 2, 1), (2, 2, 1),
    ]  # fmt: skip
    assert all(not array.needs for array in arranged(trained, []))


def test_a_tuned_cell_waits_for_its_own_trials_and_these_for_their_denoiser() -> None:
    tune = {"axes": {"optimizer.lr": [1e-3, 1e-4]}}
    tuned = [tiny_cell(seed=seed, tune=tune, backprop=method) for method in ("jfb", "implicit") for seed in (0, 1)]
    everything = list({one.cell_id: one for cell in tuned for one in in_order(cell)}.values())
    denoisers, trials, *finals = arranged(everything, everything)
    assert (len(denoisers.jobs), len(trials.jobs), [len(array.jobs) for array in finals]) == (3, 4, [2, 2])
    assert trials.needs == [cell for (cell,) in denoisers.jobs if "_s1000-" in cell]
    for array in finals:
        method = array.jobs[0][0].split("_")[1]
        assert [need for need in array.needs if "pretrain" not in need] == sorted(
            cell for (cell,) in trials.jobs if f"_{method}_" in cell
        )
    afterwards = arranged(tuned, tuned)
    assert all(not array.needs for array in afterwards)


def test_a_large_grid_is_cut_into_arrays_and_short_cells_share_jobs() -> None:
    arrays = arranged(cells(25), [], array_size=4, cells_per_job=3)
    assert [[len(job) for job in array.jobs] for array in arrays] == [[3, 3, 3, 3], [3, 3, 3, 3], [1]]
    sent = [cell for array in arrays for job in array.jobs for cell in job]
    assert sorted(sent) == sorted(cell.cell_id for cell in cells(25))
    assert len({array.name for array in arrays}) == 3


def test_an_array_records_which_packages_its_cells_named_when_they_were_planned() -> None:
    (array,) = arranged([*cells(2), tiny_cell(model={"name": "mine.maps:Map"})], [])
    assert array.trusted == ["mine"]
    assert Submission.model_validate_json(array.model_dump_json()).trusted == ["mine"]


def test_the_same_cells_get_the_same_name_with_the_next_number() -> None:
    (first,) = arranged(cells(2), [])
    assert arranged(cells(2), [])[0].name == first.name
    (second,) = arrange("g", cells(2), SLURM, [], Path("/runs"), used=[first.name])
    (elsewhere,) = arrange("g", cells(2), SLURM, [], Path("/other"), used=[])
    assert elsewhere.name != first.name
    assert (first.name[-2:], second.name[-2:]) == ("-0", "-1")
    assert first.name[:-2] == second.name[:-2]


@pytest.mark.parametrize(
    ("ranks", "ranks_per_node", "nodes", "tasks_per_node"),
    [(1, 8, 1, 1), (4, 4, 1, 4), (8, 4, 2, 4), (6, 4, 2, 3), (5, 4, 5, 1), (16, 8, 2, 8)],
)
def test_ranks_are_spread_evenly_over_as_few_nodes_as_fit(
    ranks: int, ranks_per_node: int, nodes: int, tasks_per_node: int
) -> None:
    profile = Slurm(executor="slurm", ranks_per_node=ranks_per_node)
    array = Submission(name="x", grid="g", profile=profile, world_size=ranks, needs=[], jobs=[["a"]])
    assert (Layout.of(array).nodes, Layout.of(array).tasks_per_node) == (nodes, tasks_per_node)


def test_the_script_of_an_array_of_two_nodes() -> None:
    profile = Slurm(
        executor="slurm", partition="gpu", account="lab", exclude=["n1", "n2"], gpu="gpu:a100", ranks_per_node=2,
        cpus=8, memory="30G", timeout_min=90, throttle=3, setup=["module load cuda"], environment={"WORDS": "it's two"},
        srun_args=["--mpi=none"], python=["apptainer", "exec", "my image.sif", "python"],
    )  # fmt: skip
    array = Submission(name="g-1-0", grid="g", profile=profile, world_size=4, needs=["p"], jobs=[["a"], ["b", "c"]])
    assert script(array, Path("/runs/s"), after=["7_0", "8"]) == GOLDEN


def test_cells_side_by_side_get_the_resources_of_all_of_them() -> None:
    profile = Slurm(
        executor="slurm", gpu="gpu", ranks_per_node=4, cpus=8, memory="30G", cells_at_once=4, cells_per_job=9
    )
    array = Submission(name="x", grid="g", profile=profile, world_size=1, needs=[], jobs=[list("abcdefghi")])
    lines = script(array, Path("/runs/s")).splitlines()
    for expected in ("cpus-per-task=32", "mem=120G", "gres=gpu:4", "ntasks-per-node=1"):
        assert f"#SBATCH --{expected}" in lines


def test_what_squeue_and_sacct_say_is_read_by_name_and_index() -> None:
    queue = parse_squeue(["g-1-0|12|0|RUNNING|None|node1", "g-1-0|12|1|PENDING|Dependency|", "h-2-0|13|N/A|FAILED|X|n"])
    assert queue["g-1-0", 0] == Job("12_0", "RUNNING", "", "node1")
    assert queue["g-1-0", 1].reason == "Dependency"
    assert (queue["h-2-0", 0].job_id, queue["h-2-0", 0].is_live) == ("13", False)
    gone = parse_sacct(["g-1-0|12_1|CANCELLED by 0|node2", "g-1-0|12_[4-9%2]|PENDING|", "h-2-0|13|NODE_FAIL|node3"])
    assert {key: job.state for key, job in gone.items()} == {("g-1-0", 1): "CANCELLED", ("h-2-0", 0): "NODE_FAIL"}


GOLDEN = """\
#!/bin/bash

# Parameters
#SBATCH --account=lab
#SBATCH --array=0-1%2
#SBATCH --cpus-per-task=8
#SBATCH --dependency=afterok:7_0:8
#SBATCH --error=/runs/s/%A_%a_0_log.err
#SBATCH --exclude=n1,n2
#SBATCH --gres=gpu:a100:2
#SBATCH --job-name=g-1-0
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --mem=60G
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=2
#SBATCH --open-mode=append
#SBATCH --output=/runs/s/%A_%a_0_log.out
#SBATCH --partition=gpu
#SBATCH --requeue
#SBATCH --signal=USR2@60
#SBATCH --time=90

# setup
module load cuda
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
export MALLOC_MMAP_THRESHOLD_=1073741824
export MALLOC_TRIM_THRESHOLD_=1073741824
export OMP_WAIT_POLICY=passive
export OMP_NUM_THREADS=8
. /runs/s/environment.sh || exit 1  # sets WORDS

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /runs/s/%A_%a_%t_log.out --error /runs/s/%A_%a_%t_log.err --kill-on-bad-exit=1 \
--mpi=none apptainer exec 'my image.sif' python -u -m submitit.core._submit /runs/s


# teardown
[ $? -eq 0 ] || apptainer exec 'my image.sif' python -m launch.slurm.epilogue /runs/s"""
