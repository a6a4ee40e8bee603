"""From the command line to the queue and back: what is sent, what is refused, and what a second launch does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from harness.records.cell_folder import CellFolder
from launch.planning.runs_folder import Runs
from launch.slurm.submissions import secrets
from tests.conftest import tiny_cell
from tests.slurm.cluster import Cluster, wait_until
from tests.slurm.helpers import PROFILE, all_finished, send, with_needed

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE = 500.0
GRID = {
    "name": "test",
    "base": {
        "data": {"name": "pictures", "image_size": 32, "test_images": 4, "validation_images": 4, "train_images": 32},
        "network": {"name": "dncnn", "depth": 3, "width": 8},
        "solver": {"name": "anderson", "tol": None, "max_steps": 4},
        "pool": None,
        "steps": 4,
        "pretraining": {"steps": 4},
        "evaluate_every": 4,
    },
    "grid": {"model": ["de-prox", "de-hqs"]},
}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with grid.yaml and site.yaml."""
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(GRID))
    write_profile(tmp_path)
    return tmp_path


def write_profile(site: Path, **changes: object) -> None:
    (site / "site.yaml").write_text(
        yaml.safe_dump({**PROFILE.model_dump(), "environment": secrets(PROFILE), **changes})
    )


def launch(site: Path, command: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "launch", command, *arguments, "--runs", str(site / "runs")]
    return subprocess.run(
        words, cwd=REPOSITORY, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )


def launch_grid(site: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    files = [str(site / "grid.yaml"), "--cluster", str(site / "site.yaml")]
    return launch(site, "grid", *files, *arguments, **environment)


def cells(site: Path) -> list[CellFolder]:
    return Runs(site / "runs").cells_of("test")


def jobs(cluster: Cluster) -> list[str]:
    """Every job that is queued or running, by name."""
    return sorted(cluster.run("squeue", "--noheader", "--array", "--format=%j").split())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"partition": "nowhere"}, "--cluster: partition: must be one of high, main (got 'nowhere')"),
        ({"gpu": "gpu:b300"}, "--cluster: gpu: partition main has gpu, gpu:fake (got 'gpu:b300')"),
        ({"ranks_per_node": 8}, "--cluster: ranks_per_node: a node of main has 4 processors, 4000 MB, 2 x gpu:fake"),
        ({"cpus": 64}, "--cluster: ranks_per_node: a node of main has 4 processors"),
        ({"timeout_min": 100_000}, "--cluster: timeout_min: at most 1440 in partition main (got 100000)"),
        ({"constraint": "a100"}, "--cluster: constraint: "),
    ],
)
def test_what_the_cluster_would_refuse_is_one_line_and_nothing_is_queued(
    cluster: Cluster, site: Path, changes: dict[str, object], said: str
) -> None:
    write_profile(site, **changes)
    done = launch_grid(site)
    assert done.returncode == 2, done.stdout
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not jobs(cluster)
    assert not (site / "runs").exists()


