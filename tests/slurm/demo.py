"""`make slurm-demo`: starts a Slurm cluster of four nodes on this machine, runs a small grid on it, and stops it.

While it runs, run the printed `export` in another terminal to look at the cluster as a user would:

    squeue
    python -m launch status demo --watch --runs runs/slurm-demo
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from rich.console import Console
from rich.live import Live

from launch.planning.runs_folder import Runs
from launch.slurm.submissions import Submissions
from launch.tracking.status import WATCH_SECONDS, read_table
from tests.slurm.cluster import Cluster, missing_programs

RUNS = Path("runs/slurm-demo")
SITE = {
    "executor": "slurm",
    "partition": "main",
    "gpu": "gpu:fake",
    "ranks_per_node": 2,
    "cpus": 1,
    "memory": "1G",
    "timeout_min": 60,
    "environment": {"JFBENCH_WITHOUT_GPU": "1"},
}
SMALL = ["model=de-prox,de-hqs", "backprop=jfb", "steps=12", "pretraining.steps=60"]


def main() -> int:
    """Run the demo; returns 0 if every cell finished."""
    if missing := missing_programs():
        packages = "slurm-wlm slurmdbd slurm-client munge mariadb-server"
        print(f"Slurm is not installed: no {', '.join(missing)}; apt-get install --no-install-recommends {packages}")
        return 2
    console = Console()
    with Cluster(memory_mb=8000) as cluster, tempfile.NamedTemporaryFile("w", suffix=".yaml") as site:
        yaml.safe_dump(SITE, site)
        site.flush()
        console.print(f"export SLURM_CONF={cluster.root}/slurm.conf", highlight=False)
        console.print(cluster.run("sinfo"), highlight=False, end="")
        command = ["grid", "demo", *SMALL, "--cluster", site.name, "--runs", str(RUNS)]
        subprocess.run([sys.executable, "-m", "launch", *command], check=True)
        folders = Runs(RUNS).cells_of("demo")
        with Live(console=console, refresh_per_second=1, transient=True) as live:
            while Submissions(Runs(RUNS)).living([folder.cell_id for folder in folders]):
                live.update(read_table(Runs(RUNS), folders))
                time.sleep(WATCH_SECONDS)
        console.print(read_table(Runs(RUNS), folders))
        columns = "jobid,jobname%24,state,elapsed,nodelist"
        console.print(cluster.run("sacct", "--allocations", f"--format={columns}"), highlight=False, end="")
    return 0 if all(folder.status().state == "finished" for folder in folders) else 1


if __name__ == "__main__":
    sys.exit(main())
