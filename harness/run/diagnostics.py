"""Measures and records a model's contraction and gradient fidelity during training, in addition to its scores."""

import time
from dataclasses import replace
from typing import Any

from torch import Tensor

from harness.config.cells import TrainCell
from harness.data.batches import Batch
from harness.implicit.backprop import Unrolled
from harness.implicit.contraction import iterate, spectrum
from harness.measure.gradient_fidelity import compare_gradients, methods
from harness.measure.scores import psnr
from harness.models.contractive import denoiser_bound
from harness.models.equilibrium import Equilibrium, Output
from harness.records.events import Contraction, Fidelity
from harness.run.attempt import Attempt
from harness.run.distributed import gather_values
from harness.training.task import Task

PICTURES = 2
"""Number of validation pictures at which contraction is measured one by one, divided among the ranks."""
FURTHER = 100
"""How much tighter than for a score a picture is solved to see whether its score would move."""
FAR = (1, 2, 10)
"""Numbers of iterations of a trained map, as multiples of the training depth."""


def record_diagnostics(attempt: Attempt, cell: TrainCell, task: Task, step: int) -> None:
    """Record the diagnostics due after `step` training steps; all ranks must call it together."""
    if not cell.iterates:
        return
    start_or_end = step in (0, task.steps)
    if start_or_end:
        _measure_contraction(attempt, cell, task, step)
    if cell.fidelity and (start_or_end or (cell.fidelity.every and step % cell.fidelity.every == 0)):
        _measure_fidelity(attempt, cell, cell.fidelity.pictures, task, step)


def _measure_contraction(attempt: Attempt, cell: TrainCell, task: Task, step: int) -> None:
    """Record how contractive the map is and, after training, the outcome of iterating it plainly."""
    counts = [factor * cell.depth for factor in FAR] if step == task.steps else []
    indices = list(attempt.loader.dataset.validation)[:PICTURES]
    mine = indices[attempt.position.rank :: attempt.position.world_size]
    ranks = gather_values([_contraction(attempt, task, index, counts) for index in mine], attempt.device)
    rows = sorted((row for part in ranks for row in part), key=lambda row: row["indices"])
    lists = {name: [row[name] for row in rows if row[name] is not None] for name in rows[0] if name[-3:] != "_at"}
    psnr_at = {n: sum(row["psnr_at"][n] for row in rows) / len(rows) for n in counts}
    residual_at = {n: max(row["residual_at"][n] for row in rows) for n in counts}
    event = {"time": time.time(), "step": step, **lists, "psnr_at": psnr_at, "residual_at": residual_at}
    assert isinstance(task.model, Equilibrium)
    event["denoiser_bound"] = denoiser_bound(task.model.map.network)
    attempt.write(Contraction.model_validate(event))


def _contraction(attempt: Attempt, task: Task, index: int, counts: list[int]) -> dict[str, Any]:
    """The contraction measured at one picture."""
    assert isinstance(task.model, Equilibrium)
    map = task.model.map
    batch = attempt.loader.held_out_batch([index])
    d = task.observe(batch)
    scored = task.reconstruct(batch)
    found = spectrum(lambda state: map(state, d), scored.state)
    reached = iterate(lambda state: map(state, d), map.initial(d), counts)
    images = {n: map.output(state, d).detach() for n, (state, _) in reached.items()}
    return {
        "indices": index,
        "norm": found.norm.item(),
        "spectral_radius": found.eigenvalue.abs().item(),
        "dominant_eigenvalue": found.eigenvalue.real.item(),
        "dominant_imaginary": found.eigenvalue.imag.item(),
        "eigenvalue_residual": found.residual.item(),
        "psnr_at": {n: psnr(image[0], batch.images[0], attempt.loader.value_range) for n, image in images.items()},
        "residual_at": {n: residual.item() for n, (_, residual) in reached.items()},
        "psnr_moved": _psnr_moved(task.model, d, scored, batch) if counts else None,
    }


def _psnr_moved(model: Equilibrium, d: Tensor, scored: Output, batch: Batch) -> float | None:
    """How far a score is from that of the fixed point; None for a method that looks for none."""
    solver = model.evaluation_solver
    if isinstance(model.backprop, Unrolled) or solver.tol is None:
        return None
    tighter = replace(solver, tol=solver.tol / FURTHER, max_steps=2 * solver.max_steps)
    settled = model.reconstruct(d, scored.state, tighter)
    before, after = (psnr(one.image[0], batch.images[0], model.map.physics.value_range) for one in (scored, settled))
    return after - before


def _measure_fidelity(attempt: Attempt, cell: TrainCell, pictures: int, task: Task, step: int) -> None:
    """Record how close each method's gradient is to the exact one.

    Every rank computes the same result, because a rank that waited this long for another would time out.
    """
    assert isinstance(task.model, Equilibrium)
    indices = list(attempt.loader.dataset.validation)[:pictures]
    batch = attempt.loader.held_out_batch(indices)
    found = compare_gradients(task.model.map, task.observe(batch), batch.images, methods(cell), task.loss)
    event = {
        "time": time.time(),
        "step": step,
        "status": "no converged reference" if found.methods is None else "measured",
        "indices": indices,
        "left_out": [indices[position] for position in found.left_out],
        "forward_residual": found.forward_residual,
        "adjoint_residual": found.adjoint_residual,
        "methods": found.methods or {},
        "pictures": found.pictures,
        "dominant_eigenvalue": [eigenvalue.real for eigenvalue in found.eigenvalues],
        "spectral_radius": [abs(eigenvalue) for eigenvalue in found.eigenvalues],
    }
    attempt.write(Fidelity.model_validate(event))
