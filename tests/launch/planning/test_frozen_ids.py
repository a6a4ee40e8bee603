"""cell_ids of shipped grids. A change here is a change of what their cells compute, and belongs in the changelog."""

import pytest

from launch.planning import grid
from launch.planning.overrides import override, parse_assignment

FROZEN = {
    "demo": [
        "total-variation-3c27190a",
        "pretrain_dncnn_s0-d4277bdd",
        "de-grad_jfb_cosine_s0-008aed49",
        "de-hqs_implicit_cosine_s0-2091ea9c",
    ],
    "exactness": [
        "de-hqs_jfb_cosine_tuned_s0-389cf251",
        "de-grad_implicit_cosine_tuned_s4-1ece2871",
        "de-hqs_implicit_cosine_tuned_s2-36821e1d",
    ],
    "paper-cpu": [
        "de-grad_jfb_fixed_s0-85d948d8",
        "de-hqs_implicit_cosine_s1-e521dc15",
        "de-admm_unrolled_step_s0-259bc656",
        "feed-forward_unrolled_cosine_s0-7d693ba6",
        "timing_de-grad_s0-6173b4c4",
        "timing_de-hqs_s0-87eacd9b",
    ],
    "paper": [
        "pretrain_dncnn_s0-41ac9e12",
        "de-prox_neumann_step_s2-31498407",
        "pnp-admm_s1-27e37b35",
        "timing_de-prox_s0-211a0f85",
    ],
    "protocol": [
        "de-hqs_jfb_cosine_s0-eb38ff98",
    ],
    "scaling": [
        "pretrain_dncnn_s0-cd3e97f8",
        "de-prox_jfb_cosine_s0-88a673fc",
        "de-hqs_implicit_cosine_s0-31e1efd5",
        "de-hqs_unrolled_cosine_s0-d7279317",
    ],
    "shipped": [
        "de-hqs_jfb_cosine_s0-1558bb78",
    ],
}


@pytest.mark.parametrize("name", FROZEN)
def test_shipped_cells_keep_their_ids(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where CelebA lies changes no cell_id, so it need not be here."""
    monkeypatch.setattr(grid, "check_data", lambda cells: None)
    declared = grid.read_grid(name)
    if declared.base["data"]["name"] == "celeba":
        declared = override(declared, [parse_assignment("data.root=/anywhere")])
    planned = {cell.cell_id for cell in grid.plan(declared)}
    assert set(FROZEN[name]) <= planned
