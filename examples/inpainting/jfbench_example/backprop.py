"""A way to backpropagate through the fixed point."""

from dataclasses import dataclass

from harness.implicit import Differentiable
from harness.implicit.backprop import Problem


@dataclass(frozen=True)
class LastSteps:
    """Differentiates through the last `steps` evaluations of T, taken at the fixed point; 1 is JFB."""

    steps: int

    def __call__(self, problem: Problem) -> Differentiable:
        """Solve without a graph, then take the steps with one."""
        solution = problem.solve()
        state = solution.value
        for _ in range(self.steps):
            state = problem.f(state)
        return Differentiable(state, solution)
