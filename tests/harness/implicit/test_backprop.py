"""Gradients of every method against dense linear algebra, and what each method evaluates and keeps."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import conv2d

from harness.implicit import backprop
from harness.implicit.backprop import (
    Backprop,
    Implicit,
    Jfb,
    Neumann,
    Phantom,
    Problem,
    Shine,
    StochasticNeumann,
    Truncated,
    Unrolled,
    jvp,
    vjp,
)
from harness.implicit.broyden import Broyden, apply
from harness.implicit.linear_solvers import CgNormal, Gmres
from harness.implicit.solvers import Adjoint, AdjointSolver, Anderson, Picard, Solution, Solver, Status
from tests.problems import MAPS, SHAPE, TIGHT, flat, problem, relative_error

ADJOINT_SOLVERS: dict[str, AdjointSolver] = {
    "picard": Picard(1e-13, 400),
    "anderson": Anderson(1e-13, 100, memory=10, ridge=1e-10, mixing=1.0),
    "broyden": Broyden(1e-13, 100, memory=60),
    "gmres": Gmres(1e-13, 100),
    "cg-normal": CgNormal(1e-13, 400),
}
FORWARD = Anderson(1e-8, 60, memory=5, ridge=1e-6, mixing=1.0)
BROYDEN = Broyden(1e-5, 60, memory=60)
EXACT = Implicit(Gmres(1e-13, 100))
DRAWS = torch.tensor([0.3, 0.8], dtype=torch.float64)
"""With continuation 1/2, depths 0 and 2."""

METHODS: dict[str, tuple[Backprop, Solver]] = {
    "jfb": (Jfb(), FORWARD),
    "implicit": (Implicit(Anderson(1e-6, 50, memory=5, ridge=1e-6, mixing=1.0)), FORWARD),
    "neumann": (Neumann(3), FORWARD),
    "stochastic-neumann": (StochasticNeumann(0.5), FORWARD),
    "shine": (Shine(), BROYDEN),
    "phantom": (Phantom(3, 0.5), FORWARD),
    "truncated": (Truncated(3), FORWARD),
    "unrolled": (Unrolled(8), FORWARD),
    "checkpointed": (Unrolled(8, checkpoint=True), FORWARD),
}


# ----------------------------------------------------------------------------------------- the exact gradient


@pytest.mark.parametrize("map_name", MAPS)
@pytest.mark.parametrize("name", ADJOINT_SOLVERS)
def test_implicit_is_the_dense_gradient(name: str, map_name: str) -> None:
    case = problem(map_name)
    assert relative_error(case.gradient(Implicit(ADJOINT_SOLVERS[name])), case.exact_gradient()) < 1e-10


@pytest.mark.parametrize("map_name", MAPS)
def test_both_products_are_those_of_the_dense_jacobian(map_name: str) -> None:
    case = problem(map_name)
    at = case.fixed_point().requires_grad_()
    jacobian = case.jacobian(at.detach())
    u, w = torch.randn(2, *at.shape, dtype=at.dtype, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(jvp(case.f, at, u).flatten(1), torch.einsum("bij,bj->bi", jacobian, u.flatten(1)))
    torch.testing.assert_close(vjp(case.f(at), at, w).flatten(1), torch.einsum("bij,bi->bj", jacobian, w.flatten(1)))


@pytest.mark.parametrize("map_name", MAPS)
def test_unrolled_tends_to_the_exact_gradient(map_name: str) -> None:
    case = problem(map_name)
    errors = [relative_error(case.gradient(Unrolled(k)), case.exact_gradient()) for k in (10, 30, 200)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-10


@pytest.mark.parametrize("map_name", MAPS)
def test_the_error_of_neumann_falls_with_its_order(map_name: str) -> None:
    case = problem(map_name)
    exact = case.exact_gradient()
    errors = [relative_error(case.gradient(Neumann(order)), exact) for order in (0, 1, 2, 5, 10, 20, 200)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-10


@pytest.mark.parametrize("map_name", MAPS)
def test_neumann_of_order_0_is_jfb_bit_by_bit(map_name: str) -> None:
    case = problem(map_name)
    assert torch.equal(case.gradient(Neumann(0), FORWARD), case.gradient(Jfb(), FORWARD))


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("map_name", MAPS)
def test_truncated_is_neumann_at_a_fixed_point(map_name: str, order: int) -> None:
    """k steps through the graph are k terms of the series, as long as J is the same at each of them."""
    case = problem(map_name)
    truncated = case.gradient(Truncated(order + 1))
    assert relative_error(truncated, case.gradient(Neumann(order))) < 1e-9


def test_one_truncated_step_is_jfb_bit_by_bit() -> None:
    case = problem("de-prox")
    assert torch.equal(case.gradient(Truncated(1), FORWARD), case.gradient(Jfb(), FORWARD))


@pytest.mark.parametrize("steps", [1, 4])
def test_undamped_phantom_steps_are_truncated_steps(steps: int) -> None:
    case = problem("de-grad")
    assert torch.equal(case.gradient(Phantom(steps, tau=1.0)), case.gradient(Truncated(steps)))


@pytest.mark.parametrize("map_name", MAPS)
def test_phantom_is_the_damped_neumann_series(map_name: str) -> None:
    """tau sum over j < k of ((1 - tau) I + tau J^T)^j v (Geng et al. 2021), and exact for k -> infinity."""
    case, steps, tau = problem(map_name), 3, 0.4
    at = case.fixed_point()
    state = case.f(at)
    damped = (1 - tau) * torch.eye(at[0].numel(), dtype=at.dtype) + tau * case.jacobian(at).mT
    term = (state.detach() - case.target()).flatten(1)[:, :, None]
    w = torch.zeros_like(term)
    for _ in range(steps):
        w, term = w + tau * term, damped @ term
    expected = torch.autograd.grad(state, case.parameters(), w.view_as(at))
    phantom = case.gradient(Phantom(steps, tau))
    assert relative_error(phantom, flat(expected)) < 1e-9
    assert relative_error(case.gradient(Phantom(300, tau)), case.exact_gradient()) < 1e-9


def test_checkpointing_changes_no_bit() -> None:
    case = problem("de-admm")
    assert torch.equal(case.gradient(Unrolled(12, checkpoint=True)), case.gradient(Unrolled(12)))


def test_shine_beats_jfb_on_some_maps() -> None:
    """DE-HQS: half of JFB's error. Seen on DE-ADMM: nine tenths. On DE-GRAD and DE-PROX it is no better than JFB."""
    errors = torch.zeros(2)
    for seed in range(4):
        case = problem("de-hqs", seed)
        exact = case.gradient(EXACT, BROYDEN)
        errors += torch.tensor([relative_error(case.gradient(m, BROYDEN), exact) for m in (Shine(), Jfb())])
    assert errors[0] < 0.75 * errors[1]


