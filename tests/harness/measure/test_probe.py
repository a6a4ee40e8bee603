"""The probe measures the gradient that training computes, a compiled one included."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from harness.measure import probe as probes
from harness.measure.clock import Clock
from harness.measure.probe import allocator_figures, probe
from harness.run.distributed import RankPosition, data_parallel, process_group

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def alone(tmp_path: Path) -> Iterator[None]:
    with process_group(RankPosition(0, 1, 0, 1), CPU, tmp_path):
        yield


class Compiled(nn.Module):
    """A small network, compiled for a backend that counts how often the compiled function is called."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.calls: list[str] = []
        self.compiled = torch.compile(self.step, backend=self._backend)

    def step(self, x: Tensor) -> Tensor:
        return self.layer(x).relu()

    def _backend(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        def call(*arguments: Tensor) -> object:
            self.calls.append("compiled")
            return graph.forward(*arguments)

        return call

    def forward(self, x: Tensor) -> Tensor:
        return self.compiled(x).sum()


def test_the_probe_of_a_compiled_model_times_compiled_code_and_leaves_it_compiled() -> None:
    torch._dynamo.reset()
    model = Compiled()
    wrapped, x = data_parallel(model, Clock(CPU)), torch.randn(2, 4)
    cost = probe(wrapped, lambda: wrapped(x), CPU, repeats=3)
    assert len(model.calls) == 7, "one gradient to warm up, and three pairs"
    wrapped(x)
    assert len(model.calls) == 8
    assert cost.flops > 0
    assert cost.saved_bytes > 0
    assert cost.peak_allocated_bytes > 0


def test_the_spread_is_an_interquartile_range_of_more_than_three_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([9.0, *[value for total in (1.0, 2.0, 3.0, 4.0, 50.0) for value in (0.0, total)]])
    monkeypatch.setattr(probes, "_timed_gradient", lambda *arguments: (next(seconds), 0.0))
    layer = data_parallel(nn.Linear(2, 1), Clock(CPU))
    cost = probe(layer, lambda: layer(torch.ones(1, 2)).sum(), CPU)
    assert cost.seconds == 3.0
    assert cost.seconds_spread < 49.0, "the slowest and the fastest gradient lie outside"


def test_allocator_figures_tell_apart_what_was_asked_for_held_and_used_by_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stats = {
        "requested_bytes.all.peak": 10, "active_bytes.all.peak": 12, "reserved_bytes.all.peak": 20,
        "reserved_bytes.all.current": 16, "num_alloc_retries": 1,
    }  # fmt: skip
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: stats)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (70, 100))
    assert allocator_figures(torch.device("cuda")) == {
        "peak_requested_bytes": 10, "peak_active_bytes": 12, "peak_reserved_bytes": 20, "outside_bytes": 14,
        "allocation_retries": 1,
    }  # fmt: skip
    assert allocator_figures(CPU) == {}
