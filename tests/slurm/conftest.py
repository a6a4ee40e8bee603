"""One real cluster for all tests of a session; each test starts with an idle cluster."""

from collections.abc import Iterator

import pytest

from tests.slurm.cluster import Cluster, missing_programs


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[Cluster]:
    if missing := missing_programs():
        pytest.skip(f"Slurm is not installed: no {', '.join(missing)}")
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster; afterwards no job is left and every node is idle."""
    yield shared_cluster
    shared_cluster.reset()
