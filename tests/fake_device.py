"""A device that computes nothing, on which every way from the device to the host and back is counted.

Importing this module registers the device as an accelerator of the process, so that only a process of its own may.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("npu")
DEVICE = torch.device("npu", 0)


class Transfers(TorchDispatchMode):
    """Counts what makes a host wait: `reads` of values and shapes, copies `to_host`, and copies `to_device`.

    A value that is read is True or 1: no sample ever stops, so that every solve takes all its steps.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = {leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "equal") and DEVICE.type in inputs:
            self.counts["reads"] += 1
            if name == "_local_scalar_dense":
                return True if args[0].dtype == torch.bool else (args[0].dtype.is_floating_point and 1.0) or 1
        result = func(*args, **(kwargs or {}))
        if name in ("_to_copy", "copy_", "copy"):
            target = next(leaf.device.type for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
            if (inputs == {"cpu"} and target == DEVICE.type) or (name == "copy_" and len(inputs) == 2):
                self.counts["to_device"] += 1
            if DEVICE.type in inputs and target == "cpu":
                self.counts["to_host"] += 1
        return result


@contextmanager
def fake_device() -> Iterator[Transfers]:
    """Tensors on DEVICE can be made and computed with in this context; yields the counts."""
    with FakeTensorMode(allow_non_fake_inputs=True), Transfers() as transfers:
        yield transfers


def move(model: nn.Module) -> None:
    """Replace the parameters and buffers of a model by those of the fake device, inside its context."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                placed = torch.empty(parameter.shape, dtype=parameter.dtype, device=DEVICE)
                module._parameters[name] = nn.Parameter(placed, parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=DEVICE)
