"""Every kind of image file, whole and broken."""

from __future__ import annotations

import io
import pickle
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from passl_simsiam.data import decode, headers
from passl_simsiam.data.decode import BadImage

HEIGHT, WIDTH = 60, 80


@pytest.fixture
def rgb() -> np.ndarray:
    """Smooth, so that lossy formats stay close."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([x * 3, y * 4, 255 - 2 * x - y], axis=2).astype(np.uint8)


def encode(rgb: np.ndarray, suffix: str, *parameters: int) -> bytes:
    image = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR) if rgb.shape[2:] == (3,) else rgb
    done, data = cv2.imencode(suffix, image, list(parameters))
    assert done
    return bytes(data)


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """`jpeg` with an EXIF segment that holds nothing but the orientation."""
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    body = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


@pytest.mark.parametrize(
    ("suffix", "limit"), [(".jpg", 4), (".png", 0), (".webp", 4), (".bmp", 0), (".tiff", 0), (".ppm", 0)]
)
def test_formats(rgb: np.ndarray, suffix: str, limit: float) -> None:
    data = encode(rgb, suffix)
    header = headers.parse(data)
    assert header is not None
    assert (header.width, header.height) == (WIDTH, HEIGHT)
    image = decode.decode(data, "name")
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - rgb).mean() <= limit
    grey = decode.decode(data, "name", channels=1)
    assert grey.shape == (HEIGHT, WIDTH, 1)
    assert np.abs(grey[..., 0].astype(int) - cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)).mean() <= limit + 1


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tiff", ".ppm"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_truncated_files_are_bad(rgb: np.ndarray, suffix: str, share: float) -> None:
    data = encode(rgb, suffix)
    with pytest.raises(BadImage) as caught:
        decode.decode(data[: int(len(data) * share)], "some/path")
    assert caught.value.path == "some/path"
    assert caught.value.reason


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 1000, b"GIF89a not supported", b"\xff\xd8\xff", b"<html>no image</html>", b"P6"]
)
def test_what_is_no_image_is_bad(data: bytes) -> None:
    with pytest.raises(BadImage, match="some/path"):
        decode.decode(data, "some/path")


def test_a_jpeg_filled_up_with_zeros_is_bad(rgb: np.ndarray) -> None:
    """What a crash leaves of a file that was being written."""
    data = encode(rgb, ".jpg")
    half = len(data) // 2
    with pytest.raises(BadImage, match="truncated"):
        decode.decode(data[:half] + b"\0" * half, "name")


def test_a_truncated_jpeg_with_a_whole_thumbnail_is_bad(rgb: np.ndarray) -> None:
    data, thumbnail = encode(rgb, ".jpg"), encode(rgb[:16, :16].copy(), ".jpg")
    body = b"Exif\0\0" + b"II*\0" + struct.pack("<IHI", 8, 0, 0) + thumbnail
    whole = data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]
    assert decode.decode(whole, "name").shape == rgb.shape
    with pytest.raises(BadImage, match="truncated"):
        decode.decode(whole[:-100], "name")


def test_bytes_after_the_end_do_no_harm(rgb: np.ndarray) -> None:
    for suffix in (".jpg", ".png", ".webp", ".bmp"):
        data = encode(rgb, suffix)
        np.testing.assert_array_equal(decode.decode(data + b"trailing", "x"), decode.decode(data, "x"))


def test_random_damage_never_gives_anything_but_an_image_or_bad_image(rgb: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    for suffix in (".jpg", ".png", ".webp", ".bmp", ".tiff", ".ppm"):
        data = np.frombuffer(encode(rgb, suffix), np.uint8)
        for _ in range(40):
            damaged = data.copy()
            damaged[rng.integers(len(data), size=5)] = rng.integers(256, size=5)
            try:
                image = decode.decode(damaged.tobytes(), "x", max_pixels=1 << 20)
            except BadImage:
                continue
            assert image.dtype == np.uint8
            assert image.shape[2] == 3


def test_bad_image_can_travel_between_processes() -> None:
    error = pickle.loads(pickle.dumps(BadImage("a/b.jpg", "broken")))
    assert (error.path, error.reason, str(error)) == ("a/b.jpg", "broken", "a/b.jpg: broken")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(rgb: np.ndarray, orientation: int) -> None:
    upright = {
        1: rgb, 2: rgb[:, ::-1], 3: rgb[::-1, ::-1], 4: rgb[::-1], 5: rgb.transpose(1, 0, 2),
        6: np.rot90(rgb, -1), 7: rgb[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(rgb),
    }[orientation]  # fmt: skip
    image = decode.decode(with_orientation(encode(rgb, ".jpg"), orientation), "x")
    assert image.shape == upright.shape
    assert np.abs(image.astype(int) - upright).mean() < 4


def test_sixteen_bits_alpha_grey_and_palette(rgb: np.ndarray) -> None:
    wide = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR).astype(np.uint16) * 257
    for suffix in (".png", ".tiff"):
        np.testing.assert_array_equal(decode.decode(bytes(cv2.imencode(suffix, wide)[1]), "x"), rgb)
    bgra = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGRA)
    bgra[..., 3] = 0
    np.testing.assert_array_equal(decode.decode(bytes(cv2.imencode(".png", bgra)[1]), "x"), rgb)
    grey = decode.decode(bytes(cv2.imencode(".png", rgb[..., 0])[1]), "x")
    np.testing.assert_array_equal(grey, np.repeat(rgb[..., :1], 3, axis=2))
    for suffix in (".jpg", ".bmp"):
        assert decode.decode(bytes(cv2.imencode(suffix, rgb[..., 0])[1]), "x").shape == (HEIGHT, WIDTH, 3)


def test_cmyk_jpeg(rgb: np.ndarray) -> None:
    image = pytest.importorskip("PIL.Image")
    buffer = io.BytesIO()
    image.fromarray(rgb).convert("CMYK").save(buffer, "JPEG", quality=95)
    assert np.abs(decode.decode(buffer.getvalue(), "x").astype(int) - rgb).mean() < 4


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tiff"])
def test_one_pixel(suffix: str) -> None:
    image = decode.decode(encode(np.full((1, 1, 3), 200, np.uint8), suffix), "x")
    assert image.shape == (1, 1, 3)
    assert abs(int(image[0, 0, 0]) - 200) < 8


def test_a_decompression_bomb_is_refused_from_its_header() -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + b"\0" * 4 + b"IEND"
    with pytest.raises(BadImage, match=r"60000 x 60000 pixels are more than max_pixels"):
        decode.decode(bomb, "x")


def test_long_sides_are_fine() -> None:
    image = np.zeros((12, 20_000, 3), np.uint8)
    image[:, 10_000:] = 255
    for suffix in (".png", ".jpg"):
        assert decode.decode(encode(image, suffix), "x").shape == image.shape


@pytest.mark.parametrize("channels", [1, 3])
def test_reduced_decoding(channels: int) -> None:
    y, x = np.mgrid[0:400, 0:600]
    large = np.stack([x // 3, y // 2, (x + y) // 5], axis=2).astype(np.uint8)
    data = encode(large, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 95)
    full = decode.decode(data, "x", channels)
    for factor in (1, 2, 4, 8):
        asked: list[tuple[int, int]] = []

        def reduction(height: int, width: int, factor: int = factor, asked: list[tuple[int, int]] = asked) -> int:
            asked.append((height, width))
            return factor

        image = decode.decode(data, "x", channels, reduction)
        assert asked == [(400, 600)]
        assert image.shape == (400 // factor, 600 // factor, channels)
        small = cv2.resize(full, image.shape[1::-1], interpolation=cv2.INTER_AREA).reshape(image.shape)
        assert np.abs(image.astype(int) - small).mean() < 2
    png = decode.decode(encode(large, ".png"), "x", channels, lambda height, width: 4)
    assert png.shape == (400, 600, channels)


def test_both_decoders_agree(rgb: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether simplejpeg is installed does not change a run."""
    pytest.importorskip("simplejpeg")
    files = [encode(rgb, ".jpg", cv2.IMWRITE_JPEG_QUALITY, quality) for quality in (30, 75, 95)]
    files.append(encode(rgb[:17, :19].copy(), ".jpg"))
    files.append(bytes(cv2.imencode(".jpg", rgb[..., 0])[1]))
    with_simplejpeg = [decode.decode(data, "x") for data in files]
    monkeypatch.setattr(decode, "simplejpeg", None)
    for data, image in zip(files, with_simplejpeg, strict=True):
        np.testing.assert_array_equal(decode.decode(data, "x"), image)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_arrays() -> None:
    values = np.arange(4 * 5 * 7, dtype=np.uint8).reshape(4, 5, 7)
    np.testing.assert_array_equal(decode.read_array(npy(values), "x", 7), values)
    np.testing.assert_array_equal(decode.read_array(npy(values[..., 0]), "x", 1), values[..., :1])
    np.testing.assert_array_equal(decode.read_array(npy(values.astype(np.uint16) * 257), "x", 7), values)
    np.testing.assert_array_equal(decode.read_array(npy(values / 255.0), "x", 7), values)
    np.testing.assert_array_equal(decode.read_array(npy(values > 70), "x", 7), np.where(values > 70, 255, 0))


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((4, 5, 3), np.uint8), "3 channels"),
        (np.zeros(4, np.uint8), "shape"),
        (np.zeros((0, 5, 7), np.uint8), "shape"),
        (np.zeros((4, 5, 7), np.int32), "int32"),
        (np.full((4, 5, 7), 2.0), "0..1"),
        (np.full((4, 5, 7), np.nan), "0..1"),
    ],
)
def test_arrays_that_are_no_images(array: np.ndarray, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        decode.read_array(npy(array), "x", 7)


def test_an_array_of_objects_runs_no_code(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    buffer = io.BytesIO()
    np.save(buffer, np.array([[Bomb()]], dtype=object), allow_pickle=True)
    with pytest.raises(BadImage, match=r"not a \.npy array"):
        decode.read_array(buffer.getvalue(), "x", 1)
    assert not (tmp_path / "ran").exists()