@pytest.mark.parametrize("map_name", MAPS)
def test_shine_applies_the_transpose_of_broydens_estimate(map_name: str) -> None:
    case = problem(map_name)
    estimate = BROYDEN.begin(case.start)
    with torch.no_grad():
        at = BROYDEN.iterate(case.f, case.start, estimate).value
    eye = torch.eye(at[0].numel(), dtype=at.dtype)
    k = torch.stack([apply(estimate.steps, estimate.surprises, estimate.matrix, e.expand(2, -1)) for e in eye], dim=2)
    state = case.f(at)
    v = (state.detach() - case.target()).flatten(1)
    expected = flat(torch.autograd.grad(state, case.parameters(), torch.einsum("bij,bi->bj", k, v).view_as(at)))
    assert relative_error(case.gradient(Shine(), BROYDEN), expected) < 1e-9


# ---------------------------------------------------------------------------------------- stochastic Neumann


@pytest.mark.parametrize("map_name", ["de-prox", "de-hqs"])
def test_the_mean_of_stochastic_neumann_is_the_exact_adjoint(map_name: str) -> None:
    """4,000 draws of one sample in one batch: every projection of their mean lies within its own standard error."""
    case, count = problem(map_name), 4000
    at = case.fixed_point()[:1]
    v = torch.randn(at.shape, dtype=at.dtype, generator=torch.Generator().manual_seed(3))
    directions = torch.randn(20, at.numel(), dtype=at.dtype, generator=torch.Generator().manual_seed(4))
    transposed = case.jacobian(case.fixed_point())[0].mT
    draws = torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    equation = Adjoint(v.expand(count, *at.shape[1:]), lambda w: (w.flatten(1) @ transposed.mT).view_as(w), lambda u: u)
    found = StochasticNeumann(0.9)._sum(draws, equation)
    samples = found.value.flatten(1) @ directions.T
    exact = directions @ torch.linalg.solve(torch.eye(at.numel(), dtype=at.dtype) - transposed, v.flatten())
    score = (samples.mean(dim=0) - exact) / (samples.std(dim=0) / count**0.5)
    assert float(score.abs().max()) < 4
    assert float(score.square().mean()) < 3
    assert float(found.nfe.double().mean()) == pytest.approx(9, rel=0.1)


