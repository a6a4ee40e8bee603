"""cell_ids of shipped grids that must never change: results are published under them."""

import pytest

from launch.planning import grid

FROZEN = {
    "demo": [
        "pretrain_dncnn_s0-d4277bdd",
        "de-grad_jfb_cosine_s0-f697c131",
        "de-grad_implicit_cosine_s0-28db5cd4",
        "total-variation-3c27190a",
        "de-hqs_jfb_cosine_s0-029bdd09",
    ],
    "paper-cpu": [
        "tikhonov-777da985",
        "de-prox_neumann_fixed_s0-0b7e83f6",
        "de-grad_neumann_step_s1-58f9ac55",
    ],
    "paper": [
        "de-grad_implicit_step_s0-d58c6645",
        "de-grad_neumann_cosine_s1-375f512f",
        "de-hqs_neumann_step_s2-314a771f",
    ],
    "protocol": [
        "de-hqs_jfb_cosine_s0-5279e0be",
    ],
    "shipped": [
        "de-hqs_jfb_cosine_s0-6959bc74",
    ],
}


@pytest.mark.parametrize("name", FROZEN)
def test_shipped_cells_keep_their_ids(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where CelebA lies changes no cell_id, so it need not be here."""
    monkeypatch.setattr(grid, "check_data", lambda cells: None)
    declared = grid.read_grid(name)
    if declared.base["data"]["name"] == "celeba":
        declared = grid.override(declared, [grid.parse_assignment("data.root=/anywhere")])
    planned = {cell.cell_id for cell in grid.plan(declared)}
    assert set(FROZEN[name]) <= planned
