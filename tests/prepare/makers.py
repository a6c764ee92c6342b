"""Files that tests of this room start from: images, archives, contexts."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mml_ray.prepare.context import CreationContext
from mml_ray.store.data_root import DataRoot

SHARED = Path(os.environ.get("MML_RAY_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data")
MEDNIST = SHARED / "mednist6" / "mednist6_300.zip"
NUCLEI = SHARED / "nuclei_dsb2018" / "nuclei_dsb2018_small.zip"
BCCD = SHARED / "bccd" / "bccd.zip"


def context(root: Path | DataRoot, **options: Any) -> CreationContext:
    """A creation into ``root``."""
    return CreationContext(data_root=root if isinstance(root, DataRoot) else DataRoot(root), **{"workers": 2, **options})


def picture(number: int = 0, *, size: tuple[int, int] = (16, 20)) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """RGB noise that differs with ``number``."""
    return np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)


def write(path: Path, image: Any) -> Path:
    """An image file by the suffix of ``path``; arrays are RGB or grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    assert cv2.imwrite(str(path), stored)
    return path


def class_folders(root: Path, *, classes: Mapping[str, int], size: tuple[int, int] = (16, 20)) -> Path:
    """``root/<class>/<number>.png``."""
    number = 0
    for name, count in classes.items():
        for _ in range(count):
            write(root / name / f"{number:03d}.png", picture(number, size=size))
            number += 1
    return root


def zip_of(path: Path, entries: Mapping[str, bytes]) -> Path:
    """A plain archive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return path


def encrypted_zip(path: Path, entries: Mapping[str, bytes], password: bytes) -> Path:
    """An archive with the traditional encryption of PKWARE (APPNOTE.TXT, section 6.1), which zipfile reads but does not write."""
    local, central = b"", b""
    for name, content in entries.items():
        crc = zlib.crc32(content)
        data = _encrypt(bytes(11) + bytes([crc >> 24]) + content, password)
        fields = struct.pack("<HHHHHIIIHH", 20, 1, 0, 0, 33, crc, len(data), len(content), len(name), 0)
        header = b"PK\x03\x04" + fields + name.encode()
        central += b"PK\x01\x02" + struct.pack("<H", 20) + fields + struct.pack("<HHHII", 0, 0, 0, 0, len(local)) + name.encode()
        local += header + data
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, len(entries), len(entries), len(central), len(local), 0)
    path.write_bytes(local + central + end)
    return path


def _encrypt(data: bytes, password: bytes) -> bytes:
    keys = [0x12345678, 0x23456789, 0x34567890]
    table = [_crc_step(value) for value in range(256)]

    def update(byte: int) -> None:
        keys[0] = (keys[0] >> 8) ^ table[(keys[0] ^ byte) & 0xFF]
        keys[1] = ((keys[1] + (keys[0] & 0xFF)) * 134775813 + 1) & 0xFFFFFFFF
        keys[2] = (keys[2] >> 8) ^ table[(keys[2] ^ (keys[1] >> 24)) & 0xFF]

    for byte in password:
        update(byte)
    result = bytearray()
    for byte in data:
        word = (keys[2] | 2) & 0xFFFF
        result.append(byte ^ ((word * (word ^ 1)) >> 8 & 0xFF))
        update(byte)
    return bytes(result)


def _crc_step(value: int) -> int:
    for _ in range(8):
        value = (value >> 1) ^ (0xEDB88320 if value & 1 else 0)
    return value


def files_below(folder: Path) -> dict[str, bytes]:
    """All files in a folder, by relative path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