def test_a_draw_fixes_the_depth_of_its_own_sample() -> None:
    """Depth j is reached with probability c^j, and the terms are divided by it."""
    case = problem("de-grad")
    _, found = case.backward(StochasticNeumann(0.5), draws=DRAWS)
    (adjoint,) = found.adjoint
    assert adjoint.nfe.tolist() == [0, 2]
    at = case.fixed_point()
    v = (case.f(at).detach() - case.target()).flatten(1)
    transposed = case.jacobian(at)[1].mT
    torch.testing.assert_close(adjoint.value[0].flatten(), v[0])
    expected = v[1] + 2 * transposed @ v[1] + 4 * transposed @ transposed @ v[1]
    torch.testing.assert_close(adjoint.value[1].flatten(), expected)


def test_random_depths_do_not_depend_on_the_shard() -> None:
    case = problem("de-grad")
    _, together = case.backward(StochasticNeumann(0.5), draws=DRAWS)
    for k in range(2):
        one = slice(k, k + 1)
        found = StochasticNeumann(0.5)(
            Problem(lambda s, one=one: case.map(s, case.d[one]), case.start[one], TIGHT, draws=DRAWS[one])
        )
        (0.5 * (found.state - case.target()[one]).square().sum()).backward()
        torch.testing.assert_close(found.adjoint[0].value, together.adjoint[0].value[one])


def test_a_random_gradient_without_draws_is_refused() -> None:
    case = problem("de-grad")
    with torch.no_grad():
        StochasticNeumann(0.5)(Problem(case.f, case.start, FORWARD))
    with pytest.raises(AssertionError, match="draw"):
        case.backward(StochasticNeumann(0.5))


# ------------------------------------------------------------------------------------------ adjoint warm start


def continued(method: Backprop, start: Tensor | None) -> tuple[Tensor, Solution]:
    """Gradient and adjoint solution of a method that is told where an earlier adjoint solve ended."""
    case = problem("de-hqs")
    case.map.zero_grad()
    found = method(Problem(case.f, case.start, TIGHT, draws=DRAWS, adjoint_start=start))
    case.loss(found.state).backward()
    return flat([p.grad for p in case.parameters()]), found.adjoint[0]


@pytest.mark.parametrize("name", ["picard", "anderson", "broyden"])
def test_an_adjoint_solve_goes_on_from_an_earlier_one(name: str) -> None:
    method = Implicit(ADJOINT_SOLVERS[name])
    gradient, cold = continued(method, None)
    warm_gradient, warm = continued(method, cold.value)
    near_gradient, near = continued(method, 1.001 * cold.value)
    assert int(warm.nfe.max()) <= 2 < int(near.nfe.max()) < int(cold.nfe.max())
    assert relative_error(warm_gradient, gradient) < 1e-11
    assert relative_error(near_gradient, gradient) < 1e-11


@pytest.mark.parametrize("method", [Neumann(3), StochasticNeumann(0.5), Implicit(Gmres(1e-6, 50))], ids=str)
def test_what_is_defined_from_v_on_ignores_it(method: Backprop) -> None:
    gradient, adjoint = continued(method, None)
    assert torch.equal(continued(method, 3 * adjoint.value)[0], gradient)


# ------------------------------------------------------------------------------- what must not change a result


@pytest.mark.parametrize("name", METHODS)
def test_the_scale_of_the_loss_changes_nothing(name: str) -> None:
    """With a loose adjoint tolerance, where an absolute one would stop at once for the small loss."""
    case = problem("de-prox")
    method, solver = METHODS[name]
    plain, small = (case.backward(method, solver, scale, DRAWS)[0] for scale in (1.0, 1e-3))
    assert relative_error(small / 1e-3, plain) < 1e-9


@pytest.mark.parametrize("linear", [Gmres(1e-2, 50), CgNormal(1e-2, 50), Broyden(1e-2, 50, memory=10), FORWARD])
def test_loose_adjoint_solves_do_not_see_the_scale_of_the_loss(linear: AdjointSolver) -> None:
    case = problem("de-prox")
    (plain, a), (small, b) = (case.backward(Implicit(linear), FORWARD, scale) for scale in (1.0, 1e-3))
    assert relative_error(small / 1e-3, plain) < 1e-9
    assert torch.equal(a.adjoint[0].nfe, b.adjoint[0].nfe)


