"""The model of a step: planted costs are found again, and small cases agree with a calculation by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from analysis.inference.step_model import (
    BUCKET_BYTES,
    NO_LINK,
    Kind,
    Link,
    Point,
    Work,
    expected_maximum,
    expected_slowest,
    fit_link,
    fit_work,
    predict,
)

LINK = Link(latency=50e-6, bandwidth=2e9)
WORK = Work(step=0.004, evaluation=0.001, sample=0.0005, product=1.7)


def test_rings_and_trees_by_hand() -> None:
    assert LINK.all_reduce(1, 1e6) == 0
    assert LINK.all_reduce(4, 8e6, "ring") == pytest.approx(6 * 50e-6 + 6 * 2e6 / 2e9)
    assert LINK.all_reduce(8, 8e6, "tree") == pytest.approx(6 * 50e-6 + 16e6 / 2e9)
    assert LINK.all_reduce(1024, 4, "tree") < LINK.all_reduce(1024, 4, "ring") / 90
    assert NO_LINK.all_reduce(8, 1e9) == 0


def test_only_the_last_bucket_is_never_hidden() -> None:
    small, large = 1e5, 3.0 * BUCKET_BYTES
    assert LINK.exposed(2, small, hiding=1e9) == LINK.all_reduce(2, small)
    assert LINK.exposed(2, large, hiding=1e9) == LINK.all_reduce(2, BUCKET_BYTES)
    earlier, last = LINK.all_reduce(2, 2.0 * BUCKET_BYTES), LINK.all_reduce(2, BUCKET_BYTES)
    assert LINK.exposed(2, large, hiding=0.01) == pytest.approx(earlier - 0.01 + last)


@pytest.mark.parametrize("ranks", [[2], [2, 4, 8]])
def test_planted_latency_and_bandwidth_are_found_again(ranks: list[int]) -> None:
    points = [(n, size) for n in ranks for size in 4.0 ** np.arange(5, 13)]
    exact = [LINK.all_reduce(n, size) for n, size in points]
    noisy = np.array(exact) * np.random.default_rng(0).lognormal(0, 0.05, len(exact))
    found = fit_link(*zip(*points, strict=True), exact)
    assert (found.latency, found.bandwidth) == pytest.approx((LINK.latency, LINK.bandwidth))
    found = fit_link(*zip(*points, strict=True), noisy)
    assert (found.latency, found.bandwidth) == pytest.approx((LINK.latency, LINK.bandwidth), rel=0.1)


def test_the_expected_maximum_by_hand() -> None:
    """Of two draws from {1, 2}, three pairs of four contain a 2; of two from {1, 1, 4}, five of nine a 4."""
    assert expected_maximum([1, 2], 1) == 1.5
    assert expected_maximum([1, 2], 2) == 1.75
    assert expected_maximum([4, 1, 1], 2) == pytest.approx((4 * 1 + 5 * 4) / 9)
    assert expected_maximum([3, 9, 7], 10**6) == 9


def test_the_expected_maximum_is_the_mean_of_resampled_maxima() -> None:
    random = np.random.default_rng(1)
    counts = random.integers(5, 30, 40)
    resampled = random.choice(counts, (100_000, 16)).max(axis=1).mean()
    assert expected_maximum(counts, 16) == pytest.approx(resampled, abs=0.02)


def test_steps_that_continue_are_not_mixed_with_complete_solves() -> None:
    """Half of the steps are cut at 5; mixed together, the slowest of many samples would always take 20."""
    kinds = [Kind([[10, 20], [10, 20]]), Kind([[5, 4], [5, 4]])]
    assert expected_slowest(kinds, 1000) == pytest.approx((20 + 5) / 2)
    assert expected_slowest(kinds, 1) == pytest.approx((15 + 4.5) / 2)
    assert expected_slowest([Kind([[10, 20], [5, 4]])], 1000) == pytest.approx(20)
    assert expected_slowest([Kind([[10, 20]]), Kind([])], 1) == 15
    assert expected_slowest([Kind([])], 7) == 0


def test_unseen_samples_may_reach_the_limit() -> None:
    """One draw of {4, 6} and the limit 8 is 6 on average; of many, one reaches the limit."""
    assert expected_slowest([Kind([[4, 6]], limit=8)], 1) == pytest.approx(6)
    assert expected_slowest([Kind([[4, 6]], limit=8)], 1000) == pytest.approx(8)
    assert expected_slowest([Kind([[4, 6]], limit=8), Kind([[3, 3]])], 1000) == pytest.approx((8 + 3) / 2)


def points() -> list[Point]:
    """Steps of several methods and batches, whose seconds follow from WORK and LINK."""
    shapes = [(n, b, e, p) for n in (1, 2) for b in (4, 8) for e, p in ((20.0, 1.0), (21.0, 12.0), (10.0, 10.0))]
    found = [Point(n, b, e, p, 2e5) for n, b, e, p in shapes]
    return [replace(point, seconds=predict(point, WORK, LINK)) for point in found]


def test_planted_costs_are_found_again() -> None:
    found = fit_work(points(), LINK)
    assert vars(found) == pytest.approx(vars(WORK), rel=1e-3)


def test_held_out_steps_are_predicted_from_the_others() -> None:
    known, held_out = points()[:6], points()[6:]
    assert {point.ranks for point in held_out} == {2}
    work = fit_work(known)
    for point in held_out:
        assert predict(point, work, LINK) == pytest.approx(point.seconds, rel=1e-4)
        assert predict(point, work, NO_LINK) == pytest.approx(point.seconds - LINK.all_reduce(2, 2e5), rel=1e-4)


def test_costs_are_never_negative() -> None:
    strange = [Point(1, 4, 20, 1, 0, 1.0), Point(1, 8, 20, 1, 0, 0.5), Point(1, 8, 40, 1, 0, 0.25)]
    assert all(cost >= 0 for cost in vars(fit_work(strange)).values())


def test_without_a_point_nothing_is_fitted() -> None:
    with pytest.raises(ValueError, match="no point"):
        fit_work([])
    assert math.isinf(fit_link([2], [0.0], [1e-4]).bandwidth)
