"""Tar shards: read by index, packed from a folder, resumed and verified."""

import io
import json
import logging
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from fakes import RandomCrops
from rich.console import Console

from passl_simsiam.data.datasets.folder import ImageFolder
from passl_simsiam.data.datasets.shards import Shards
from passl_simsiam.data.decode import BadImage
from passl_simsiam.data.loader import Loader
from passl_simsiam.data.pack import pack
from passl_simsiam.errors import UserError

QUIET = Console(file=io.StringIO())


@pytest.fixture
def folder(tmp_path):
    """30 images of two classes, their contents told by their red channel; one of them is broken."""
    for index in range(30):
        path = tmp_path / "images" / ("ant" if index % 3 else "bee") / f"photo.{index}.{'png' if index % 2 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = np.random.default_rng(index).integers(0, 256, (20 + index, 30, 3), np.uint8)
        image[..., 2] = index * 8
        cv2.imwrite(str(path), image)
    (tmp_path / "images" / "ant" / "photo.7.png").write_bytes(b"no image")
    return ImageFolder(str(tmp_path / "images"))


def fill(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))


def jpeg(value, channels=3):
    return cv2.imencode(".jpg", np.full((16, 12, channels), value, np.uint8))[1].tobytes()


def test_shards_of_others_are_read_by_name_and_order(tmp_path):
    fill(tmp_path / "b.tar", {"x/003.jpg": jpeg(30), "x/003.cls": b"1\n", "x/003.json": b"{}"})
    fill(
        tmp_path / "a.tar",
        {"001.cls": b"2", "001.seg.png": b"", "001.JPEG": jpeg(10), "README": b"hello", "2.jpg": jpeg(20)},
    )
    dataset = Shards(str(tmp_path))
    assert [dataset.name(index).removeprefix(str(tmp_path)) for index in range(3)] == [
        "/a.tar/001.seg.png",
        "/a.tar/2.jpg",
        "/b.tar/x/003.jpg",
    ]
    assert dataset.labels.tolist() == [2, -1, 1]
    assert dataset.classes == ["0", "1", "2"]
    assert abs(dataset.read(2).astype(int) - 30).max() <= 1
    with pytest.raises(BadImage, match="empty"):
        dataset.read(0)


def test_packed_images_are_the_files_of_the_folder(folder, tmp_path):
    packed = pack(folder, tmp_path / "shards", shard_size=8, console=QUIET)
    assert packed.samples == 29
    assert [sample.name for sample in packed.bad] == [str(tmp_path / "images/ant/photo.7.png")]
    shards = Shards(str(tmp_path / "shards"))
    assert len(shards) == 29
    assert shards.classes == folder.classes == ["ant", "bee"]
    originals = {}
    for index in set(range(30)) - {packed.bad[0].index}:
        originals[Path(folder.name(index)).read_bytes()] = folder.labels[index]
    assert {shards.encoded(index): shards.labels[index] for index in range(29)} == originals
    number = [int(np.median(shards.read(index)[..., 0])) for index in range(29)]
    assert number != sorted(number), "the order is shuffled"


def test_packing_to_a_short_side_shrinks_the_larger_ones_only(folder, tmp_path):
    pack(folder, tmp_path / "shards", short_side=25, console=QUIET)
    shards = Shards(str(tmp_path / "shards"))
    sides = sorted(min(shards.read(index).shape[:2]) for index in range(29))
    assert sides == [20, 21, 22, 23, 24] + [25] * 24
    for index in range(29):
        if shards.name(index).endswith(".jpg") and min(shards.read(index).shape[:2]) == 25:
            red = shards.read(index)[..., 0]
            assert abs(np.median(red) / 8 - round(np.median(red) / 8)) < 0.5


def test_packing_twice_gives_the_same_bytes(folder, tmp_path):
    for name, threads in (("one", 1), ("two", 4)):
        pack(folder, tmp_path / name, shard_size=7, threads=threads, console=QUIET)
    for shard in sorted((tmp_path / "one").glob("*.tar")):
        assert shard.read_bytes() == (tmp_path / "two" / shard.name).read_bytes()


