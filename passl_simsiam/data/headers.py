"""The format and size of an image from its first bytes, so that nothing is decoded that is too large or broken."""

from __future__ import annotations

import struct
from typing import NamedTuple

_SOS = 0xDA
# Start-of-frame markers: C0 to CF but for C4 (Huffman tables), C8 (reserved) and CC (arithmetic conditioning).
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers without a length: fill bytes, TEM and restart.
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})


class Header(NamedTuple):
    """What the file says of itself, before any rotation that its EXIF data ask for.

    `components` is the number of colour components of a JPEG (4 for CMYK), `oriented` whether it has EXIF data; for
    other formats they are 0 and False.
    """

    format: str
    width: int
    height: int
    components: int = 0
    oriented: bool = False


def parse(data: bytes) -> Header | None:
    """The header of a JPEG, PNG, WebP, BMP, TIFF or netpbm image, or None for anything else or a broken header."""
    try:
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return Header("PNG", *struct.unpack_from(">II", data, 16))
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
        if data.startswith(b"BM"):
            return _bmp(data)
        if data[:4] in (b"II*\0", b"MM\0*"):
            return _tiff(data)
        if data[:1] == b"P" and data[1:2] in b"123456":
            return _netpbm(data)
    except (struct.error, IndexError, ValueError):
        pass
    return None


def _jpeg(data: bytes) -> Header | None:
    at, oriented = 2, False
    while True:
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in _STANDALONE:
            at += 2
            continue
        if marker == _SOS:
            return None
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker in _SOF:
            height, width, components = struct.unpack_from(">HHB", data, at + 5)
            return Header("JPEG", width, height, components, oriented)
        if marker == 0xE1 and data[at + 4 : at + 8] == b"Exif":
            oriented = True
        at += 2 + length


def _webp(data: bytes) -> Header | None:
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return Header("WebP", width & 0x3FFF, height & 0x3FFF)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return Header("WebP", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[start : start + 3], "little") + 1 for start in (24, 27))
        return Header("WebP", width, height)
    return None


def _bmp(data: bytes) -> Header:
    (size,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if size == 12 else "<ii", data, 18)
    return Header("BMP", width, abs(height))


def _tiff(data: bytes) -> Header | None:
    order = "<" if data[:1] == b"I" else ">"
    (directory,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, directory)
    sides: dict[int, int] = {}
    for entry in range(count):
        tag, kind = struct.unpack_from(f"{order}HH", data, directory + 2 + 12 * entry)
        if tag in (256, 257):
            (sides[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, directory + 10 + 12 * entry)
    return Header("TIFF", sides[256], sides[257]) if len(sides) == 2 else None


def _netpbm(data: bytes) -> Header | None:
    tokens = []
    for line in data[2:1024].split(b"\n"):
        tokens += line.partition(b"#")[0].split()
    return Header("PNM", int(tokens[0]), int(tokens[1])) if len(tokens) >= 2 else None
