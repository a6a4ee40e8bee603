"""Splits, noise, sample orders, and what a broken folder says."""

import hashlib
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from harness.config.catalog.data import CelebA, Folder, Pictures
from harness.data.batches import Loader, Sample
from harness.data.dataset import Dataset, load
from harness.training.sample_order import Epochs, PoolOrder

SPEC = Pictures(image_size=32)


def loader(dataset: Dataset) -> Loader:
    return Loader(dataset, (0.0, 1.0), torch.device("cpu"), torch.float32)


def _load_sum(cache: Path) -> int:
    return int(load(SPEC, cache).pixels.sum())


def test_several_processes_may_decode_at_the_same_time(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4) as pool:
        assert len(set(pool.map(_load_sum, [tmp_path] * 4))) == 1
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".lock", ".npy"]


def _staged_file(folders: tuple[Path, str]) -> str:
    pixels = load(SPEC, *folders).pixels
    assert isinstance(pixels, np.memmap)
    return str(pixels.filename)


def test_a_node_copies_the_pictures_once_to_its_own_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAST", str(tmp_path / "fast"))
    (tmp_path / "fast").mkdir()
    with ProcessPoolExecutor(4) as pool:
        (staged,) = set(pool.map(_staged_file, [(tmp_path / "cache", "$FAST")] * 4))
    copy = Path(staged)
    assert copy.parent.parent == tmp_path / "fast"
    original = tmp_path / "cache" / "pictures-two-sizes-chelsea-32.npy"
    assert copy.read_bytes() == original.read_bytes()
    assert sorted(path.suffix for path in copy.parent.iterdir()) == [".lock", ".npy"]
    os.utime(original, ns=(1, 1))
    assert _staged_file((tmp_path / "cache", "$FAST")) != staged, "decoded anew, copied anew"


@pytest.mark.parametrize("why", ["is not set", "No such file", "No space left", "Not a directory"])
def test_without_room_on_the_node_the_pictures_are_read_where_they_lie(
    why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "fast"
    stage = "/tmp/$NO_SUCH_VARIABLE" if why == "is not set" else str(folder)
    if why == "No space left":
        folder.mkdir()
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    if why == "Not a directory":
        folder.write_text("a file")
    assert _staged_file((tmp_path / "cache", stage)).startswith(str(tmp_path / "cache"))
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"stage: {stage} on ")
    assert why in said
    assert not list(folder.rglob("*.npy"))


