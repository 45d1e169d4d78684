"""From the bytes of an image file to uint8 pixels, or to a BadImage that says what is wrong with it.

OpenCV decodes everything. Plain JPEG files go through simplejpeg (libjpeg-turbo's own interface) where that is
installed: the same library and the same pixels, with less around it.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import cv2
import numpy as np

from passl_simsiam.data import headers

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

# A 20,000 x 20,000 photograph passes; a decompression bomb does not.
MAX_PIXELS = 1 << 29

# (height, width) of a file -> the factor, 1, 2, 4 or 8, by which it may be decoded smaller.
Reduction = Callable[[int, int], int]

_REDUCED = {
    (3, 2): cv2.IMREAD_REDUCED_COLOR_2,
    (3, 4): cv2.IMREAD_REDUCED_COLOR_4,
    (3, 8): cv2.IMREAD_REDUCED_COLOR_8,
    (1, 2): cv2.IMREAD_REDUCED_GRAYSCALE_2,
    (1, 4): cv2.IMREAD_REDUCED_GRAYSCALE_4,
    (1, 8): cv2.IMREAD_REDUCED_GRAYSCALE_8,
}


class BadImage(Exception):
    """An image that cannot be used. `path` says which, `reason` why."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def decode(
    data: bytes, path: str, channels: int = 3, reduction: Reduction | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """The image in `data` as uint8 [height, width, channels], RGB order for 3 channels.

    EXIF rotation is applied, CMYK and palettes become RGB, an alpha channel is dropped (as Pillow's convert("RGB")
    does), 16 bits are cut to the upper 8.

    Args:
        data: the whole file.
        path: for the error.
        channels: 3 for RGB or 1 for grey.
        reduction: how much smaller a JPEG file may be decoded; by default not at all.
        max_pixels: larger images are refused, from the header, before anything is decoded.

    Raises:
        BadImage: for data that are no image, truncated, too large or that the decoder refuses.
    """
    if not data:
        raise BadImage(path, "the file is empty")
    header = headers.parse(data)
    if header is None:
        raise BadImage(path, "not a JPEG, PNG, WebP, BMP, TIFF or PNM image, or its header is broken")
    if header.width <= 0 or header.height <= 0:
        raise BadImage(path, f"the header says {header.width} x {header.height} pixels")
    if header.width * header.height > max_pixels:
        raise BadImage(path, f"{header.width} x {header.height} pixels are more than max_pixels, {max_pixels}")
    if _is_truncated(data, header.format):
        raise BadImage(path, f"truncated {header.format}: its end is missing")
    if channels not in (1, 3):
        raise BadImage(path, f"a {header.format} file cannot give {channels} channels; .npy arrays can")
    factor = reduction(header.height, header.width) if reduction and header.format == "JPEG" else 1
    if simplejpeg and factor == 1 and channels == 3 and header.components in (1, 3) and not header.oriented:
        try:
            return simplejpeg.decode_jpeg(data, "RGB", strict=False)
        except ValueError:
            pass  # let OpenCV decide, so that the same files are bad with and without simplejpeg
    return _opencv(data, path, channels, factor)


def _opencv(data: bytes, path: str, channels: int, factor: int) -> np.ndarray:
    rgb = channels == 3
    flags = cv2.IMREAD_COLOR_RGB if rgb else cv2.IMREAD_GRAYSCALE
    if factor > 1:
        flags = _REDUCED[channels, factor]
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise BadImage(path, f"OpenCV: {str(error).strip().splitlines()[-1]}") from error
    if image is None:
        raise BadImage(path, "OpenCV cannot decode it")
    if rgb and factor > 1:  # the reduced flags exist for BGR only
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB, image)
    return image if rgb else image[:, :, None]


def _is_truncated(data: bytes, kind: str) -> bool:
    """OpenCV fills what is missing from a JPEG or PNG file with grey and says nothing, so look for the end marker."""
    if kind == "JPEG":
        # Not before the last start of a scan, for a thumbnail in the EXIF data has an end marker too.
        return not data.endswith(b"\xff\xd9") and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
    if kind == "PNG":
        return b"IEND" not in data[-4096:] and b"IEND" not in data
    if kind == "WebP":
        return len(data) < int.from_bytes(data[4:8], "little") + 8
    return False


def read_array(data: bytes, path: str, channels: int) -> np.ndarray:
    """A .npy file of an array [height, width] or [height, width, channels] as uint8 [height, width, channels].

    uint8 is taken as it is, uint16 cut to its upper 8 bits, booleans become 0 and 255, floats must lie in 0..1 and are
    scaled to 0..255. Raises BadImage for anything else.
    """
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise BadImage(path, f"not a .npy array: {error}") from error
    if not isinstance(array, np.ndarray):
        raise BadImage(path, "an archive of arrays, not a .npy array")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.size == 0:
        raise BadImage(path, f"an array of shape {array.shape}; expected: [height, width, channels]")
    if array.shape[2] != channels:
        raise BadImage(path, f"an array of {array.shape[2]} channels (shape {array.shape}); in_channels is {channels}")
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype.kind == "f":
        if not (array.min() >= 0 and array.max() <= 1):
            raise BadImage(path, "an array of floats that are not all in 0..1")
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise BadImage(path, f"an array of {array.dtype}; expected: uint8, uint16, bool or floats in 0..1")
    return np.ascontiguousarray(array)
