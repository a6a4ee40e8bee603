"""Cluster profiles: templates that can be used, and mistakes that are named."""

import re
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from harness.config.errors import ConfigError
from harness.records.events import Checkpoint
from launch.planning.grid import Grid
from launch.planning.profiles import TEMPLATES, Local, Slurm, read_profile
from launch.planning.runs_folder import Runs
from launch.reconcile import launch
from tests.conftest import tiny_cell

NAMES = sorted(path.stem for path in TEMPLATES.glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_every_template_is_valid_and_explained(name: str) -> None:
    read_profile(name)
    assert (TEMPLATES / f"{name}.yaml").read_text().startswith("# ")


def test_the_generic_template_names_the_defaults() -> None:
    written = yaml.safe_load((TEMPLATES / "slurm-generic.yaml").read_text())
    assert Slurm.model_validate(written) == Slurm(executor="slurm")
    rare = {"exclusive", "cells_at_once", "python"}
    assert written.keys() == Slurm.model_fields.keys() - rare


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("executor: slurm\nparttion: gpu", "no field 'parttion'; allowed: checkpoint_every, "),
        ("executor: slrum", "executor: must be one of local, debug, slurm (got 'slrum')"),
        ("- slurm", "executor: must be one of local, debug, slurm"),
        ("executor: slurm\ncpus: 2\ncpus: 4", "'cpus' is given twice in line 3, column 1"),
        ("executor: [", "is not valid YAML"),
        ("executor: slurm\npartition: gpu; rm -rf ~", "partition: string should match pattern"),
        ("executor: slurm\naccount: $(id)", "account: string should match pattern"),
        ("executor: slurm\nqos: a`b`", "qos: "),
        ("executor: slurm\nconstraint: a100>x", "constraint: "),
        ("executor: slurm\ngpu: gpu:a100 -x", "gpu: "),
        ("executor: slurm\nexclude: [node1, 'node 2']", "exclude.1: "),
        ("executor: slurm\nenvironment: {'A;B': x}", "environment."),
        ("executor: slurm\nmemory: 16", "memory: input should be a valid string (got 16)"),
        ("executor: slurm\nmemory: 16 GB", "memory: string should match pattern"),
        ("executor: slurm\nkeep_checkpoints: 0", "keep_checkpoints: input should be greater than 0 (got 0)"),
        ("executor: slurm\nstage: scratch", "stage: string should match pattern"),
        ("executor: slurm\nstage: $TMPDIR; rm -rf ~", "stage: string should match pattern"),
        ("executor: local\nstage: $(mktemp)", "stage: string should match pattern"),
        ("executor: slurm\ncpus: 0", "cpus: input should be greater than 0 (got 0)"),
        ("executor: slurm\ntimeout_min: 1\nsignal_delay_s: 60", "signal_delay_s 60 is not shorter than timeout_min 1"),
        ("executor: local\npartition: gpu", "no field 'partition'; allowed: "),
    ],
)
def test_a_mistake_is_one_line_that_names_the_field(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(said)) as error:
        read_profile(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("site", "every", "kept"),
    [({}, 2, 3), ({"checkpoint_every": 1}, 1, 3), ({"keep_checkpoints": 1}, 2, 2)],
)
def test_a_site_decides_on_the_checkpoints_of_cells_that_were_planned_before(
    runs: Runs, site: dict[str, int], every: int, kept: int
) -> None:
    cell = tiny_cell(steps=8).needs
    assert cell is not None
    cell = cell.model_copy(update={"pretraining": cell.pretraining.model_copy(update={"steps": 8})})
    folder = runs.cell(cell.cell_id)
    folder.plan(cell)
    profile = Local.model_validate({"executor": "debug", **site})
    assert launch(runs, Grid(name="g"), [cell], profile, Console(quiet=True)) == 0
    written = [event.step for event in folder.events() if isinstance(event, Checkpoint)]
    assert written == list(range(every, 9, every))
    assert len(list(folder.checkpoints.glob("*.pt"))) == kept