@pytest.mark.parametrize("name", METHODS)
def test_the_gradient_of_a_batch_is_the_sum_over_its_samples(name: str) -> None:
    """So it does not depend on how ranks share the batch; the adjoint solves of the two samples differ in length."""
    case = problem("de-grad")
    method, solver = METHODS[name]
    together, _ = case.backward(method, solver, draws=DRAWS)
    apart = torch.zeros_like(together)
    for k in range(2):
        one = slice(k, k + 1)
        case.map.zero_grad()
        found = method(Problem(lambda s, one=one: case.map(s, case.d[one]), case.start[one], solver, draws=DRAWS[one]))
        (0.5 * (found.state - case.target()[one]).square().sum()).backward()
        apart += flat([p.grad for p in case.parameters()])
    assert relative_error(apart, together) < 1e-8


# --------------------------------------------------------------------------------------------- what is counted


class Counter:
    """Counts evaluations of T and products with its Jacobian."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.map = self.vjp = self.jvp = 0
        for name in ("vjp", "jvp"):
            monkeypatch.setattr(backprop, name, self._counted(name, getattr(backprop, name)))

    def f(self, f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return self._counted("map", f)

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            setattr(self, name, getattr(self, name) + 1)
            return function(*arguments)

        return call


@pytest.mark.parametrize(
    ("method", "solver", "with_graph", "products"),
    [
        (Jfb(), FORWARD, 1, 0),
        (Implicit(Anderson(1e-6, 50, 5, 1e-6, 1.0)), FORWARD, 1, None),
        (Implicit(Gmres(1e-6, 50)), FORWARD, 1, None),
        (Implicit(Gmres(None, 4)), FORWARD, 1, 4),
        (Neumann(0), FORWARD, 1, 0),
        (Neumann(4), FORWARD, 1, 4),
        (StochasticNeumann(0.5), FORWARD, 1, 2),
        (Shine(), BROYDEN, 1, 0),
        (Phantom(3, 0.5), FORWARD, 3, 0),
        (Truncated(3), FORWARD, 3, 0),
    ],
    ids=str,
)
def test_evaluations_and_products(
    method: Backprop, solver: Solver, with_graph: int, products: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward: what the slowest sample needs, and the steps with a graph. Backward: what the adjoint solve says."""
    case, counter = problem("de-hqs"), Counter(monkeypatch)
    found = method(Problem(counter.f(case.f), case.start, solver, draws=DRAWS))
    assert counter.map == int(found.forward.nfe.max()) + with_graph
    assert counter.vjp == 0
    case.loss(found.state).backward()
    told = int(found.adjoint[0].nfe.max()) if found.adjoint else 0
    assert counter.vjp == told
    assert products is None or told == products
    assert counter.map == int(found.forward.nfe.max()) + with_graph
    assert counter.jvp == 0


def test_products_in_forward_mode_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    case, counter = problem("de-hqs"), Counter(monkeypatch)
    _, found = case.backward(Implicit(CgNormal(1e-6, 100)), FORWARD)
    assert counter.vjp == counter.jvp > 0
    assert int(found.adjoint[0].nfe.max()) == counter.vjp + counter.jvp


@pytest.mark.parametrize(("checkpoint", "evaluations"), [(False, 8), (True, 16)])
def test_unrolled_evaluates_its_steps_and_checkpointed_twice(checkpoint: bool, evaluations: int) -> None:
    case, count = problem("de-hqs"), 0

    def f(state: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return case.f(state)

    found = Unrolled(8, checkpoint)(Problem(f, case.start, FORWARD))
    assert found.forward.nfe.tolist() == [8, 8] == [count] * 2
    case.loss(found.state).backward()
    assert count == evaluations


def saved_bytes(method: Backprop, solver: Solver) -> int:
    """Bytes that autograd keeps between forward and backward, parameters and buffers excluded."""
    case = problem("de-hqs")
    known = {t.untyped_storage().data_ptr() for t in [*case.parameters(), *case.map.buffers(), case.d]}
    held: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in known:
            held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        method(Problem(case.f, case.start, solver, draws=DRAWS))
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())


@pytest.mark.parametrize("name", ["jfb", "implicit", "neumann", "stochastic-neumann", "shine", "phantom", "truncated"])
def test_memory_is_flat_in_the_steps_of_the_solver(name: str) -> None:
    method, _ = METHODS[name]
    kind: Callable[[int], Solver] = (
        (lambda k: Broyden(None, k, 6)) if name == "shine" else (lambda k: Anderson(None, k, 6, 1e-6, 1.0))
    )
    few, many = (saved_bytes(method, kind(k)) for k in (2, 20))
    assert few == many > 0


@pytest.mark.parametrize(
    "of", [Unrolled, lambda k: Unrolled(k, checkpoint=True), Truncated, lambda k: Phantom(k, tau=0.5)]
)
def test_memory_is_linear_in_the_steps_with_a_graph(of: Callable[[int], Backprop]) -> None:
    first, second, third = (saved_bytes(of(k), FORWARD) for k in (4, 8, 16))
    assert third - second == 2 * (second - first) > 0


