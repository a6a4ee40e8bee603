"""What can be known before a job starts is said before it, and planning takes a moment whatever it is given."""

import re
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from harness.config.errors import ConfigError
from launch.planning.changes import declared_grid
from launch.planning.grid import Grid, plan, read_grid, validated
from launch.planning.profiles import Local, read_profile
from launch.pricing.timing import Course, _steps
from launch.reconcile import require_ranks

FOLDER = ["data.name=folder", "data.image_size=64"]


def pictures(folder: Path, count: int) -> str:
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (80, 60), (number, 0, 0)).save(folder / f"{number:03d}.png")
    return f"data.root={folder}"


@pytest.mark.parametrize(("count", "validation"), [(20, None), (44, None), (80, 30)])
def test_a_split_that_the_grid_chose_for_other_pictures_is_kept_where_it_fits(
    count: int, validation: int | None, tmp_path: Path
) -> None:
    grid, changes = declared_grid("demo", [*FOLDER, pictures(tmp_path / "mine", count)])
    cells = plan(grid)
    assert {cell.data.validation_images for cell in cells} == {validation}
    assert ("data.validation_images" in {change.field for change in changes}) == (validation is None)
    for data in {cell.data for cell in cells}:
        counts = data.counts()
        assert counts is not None
        assert all(map(len, (data.splits(counts).train, data.splits(counts).validation, data.splits(counts).test)))


def test_a_split_is_fitted_to_a_folder_in_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    pictures(tmp_path / "mine", 20)
    assert plan(declared_grid("demo", [*FOLDER, "data.root=~/mine"])[0])


@pytest.mark.parametrize(
    ("count", "texts", "said"),
    [
        (10, [], "global_batch_size: at most 8, the training pictures (got 12)"),
        (20, ["data.validation_images=18"], "data.validation_images: must be less than 18 (got 18)"),
        (20, ["global_batch_size=24"], "global_batch_size: at most 16, the training pictures (got 24)"),
        (20, ["physics.kernel_size=65"], "physics.kernel_size: 65 does not fit a picture of 32 pixels"),
        (20, ["data.crop=65"], "crop 65 is larger than image_size 64"),
    ],
)
def test_what_does_not_suit_a_folder_is_refused(count: int, texts: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        plan(declared_grid("demo", [*FOLDER, pictures(tmp_path / "mine", count), *texts])[0])


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["data.image_size=301"], "data.image_size: the photographs hold too few patches (got 301 pixels)"),
        (["global_batch_size=1200", "pool.size=1200"], "global_batch_size: at most 860, the training pictures"),
        (["data.crop=null", "physics.kernel_size=129"], "physics.kernel_size: 129 does not fit a picture of 64 pixels"),
    ],
)
def test_what_does_not_suit_the_photographs_is_refused(texts: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        plan(declared_grid("demo", texts)[0])


def test_a_folder_of_folders_says_to_point_deeper(tmp_path: Path) -> None:
    root = pictures(tmp_path / "inner", 3).replace("/inner", "")
    with pytest.raises(ConfigError, match=r"holds 0 images; .*one of them may be meant, such as .*/inner"):
        plan(declared_grid("demo", [*FOLDER, root])[0])


def test_a_folder_that_may_not_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    grid = declared_grid("demo", ["data.name=folder", f"data.root={tmp_path}"])[0]
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(ConfigError, match=r"data\.root: .* cannot be read \(Permission denied\)"):
        plan(grid)


def test_one_rank_is_known_to_be_too_few_before_a_launch() -> None:
    with pytest.raises(ConfigError, match="world_size: --cluster debug runs one rank"):
        require_ranks(plan(read_grid("demo")), Local(executor="debug"))


def test_a_grid_of_too_many_combinations_is_refused_at_once() -> None:
    declared = Grid(name="g", grid={"model": ["de-prox"], "seed": list(range(200_000))})
    with pytest.raises(ConfigError, match=r"its axes have 200,000 combinations; at most 50,000"):
        plan(declared)


def test_a_cell_id_that_no_file_system_takes_is_refused() -> None:
    with pytest.raises(ConfigError, match="a cell_id has at most 200 characters"):
        plan(validated({"name": "g", "base": {"model": f"json:{'M' * 300}"}}))


LONG = "x: &a [0,0,0,0,0,0,0,0,0,0]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (LONG.encode(), "has more than 250,000 values, aliases written out"),
        (b"a: " + b"[" * 3000 + b"]" * 3000, "is nested more than 20 levels deep"),
        (b"a: &x [*x]", "is nested more than 20 levels deep"),
        (b"name: \xff\xfe", "is not UTF-8 text (byte 6)"),
        (b"when: 2024-13-45", "is not valid YAML: month must be in 1..12"),
        (b"name: [", "is not valid YAML"),
        (b"a" * 6 * 2**20, "is larger than 5 MiB"),
    ],
)
@pytest.mark.parametrize("read", [read_grid, read_profile])
def test_a_file_that_is_no_yaml_is_one_line(content: bytes, said: str, read: object, tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(said)) as error:
        read(str(path))  # type: ignore[operator]
    assert "file.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_executor_has_to_be_a_name(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("executor: [slurm]")
    with pytest.raises(ConfigError, match=r"executor: must be one of local, debug, slurm \(got \['slurm'\]\)"):
        read_profile(str(tmp_path / "site.yaml"))


@pytest.mark.parametrize("steps", [0, 3, 17, 64, 301])
@pytest.mark.parametrize(("warm_up", "batches", "refresh_every"), [(0, 1, 1), (5, 4, 3), (50, 4, 5), (2, 7, 2)])
def test_the_kinds_of_many_steps_are_counted_without_going_through_them(
    steps: int, warm_up: int, batches: int, refresh_every: int
) -> None:
    course = Course(warm_up, batches, refresh_every)
    assert +_steps(course, steps) == Counter(map(course.kind, range(steps)))
