"""Grid files and overrides to cells."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness.config.catalog.baselines import BaselineSpec
from harness.config.cells import BaselineCell, TrainCell
from harness.config.errors import ConfigError
from harness.models.build_model import build_equilibrium
from launch.planning.changes import declared_grid
from launch.planning.grid import Grid, plan, read_grid, shipped_names, validated
from launch.planning.overrides import override, parse_assignment

AXES = {"model": ["de-prox", "de-hqs"], "backprop": ["jfb", "implicit"]}


def grid(**fields: Any) -> Grid:
    return Grid.model_validate({"name": "test", "grid": AXES, **fields})


def with_overrides(declared: Grid, *texts: str) -> Grid:
    return override(declared, map(parse_assignment, texts))


def trained(declared: Grid) -> list[TrainCell]:
    return [cell for cell in plan(declared) if isinstance(cell, TrainCell)]


def shipped(name: str) -> Grid:
    """A shipped grid on pictures that are always here."""
    return with_overrides(read_grid(name), "data={name: pictures, image_size: 64}")


def test_a_tuned_field_is_no_axis_and_gets_new_values_from_the_command_line() -> None:
    tuned = grid(tune={"axes": {"optimizer.lr": [1e-3, 1e-4]}})
    assert len(trained(tuned)) == 4 + 4 * 2
    longer = with_overrides(tuned, "optimizer.lr=1.0e-3,1.0e-4,1.0e-5")
    assert longer.tune is not None
    assert longer.tune.axes == {"optimizer.lr": (1e-3, 1e-4, 1e-5)}
    assert longer.base == tuned.base
    assert len(trained(with_overrides(tuned, "tune=null"))) == 4
    with pytest.raises(ConfigError, match=r"tune\.axes: optimizer\.lr is also an axis of the grid"):
        plan(grid(grid={**AXES, "optimizer.lr": [1e-3, 1e-4]}, tune={"axes": {"optimizer.lr": [1e-3, 1e-4]}}))


@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_grid_plans(name: str) -> None:
    assert len({cell.cell_id for cell in plan(shipped(name))}) == len(plan(shipped(name)))


@pytest.mark.parametrize("name", ["paper", "paper-cpu"])
def test_the_papers_grids_ask_where_celeba_lies(name: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.root: a value is required"):
        plan(read_grid(name))


@pytest.mark.parametrize(("name", "seeds", "unets"), [("paper", 3, 1), ("paper-cpu", 2, 2)])
def test_the_papers_grids_have_every_row(name: str, seeds: int, unets: int) -> None:
    declared = shipped(name)
    cells = plan(declared)
    rows = Counter((c.model.name, c.backprop.name, c.schedule.name) for c in trained(declared) if c.iterates)
    for model in ("de-grad", "de-prox", "de-admm", "de-hqs"):
        for backprop in ("jfb", "implicit", "neumann", "unrolled"):
            for schedule in ("fixed", "step", "cosine"):
                assert rows[model, backprop, schedule] >= seeds, (model, backprop, schedule)
    direct = Counter(c.network.name for c in trained(declared) if not c.iterates)
    assert direct == {"dncnn": seeds, "unet": unets * seeds}
    assert {c.baseline.name for c in cells if isinstance(c, BaselineCell)} == set(BaselineSpec.choices())
    assert sum(isinstance(c, BaselineCell) and c.baseline.name == "pnp-pgd" for c in cells) == seeds
    assert {c.physics.name for c in trained(declared)} == {"paper"}


@pytest.mark.parametrize("name", ["paper", "paper-cpu"])
def test_the_papers_200_images_have_its_hyperparameters_and_ours_beside_them(name: str) -> None:
    declared, _ = declared_grid(name, ["data.name=pictures", "seed=0"])
    few = [cell for cell in trained(declared) if cell.data.train_images == 200]
    theirs, ours = few
    assert (theirs.model.parameters()["step_size"], theirs.optimizer.lr, theirs.schedule.name) == (1e-3, 1e-3, "fixed")
    assert (theirs.global_batch_size, theirs.physics.parameters()["kernel_size"]) == (16, 5)
    assert {cell.backprop.name for cell in few} == {"jfb"}
    assert ours.model.parameters()["step_size"] != 1e-3


@pytest.mark.parametrize("name", ["paper", "paper-cpu"])
def test_feed_forward_networks_have_as_many_parameters_as_the_equilibrium_models(name: str) -> None:
    cells = trained(shipped(name))
    counts = {(c.iterates, c.network): sum(p.numel() for p in build_equilibrium(c)[0].parameters()) for c in cells}
    direct = {network: count for (iterates, network), count in counts.items() if not iterates}
    iterated = {network: count for (iterates, network), count in counts.items() if iterates}
    for count in direct.values():
        assert min(abs(count / other - 1) for other in iterated.values()) < 0.05
    (small,) = {count for network, count in iterated.items() if network.name == "dncnn"}
    assert {network.name for network, count in direct.items() if abs(count / small - 1) < 0.05} == {"dncnn", "unet"}


def test_the_demo_is_every_map_by_two_methods_and_five_baselines() -> None:
    labels = [cell.label for cell in plan(read_grid("demo"))]
    assert len(labels) == 4 * 2 + 5 + 1
    assert labels.index("pretrain_dncnn_s0") < labels.index("de-grad_jfb_cosine_s0"), "what is needed comes first"


def test_plug_and_play_comes_once_for_each_denoiser_and_after_it() -> None:
    declared = grid(grid={**AXES, "seed": [0, 1]}, baselines=["degraded", {"name": "pnp-pgd", "iterations": 7}],
                    base={"network": {"depth": 4}, "world_size": 2})  # fmt: skip
    cells = plan(declared)
    plugged = [cell for cell in cells if isinstance(cell, BaselineCell) and cell.needs]
    assert [cell.label for cell in plugged] == ["pnp-pgd_s0", "pnp-pgd_s1"]
    assert {cell.needs for cell in plugged} == {cell.needs for cell in trained(declared)}
    for cell in plugged:
        assert cell.needs is not None
        assert cells.index(cell.needs) < cells.index(cell)


def test_an_override_of_an_axis_replaces_its_list() -> None:
    cells = trained(with_overrides(grid(), "model=de-admm,de-grad", "backprop=jfb"))
    assert [cell.label for cell in cells] == ["de-admm_jfb_cosine_s0", "de-grad_jfb_cosine_s0"]


def test_several_values_make_a_new_axis_and_one_value_sets_the_base() -> None:
    cells = trained(with_overrides(grid(), "seed=0,1,2", "optimizer.lr=1e-4", "physics.value_range=[-1,1]"))
    assert len(cells) == 12
    assert {cell.optimizer.lr for cell in cells} == {1e-4}
    assert {cell.physics.value_range for cell in cells} == {(-1.0, 1.0)}


def test_setting_a_part_keeps_the_choice_and_naming_a_choice_starts_from_its_defaults() -> None:
    declared = grid(base={"solver": {"name": "anderson", "max_steps": 7, "memory": 3}})
    (kept,) = {cell.solver for cell in trained(with_overrides(declared, "solver.tol=1e-6"))}
    assert (kept.name, kept.max_steps, kept.tol) == ("anderson", 7, 1e-6)
    (fresh,) = {cell.solver for cell in trained(with_overrides(declared, "solver=picard"))}
    assert (fresh.name, fresh.max_steps) == ("picard", 50)


def test_excluded_combinations_are_left_out() -> None:
    cells = trained(grid(exclude=[{"model": "de-prox", "backprop": "implicit"}]))
    assert sorted(cell.label for cell in cells) == [
        "de-hqs_implicit_cosine_s0", "de-hqs_jfb_cosine_s0", "de-prox_jfb_cosine_s0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "pattern",
    [
        {"solver": "anderson"}, {"backprop": {"name": "implicit", "solver": "gmres"}}, {"backprop.solver.tol": 1e-2},
        {"backprop": "implicit", "precision": "float32"}, {"backprop": "implicit", "optimizer.lr": "1e-3"},
    ],
)  # fmt: skip
def test_a_pattern_meets_defaults_too(pattern: dict[str, Any]) -> None:
    left = {"jfb"} if "solver" not in pattern else set()
    assert {cell.backprop.name for cell in trained(grid(exclude=[pattern], baselines=["degraded"]))} == left


def test_null_is_a_value_and_a_combination_that_can_be_no_cell_may_be_left_out() -> None:
    assert len(trained(grid(exclude=[{"pool": None}]))) == 4
    axes = {"model": ["de-prox", "feed-forward"], "backprop": ["jfb"]}
    assert len(trained(grid(grid=axes, exclude=[{"model": "feed-forward", "backprop": "jfb"}]))) == 1


def test_the_home_directory_is_written_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "photos").mkdir()
    for number in range(3):
        (tmp_path / "photos" / f"{number}.png").touch()
    small = grid(baselines=["degraded"], base={"global_batch_size": 1})
    declared = with_overrides(small, "data.name=folder", "data.root=~/photos")
    assert {cell.data.parameters()["root"] for cell in plan(declared)} == {tmp_path / "photos"}


def test_the_same_relative_path_in_two_places_is_two_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for place in ("a", "b"):
        photos = tmp_path / place / "photos"
        photos.mkdir(parents=True)
        for number in range(3):
            (photos / f"{number}.png").touch()
        monkeypatch.chdir(tmp_path / place)
        declared = with_overrides(
            grid(base={"global_batch_size": 1, "pool": None}), "data.name=folder", "data.root=photos"
        )
        found.append({cell.cell_id for cell in plan(declared)})
        assert {cell.data.parameters()["root"] for cell in plan(declared)} == {photos.resolve()}
    assert not found[0] & found[1]
    (tmp_path / "link").symlink_to(photos)
    through_link = with_overrides(declared, f"data.root={tmp_path}/link")
    assert {cell.cell_id for cell in plan(through_link)} == found[1]


def test_a_key_given_twice_and_two_names_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("name: test\nbase:\n  steps: 10\n  seed: 1\n  steps: 20\n")
    with pytest.raises(ConfigError, match=r"^grid: .*twice.yaml is not valid YAML: 'steps' is given twice .*line 5"):
        read_grid(str(path))
    with pytest.raises(ConfigError, match="model"):
        parse_assignment("model={name: de-prox, name: de-hqs}")
    with pytest.raises(ConfigError, match=r"^name: input should be a valid string \(got \['a', 'b'\]\)$"):
        with_overrides(grid(), "name=a,b")


def test_a_merge_key_may_be_overridden(tmp_path: Path) -> None:
    path = tmp_path / "merged.yaml"
    path.write_text("name: test\nbase:\n  optimizer: &a {lr: 1}\n  schedule: &b {<<: *a, lr: 2}\n  model: {<<: *b}\n")
    assert read_grid(str(path)).base["model"] == {"lr": 2}


BLOCKS = [
    {"grid": AXES},
    {"base": {"backprop": "unrolled", "optimizer.lr": 0.01, "steps": 7}, "grid": {"model": ["de-grad"]}},
]


def test_blocks_add_fields_and_axes_of_their_own_to_the_grids() -> None:
    declared = grid(base={"steps": 50, "optimizer": {"lr": 0.1}}, grid={"seed": [0, 1]}, blocks=BLOCKS)
    found = {(c.model.name, c.backprop.name, c.seed, c.steps, c.optimizer.lr) for c in trained(declared)}
    shared = {(m, b, s, 50, 0.1) for m in AXES["model"] for b in AXES["backprop"] for s in (0, 1)}
    assert found == shared | {("de-grad", "unrolled", s, 7, 0.01) for s in (0, 1)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("steps=200", {"steps": {200}}),
        ("optimizer.lr=0.5", {"lr": {0.5}}),
        ("optimizer={name: sgd, lr: 0.25}", {"lr": {0.25}}),
        ("seed=3", {"seed": {3}}),
        ("seed=3,4", {"seed": {3, 4}}),
        ("backprop=jfb", {"backprop": {"jfb", "unrolled"}}),
        ("model=de-hqs", {"model": {"de-hqs"}}),
    ],
)
def test_an_override_reaches_the_blocks(text: str, expected: dict[str, set[object]]) -> None:
    declared = grid(base={"steps": 50, "optimizer": {"lr": 0.1}}, grid={"seed": [0, 1]}, blocks=BLOCKS)
    cells = trained(with_overrides(declared, text))
    found = {
        "model": {c.model.name for c in cells}, "backprop": {c.backprop.name for c in cells},
        "seed": {c.seed for c in cells}, "steps": {c.steps for c in cells}, "lr": {c.optimizer.lr for c in cells},
    }  # fmt: skip
    assert {field: found[field] for field in expected} == expected


def test_the_same_cell_is_planned_once() -> None:
    assert len(trained(grid(grid={**AXES, "seed": [0, 0]}))) == 4


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"grid": {}}, "grid: no cells"),
        ({"grid": {"model": []}}, "grid.model: an axis needs at least one value"),
        ({"blocks": [{"grid": {"model": []}}]}, "grid.model: an axis needs at least one value"),
        ({"blocks": [{"basis": {}}]}, "blocks.0: no field 'basis'; allowed: base, grid"),
        ({"grid": {"model": ["de-foo"]}}, "model: 'de-foo' is not one of"),
        ({"grid": AXES, "base": {"solver": {"tolerance": 1}}}, "solver: no field 'tolerance'; allowed: name, tol"),
        ({"grid": {}, "baselines": ["degraded"], "base": {"dat": {}}}, "no field 'dat'; allowed: "),
        ({"grid": {}, "baselines": ["pnp-admm"]}, "baselines: pnp-admm plugs in a pretrained denoiser; the grid tra"),
        ({"grid": AXES, "exclude": [{"modle": "de-prox"}]}, "exclude: no field 'modle'; allowed: "),
        ({"gird": AXES}, "no field 'gird'; allowed: name, base, grid, baselines, timing, exclude, tune, blocks"),
        ({"name": "../evil"}, "name: "),
    ],
)
def test_a_mistake_is_one_line(declared: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        plan(validated({"name": "test", **declared}))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["model", "=3", "model=", "seed=[1"])
def test_an_override_is_field_equals_value(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_assignment(text)


def test_a_grid_file_that_is_missing_or_not_yaml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"grid: no file .*none\.yaml"):
        read_grid(str(tmp_path / "none.yaml"))
    with pytest.raises(ConfigError, match=r"neither a \.yaml file nor one of .*demo"):
        read_grid("dmeo")
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_grid(str(broken))


def test_a_missing_data_folder_and_a_text_file_are_found_when_planning(tmp_path: Path) -> None:
    declared = with_overrides(grid(), "data.name=folder", f"data.root={tmp_path}/nowhere")
    with pytest.raises(ConfigError, match=r"data\.root: no folder"):
        plan(declared)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ConfigError, match=r"data\.root: .*notes\.txt is not an image"):
        plan(with_overrides(grid(), "data.name=folder", f"data.root={tmp_path}"))