def test_checkpointing_keeps_no_more_than_the_states() -> None:
    per_step = saved_bytes(Unrolled(9, checkpoint=True), FORWARD) - saved_bytes(Unrolled(8, checkpoint=True), FORWARD)
    state = 8 * torch.Size(SHAPE).numel()
    assert per_step == state
    assert saved_bytes(Unrolled(9), FORWARD) - saved_bytes(Unrolled(8), FORWARD) > 5 * state


def test_no_method_keeps_more_than_one_step_but_those_that_say_so() -> None:
    one = saved_bytes(Jfb(), FORWARD)
    state = 8 * torch.Size(SHAPE).numel()
    for name in ("implicit", "neumann", "stochastic-neumann"):
        method, solver = METHODS[name]
        assert saved_bytes(method, solver) <= one + state, name


# ------------------------------------------------------------------------------------------------ what can fail


@pytest.mark.parametrize("name", [name for name, (_, solver) in METHODS.items() if solver is FORWARD])
def test_a_sample_that_fails_is_a_status_and_harms_no_other(name: str) -> None:
    """Measurement 1 is NaN: sample 0 has the state and the adjoint that it has without."""
    case = problem("de-hqs")
    method, solver = METHODS[name]
    d = case.d.clone()
    d[1] = torch.nan
    found = []
    for measurement in (case.d, d):
        result = method(
            Problem(lambda s, m=measurement: case.map(s, m), case.map.initial(measurement), solver, draws=DRAWS)
        )
        case.loss(result.state).backward()
        found.append(result)
    plain, bad = found
    case.map.zero_grad()
    assert torch.equal(plain.state[0], bad.state[0])
    assert int(bad.forward.status[1]) == Status.DIVERGED
    for a, b in zip(plain.adjoint, bad.adjoint, strict=True):
        assert torch.equal(a.value[0], b.value[0])
        assert int(b.status[1]) == Status.DIVERGED


@pytest.mark.parametrize("linear", [*ADJOINT_SOLVERS.values()], ids=[*ADJOINT_SOLVERS])
def test_a_product_that_fails_is_a_status_of_the_adjoint(linear: AdjointSolver) -> None:
    case = problem("de-hqs")
    at = case.fixed_point().requires_grad_()
    state = case.f(at)
    v = state.detach() - case.target()
    spoil = torch.tensor([1.0, torch.nan], dtype=v.dtype)[:, None, None, None]

    def solve(factor: Tensor | float) -> Solution:
        return linear.solve_adjoint(Adjoint(v, lambda w: factor * vjp(state, at, w), lambda u: jvp(case.f, at, u)))

    plain, bad = solve(1.0), solve(spoil)
    assert torch.equal(plain.value[0], bad.value[0])
    assert int(bad.status[1]) == Status.DIVERGED
    assert bad.value.isfinite().all()


def test_a_map_that_does_not_contract_is_a_status() -> None:
    """T(x) = 1.5 x + b forward and backward: nothing raises, and both solves say so."""
    slope = torch.full((1,), 1.5, dtype=torch.float64, requires_grad=True)
    b = torch.ones(2, 5, dtype=torch.float64)
    for method in (Jfb(), Implicit(Picard(1e-8, 60)), Neumann(40), Truncated(3), Unrolled(30)):
        found = method(Problem(lambda x: slope * x + b, b, Picard(1e-8, 60)))
        found.state.sum().backward()
        if not isinstance(method, Unrolled):
            assert found.forward.status.tolist() == [Status.DIVERGED] * 2
        assert all(adjoint.status.tolist() == [Status.DIVERGED] * 2 for adjoint in found.adjoint)
        assert slope.grad is not None
        assert slope.grad.isfinite().all()


@pytest.mark.parametrize("name", METHODS)
def test_half_precision_networks_are_solved_in_single(name: str) -> None:
    """State and adjoint stay in float32 where T is a convolution in bfloat16."""
    method, solver = METHODS[name]
    weight = (0.5 * torch.eye(3, dtype=torch.bfloat16))[:, :, None, None].requires_grad_()
    b = torch.ones(2, 3, 4, 4, dtype=torch.bfloat16)
    found = method(Problem(lambda x: conv2d(x.bfloat16(), weight) + b, torch.zeros_like(b), solver, draws=DRAWS))
    found.state.float().sum().backward()
    assert weight.grad is not None
    assert name in ("unrolled", "checkpointed") or found.forward.value.dtype == torch.float32
    assert all(adjoint.value.dtype == torch.float32 for adjoint in found.adjoint)
