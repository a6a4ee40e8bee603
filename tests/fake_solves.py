"""Prints, as JSON, how often each map, method and solver makes the host wait for a device, forward and in total."""

import json
import os
import sys
from typing import Any

import torch

from harness.config.cells import TrainCell
from harness.models.build_model import build_equilibrium, build_network
from tests.conftest import tiny_cell

MAPS = ("de-grad", "de-prox", "de-admm", "de-hqs")
METHODS = ("jfb", "implicit", "neumann", "stochastic-neumann", "phantom", "truncated", "unrolled")
STEPS = 9
DATA = {"name": "pictures", "image_size": 16}
COMMON: dict[str, Any] = {"data": DATA, "network": {"depth": 2, "width": 4}}


def cases() -> dict[str, dict[str, Any]]:
    """Every map with every method; every solver, forward and adjoint; and a solve of fixed length."""
    found = {f"{model} {method}": solved("anderson", model=model, backprop=method) for model in MAPS
             for method in METHODS if method != "implicit"}  # fmt: skip
    for model in MAPS:
        found[f"{model} implicit"] = solved("anderson", model=model, backprop=adjoint("gmres"))
        found[f"{model} shine"] = solved("broyden", model=model, backprop="shine")
    found |= {f"forward {solver}": solved(solver) for solver in ("picard", "broyden")}
    for solver in ("anderson", "broyden", "cg-normal"):
        found[f"adjoint {solver}"] = solved("anderson", backprop=adjoint(solver))
    found["fixed"] = solved("anderson") | {"solver": {"name": "anderson", "tol": None, "max_steps": STEPS}}
    return found


def solved(solver: str, **fields: Any) -> dict[str, Any]:
    return COMMON | fields | {"solver": {"name": solver, "tol": 1e-3, "max_steps": STEPS}}


def adjoint(solver: str) -> dict[str, Any]:
    return {"name": "implicit", "solver": {"name": solver, "tol": 1e-2, "max_steps": STEPS}}


def counted(fields: dict[str, Any]) -> tuple[dict[str, int], dict[str, int]]:
    """The transfers of a forward pass, and of the backward pass too."""
    from tests.fake_device import DEVICE, fake_device, move

    cell = tiny_cell(**fields)
    assert isinstance(cell, TrainCell)
    model, _ = build_equilibrium(cell)
    model.float()
    with fake_device() as transfers:
        move(model)
        d = torch.empty(2, 3, 16, 16, device=DEVICE)
        draws = torch.empty(2, dtype=torch.float64, device=DEVICE)
        output = model(d, None, draws)
        forward = dict(transfers.counts)
        output.image.sum().backward()
        assert output.image.device == DEVICE
        return forward, dict(transfers.counts)


def projected() -> dict[str, int]:
    """The transfers of a Lipschitz projection."""
    from tests.fake_device import fake_device, move

    cell = tiny_cell(**COMMON | {"network": {"depth": 2, "width": 4, "lipschitz": 1.0}})
    assert isinstance(cell, TrainCell)
    network, projection = build_network(cell)
    assert projection is not None
    with fake_device() as transfers:
        move(network)
        projection()
        return dict(transfers.counts)


if __name__ == "__main__":
    print(json.dumps({name: counted(fields) for name, fields in cases().items()} | {"projection": projected()}))
    sys.stdout.flush()
    os._exit(0)  # the registered device does not survive the end of the interpreter
