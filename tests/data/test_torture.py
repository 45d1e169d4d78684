"""A folder of every kind of image, a tenth of it broken, goes through the whole loader; and what a scan says of it."""

import io
import shutil
import struct
import zlib

import cv2
import numpy as np
import pytest
from rich.console import Console

from passl_simsiam.data.datasets.folder import ImageFolder
from passl_simsiam.data.loader import Loader
from passl_simsiam.data.scan import scan, show
from passl_simsiam.data.transforms.views import MoCoV2
from passl_simsiam.errors import UserError

GOOD, BAD = 90, 10


def photo(seed, height=60, width=80):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (4, 5, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def good_files():
    """(suffix, how to make the bytes) of each kind of image that users have."""

    def encode(suffix, change=lambda image: image):
        return lambda seed: cv2.imencode(suffix, change(photo(seed)))[1].tobytes()

    def array(seed):
        buffer = io.BytesIO()
        np.save(buffer, photo(seed))
        return buffer.getvalue()

    def pillow(kind, mode, **options):
        def make(seed):
            image = pytest.importorskip("PIL.Image").fromarray(photo(seed)).convert(mode)
            buffer = io.BytesIO()
            image.save(buffer, kind, **options)
            return buffer.getvalue()

        return make

    return [
        (".jpg", encode(".jpg")),
        (".JPEG", encode(".jpg", lambda image: image[..., :1])),
        (".png", encode(".png")),
        (".png", encode(".png", lambda image: image.astype(np.uint16) * 257)),
        (".png", encode(".png", lambda image: cv2.cvtColor(image, cv2.COLOR_BGR2BGRA))),
        (".png", encode(".png", lambda image: image[:1, :1])),
        (".webp", encode(".webp")),
        (".bmp", encode(".bmp")),
        (".tif", encode(".tif")),
        (".npy", array),
        (".jpg", pillow("JPEG", "CMYK")),
        (
            ".jpg",
            pillow("JPEG", "RGB", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
        ),
        (".png", pillow("PNG", "P")),
        (".jpg", lambda seed: cv2.imencode(".jpg", photo(seed, 8, 20_000))[1].tobytes()),
    ]


def bad_files():
    jpeg = cv2.imencode(".jpg", photo(0, 300, 300))[1].tobytes()
    png = cv2.imencode(".png", photo(1, 300, 300))[1].tobytes()
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = png[:8] + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]
    return [
        ("truncated.jpg", jpeg[: len(jpeg) // 2]),
        ("truncated.png", png[: len(png) // 2]),
        ("empty.jpg", b""),
        ("text.jpg", b"<html>404 not found</html>"),
        ("header_only.jpg", jpeg[:20]),
        ("bomb.png", bomb),
        ("noise.webp", b"RIFF\x20\0\0\0WEBPVP8 " + bytes(range(24))),
        ("cut.npy", b"\x93NUMPY\x01\0"),
        ("flat.npy", _npy(np.zeros(5, np.uint8))),
    ]


def _npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def torture(tmp_path_factory):
    root = tmp_path_factory.mktemp("torture")
    kinds = good_files()
    for number in range(GOOD):
        suffix, make = kinds[number % len(kinds)]
        path = root / f"class{number % 3}" / f"{number:03d}{suffix}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(make(number))
    broken = [(root / "class1" / name, content) for name, content in bad_files()]
    for path, content in broken:
        path.write_bytes(content)
    dangling = root / "class2" / "unreadable.jpg"
    dangling.symlink_to(root / "nowhere.jpg")
    return root, {str(path) for path, _ in broken} | {str(dangling)}


@pytest.mark.parametrize("workers", [0, 2])
def test_training_goes_through_a_folder_with_a_tenth_of_it_broken(torture, caplog, workers):
    root, bad = torture
    dataset = ImageFolder(str(root))
    options = {"batch_size": 20, "shuffle": True, "drop_last": False, "seed": 0, "max_bad_fraction": 0.1}
    with Loader(dataset, MoCoV2(size=32), **options, num_workers=workers) as loader:
        used = np.concatenate([batch["index"] for epoch in range(2) for batch in loader.epoch(epoch)])
        assert len(used) == 2 * (GOOD + BAD)
        assert {dataset.name(index) for index in np.unique(used)} == {
            dataset.name(i) for i in range(len(dataset))
        } - bad
        assert {sample.name for sample in loader.bad.values()} == bad
    logged = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(logged) == BAD
    for path in bad:
        assert sum(path in line for line in logged) == 1


def test_with_the_default_share_the_run_ends_with_the_list(torture):
    root, bad = torture
    with (
        Loader(ImageFolder(str(root)), MoCoV2(size=32), batch_size=20, shuffle=True, drop_last=True, seed=0) as loader,
        pytest.raises(
            UserError, match=r"2 of 100 samples \(2.0%\) are bad, more than max_bad_fraction = 0.01"
        ) as error,
    ):
        list(loader.epoch(0))
    assert sum(path in str(error.value) for path in bad) == 2


def test_a_scan_counts_everything(torture, tmp_path):
    original, bad = torture
    root = tmp_path / "copy"
    shutil.copytree(original, root, symlinks=True)
    for copy in ("copy1.jpg", "copy2.jpg"):
        shutil.copy(root / "class0" / "000.jpg", root / "class2" / copy)
    dataset = ImageFolder(str(root))
    result = scan(dataset, MoCoV2(size=32), console=Console(file=io.StringIO()))
    assert result.images == 102
    assert {sample.name for sample in result.bad} == {path.replace(str(original), str(root)) for path in bad}
    assert all(sample.reason for sample in result.bad)
    assert [[name.removeprefix(f"{root}/") for name in names] for names in result.doubles] == [
        ["class0/000.jpg", "class2/copy1.jpg", "class2/copy2.jpg"]
    ]
    kinds = len(good_files())
    per_kind = np.bincount(np.arange(GOOD) % kinds, minlength=kinds)
    assert result.formats["WebP"] == per_kind[6]
    assert result.formats["JPEG CMYK"] == per_kind[10]
    assert result.formats["array of 3 channels"] == per_kind[9]
    assert sum(result.formats.values()) == len(result.sides) == 92
    assert result.sides.max() == 20_000
    assert result.sides.min() == 1
    assert result.classes == {"class0": 30, "class1": 39, "class2": 33}
    assert result.bytes == sum(path.stat().st_size for path in root.rglob("*.*") if path.exists() and path.is_file())
    assert result.decode_rate > result.views_rate > 0
    output = io.StringIO()
    show(result, Console(file=output, width=300))
    for words in (
        "102",
        "10 (9.80%)",
        "2 in 1 groups",
        "largest class1 (39), smallest class0 (30)",
        "1 to 60 px, median 60",
        "under 0.001 to 0.16 megapixels, median 0.0048",
        "30 to 39, median 33",
    ):
        assert words in output.getvalue()
    assert "bad: " + str(root / "class1" / "empty.jpg") + ": the file is empty" in output.getvalue()
