"""Random damage: no crash without a message, no file outside of the folder, nothing left of what was refused."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from mml_ray.errors import ArchiveError
from mml_ray.prepare.archives import DataArchive, Limits, extract
from tests.prepare.makers import encrypted_zip, files_below, zip_of
from tests.prepare.test_archives import special_tar, tar_of

ENTRIES = {"a/1.bin": os.urandom(0) + bytes(range(256)) * 3, "a/b/2.txt": b"two" * 50, "c.txt": b"", "d/": b""}
PER_ARCHIVE = 75


def originals(folder: Path) -> list[Path]:
    return [
        zip_of(folder / "x.zip", ENTRIES),
        encrypted_zip(folder / "e.zip", {"a.txt": b"secret" * 30, "b/c.txt": b"more"}, b"pw"),
        tar_of(folder / "x.tar", {name: data for name, data in ENTRIES.items() if data}),
        tar_of(folder / "x.tgz", {name: data for name, data in ENTRIES.items() if data}, "gz"),
        tar_of(folder / "x.tar.xz", {name: data for name, data in ENTRIES.items() if data}, "xz"),
        tar_of(folder / "x.tar.bz2", {name: data for name, data in ENTRIES.items() if data}, "bz2"),
        special_tar(folder / "l.tar", b"2", "/etc/passwd"),
    ]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to eight random changes: flipped bits, other bytes, cuts, doubled and swapped pieces, telling words."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        position = rng.randrange(len(changed)) if changed else 0
        match rng.randrange(7):
            case 0 if changed:
                changed[position] ^= 1 << rng.randrange(8)
            case 1 if changed:
                changed[position] = rng.randrange(256)
            case 2:
                del changed[position:]
            case 3:
                del changed[position : position + rng.randrange(1, 40)]
            case 4:
                changed[position:position] = changed[position : position + rng.randrange(1, 60)]
            case 5:
                word = rng.choice((b"../", b"/", b"\0", b"C:\\", b"PK\x03\x04", b"\xff\xff\xff\xff", b"\0\0\0\0"))
                changed[position : position + len(word)] = word
            case _:
                changed[position : position + 4] = rng.randbytes(4)
    return bytes(changed)


@pytest.mark.parametrize("number", range(7))
def test_damaged_archives_are_refused_or_harmless(tmp_path: Path, number: int) -> None:
    (tmp_path / "source").mkdir()
    original = originals(tmp_path / "source")[number]
    data = original.read_bytes()
    rng = random.Random(f"archives {original.name}")
    outcomes = {"refused": 0, "unpacked": 0}
    area = tmp_path / "area"
    for trial in range(PER_ARCHIVE):
        path = tmp_path / "trial" / original.name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(mutate(data, rng))
        folder = area / f"{trial}" / "training_data"
        folder.parent.mkdir(parents=True)
        try:
            extract(DataArchive(path, password="pw", limits=Limits(max_total=1 << 20)), folder)
            outcomes["unpacked"] += 1
            assert not any(found.is_symlink() for found in folder.rglob("*"))
        except ArchiveError as error:
            outcomes["refused"] += 1
            assert str(path) in str(error)
            assert list(folder.parent.iterdir()) == []
    inside = {name.split("/")[1] for name in files_below(area)}
    assert inside <= {"training_data"}
    assert {found.name for found in tmp_path.iterdir()} == {"source", "trial", "area"}
    assert outcomes["refused"] > PER_ARCHIVE // 10, outcomes
