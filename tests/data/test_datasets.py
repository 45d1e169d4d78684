"""Digits, CIFAR, folders and lists, from small files made on the fly."""

from __future__ import annotations

import hashlib
import http.server
import io
import os
import pickle
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from passl_simsiam.data.datasets.cifar import CIFAR10, CIFAR100
from passl_simsiam.data.datasets.digits import Digits
from passl_simsiam.data.datasets.folder import ImageFolder
from passl_simsiam.data.datasets.listing import ImageList
from passl_simsiam.data.datasets.paths import PathList
from passl_simsiam.data.decode import BadImage
from passl_simsiam.errors import UserError
from passl_simsiam.registry import DATASETS


def write(path: Path, value: int = 100, height: int = 6, width: int = 8) -> Path:
    """A picture of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((height, width, 3), value, np.uint8))
    return path


class TestDigits:
    def test_splits_are_fixed_stratified_and_disjoint(self) -> None:
        train, val, whole = Digits("train"), Digits("test"), Digits("all")
        assert (len(train), len(val), len(whole)) == (1433, 364, 1797)
        assert val.labels is not None
        assert np.bincount(val.labels).tolist() == [36, 37, 36, 37, 37, 37, 37, 36, 35, 36]
        assert hashlib.sha256(val.images.tobytes()).hexdigest().startswith("ce6e78f0bd96b4ed")
        pixels = {image.tobytes() for image in train.images}
        assert not pixels & {image.tobytes() for image in val.images}

    def test_images(self) -> None:
        digits = Digits("all")
        image = digits.read(0)
        assert image.shape == (8, 8, 3)
        assert image.dtype == np.uint8
        assert (digits.images.min(), digits.images.max()) == (0, 255)
        assert digits.classes == [str(k) for k in range(10)]
        np.testing.assert_allclose(digits.images[..., 0].mean() / 255, digits.mean[0], atol=1e-4)
        np.testing.assert_allclose(digits.images[..., 0].std() / 255, digits.std[0], atol=1e-4)

    def test_bad_arguments(self) -> None:
        with pytest.raises(UserError, match=r"unknown split 'tests'; did you mean 'test'"):
            Digits("tests")
        with pytest.raises(UserError, match="mean has 1 numbers, the images have 3 channels"):
            Digits(mean=(0.5,))
        with pytest.raises(UserError, match="std must be positive"):
            Digits(std=(0.5, 0.0, 0.5))


def cifar_files(labels: str, names: str, batches: dict[str, int]) -> dict[str, bytes]:
    """Batches as Python 2 wrote them: protocol 2, keys and texts as bytes, rows of red, green and blue planes."""
    rng = np.random.default_rng(0)
    files = {}
    for file, count in batches.items():
        content = {
            b"data": rng.integers(256, size=(count, 3072), dtype=np.uint8),
            labels.encode(): [k % 10 for k in range(count)],
            b"filenames": [b"a.png"] * count,
        }
        files[file] = pickle.dumps(content, protocol=2)
    meta = "batches.meta" if "data_batch_1" in batches else "meta"
    files[meta] = pickle.dumps({names.encode(): [b"class%d" % k for k in range(10)]}, protocol=2)
    return files


CIFAR10_FILES = cifar_files("labels", "label_names", {**{f"data_batch_{k}": 20 for k in range(1, 6)}, "test_batch": 10})
CIFAR100_FILES = cifar_files("fine_labels", "fine_label_names", {"train": 30, "test": 10})


def archive(files: dict[str, bytes], folder: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def unpack(files: dict[str, bytes], folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


class TestCIFAR:
    @pytest.mark.parametrize(
        ("dataset", "files", "sizes"),
        [(CIFAR10, CIFAR10_FILES, (100, 10, 110)), (CIFAR100, CIFAR100_FILES, (30, 10, 40))],
    )
    def test_archive_and_folder(
        self, tmp_path: Path, dataset: Any, files: dict[str, bytes], sizes: tuple[int, ...]
    ) -> None:
        folder = dataset.release.folder
        unpack(files, tmp_path / "unpacked" / folder)
        packed = tmp_path / Path(dataset.release.url).name
        packed.write_bytes(archive(files, folder))
        for root in (tmp_path / "unpacked", tmp_path / "unpacked" / folder, packed, tmp_path):
            assert tuple(len(dataset(str(root), split)) for split in ("train", "val", "all")) == sizes
        data = dataset(str(packed), "train")
        first = pickle.loads(files["data_batch_1" if dataset is CIFAR10 else "train"])[b"data"][0]
        np.testing.assert_array_equal(data.read(0), first.reshape(3, 32, 32).transpose(1, 2, 0))
        assert data.labels.dtype == np.int64
        assert data.labels[:12].tolist() == [*range(10), 0, 1]
        assert data.classes[3] == "class3"

    def test_missing_data_says_what_is_there_and_how_to_get_it(self, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        with pytest.raises(UserError, match=r"no cifar-10-python.tar.gz .*found: other.*download: true"):
            CIFAR10(str(tmp_path))
        with pytest.raises(UserError, match="does not exist"):
            CIFAR10(str(tmp_path / "nowhere"))

    def test_damaged_archive(self, tmp_path: Path) -> None:
        data = archive(CIFAR10_FILES, CIFAR10.release.folder)
        path = tmp_path / "cifar-10-python.tar.gz"
        for broken in (data[: len(data) // 2], b"no archive"):
            path.write_bytes(broken)
            with pytest.raises(UserError, match=r"cannot be read|holds no"):
                CIFAR10(str(path))

    def test_no_code_runs(self, tmp_path: Path) -> None:
        class Bomb:
            def __reduce__(self) -> tuple[object, ...]:
                return (os.mkdir, (str(tmp_path / "ran"),))

        unpack({**CIFAR10_FILES, "test_batch": pickle.dumps({b"data": Bomb()})}, tmp_path / CIFAR10.release.folder)
        with pytest.raises(UserError, match=r"posix.mkdir, which was refused|nt.mkdir, which was refused"):
            CIFAR10(str(tmp_path), "val")
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("content", [{b"data": [1]}, {b"labels": [1]}, [], {b"data": np.zeros((1, 5), np.uint8)}])
    def test_other_pickles_are_refused(self, tmp_path: Path, content: Any) -> None:
        unpack({**CIFAR10_FILES, "test_batch": pickle.dumps(content)}, tmp_path / CIFAR10.release.folder)
        with pytest.raises(UserError, match="test_batch"):
            CIFAR10(str(tmp_path), "val")

    def test_download(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: Path, address: str) -> None:
        data = archive(CIFAR10_FILES, CIFAR10.release.folder)
        (served / "cifar-10-python.tar.gz").write_bytes(data)
        release = CIFAR10.release._replace(url=f"{address}/cifar-10-python.tar.gz")
        root = tmp_path / "new" / "folder"
        monkeypatch.setattr(CIFAR10, "release", release)
        with pytest.raises(UserError, match=f"md5 {hashlib.md5(data).hexdigest()}, not {release.md5}"):
            CIFAR10(str(root), download=True)
        assert list(root.iterdir()) == []
        monkeypatch.setattr(CIFAR10, "release", release._replace(md5=hashlib.md5(data).hexdigest()))
        assert len(CIFAR10(str(root), download=True)) == 100
        assert [path.name for path in root.iterdir()] == ["cifar-10-python.tar.gz"]
        monkeypatch.setattr(CIFAR10, "release", release._replace(url=f"{address}/absent.tar.gz"))
        with pytest.raises(UserError, match="cannot be downloaded"):
            CIFAR10(str(tmp_path / "other"), download=True)

    @pytest.fixture
    def served(self, tmp_path: Path) -> Path:
        folder = tmp_path / "served"
        folder.mkdir()
        return folder

    @pytest.fixture
    def address(self, served: Path) -> Iterator[str]:
        class Quiet(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments, directory=str(served))

            def log_message(self, *arguments: Any) -> None:
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_address[1]}"
            server.shutdown()


class TestImageFolder:
    def test_class_folders(self, tmp_path: Path) -> None:
        for label, name in enumerate(["ant", "bee", "cow"]):
            for k in range(label + 1):
                write(tmp_path / "train" / name / f"{k}.png", value=label)
        write(tmp_path / "test" / "cow" / "deep" / "0.png")
        (tmp_path / "train" / "ant" / "notes.txt").write_text("no image")
        (tmp_path / "train" / "ant" / "._0.png").write_text("what macOS leaves behind")
        train = ImageFolder(str(tmp_path), "train")
        assert train.classes == ["ant", "bee", "cow"]
        assert train.labels is not None
        assert train.labels.tolist() == [0, 1, 1, 2, 2, 2]
        assert [train.read(k)[0, 0, 0] for k in range(6)] == [0, 1, 1, 2, 2, 2]
        assert train.name(1) == str(tmp_path / "train" / "bee" / "0.png")
        for split in ("val", "test", "validation", "VAL"):
            with pytest.raises(UserError, match="no class folders"):
                ImageFolder(str(tmp_path), split, labels="folder")
            assert len(ImageFolder(str(tmp_path), split)) == 1

    def test_validation_classes_have_the_numbers_of_training(self, tmp_path: Path) -> None:
        for name in ("a", "b", "c"):
            write(tmp_path / "train" / name / "0.png")
        for name in ("b", "c"):
            write(tmp_path / "val" / name / "0.png")
        val = ImageFolder(str(tmp_path), "val")
        assert val.classes == ["a", "b", "c"]
        assert val.labels is not None
        assert val.labels.tolist() == [1, 2]
        write(tmp_path / "val" / "d" / "0.png")
        with pytest.raises(UserError, match=r"classes that .* has not: d"):
            ImageFolder(str(tmp_path), "val")

    def test_flat_and_nested_folders_have_no_labels(self, tmp_path: Path) -> None:
        flat = tmp_path / "flat"
        for k in (10, 9, 1):
            write(flat / f"{k}.png")
        data = ImageFolder(str(flat), "train")
        assert [Path(data.name(k)).name for k in range(3)] == ["1.png", "10.png", "9.png"]
        assert data.labels is None
        assert data.classes is None
        write(tmp_path / "mixed" / "2020" / "x.png")
        write(tmp_path / "mixed" / "2021" / "y.png")
        write(tmp_path / "mixed" / "z.png")
        assert ImageFolder(str(tmp_path / "mixed")).labels is None
        write(tmp_path / "single" / "photos" / "x.png")
        assert ImageFolder(str(tmp_path / "single")).labels is None

    def test_labels_none(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            write(tmp_path / name / "0.png")
        assert ImageFolder(str(tmp_path)).labels is not None
        assert ImageFolder(str(tmp_path), labels="none").labels is None

    def test_mistakes(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="does not exist"):
            ImageFolder(str(tmp_path / "absent"))
        file = write(tmp_path / "one.png")
        with pytest.raises(UserError, match="is not a folder"):
            ImageFolder(str(file))
        empty = tmp_path / "empty"
        empty.mkdir()
        with pytest.raises(UserError, match=r"no images in .*found: an empty folder"):
            ImageFolder(str(empty))
        (empty / "a.txt").write_text("")
        with pytest.raises(UserError, match=r"found: 1 files \(a.txt\)"):
            ImageFolder(str(empty))
        with pytest.raises(UserError, match=r"split 'val': no folder val or test.*found: 1 folders \(empty\)"):
            ImageFolder(str(tmp_path), "val")
        with pytest.raises(UserError, match="unknown split 'trian'; did you mean 'train'"):
            ImageFolder(str(tmp_path), "trian")
        with pytest.raises(UserError, match="no class folders for its labels"):
            ImageFolder(str(tmp_path), labels="folder")
        with pytest.raises(UserError, match="in_channels must be at least 1"):
            ImageFolder(str(tmp_path), in_channels=0)

    def test_a_root_of_splits_needs_a_split(self, tmp_path: Path) -> None:
        for split in ("train", "val"):
            write(tmp_path / split / "0.png")
        with pytest.raises(UserError, match="holds splits, so set split"):
            ImageFolder(str(tmp_path))
        assert len(ImageFolder(str(tmp_path), "all", labels="none")) == 2

    def test_links_are_followed_but_not_in_circles(self, tmp_path: Path) -> None:
        write(tmp_path / "elsewhere" / "0.png")
        write(tmp_path / "root" / "1.png")
        (tmp_path / "root" / "linked").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "root" / "circle").symlink_to(tmp_path / "root")
        data = ImageFolder(str(tmp_path / "root"))
        names = [str(Path(data.name(k)).relative_to(tmp_path / "root")) for k in range(len(data))]
        assert names.count("1.png") == 1
        assert "linked/0.png" in names
        assert len(names) <= 6

    def test_names_that_are_not_unicode(self, tmp_path: Path) -> None:
        write(tmp_path / "x.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.png"))
        data = ImageFolder(str(tmp_path))
        assert data.read(0).shape == (6, 8, 3)

    def test_files_that_vanish_or_break_are_bad_images(self, tmp_path: Path) -> None:
        for k in range(3):
            write(tmp_path / f"{k}.png")
        data = ImageFolder(str(tmp_path))
        (tmp_path / "0.png").unlink()
        (tmp_path / "1.png").write_bytes(b"")
        for index, reason in ((0, "No such file"), (1, "empty")):
            with pytest.raises(BadImage, match=reason) as caught:
                data.read(index)
            assert caught.value.path == data.name(index)

    def test_arrays_of_any_channels(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        rng = np.random.default_rng(0)
        (tmp_path / "data").mkdir()
        arrays = rng.integers(256, size=(4, 10, 12, 5), dtype=np.uint8)
        for k, array in enumerate(arrays):
            np.save(tmp_path / "data" / f"{k}.npy", array)
        data = ImageFolder(str(tmp_path / "data"), in_channels=5)
        np.testing.assert_array_equal(data.read(2), arrays[2])
        np.testing.assert_allclose(data.mean, arrays.mean((0, 1, 2)) / 255, atol=1e-4)
        with pytest.raises(BadImage, match="5 channels"):
            ImageFolder(str(tmp_path / "data")).read(0)

    def test_grey(self, tmp_path: Path) -> None:
        write(tmp_path / "x.png")
        assert ImageFolder(str(tmp_path), in_channels=1, mean=(0.5,), std=(0.2,)).read(0).shape == (6, 8, 1)


class TestStatistics:
    def test_defaults_are_imagenet(self, tmp_path: Path) -> None:
        write(tmp_path / "x.png")
        data = ImageFolder(str(tmp_path))
        assert data.mean == (0.485, 0.456, 0.406)
        assert data.std == (0.229, 0.224, 0.225)
        assert ImageFolder(str(tmp_path), mean=(0.1, 0.2, 0.3)).mean == (0.1, 0.2, 0.3)

    def test_auto_is_estimated_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        for k, value in enumerate((0, 100, 200)):
            write(tmp_path / "data" / f"{k}.png", value)
        (tmp_path / "data" / "broken.png").write_bytes(b"")
        data = ImageFolder(str(tmp_path / "data"), mean="auto", std="auto")
        np.testing.assert_allclose(data.mean, 100 / 255, atol=1e-4)
        np.testing.assert_allclose(data.std, np.std([0, 100, 200]) / 255, atol=1e-4)
        assert len(list((tmp_path / "cache" / "passl_simsiam").iterdir())) == 1

        def refuse(index: int) -> np.ndarray:
            raise AssertionError("estimated again")

        again = ImageFolder(str(tmp_path / "data"), mean="auto", std="auto")
        monkeypatch.setattr(again, "read", refuse)
        assert (again.mean, again.std) == (data.mean, data.std)
        write(tmp_path / "data" / "more.png", 255)
        assert ImageFolder(str(tmp_path / "data"), mean="auto").mean != data.mean

    def test_auto_without_a_writable_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        write(tmp_path / "data" / "0.png", 51)
        assert ImageFolder(str(tmp_path / "data"), mean="auto").mean == (0.2, 0.2, 0.2)

    def test_nothing_readable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        (tmp_path / "0.png").write_bytes(b"")
        with pytest.raises(UserError, match="none of the images can be read"):
            _ = ImageFolder(str(tmp_path), mean="auto").mean


class TestImageList:
    def write(self, folder: Path, name: str, text: str) -> str:
        for path in ("a/1.png", "b/2.png", "with space, comma.png"):
            write(folder / path)
        (folder / name).write_text(text)
        return str(folder / name)

    def test_text_without_labels(self, tmp_path: Path) -> None:
        data = ImageList(self.write(tmp_path, "list.txt", "b/2.png\n\nwith space, comma.png\r\na/1.png"))
        assert [data.name(k) for k in range(3)] == [
            str(tmp_path / n) for n in ("b/2.png", "with space, comma.png", "a/1.png")
        ]
        assert data.labels is None
        assert data.read(1).shape == (6, 8, 3)

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("list.txt", "a/1.png\tdog\nb/2.png\tcat\n"),
            ("list.csv", "a/1.png,dog\nb/2.png,cat\n"),
            ("list.csv", "id,label,path\n7,dog,a/1.png\n8,cat,b/2.png\n"),
        ],
    )
    def test_labels_by_name(self, tmp_path: Path, name: str, text: str) -> None:
        file = self.write(tmp_path, name, text)
        data = ImageList(file)
        assert data.classes == ["cat", "dog"]
        assert data.labels is not None
        assert data.labels.tolist() == [1, 0]
        other = ImageList(file, classes=("dog", "cow", "cat"))
        assert other.labels is not None
        assert other.labels.tolist() == [0, 2]
        with pytest.raises(UserError, match=r"label 'dog' .* unknown; choices: cat, cow"):
            ImageList(file, classes=("cat", "cow"))

    def test_labels_by_number(self, tmp_path: Path) -> None:
        data = ImageList(self.write(tmp_path, "l.csv", 'a/1.png,2\n"with space, comma.png",0\nb/2.png,2\n'))
        assert data.labels is not None
        assert data.labels.tolist() == [2, 0, 2]
        assert data.classes == ["0", "1", "2"]

    def test_root_and_absolute_paths(self, tmp_path: Path) -> None:
        self.write(tmp_path / "images", "x.txt", "")
        file = tmp_path / "list.txt"
        file.write_text(f"a/1.png\n{tmp_path}/images/b/2.png\n")
        data = ImageList(str(file), root=str(tmp_path / "images"))
        assert [data.read(k).shape for k in range(2)] == [(6, 8, 3)] * 2
        with pytest.raises(UserError, match=r"first image .* is not there"):
            ImageList(str(file))

    def test_mistakes(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="cannot be read"):
            ImageList(str(tmp_path / "absent.txt"))
        with pytest.raises(UserError, match="lists no images"):
            ImageList(self.write(tmp_path, "empty.txt", "\n\n"))
        with pytest.raises(UserError, match=r"has labels, but none for 'b/2.png'"):
            ImageList(self.write(tmp_path, "gap.txt", "a/1.png\tdog\nb/2.png\n"))
        with pytest.raises(UserError, match="has no labels"):
            ImageList(self.write(tmp_path, "plain.txt", "a/1.png\n"), classes=("a",))


class TestPathList:
    def test_paths(self) -> None:
        paths = PathList([(b"", [b"x", b"yy"]), (b"a/b", [b"z"]), (b"c", [b"1", b"2"])])
        assert [paths[k] for k in range(len(paths))] == ["x", "yy", "a/b/z", "c/1", "c/2"]
        assert paths.folder_sizes() == [(b"", 2), (b"a/b", 1), (b"c", 2)]
        for index in (-1, 5):
            with pytest.raises(IndexError):
                paths[index]
        assert len(PathList([])) == 0

    def test_a_million_paths_are_small_and_quick(self) -> None:
        """The names themselves and eight bytes more each, also in a pickle."""
        count, names = 1_300_000, 1000
        groups = ((b"n%08d" % k, [b"n%08d_%05d.JPEG" % (k, j) for j in range(count // names)]) for k in range(names))
        start = time.perf_counter()
        paths = PathList(groups)
        assert time.perf_counter() - start < 20
        assert len(paths) == count
        assert paths[1_299_999] == "n00000999/n00000999_01299.JPEG"
        size = len(pickle.dumps(paths))
        text = 20 * count
        assert size < text + 9 * count


def test_registry_checks_arguments() -> None:
    assert DATASETS.check("ImageFolder", {"root": "x", "mean": "auto", "std": [0.1, 0.2, 0.3]}, "dataset")["std"] == (
        0.1,
        0.2,
        0.3,
    )
    with pytest.raises(UserError, match=r"dataset.labels"):
        DATASETS.check("ImageFolder", {"root": "x", "labels": "maybe"}, "dataset")
    with pytest.raises(UserError, match=r"dataset.mean"):
        DATASETS.check("ImageFolder", {"root": "x", "mean": "automatic"}, "dataset")
