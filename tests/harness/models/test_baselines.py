"""Tuning, and what scikit-image's deconvolutions have to be given."""

from collections.abc import Sequence
from math import log

import pytest
import torch
from torch import Tensor, nn

from harness.measure.scores import decibel
from harness.models.baselines import Parameter, PnpAdmm, PnpPgd, RichardsonLucy, Wiener, tune
from harness.physics.base import observe
from harness.physics.blur import GaussianBlur

PARAMETERS = (Parameter("a", 1.0, 2.0), Parameter("b", 10.0, 1.5))


def ridge(values: Sequence[float]) -> float:
    """Best at a = 8, b = 10 / 1.5^3, along a ridge on which no step in one parameter alone leads up."""
    u, v = log(values[0] / 8, 2), log(values[1] * 1.5**3 / 10, 1.5)
    return -(u**2) - v**2 - 1.9 * u * v


def test_tuning_climbs_along_a_ridge() -> None:
    start = ridge([1.0, 10.0])
    assert all(ridge(values) < start for values in ([2.0, 10.0], [0.5, 10.0], [1.0, 15.0], [1.0, 10 / 1.5]))
    a, b = tune(ridge, PARAMETERS)
    assert (a.name, b.name) == ("a", "b")
    assert (a.chosen, b.chosen) == pytest.approx((8.0, 10 / 1.5**3))
    assert a.interior
    assert b.interior
    assert a.candidates == sorted(a.candidates)
    assert max(a.scores) == max(b.scores) == pytest.approx(0)


def test_a_search_that_runs_away_says_that_it_ended_at_the_edge() -> None:
    (found,) = tune(lambda values: values[0], PARAMETERS[:1])
    assert not found.interior
    assert len(found.candidates) == 30


def test_nothing_to_tune() -> None:
    assert tune(lambda values: 0.0, ()) == []


def smooth_pictures() -> Tensor:
    """(2, 3, 48, 48) on [0, 1], bright at the edges too."""
    rough = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return nn.functional.interpolate(rough, size=(48, 48), mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("value_range", [(0.0, 1.0), (-1.0, 1.0)])
@pytest.mark.parametrize(("method", "value"), [(Wiener(), 1e-3), (RichardsonLucy(), 30.0)])
def test_deconvolution_beats_the_measurement_by_far_at_the_edge_too(
    method: Wiener | RichardsonLucy, value: float, value_range: tuple[float, float]
) -> None:
    low, high = value_range
    physics = GaussianBlur(48, 5, 1.0, 0.002 * (high - low), value_range, "zero")
    truth = smooth_pictures() * (high - low) + low
    d = observe(physics, truth, torch.randn(truth.shape, generator=torch.Generator().manual_seed(1)).double())
    restored = method(physics, d, value)
    for rows, gain in ((slice(8, -8), 6), (slice(0, 8), 6)):
        before, after = (float((x - truth)[:, :, rows].square().mean()) for x in (d, restored))
        assert decibel(after) > decibel(before) + gain, rows


@pytest.mark.parametrize("kind", [PnpPgd, PnpAdmm])
def test_plug_and_play_without_a_prior_minimises_the_data_fidelity(kind: type[PnpPgd | PnpAdmm]) -> None:
    """With N = 0 both are solvers of A x = d, and end at the inverse of a well-conditioned blur."""
    physics = GaussianBlur(9, 3, 0.5, 0.01, (0.0, 1.0), "zero")
    x = torch.rand(2, 3, 9, 9, dtype=torch.float64)
    found = kind(network=nn.Softshrink(1e9), iterations=400)(physics, physics.A(x), 1.0, 1.0)
    torch.testing.assert_close(found.detach(), x)


def test_numbers_of_iterations_are_whole() -> None:
    (tuned,) = tune(lambda values: -((values[0] - 13) ** 2), [Parameter("iterations", 10, 1.25, whole=True)])
    assert tuned.chosen == 12
    assert tuned.candidates == [8, 10, 12, 16]
    assert tuned.interior
