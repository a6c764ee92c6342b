"""The bytes of an image file, refused where its structure is damaged.

Decoders differ in what they accept (some fill the rest of a truncated JPEG with gray), so PNG and JPEG files are checked before
they are decoded.
"""

from __future__ import annotations

import zlib

from mml_ray.errors import BrokenSampleError

#: files that claim more pixels are refused; 2**28 pixels of three channels take 0.8 GB
MAX_PIXELS = 1 << 28
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, b"\xff\xd9"
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_TRUNCATED = "it is truncated"


def read_bytes(path: str) -> bytes:
    """The whole file. Raises :class:`BrokenSampleError` if it is empty, truncated, damaged or too large to be decoded."""
    with open(path, "rb") as file:
        data = file.read()
    fault = _fault(data)
    if fault:
        raise BrokenSampleError(f"The image {path} is broken: {fault}.")
    return data


def _fault(data: bytes) -> str:
    """What is wrong with the structure; '' if nothing is, or if the format has no check."""
    if not data:
        return "it is empty"
    if data.startswith(_PNG):
        return _png_fault(data)
    if data.startswith(_JPEG):
        return _jpeg_fault(data)
    if data.startswith(b"BM") and len(data) >= 26:
        width, height = (abs(int.from_bytes(data[start : start + 4], "little", signed=True)) for start in (18, 22))
        return _size_fault(width, height)
    return ""


def _size_fault(width: int, height: int) -> str:
    if width * height <= MAX_PIXELS:
        return ""
    return f"it claims {width} x {height} pixels, at most {MAX_PIXELS} are allowed"


def _png_fault(data: bytes) -> str:
    """Chunks must be complete and have the right checksums, from IHDR to IEND (PNG specification, section 5)."""
    position = len(_PNG)
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        kind, end = data[position + 4 : position + 8], position + 12 + length
        if end > len(data):
            break
        if zlib.crc32(data[position + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            return f"its part {kind.decode('latin-1')!r} has a wrong checksum"
        if kind == b"IHDR":
            width, height = (int.from_bytes(data[start : start + 4], "big") for start in (position + 8, position + 12))
            if fault := _size_fault(width, height):
                return fault
        if kind == b"IEND":
            return ""
        position = end
    return _TRUNCATED


def _jpeg_fault(data: bytes) -> str:
    """Segments up to the start of scan must be complete, and an end marker must follow (ITU T.81, annex B)."""
    position, end = 2, len(data) - 4
    while position <= end:
        start, marker, high, low = data[position : position + 4]
        if start != 0xFF:
            return "a segment does not start where it should"
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker in _FRAME_HEADERS and position + 9 <= len(data):
            height, width = (int.from_bytes(data[begin : begin + 2], "big") for begin in (position + 5, position + 7))
            if fault := _size_fault(width, height):
                return fault
        position += 2 + (high << 8 | low)
        if marker == _START_OF_SCAN:
            return "" if data.find(_END_OF_IMAGE, position) >= 0 else _TRUNCATED
    return _TRUNCATED
