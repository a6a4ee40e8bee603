"""Cells are validated, named by what changes a result, and read back as they were written."""

import pytest

from harness.config.cells import parse_cell
from harness.config.errors import ConfigError
from tests.conftest import tiny_cell


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model": "de-foo"}, "model: 'de-foo' is not one of de-admm, de-grad, de-hqs, de-prox"),
        ({"model": {"name": "de-prox", "weigth": 1}}, "model: no field 'weigth'; allowed: "),
        ({"model": "de-prox", "sed": 3}, "no field 'sed'; allowed: "),
        ({"model": "de-prox", "steps": "abc"}, "steps: "),
        ({"model": "de-prox", "solver": {"tol": -1}}, "solver.tol: "),
        ({"model": "de-prox", "solver": {"tol": float("nan")}}, "solver.tol: "),
        ({"model": "de-prox", "world_size": 3}, "global_batch_size 8 is not divisible by world_size 3"),
        ({"model": "de-prox", "pool": {"size": 12}}, "pool.size 12 is not a multiple of global_batch_size 8"),
        (
            {"model": "de-prox", "backprop": "implicit", "steps": 40},
            "warm_up 40 leaves none of 40 steps to backprop implicit",
        ),
        ({"model": "de-prox", "data": "celeba"}, "data.root: a value is required"),
        ({"model": "de-prox", "physics": {"kernel_size": 4}}, "kernel_size must be odd"),
        ({"model": "de-prox", "physics": {"name": "paper", "kernel_std": 2.236}}, "paper has kernel_std 2.23606"),
        (
            {"model": "de-prox", "physics": "code2023"},
            "physics: 'code2023' is not one of code2022, code2024, gaussian-",
        ),
        ({"model": "de-prox", "backprop": {"name": "implicit", "solver": "andersn"}}, "backprop.solver: 'andersn'"),
        ({"model": "de-prox", "backprop": "shine"}, "backprop shine needs solver broyden, not anderson"),
        (
            {"model": "de-prox", "backprop": {"name": "implicit", "solver": {"name": "cg-normal", "max_steps": 1}}},
            "backprop.solver.max_steps",
        ),
        ({"model": "de-prox", "data": {"image_size": 32, "crop": 33}}, "data: crop 33 is larger than image_size 32"),
        (
            {"model": "feed-forward"},
            "model feed-forward has no fixed point: it needs backprop unrolled with steps 1, not jfb",
        ),
        ({}, "model: a value is required"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_field(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_cell(fields)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_cell_reads_back_as_it_was_written() -> None:
    cell = tiny_cell(backprop={"name": "implicit", "solver": {"name": "broyden", "tol": 1e-6}})
    assert parse_cell(cell.to_json()) == cell
    assert parse_cell(cell.to_json()).cell_id == cell.cell_id


def test_what_changes_a_result_changes_the_cell_id() -> None:
    cell = tiny_cell()
    assert tiny_cell(seed=1).cell_id != cell.cell_id
    assert tiny_cell(world_size=2).cell_id != cell.cell_id
    assert tiny_cell(solver={"tol": None, "max_steps": 5}).cell_id != cell.cell_id


def test_how_a_cell_is_run_does_not_change_the_cell_id() -> None:
    assert tiny_cell(operations={"checkpoint_every": 7}).cell_id == tiny_cell().cell_id


def test_a_denoiser_serves_cells_that_score_more_or_fewer_test_pictures() -> None:
    few, many = (tiny_cell(data={"name": "pictures", "test_images": count}) for count in (2, 4))
    assert few.cell_id != many.cell_id
    assert few.needs is not None
    assert many.needs is not None
    assert few.needs.cell_id == many.needs.cell_id


def test_where_celeba_lies_does_not_change_the_cell_id_but_which_folder_does() -> None:
    def cell_id(name: str, root: str) -> str:
        return tiny_cell(data={"name": name, "root": root}).cell_id

    assert cell_id("celeba", "/a") == cell_id("celeba", "/b")
    assert cell_id("folder", "/a") != cell_id("folder", "/b")


def test_pretraining_is_shared_by_models_and_methods_but_not_by_seeds() -> None:
    needs = {tiny_cell(model=m, backprop=b).needs for m in ("de-prox", "de-hqs") for b in ("jfb", "implicit")}
    assert len(needs) == 1
    assert tiny_cell(seed=1).needs not in needs


def test_a_users_own_class_is_named_by_import_path() -> None:
    cell = tiny_cell(model={"name": "mypackage.mymodule:MyMap", "strength": 3})
    assert cell.to_json()["model"] == {"name": "mypackage.mymodule:MyMap", "damping": 0.45, "strength": 3}
    assert cell.cell_id.startswith("MyMap_jfb_")


@pytest.mark.parametrize(
    ("name", "kernel_std", "value_range"),
    [("paper", 5**0.5, (0.0, 1.0)), ("code2022", 5.0, (-1.0, 1.0)), ("code2024", 1.0, (-1.0, 1.0))],
)
def test_a_protocol_is_named_in_one_word(name: str, kernel_std: float, value_range: tuple[float, float]) -> None:
    physics = tiny_cell(physics=name).physics
    expected = {"noise_std": 0.01, "value_range": value_range, "kernel_size": 5, "kernel_std": kernel_std}
    assert physics.parameters() == expected | {"boundary": "zero"}
    assert physics.import_path == "harness.physics.blur:GaussianBlur"