def test_an_interrupted_packing_goes_on_where_it_was(folder, tmp_path, monkeypatch, caplog):
    whole = pack(folder, tmp_path / "whole", shard_size=5, console=QUIET)
    decoded, reads = ImageFolder.decoded, []

    def interrupted(self, data, index, reduction=None):
        reads.append(index)
        if len(reads) == 18:
            raise KeyboardInterrupt
        return decoded(self, data, index, reduction)

    target = tmp_path / "shards"
    monkeypatch.setattr(ImageFolder, "decoded", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pack(folder, target, shard_size=5, threads=1, console=QUIET)
    finished = {path.name: path.stat().st_mtime_ns for path in target.glob("*.tar")}
    assert len(finished) == 3
    with (target / "manifest.jsonl").open("a") as file:
        file.write('{"shard": "sha')  # as if cut off by a crash
    (target / "shard-000001.tar").write_bytes(b"damaged")
    resumed = pack(folder, target, shard_size=5, console=QUIET)
    assert len(reads) == 18 + 30 - 10, "only what was missing or damaged was packed again"
    assert (resumed.samples, resumed.bytes) == (whole.samples, whole.bytes)
    assert "shard-000001.tar is not as it was packed" in caplog.text
    for path in (tmp_path / "whole").glob("*.tar"):
        assert path.read_bytes() == (target / path.name).read_bytes()
    for name in ("shard-000000.tar", "shard-000002.tar"):
        assert (target / name).stat().st_mtime_ns == finished[name], "kept as it was"
    assert all(json.loads(line) for line in (target / "manifest.jsonl").read_text().splitlines())
    assert not list(target.glob(".*"))


def test_a_target_with_other_settings_or_other_files_is_refused(folder, tmp_path):
    pack(folder, tmp_path / "shards", shard_size=8, console=QUIET)
    with pytest.raises(UserError, match=r"was begun with .*'shard_size': 8"):
        pack(folder, tmp_path / "shards", shard_size=9, console=QUIET)
    (tmp_path / "other").mkdir()
    fill(tmp_path / "other" / "a.tar", {"1.jpg": jpeg(1)})
    with pytest.raises(UserError, match="already holds tar files"):
        pack(folder, tmp_path / "other", console=QUIET)


def test_a_disk_that_does_not_keep_its_bytes_is_found_out(folder, tmp_path, monkeypatch):
    def flip_a_bit(fd):
        path = Path(f"/proc/self/fd/{fd}").readlink()
        if path.name.endswith(".tar.part"):
            data = bytearray(path.read_bytes())
            data[600] ^= 1
            path.write_bytes(data)

    monkeypatch.setattr("passl_simsiam.data.pack.os.fsync", flip_a_bit)
    with pytest.raises(UserError, match="does not read back as it was written"):
        pack(folder, tmp_path / "shards", console=QUIET)


def test_the_index_is_kept_and_made_again_when_shards_change(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    fill(tmp_path / "a.tar", {"1.jpg": jpeg(10), "1.cls": b"0"})
    for _ in range(2):
        assert Shards(str(tmp_path)).labels.tolist() == [0]
    assert caplog.text.count("indexing 1 shards") == 1
    fill(tmp_path / "a.tar", {"1.jpg": jpeg(10), "1.cls": b"3"})
    assert Shards(str(tmp_path)).labels.tolist() == [3]
    (tmp_path / "index.npz").write_bytes(b"PK damaged")
    fill(tmp_path / "b.tar", {"2.jpg": jpeg(20), "2.cls": b"1"})
    assert Shards(str(tmp_path)).labels.tolist() == [3, 1]
    assert caplog.text.count("indexing") == 3


def test_damaged_and_missing_shards_are_named(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        Shards(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"no \*.tar files"):
        Shards(str(tmp_path))
    fill(tmp_path / "a.tar", {"1.jpg": jpeg(10)})
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[:700])
    with pytest.raises(UserError, match=r"a\.tar' is damaged"):
        Shards(str(tmp_path))
    fill(tmp_path / "a.tar", {"1.txt": b"10"})
    with pytest.raises(UserError, match="no images in the 1 shards"):
        Shards(str(tmp_path))
    with pytest.raises(UserError, match="no folder val or test"):
        Shards(str(tmp_path), split="test")


def test_a_shard_that_vanishes_gives_bad_images(tmp_path):
    fill(tmp_path / "a.tar", {"1.jpg": jpeg(10)})
    dataset = Shards(str(tmp_path))
    (tmp_path / "a.tar").write_bytes(b"short")
    with pytest.raises(BadImage, match="the shard ends before the image does"):
        dataset.read(0)
    (tmp_path / "a.tar").unlink()
    with pytest.raises(BadImage, match="No such file"):
        dataset.read(0)


def test_splits_are_folders(tmp_path):
    for split, value in (("train", 10), ("test", 20)):
        (tmp_path / split).mkdir()
        fill(tmp_path / split / "a.tar", {"1.jpg": jpeg(value)})
    for split, value in (("train", 10), ("val", 20), ("test", 20)):
        assert abs(Shards(str(tmp_path), split).read(0).mean() - value) < 2


def test_workers_and_ranks_read_the_same_views_from_shards(folder, tmp_path):
    pack(folder, tmp_path / "shards", shard_size=8, console=QUIET)
    options = {"batch_size": 8, "shuffle": True, "drop_last": True, "seed": 0}
    runs = []
    for workers in (0, 2):
        with Loader(Shards(str(tmp_path / "shards")), RandomCrops(), **options, num_workers=workers) as loader:
            runs.append([np.stack(batch["views"]) for batch in loader.epoch(0)])
    np.testing.assert_array_equal(*runs)