def test_a_dry_run_prints_the_very_scripts_and_two_shells_inside_a_job_send_each_cell_once(
    cluster: Cluster, site: Path
) -> None:
    shown = launch_grid(site, "--dry-run").stdout
    assert not (site / "runs").exists()
    # The environment of a shell inside an allocation.
    inside = {"SLURM_NTASKS": "7", "SLURM_JOB_ID": "999", "SBATCH_PARTITION": "nowhere", "SLURM_CPUS_PER_TASK": "3"}
    words = [sys.executable, "-m", "launch", "grid", str(site / "grid.yaml"), "--cluster", str(site / "site.yaml")]
    shells = [
        subprocess.Popen(
            [*words, "--runs", str(site / "runs")], cwd=REPOSITORY, env={**os.environ, **inside},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    said = [shell.communicate(timeout=300) for shell in shells]
    assert [shell.returncode for shell in shells] == [0, 0], said
    scripts = list((site / "runs/submissions").glob("*/*_submission.sh"))
    assert len(scripts) == 2
    for path in scripts:
        sent = path.read_text()
        number = next((line.partition(":")[2] for line in sent.splitlines() if "--dependency" in line), "JOB")
        assert sent.replace(f"afterok:{number}", "afterok:JOB") in shown
    wait_until(lambda: all_finished(cells(site)), "the cells do not finish", PATIENCE)
    assert [folder.newest_attempt for folder in cells(site)] == [0, 0, 0]
    assert "0 cells sent, 0 were queued or running before" in launch_grid(site).stdout


def test_a_shell_that_dies_right_after_sbatch_has_sent_its_cells_once(cluster: Cluster, site: Path) -> None:
    deadly = site / "bin/sbatch"
    deadly.parent.mkdir()
    deadly.write_text('#!/bin/sh\n/usr/bin/sbatch "$@"\n[ "$1" = --test-only ] || kill -9 $PPID\n')
    deadly.chmod(0o755)
    cluster.run("scontrol", "update", "partitionname=main", "state=down")
    try:
        assert launch_grid(site, PATH=f"{deadly.parent}:{os.environ['PATH']}").returncode == -9
        assert len(jobs(cluster)) == 1
        again = launch_grid(site)
        assert "2 cells sent, 1 were queued or running before" in again.stdout, again.stderr
        assert len(jobs(cluster)) == 3
    finally:
        cluster.run("scontrol", "update", "partitionname=main", "state=up")
    wait_until(lambda: all_finished(cells(site)), "the cells do not finish", PATIENCE)
    assert [folder.newest_attempt for folder in cells(site)] == [0, 0, 0]


def test_status_tells_why_cells_wait_and_cancel_retry_and_logs_work(cluster: Cluster, site: Path) -> None:
    cluster.run("scontrol", "update", "partitionname=main", "state=down")
    try:
        assert launch_grid(site).returncode == 0
        rows = {row["cell_id"]: row for row in json.loads(launch(site, "status", "test", "--json").stdout)}
        assert {row["state"] for row in rows.values()} == {"queued"}
        assert {row["queue"] for row in rows.values()} <= {"pending PartitionDown", "pending Dependency"}
        assert launch(site, "retry", "test").returncode == 2
        cancelled = launch(site, "cancel", "test", "--where", "model=de-hqs")
        assert "cancelled 1 jobs of 1 cells" in cancelled.stdout, cancelled.stderr
    finally:
        cluster.run("scontrol", "update", "partitionname=main", "state=up")
    (lost,) = [folder for folder in cells(site) if folder.cell_id.startswith("de-hqs")]
    others = [folder for folder in cells(site) if folder.cell_id != lost.cell_id]
    wait_until(lambda: all_finished(others), "the other cells do not finish", PATIENCE)
    (row,) = json.loads(launch(site, "status", "test/de-hqs", "--json").stdout)
    # Slurm forgets an array index that was canceled before it started.
    assert (row["state"], row["queue"]) == ("planned", "")
    assert "1 cells" in launch(site, "status", "test", "--where", "model=de-hqs").stdout
    refused = launch(site, "retry", "test", "--memory", "much")
    assert (refused.returncode, refused.stderr.startswith("error: --memory: ")) == (2, True)
    retried = launch(site, "retry", "test", "--memory", "500M", "--timeout-min", "7", "--exclude", "node1")
    assert "1 cells sent, 0 were queued" in retried.stdout, retried.stderr
    wait_until(lambda: all_finished([lost]), "the cell does not finish", PATIENCE)
    newest = max((site / "runs/submissions").glob("*/*_submission.sh"), key=lambda path: path.stat().st_mtime)
    lines = newest.read_text().splitlines()
    for expected in ("mem=500M", "time=7", "exclude=node1"):
        assert f"#SBATCH --{expected}" in lines
    said = launch(site, "logs", lost.cell_id).stdout
    assert "_0_log." in said
    assert "attempt 0 on node2, job " in said
    assert said.rstrip().endswith("finished at step 4")


def test_a_cell_that_always_fails_is_tried_again_and_then_left(cluster: Cluster, site: Path) -> None:
    """Its pictures are none, which only a job finds out: a plan looks at their names."""
    write_profile(site, retries=1)
    (site / "photos").mkdir()
    for number in range(20):
        (site / "photos" / f"{number:02}.png").write_text("no picture")
    data = {"name": "folder", "root": str(site / "photos"), "image_size": 32}
    grid = {**GRID, "base": {**GRID["base"], "data": data}, "grid": {"model": ["de-prox"]}}
    (site / "grid.yaml").write_text(yaml.safe_dump(grid))
    assert launch_grid(site).returncode == 0
    wait_until(lambda: not jobs(cluster), "the jobs do not end", PATIENCE)
    (pretraining, trained) = cells(site)
    assert {number: ended.state for number, ended in pretraining.exits().items()} == {0: "failed", 1: "failed"}
    assert "00.png cannot be read as an image" in pretraining.status().message
    assert trained.status().state == "planned"
    rows = json.loads(launch(site, "status", "test", "--json").stdout)
    assert [(row["state"], row["queue"].partition(" ")[0]) for row in rows] == [
        ("failed", "failed"), ("planned", "cancelled"),
    ]  # fmt: skip


def test_probes_are_sent_like_any_cells_and_price_the_grid_once_they_have_finished(
    cluster: Cluster, site: Path
) -> None:
    changes = ["steps=60", "warm_up=0", "evaluate_every=20"]
    sent = launch_grid(site, *changes, "--probe")
    assert "3 cells sent, 0 were queued" in sent.stdout, sent.stderr
    assert "no price yet for 3 cells of 3 shapes" in sent.stdout
    probed = Runs(site / "runs").cells_of("test-probe")
    wait_until(lambda: all_finished(probed), "the probes do not finish", PATIENCE)
    assert [folder.status().steps for folder in probed] == [4, 6, 6]
    shown = launch_grid(site, *changes, "--dry-run").stdout
    assert "rank-hours (GPU-hours on GPUs) for 2 cells" in shown
    assert "no price" not in shown
    assert launch_grid(site, *changes).returncode == 0
    trained = {folder.cell_id for folder in cells(site) if folder.cell().kind == "train"}
    assert Runs(site / "runs").estimates("test").keys() == trained


def test_a_site_stages_pictures_on_its_nodes_and_decides_on_checkpoints(cluster: Cluster, tmp_path: Path) -> None:
    fast = tmp_path / "fast"
    fast.mkdir()
    options = {"checkpoint_every": 1, "keep_checkpoints": 1}
    variables = {"FAST": str(fast), "OMP_NUM_THREADS": "1"}
    cell = tiny_cell(steps=8, world_size=2, operations={"checkpoint_every": 4, "keep_checkpoints": 5})
    folders = send(Runs(tmp_path / "runs"), with_needed([cell]), stage="$FAST", environment=variables, **options)
    wait_until(lambda: all_finished(folders), "the cells do not finish", PATIENCE)
    assert len(list(fast.glob("*/*.npy"))) == 1
    for folder in folders:
        assert len(list(folder.checkpoints.glob("*.pt"))) == 2
        assert "stage: " not in "".join(path.read_text() for path in folder.path.glob("logs/*"))


def test_the_doctor_holds_a_profile_against_the_cluster(cluster: Cluster, site: Path) -> None:
    sound = launch(site, "doctor", "--cluster", str(site / "site.yaml")).stdout
    assert "ok  sbatch takes 1 cells in 1 jobs of 2 x 2 ranks" in sound
    # Whether a temporary folder counts as shared depends on this machine.
    assert not [line for line in sound.splitlines() if line.startswith("BAD") and "--runs" not in line]
    write_profile(site, gpu="gpu:h100", timeout_min=1e6, constraint="fast")
    unsound = launch(site, "doctor", "--cluster", str(site / "site.yaml"))
    assert unsound.returncode == 1
    said = "".join(line for line in unsound.stdout.splitlines() if line.startswith("BAD"))
    assert all(field in said for field in ("gpu: ", "timeout_min: ", "constraint: "))
    assert not jobs(cluster)


def test_without_slurms_commands_nothing_is_written(site: Path) -> None:
    done = launch_grid(site, PATH=str(Path(sys.executable).parent))
    assert done.returncode == 2
    assert done.stderr == "error: --cluster: no sbatch, squeue, scancel, scontrol, srun on PATH; " \
        "run this where Slurm's commands are\n"  # fmt: skip
    assert not (site / "runs").exists()
