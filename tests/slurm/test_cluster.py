"""The cluster that the other tests run on has what they rely on."""

import subprocess

from tests.slurm.cluster import Cluster, wait_until


def test_it_runs_a_job_on_two_nodes_with_a_gpu_each_and_accounts_for_it(cluster: Cluster) -> None:
    command = "echo $(hostname) $CUDA_VISIBLE_DEVICES"
    said = cluster.run("srun", "--nodes=2", "--gres=gpu:1", "--job-name=hello", "sh", "-c", command)
    assert sorted(said.splitlines()) == ["node1 0", "node2 0"]

    def accounted() -> bool:
        return "hello" in cluster.run("sacct", "--noheader", "--allocations", "--format=jobname")

    wait_until(accounted, "sacct does not know the job")


def test_a_node_that_loses_power_is_down_until_it_is_switched_on_again(cluster: Cluster) -> None:
    cluster.power_off("node4", tell=True)
    assert cluster.node_state("node4").startswith("down")
    assert subprocess.run(["srun", "--immediate=5", "--nodes=4", "true"], capture_output=True).returncode != 0
    cluster.reset()
    assert cluster.node_state("node4") == "idle"


def test_jobs_outlive_a_restart_of_the_controller(cluster: Cluster) -> None:
    number = cluster.run("sbatch", "--parsable", "--output=/dev/null", "--wrap", "sleep 60").strip()
    cluster.restart_controller()
    assert number in cluster.run("squeue", "--noheader", "--format=%i")
