"""How often a solve makes the host wait for a device, counted on one that computes nothing."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.fake_solves import MAPS, METHODS, STEPS, cases

CHECKS = {"reads": STEPS // 4}
"""What a solve may read: every fourth evaluation, whether a sample still runs."""


@pytest.fixture(scope="module")
def transfers() -> dict[str, Any]:
    """In a process of its own, because the device is registered for a whole process."""
    done = subprocess.run([sys.executable, "-m", "tests.fake_solves"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", cases())
def test_a_forward_solve_reads_the_device_only_to_see_whether_it_is_finished(
    transfers: dict[str, Any], case: str
) -> None:
    forward, _ = transfers[case]
    assert forward == ({} if "unrolled" in case or case == "fixed" else CHECKS)


@pytest.mark.parametrize("method", [*METHODS, "shine"])
@pytest.mark.parametrize("map", MAPS)
def test_a_backward_pass_reads_as_little(transfers: dict[str, Any], map: str, method: str) -> None:
    forward, total = transfers[f"{map} {method}"]
    more = {"implicit": STEPS // 4, "stochastic-neumann": 1}.get(method, 0)
    assert total.get("reads", 0) - forward.get("reads", 0) == more
    assert total.keys() <= {"reads"}, "nothing is copied between the device and the host"


@pytest.mark.parametrize(("solver", "steps"), [("anderson", STEPS), ("broyden", STEPS), ("cg-normal", STEPS // 2)])
def test_an_adjoint_solver_reads_as_little(transfers: dict[str, Any], solver: str, steps: int) -> None:
    forward, total = transfers[f"adjoint {solver}"]
    assert total == {"reads": forward["reads"] + steps // 4}


def test_a_lipschitz_projection_does_not_wait_for_the_device(transfers: dict[str, Any]) -> None:
    assert transfers["projection"] == {}
