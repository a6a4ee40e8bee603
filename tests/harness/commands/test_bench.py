"""A quick bench: its structure, and what in it does not depend on the machine's noise."""

import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from harness.commands.bench import depth, methods, peers
from harness.commands.bench.case import JACOBIAN_NORM, Size, jacobian_norm, make_case
from harness.commands.bench.observation import CountedMap, measure_work
from harness.config.catalog.backprop import BackpropSpec

TINY = Size(2, 8, depth=3, width=4)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("bench") / "bench.json"
    command = [sys.executable, "-m", "harness", "bench", "--quick", "--rounds", "1", "--output", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Verdict" in done.stdout
    assert ("not installed" in done.stdout) == (peers.installed() is None)
    return json.loads(path.read_text())


def ours(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in rows if row["library"] == "jfbench"}


def test_every_backprop_method_of_the_catalog_is_in_the_bench() -> None:
    benched = {method.name.split(",")[0] for method in methods.our_methods(1)}
    assert set(BackpropSpec.choices()) <= benched


def test_jfb_is_compared_with_its_neighbouring_floors(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1.0, 2.4, 1.4, 1.2, 1.6, 2.0, 3.6, 2.0, 2.1, 2.2])
    monkeypatch.setattr("harness.commands.bench.depth.seconds", lambda problem, gradient: next(times))
    (row,) = depth.against_floor(make_case(TINY), [5], evaluations=10)
    assert (row.depth, row.pairs) == (5, 2)
    assert row.jfb.median == pytest.approx((2.0 + 1.8) / 2)
    assert row.again.median == pytest.approx((0.8 + 1.0) / 2)


def test_saved_bytes_are_flat_in_depth_or_grow_linearly(results: dict[str, Any]) -> None:
    steps = results["depths"]
    for row in results["depth_rows"]:
        saved = [work["saved_bytes"] for work in row["work"]]
        if row["flat"]:
            assert row["saved_slope"] == 0, row["name"]
        else:
            assert row["saved_slope"] > 0
            per_step = {(b - a) / (n - m) for a, b, m, n in zip(saved, saved[1:], steps, steps[1:], strict=False)}
            assert len(per_step) == 1, row["name"]


def test_checkpointing_trades_evaluations_for_memory(results: dict[str, Any]) -> None:
    rows = ours(results["depth_rows"])
    plain, trade = rows["unrolled"]["work"][-1], rows["unrolled, checkpoint"]["work"][-1]
    assert trade["evaluations"] == 2 * plain["evaluations"]
    assert trade["saved_bytes"] < 0.2 * plain["saved_bytes"]
    assert trade["error"] == pytest.approx(plain["error"])


def test_evaluations_and_products_are_counted(results: dict[str, Any]) -> None:
    rows, depth = ours(results["depth_rows"]), results["depths"][-1]
    counts = {name: (row["work"][-1]["evaluations"], row["work"][-1]["products"]) for name, row in rows.items()}
    assert counts["jfb"] == (depth + 1, 1)
    assert counts["neumann, order 5"] == (depth + 1, 6)
    assert counts["unrolled"] == (depth, depth)


def test_solvers_reach_the_tolerance(results: dict[str, Any]) -> None:
    rows = ours(results["forward"])
    assert rows["anderson"]["evaluations"] <= 16
    assert all(row["residual"] <= 1.01e-5 for row in rows.values())


def test_implicit_reaches_the_equal_error_on_half_the_bytes(results: dict[str, Any]) -> None:
    rows = ours(results["equal_error"])
    assert max(work["error"] for work in rows["anderson / anderson"]["work"]) <= 1e-4
    twins = [row for row in results["equal_error"] if row["library"] == "torchdeq" and row["name"] in rows]
    for row in twins:
        ours_saved, theirs = ([work["saved_bytes"] for work in r["work"]] for r in (rows[row["name"]], row))
        assert all(a <= 0.6 * b for a, b in zip(ours_saved, theirs, strict=True))


def test_batch_pixel_units_and_the_scale_of_the_loss_change_nothing(results: dict[str, Any]) -> None:
    rows = [row for row in results["invariances"] if row["library"] == "jfbench"]
    assert {row["change"] for row in rows} == {"batch duplicated", "pixels x 255", "loss x 0.001"}
    for row in rows:
        assert row["evaluations"][0] == row["evaluations"][1]
        assert row["difference"] < 1e-5


def test_warm_starts_save_evaluations_in_the_same_training(results: dict[str, Any]) -> None:
    """Whether the pictures are as good only the whole bench can say: this training is too short."""
    rows = {row["name"]: row for row in results["warm_starts"]}
    afresh, *warm = rows.values()
    assert afresh["name"] == "afresh"
    assert len(warm) == 3
    before = afresh["psnr"][0] - afresh["gain"][0]
    for row in warm:
        assert row["evaluations"][0] < afresh["evaluations"][0]
        assert row["psnr"][0] - row["gain"][0] == pytest.approx(before), "from the same denoiser"


def test_every_claim_says_whether_it_holds(results: dict[str, Any]) -> None:
    assert all(isinstance(claim["holds"], bool) for claim in results["claims"])


def test_the_problem_has_the_jacobian_norm_it_says() -> None:
    problem = make_case(Size(1, 12))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(problem.d.shape, generator=generator)

    def network(x: torch.Tensor) -> torch.Tensor:
        return x - problem.map.network(x)

    assert jacobian_norm(network, images, generator) == pytest.approx(JACOBIAN_NORM, rel=0.15)


def test_the_bytes_of_one_step_are_counted_by_hand() -> None:
    """What one step saves: the input of each convolution, which is what the ReLU before it saved, and lambda's."""
    problem = make_case(TINY)
    reference = problem.exact_gradient()
    work = measure_work(problem, methods.floor(3), reference)
    features = 4 * TINY.batch * TINY.image**2 * (3 + 2 * TINY.width)
    assert features <= work.saved_bytes <= 2 * features
    assert work.peak_bytes >= work.saved_bytes


def test_a_forward_mode_product_is_no_evaluation() -> None:
    counted = CountedMap(torch.sin)
    torch.func.jvp(counted, (torch.ones(3),), (torch.ones(3),))
    assert (counted.evaluations, counted.products) == (0, 1)
