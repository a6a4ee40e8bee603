"""How a compiled map is compiled."""

import torch
from torch import Tensor, nn

from harness.models.equilibrium import compile_map


class Counted(nn.Module):
    def forward(self, state: Tensor, d: Tensor) -> Tensor:
        return state + d


def test_batches_of_two_sizes_are_compiled_for_fixed_sizes() -> None:
    """A graph with symbolic sizes is slower, and torch makes one at the second size unless it is told not to."""
    torch._dynamo.reset()
    symbolic: list[bool] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[object]) -> object:
        symbolic.append(any(isinstance(one, torch.SymInt) for one in inputs))
        return graph.forward

    original = torch.compile
    try:
        torch.compile = lambda f, **options: original(f, backend=backend, **options)  # type: ignore[assignment]
        step = compile_map(Counted())  # type: ignore[arg-type]
    finally:
        torch.compile = original
    for batch in (8, 4, 8, 2):
        step(torch.ones(batch, 3), torch.ones(batch, 3))
    assert symbolic == [False] * 3
    assert torch._dynamo.config.optimize_ddp is False, "buckets of DistributedDataParallel split no graph"
