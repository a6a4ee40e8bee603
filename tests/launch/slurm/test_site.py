"""A profile against what sinfo says, and where results would lie."""

from pathlib import Path

import pytest

from launch.planning.profiles import Slurm
from launch.slurm.doctor import file_system
from launch.slurm.site import parse_gres, parse_limit, parse_sinfo, problems

NODES = parse_sinfo(
    [
        "cpu*|1-00:00:00|10|64|256000|(null)",
        "gpu|12:00:00|4|32+|500000+|gpu:a100:4(S:0-1)",
        "gpu|12:00:00|2|128|1000000|gpu:h100:8(S:0-3),nvme:1",
    ]
)


@pytest.mark.parametrize(
    ("profile", "field"),
    [
        ({}, ""),
        ({"partition": "gpu", "gpu": "gpu:h100", "ranks_per_node": 8, "timeout_min": 600}, ""),
        ({"partition": "gpu", "gpu": "gpu", "ranks_per_node": 8, "timeout_min": 600}, ""),
        ({"partition": "big"}, "partition: must be one of cpu, gpu (got 'big')"),
        ({"partition": "gpu"}, "timeout_min: at most 720 in partition gpu (got 1440)"),
        ({"gpu": "gpu"}, "gpu: partition cpu has none (got 'gpu')"),
        ({"partition": "gpu", "gpu": "gpu:a100", "ranks_per_node": 8, "timeout_min": 600}, "ranks_per_node: a node"),
        ({"cells_at_once": 20}, "ranks_per_node: a node of cpu has 64 processors"),
        ({"memory": "300G"}, "ranks_per_node: a node of cpu has 64 processors, 256000 MB"),
        ({"array_size": 2000}, "array_size: at most 1001"),
    ],
)
def test_what_does_not_fit_is_named(profile: dict[str, object], field: str) -> None:
    found = problems(Slurm.model_validate({"executor": "slurm", **profile}), NODES, array_size=1001)
    assert len(found) == bool(field), found
    assert not field or found[0].startswith(field)


def test_sinfos_way_of_writing_is_read() -> None:
    assert parse_gres("gpu:a100:4(S:0-1),gpu:v100:2,nvme:1") == {
        "gpu:a100": 4, "gpu:v100": 2, "gpu": 6, "nvme": 1,
    }  # fmt: skip
    assert [parse_limit(text) for text in ("1-02:00:00", "30:00", "infinite")] == [1560, 30, float("inf")]


def test_the_file_system_of_a_folder_is_that_of_the_nearest_mount() -> None:
    mounts = ["/dev/sda / ext4 rw", "tmpfs /tmp tmpfs rw", "server:/x /home nfs4 rw"]
    assert file_system(Path("/home/me/runs"), mounts) == "nfs4"
    assert file_system(Path("/tmp/x"), mounts) == "tmpfs"
    assert file_system(Path("/srv"), mounts) == "ext4"