@pytest.mark.parametrize("planted", ["another user's", "open", "a link", "a link as lock"])
def test_nothing_on_the_node_that_others_may_have_made_is_used(
    planted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cache, fast, precious = tmp_path / "cache", tmp_path / "fast", tmp_path / "precious"
    private = fast / f"jfbench-{os.getuid()}"
    precious.mkdir()
    (precious / "file").write_text("mine")
    fast.mkdir()
    if planted == "a link":
        private.symlink_to(precious)
    else:
        private.mkdir(mode=0o700)
    if planted == "another user's":
        nobody = os.getuid() + 1
        private.rename(fast / f"jfbench-{nobody}")
        monkeypatch.setattr(os, "getuid", lambda: nobody)
    if planted == "open":
        private.chmod(0o777)
    if planted == "a link as lock":
        _load_sum(cache)
        original = next(cache.glob("*.npy"))
        seen = original.stat()
        (private / f"{original.stem}-{seen.st_size}-{seen.st_mtime_ns}.lock").symlink_to(precious / "file")
    assert _staged_file((cache, str(fast))).startswith(str(cache))
    said = capfd.readouterr().err.splitlines()[-1]
    assert said.startswith(f"stage: {fast} on ")
    assert "is not used: " in said
    assert (precious / "file").read_text() == "mine"
    assert not list(tmp_path.rglob("fast/**/*.npy"))
    assert sorted(path.name for path in precious.iterdir()) == ["file"]


def test_the_copy_on_the_node_is_private(tmp_path: Path) -> None:
    (tmp_path / "fast").mkdir()
    copy = Path(_staged_file((tmp_path / "cache", str(tmp_path / "fast"))))
    assert copy.parent.stat().st_mode & 0o777 == 0o700


def test_no_test_pixel_is_trained_on(tmp_path: Path) -> None:
    data = load(SPEC, tmp_path)
    assert not set(data.test) & (set(data.train) | set(data.validation))
    assert not set(data.train) & set(data.validation)
    flat = data.pixels.reshape(len(data.pixels), -1)
    trained = {flat[i].tobytes() for i in data.train}
    # Two patches of one colour, black sky, may be alike without being the same.
    assert not any(flat[i].tobytes() in trained for i in [*data.test, *data.validation] if np.ptp(data.pixels[i]))


def test_noise_depends_on_seed_epoch_and_index_only(tmp_path: Path) -> None:
    make = loader(load(SPEC, tmp_path)).batch
    alone = make([Sample(3, 1)], seed=5).noise[0]
    among = make([Sample(7, 0), Sample(3, 1)], seed=5).noise[1]
    assert torch.equal(alone, among)
    for other in (make([Sample(3, 2)], seed=5), make([Sample(3, 1)], seed=6), make([Sample(4, 1)], seed=5)):
        assert not torch.equal(alone, other.noise[0])


def test_a_crop_is_a_part_of_its_picture_at_a_place_of_its_own_in_each_epoch(tmp_path: Path) -> None:
    data = load(SPEC, tmp_path)
    cropped = Loader(data, (0.0, 1.0), torch.device("cpu"), torch.float32, crop=12)
    alone = cropped.batch([Sample(3, 1)], seed=5)
    among = cropped.batch([Sample(7, 0), Sample(3, 1)], seed=5)
    assert torch.equal(alone.images[0], among.images[1])
    assert torch.equal(alone.noise[0], among.noise[1])
    assert alone.images.shape == alone.noise.shape == (1, 3, 12, 12)
    whole = loader(data).batch([Sample(3, 1)], seed=5).images[0]
    places = [whole[:, t : t + 12, left : left + 12] for t in range(21) for left in range(21)]
    assert any(torch.equal(alone.images[0], place) for place in places)
    assert len({cropped.batch([Sample(3, epoch)], seed=5).images.sum().item() for epoch in range(8)}) == 8
    assert cropped.held_out_batch([3]).images.shape == (1, 3, 32, 32)


def test_pictures_fill_the_value_range(tmp_path: Path) -> None:
    data = load(SPEC, tmp_path)
    images = Loader(data, (-1.0, 1.0), torch.device("cpu"), torch.float64).held_out_batch([0, 1]).images
    expected = data.pixels[[0, 1]].transpose(0, 3, 1, 2).astype(float) / 127.5 - 1
    assert np.allclose(images.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_global_batch_does_not_depend_on_the_number_of_ranks(world_size: int) -> None:
    def shares(make: type, *more: int) -> list[list[Sample]]:
        size = 6 // world_size
        orders = [make(0, 50, 6, slice(r * size, (r + 1) * size), *more) for r in range(world_size)]
        return [[sample for order in orders for sample in order.samples(step)] for step in range(40)]

    whole = slice(0, 6)
    assert shares(Epochs) == [Epochs(0, 50, 6, whole).samples(step) for step in range(40)]
    assert shares(PoolOrder, 12, 4) == [PoolOrder(0, 50, 6, whole, 12, 4).samples(step) for step in range(40)]


def test_an_epoch_repeats_no_picture() -> None:
    order = Epochs(0, 50, 6, slice(0, 6))
    seen = [sample.index for step in range(8) for sample in order.samples(step)]
    assert len(seen) == len(set(seen)) == 48


def test_a_pool_goes_on_with_a_batch_until_it_is_refreshed() -> None:
    order = PoolOrder(seed=0, train_count=50, batch_size=2, share=slice(0, 2), size=6, refresh_every=3)
    previous: dict[int, list[Sample]] = {}
    ages = dict.fromkeys(range(3), 0)
    refreshed_at: set[int] = set()
    for step in range(36):
        batch, samples, start = step % 3, order.samples(step), order.start(step)
        known = previous.get(batch) == samples
        assert (start is not None) == known, "a known batch goes on from its states, a new one starts afresh"
        assert start is None or start.flatten().tolist() == [ages[batch]] * 2
        ages[batch] = ages[batch] + 1 if known else 1
        assert ages[batch] <= 3
        if not known and step >= 9:
            refreshed_at.add(step // 3 % 3)
        previous[batch] = samples
        order.keep(step, torch.full((2, 1, 1, 1), float(ages[batch])))
    assert len(refreshed_at) == 3, "batches take turns to be refreshed"
    seen = [sample.index for samples in previous.values() for sample in samples]
    assert len(seen) == len(set(seen))


def test_a_pool_starts_afresh_after_a_state_that_is_not_finite() -> None:
    order = PoolOrder(seed=0, train_count=50, batch_size=2, share=slice(0, 2), size=2, refresh_every=100)
    order.keep(0, torch.tensor([1.0, 5.0]).view(2, 1, 1, 1))
    assert order.start(1) is not None
    order.keep(1, torch.tensor([torch.nan, 5.0]).view(2, 1, 1, 1))
    assert order.start(2) is None


def test_a_pool_keeps_adjoint_solutions_beside_the_states() -> None:
    order = PoolOrder(0, 50, batch_size=2, share=slice(0, 2), size=4, refresh_every=5, keep_adjoint=True)
    states, adjoint = torch.rand(2, 2, 3, 4, 4)
    assert order.adjoint_start(0) is None
    for step in (0, 1):
        order.keep(step, states, adjoint)
    for found, expected in ((order.start(2), states), (order.adjoint_start(2), adjoint)):
        assert found is not None
        assert torch.equal(found, expected)
    resumed = PoolOrder(0, 50, batch_size=2, share=slice(1, 2), size=4, refresh_every=5, keep_adjoint=True)
    resumed.load(order.states())
    mine = resumed.adjoint_start(3)
    assert mine is not None
    assert torch.equal(mine, adjoint[1:])
    order.keep(2, states, adjoint / torch.tensor([0.0, 1.0])[:, None, None, None])
    assert order.start(4) is not None, "the state is as good as before"
    assert order.adjoint_start(4) is None
    refreshed = next(step for step in range(3, 40, 2) if order.samples(step) != order.samples(1))
    order.keep(refreshed - 2, states, adjoint)
    assert order.adjoint_start(refreshed) is None, "what belongs to other samples is no start"


def test_a_pool_without_adjoint_solutions_does_not_keep_them() -> None:
    order = PoolOrder(0, 50, batch_size=2, share=slice(0, 2), size=2, refresh_every=5)
    order.keep(0, torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4))
    assert order.adjoint_start(1) is None
    assert {len(rows) for rows in order.states().values()} == {1}


def make_folder(folder: Path, count: int) -> None:
    folder.mkdir()
    for index in range(count):
        Image.new("RGB", (20, 30), (index, index, index)).save(folder / f"{index:03d}.png")


def test_a_folder_of_images_is_split_in_name_order(tmp_path: Path) -> None:
    make_folder(tmp_path / "images", 20)
    data = load(Folder(root=tmp_path / "images", image_size=16), tmp_path / "cache")
    assert data.pixels.shape == (20, 16, 16, 3)
    assert [int(p[0, 0, 0]) for p in data.pixels] == list(range(20))
    assert (len(data.train), len(data.validation), len(data.test)) == (16, 2, 2)


def test_a_missing_folder_and_a_text_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.root: no folder .*nowhere"):
        Folder(root=tmp_path / "nowhere").files()
    make_folder(tmp_path / "images", 5)
    (tmp_path / "images" / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"data\.root: .*notes\.txt is not an image"):
        Folder(root=tmp_path / "images").files()


def test_a_broken_image_leaves_nothing_half_written(tmp_path: Path) -> None:
    make_folder(tmp_path / "images", 5)
    (tmp_path / "images" / "004.png").write_text("not a picture")
    with pytest.raises(ValueError, match=r"data\.root: .*004\.png"):
        load(Folder(root=tmp_path / "images", image_size=16), tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def frames(folder: Path, first: int) -> list[Path]:
    """Six uncompressed pictures, all of the same size in bytes."""
    folder.mkdir()
    paths = [folder / f"{index}.bmp" for index in range(6)]
    for index, path in enumerate(paths):
        Image.new("RGB", (20, 20), (first + index, 0, 0)).save(path)
        os.utime(path, ns=(1, 1))
    return paths


def test_equally_sized_files_of_two_folders_are_not_confused(tmp_path: Path) -> None:
    for name, first in (("a", 10), ("b", 100)):
        frames(tmp_path / name, first)
        pixels = load(Folder(root=tmp_path / name, image_size=16), tmp_path / "cache").pixels
        assert [int(p[0, 0, 0]) for p in pixels] == list(range(first, first + 6))


def test_a_file_replaced_by_one_of_the_same_size_and_time_is_decoded_again(tmp_path: Path) -> None:
    spec, paths = Folder(root=tmp_path / "a", image_size=16), frames(tmp_path / "a", 10)
    assert load(spec, tmp_path / "cache").pixels[0, 0, 0, 0] == 10
    (newest,) = (tmp_path / "cache").glob("*.npy")
    Image.new("RGB", (20, 20), (200, 0, 0)).save(paths[0])
    os.utime(paths[0], ns=(1, 1))
    assert load(spec, tmp_path / "cache").pixels[0, 0, 0, 0] == 200
    load(spec, tmp_path / "cache")
    assert len(set((tmp_path / "cache").glob("*.npy")) - {newest}) == 1, "what did not change is decoded once"


def test_what_is_no_regular_file_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path / "images", 5)
    os.mkfifo(tmp_path / "images" / "pipe.png")
    with pytest.raises(ValueError, match=r"^data\.root: .*pipe\.png is not a regular file$"):
        Folder(root=tmp_path / "images").files()


def test_celeba_is_split_as_in_the_paper(celeba: Path) -> None:
    files = CelebA(root=celeba).files()
    assert [files[0].name, files[8000].name] == ["000001.jpg", "008001.jpg"]


def test_a_region_of_a_photograph_is_on_one_side_of_the_validation_split(tmp_path: Path) -> None:
    data = load(SPEC, tmp_path)
    assert len(data.train) % 5 == len(data.validation) % 5 == 0
    region = data.pixels[:5].astype(float)
    twice = np.concatenate(
        [np.concatenate([region[1], region[2]], axis=1), np.concatenate([region[3], region[4]], axis=1)]
    )
    halved = twice.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    assert abs(halved - region[0]).mean() < 4 < abs(halved - data.pixels[5]).mean()


def test_held_out_noise_is_the_same_for_every_kind_of_device(tmp_path: Path) -> None:
    """It is drawn on the CPU and then moved: the generator of another device gives other numbers."""
    dataset = load(SPEC, tmp_path)
    noise = loader(dataset).held_out_batch([3, 5]).noise
    thousandths = (noise.double() * 1000).round().to(torch.int32).numpy().tobytes()
    assert hashlib.sha256(thousandths).hexdigest()[:16] == "82001fdfd117b984"
    elsewhere = Loader(dataset, (0.0, 1.0), torch.device("meta"), torch.float32)
    assert elsewhere.held_out_batch([3, 5]).noise.device.type == "meta"
    assert elsewhere.batch([Sample(3, 0)], seed=1).noise.device.type == "meta"
