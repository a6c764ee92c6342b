"""Checkpoint files under failing disks: whatever fails, the generation before is whole."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mml_ray import atomic
from mml_ray.errors import DataError, DiskFullError, StorageError
from mml_ray.training.checkpoints import Generations, Position, VerifiedCheckpointIO, read_checkpoint, write_checkpoint


class FailingAt(atomic.FileSystem):
    """The n-th primitive fails: with an error, or by writing a part only."""

    def __init__(self, number: int, code: int) -> None:
        self.left = number
        self.code = code

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise OSError(self.code, "injected")

    def open(self, path: Any, flags: int, mode: int = 0o644) -> int:
        self._count()
        return super().open(path, flags, mode)

    def write(self, descriptor: int, data: bytes) -> int:
        self._count()
        return super().write(descriptor, data[: max(1, len(data) // 2)])

    def fsync(self, descriptor: int) -> None:
        self._count()
        super().fsync(descriptor)

    def replace(self, source: Any, target: Any) -> None:
        self._count()
        super().replace(source, target)

    def unlink(self, path: Any) -> None:
        self._count()
        super().unlink(path)

    def mkdir(self, path: Any) -> None:
        self._count()
        super().mkdir(path)


@pytest.fixture
def generations(tmp_path: Path) -> Generations:
    return Generations(tmp_path / "checkpoints")


@pytest.fixture(autouse=True)
def _real_file_system() -> Iterator[None]:
    before = atomic.fs
    yield
    atomic.fs = before


def content(number: int) -> dict[str, Any]:
    return {"number": number, "tensor": torch.full((100,), float(number)), "nested": {"list": [1, "a", None]}}


def test_the_newest_is_found_and_old_ones_go(generations: Generations) -> None:
    assert generations.latest() is None
    for number in range(1, 6):
        generations.write(content(number), Position(number, 0, number * 10))
    latest = generations.latest()
    assert latest is not None and latest.position == Position(5, 0, 50) and read_checkpoint(latest.path)["number"] == 5
    assert sorted(path.name for path in generations.folder.iterdir()) == [
        "checkpoint-000004.ckpt", "checkpoint-000004.json", "checkpoint-000005.ckpt", "checkpoint-000005.json",
    ]  # fmt: skip


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_every_file_operation_may_fail_and_a_whole_generation_stays(
    generations: Generations, code: int, monkeypatch: Any
) -> None:
    for number in (1, 2):
        generations.write(content(number), Position(number, 0))
    for failing in range(1, 1000):
        disk = FailingAt(failing, code)
        for module in (atomic, __import__("mml_ray.training.checkpoints", fromlist=["fs"])):
            monkeypatch.setattr(module, "fs", disk)
        number = failing + 2
        try:
            generations.write(content(number), Position(number, 0))
            failed = False
        except StorageError as error:
            failed = True
            assert "Free some space" in str(error)
            assert isinstance(error, DiskFullError) == (code == errno.ENOSPC), "which is waited for"
        monkeypatch.undo()
        found = generations.latest()
        assert found is not None and read_checkpoint(found.path)["number"] == found.position.epoch
        assert found.position.epoch == number or failed
        assert not list(generations.folder.glob(".*")), "a temporary file was left"
        if not failed:
            assert failing > 10
            return
    raise AssertionError("every operation failed")


def test_a_newer_format_is_an_error_and_not_passed_over(generations: Generations) -> None:
    made = generations.write(content(1), Position(1, 0))
    side = made.path.with_suffix(".json")
    side.write_text(side.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(DataError, match="newer version"):
        generations.latest()


def test_the_io_of_lightning_is_atomic_and_opens_no_code(tmp_path: Path) -> None:
    io, path = VerifiedCheckpointIO(), tmp_path / "x" / "a.ckpt"
    io.save_checkpoint(content(3), path)
    assert io.load_checkpoint(path)["number"] == 3
    torch.save({"code": Path}, path)  # a class: needs pickle's full power
    with pytest.raises(DataError, match="damaged"):
        io.load_checkpoint(path)
    io.remove_checkpoint(path)
    io.remove_checkpoint(path)
    with pytest.raises(DataError, match="a.ckpt' does not exist"):
        read_checkpoint(path)


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    import hashlib

    path = tmp_path / "a.ckpt"
    sha256, size = write_checkpoint(content(1), path)
    data = path.read_bytes()
    assert (sha256, size) == (hashlib.sha256(data).hexdigest(), len(data))
