from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import stat
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest

from mml_ray.errors import ArchiveError, DataError, MMLMisconfigurationException, StorageError
from mml_ray.prepare.archives import DataArchive, DataKind, Limits, extract, is_archive
from mml_ray.prepare.archives.base import Target
from mml_ray.registry import registry
from tests.prepare.makers import encrypted_zip, files_below, zip_of

CONTENT = {"top.txt": b"top", "a/one.bin": bytes(range(256)) * 40, "a/b/two.txt": b"two", "empty": b""}
TARS = {"tar": "", "tgz": "gz", "tar.gz": "gz", "tar.bz2": "bz2", "tbz2": "bz2", "tar.xz": "xz", "txz": "xz"}


def tar_of(path: Path, entries: dict[str, bytes], compression: str = "") -> Path:
    with tarfile.open(path, f"w:{compression}") as archive:  # type: ignore[call-overload]
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def special_tar(path: Path, kind: bytes, link: str = "") -> Path:
    with tarfile.open(path, "w") as archive:
        good = tarfile.TarInfo("good.txt")
        good.size = 4
        archive.addfile(good, io.BytesIO(b"good"))
        info = tarfile.TarInfo("evil")
        info.type, info.linkname = kind, link
        archive.addfile(info)
    return path


def refused(archive: DataArchive, folder: Path, message: str) -> None:
    """The archive is refused with this message, and nothing of it is left anywhere near."""
    around = files_below(folder.parent.parent)
    with pytest.raises(ArchiveError, match=message) as caught:
        extract(archive, folder)
    assert str(archive.path) in str(caught.value)
    assert not folder.exists() and files_below(folder.parent.parent) == around
    assert list(folder.parent.iterdir()) == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "dataset").mkdir()
    return tmp_path / "dataset" / "training_data"


# -- what should work ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", ["zip", *TARS])
def test_archives_are_unpacked_whole(tmp_path: Path, folder: Path, suffix: str) -> None:
    path = tmp_path / f"scans.{suffix}"
    archive = zip_of(path, CONTENT) if suffix == "zip" else tar_of(path, CONTENT, TARS[suffix])
    extract(DataArchive(archive), folder)
    assert files_below(folder) == CONTENT
    assert [path.name for path in folder.parent.iterdir()] == ["training_data"]


def test_a_gz_is_a_tar_or_a_single_file(tmp_path: Path, folder: Path) -> None:
    extract(DataArchive(tar_of(tmp_path / "x.gz", CONTENT, "gz")), folder)
    assert files_below(folder) == CONTENT
    (tmp_path / "table.csv.gz").write_bytes(gzip.compress(b"a,b\n"))
    extract(DataArchive(tmp_path / "table.csv.gz"), folder / "more")
    assert files_below(folder / "more") == {"table.csv": b"a,b\n"}


def test_files_and_folders_are_copied(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "labels.csv").write_text("x")
    extract(DataArchive(tmp_path / "labels.csv"), folder)
    source = tmp_path / "scans"
    for name, content in CONTENT.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)
    extract(DataArchive(source), folder)
    assert files_below(folder) == {"labels.csv": b"x", **{f"scans/{name}": content for name, content in CONTENT.items()}}
    assert files_below(source) == CONTENT


def test_a_single_folder_around_everything_can_be_left_out(tmp_path: Path, folder: Path) -> None:
    inside = zip_of(tmp_path / "x.zip", {"scans/a/1.txt": b"1", "scans/2.txt": b"2"})
    extract(DataArchive(inside, keep_top_level=False), folder)
    assert files_below(folder) == {"a/1.txt": b"1", "2.txt": b"2"}
    extract(DataArchive(zip_of(tmp_path / "y.zip", CONTENT), keep_top_level=False), folder / "y")
    assert files_below(folder / "y") == CONTENT


def test_several_archives_share_a_folder_unless_their_files_collide(tmp_path: Path, folder: Path) -> None:
    extract(DataArchive(zip_of(tmp_path / "1.zip", {"a/1.txt": b"1"})), folder)
    extract(DataArchive(zip_of(tmp_path / "2.zip", {"a/2.txt": b"2"})), folder)
    with pytest.raises(ArchiveError, match=r"entry 'a/2.txt': .* already exists"):
        extract(DataArchive(zip_of(tmp_path / "3.zip", {"a/0.txt": b"0", "a/2.txt": b"3"})), folder)
    assert files_below(folder) == {"a/1.txt": b"1", "a/2.txt": b"2"}


def test_what_file_managers_leave_behind_is_left_out(tmp_path: Path, folder: Path) -> None:
    extract(DataArchive(zip_of(tmp_path / "x.zip", {"a/1.png": b"1", "__MACOSX/a/._1.png": b"x", "a/.DS_Store": b"x"})), folder)
    assert files_below(folder) == {"a/1.png": b"1"}


def test_an_extractor_can_be_added(tmp_path: Path, folder: Path) -> None:
    def upper(archive: DataArchive, target: Target) -> None:
        target.add_file("text", io.BytesIO(archive.path.read_bytes().upper()))

    registry.add("archive_extractor", ".shout", upper)
    try:
        (tmp_path / "x.shout").write_bytes(b"hey")
        assert is_archive(tmp_path / "x.shout") and not is_archive(tmp_path / "x.png")
        extract(DataArchive(tmp_path / "x.shout"), folder)
        assert files_below(folder) == {"text": b"HEY"}
    finally:
        registry.remove("archive_extractor", ".shout")


def test_kinds_come_in_order() -> None:
    assert [kind.value for kind in DataKind] == [
        "mixed_data", "unlabeled_data", "training_data", "training_labels", "testing_data", "testing_labels"
    ]  # fmt: skip


# -- passwords -----------------------------------------------------------------------------------------------------------
def test_encrypted_zip(tmp_path: Path, folder: Path) -> None:
    path = encrypted_zip(tmp_path / "x.zip", {"a.txt": b"secret" * 50, "b.txt": b"too"}, b"open sesame")
    refused(DataArchive(path), folder, r"'a.txt': it is encrypted, and no password was given \(source.password\)")
    refused(DataArchive(path, password="wrong"), folder, r"'a.txt': .*password is wrong")
    extract(DataArchive(path, password="open sesame"), folder)
    assert files_below(folder) == {"a.txt": b"secret" * 50, "b.txt": b"too"}
    assert "sesame" not in repr(DataArchive(path, password="open sesame"))


def test_aes_encryption_says_what_to_do(tmp_path: Path, folder: Path) -> None:
    data = bytearray(zip_of(tmp_path / "plain.zip", {"a.txt": b"secret"}).read_bytes())
    for signature, flags, method in ((b"PK\x03\x04", 6, 8), (b"PK\x01\x02", 8, 10)):
        start = data.index(signature)
        data[start + flags] |= 1
        data[start + method : start + method + 2] = (99).to_bytes(2, "little")
    (tmp_path / "aes.zip").write_bytes(data)
    refused(DataArchive(tmp_path / "aes.zip", password="x"), folder, r"'a.txt': .*AES.*pip install pyzipper.*give the folder")


# -- what has to be refused ----------------------------------------------------------------------------------------------
EVIL_NAMES = {
    "../evil.txt": "leads out",
    "a/../../evil.txt": "leads out",
    "/etc/evil.txt": "absolute",
    "C:/evil.txt": "absolute",
    "C:evil.txt": "absolute",
    "..\\evil.txt": "leads out",
    "\\\\server\\evil.txt": "absolute",
    "a/" + "x" * 300: "too long",
}


@pytest.mark.parametrize("name", EVIL_NAMES)
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, folder: Path, name: str) -> None:
    entries = {"good.txt": b"good", name: b"evil"}
    refused(DataArchive(zip_of(tmp_path / "x.zip", entries)), folder, EVIL_NAMES[name])
    refused(DataArchive(tar_of(tmp_path / "x.tar", entries)), folder, EVIL_NAMES[name])


def test_a_nul_in_a_name_is_refused(tmp_path: Path, folder: Path) -> None:
    data = zip_of(tmp_path / "x.zip", {"evil_txt": b"evil"}).read_bytes().replace(b"evil_txt", b"evil\0txt")
    (tmp_path / "x.zip").write_bytes(data)
    refused(DataArchive(tmp_path / "x.zip"), folder, "NUL")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_in_tars_are_refused(tmp_path: Path, folder: Path, kind: bytes) -> None:
    refused(
        DataArchive(special_tar(tmp_path / "x.tar", kind, "/etc/passwd")), folder, r"'evil': it is a link \(to '/etc/passwd'\)"
    )


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_in_tars_are_refused(tmp_path: Path, folder: Path, kind: bytes) -> None:
    refused(DataArchive(special_tar(tmp_path / "x.tar", kind)), folder, "'evil': it is not a plain file")


@pytest.mark.parametrize(
    ("mode", "message"), [(stat.S_IFLNK, "it is a link"), (stat.S_IFCHR, "not a plain file"), (stat.S_IFIFO, "not a plain")]
)
def test_links_and_devices_in_zips_are_refused(tmp_path: Path, folder: Path, mode: int, message: str) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("good.txt", b"good")
        info = zipfile.ZipInfo("evil")
        info.create_system, info.external_attr = 3, (mode | 0o777) << 16
        archive.writestr(info, b"/etc/passwd")
    refused(DataArchive(tmp_path / "x.zip"), folder, f"'evil': .*{message}")


def test_links_in_folders_are_refused(tmp_path: Path, folder: Path) -> None:
    source = tmp_path / "scans"
    source.mkdir()
    (source / "good.txt").write_text("good")
    (source / "evil").symlink_to("/etc/passwd")
    with pytest.raises(ArchiveError, match="'scans/evil': it is a link"):
        extract(DataArchive(source), folder)
    (source / "evil").unlink()
    os.mkfifo(source / "pipe")
    with pytest.raises(ArchiveError, match="'scans/pipe': it is not a plain file"):
        extract(DataArchive(source), folder)
    assert list(folder.parent.iterdir()) == []


def test_bombs_are_refused_before_they_explode(tmp_path: Path, folder: Path) -> None:
    limits = Limits(ratio_from=1 << 20, max_ratio=100)
    bomb = {"good.txt": b"good", "bomb": bytes(30 << 20)}
    for path in (
        zip_of(tmp_path / "x.zip", bomb),
        tar_of(tmp_path / "x.tar.xz", bomb, "xz"),
        tar_of(tmp_path / "y.tgz", bomb, "gz"),
    ):
        refused(DataArchive(path, limits=limits), folder, "'bomb': .*decompression bomb")
    (tmp_path / "x.gz").write_bytes(gzip.compress(bytes(30 << 20)))
    refused(DataArchive(tmp_path / "x.gz", limits=limits), folder, "'x': .*decompression bomb")
    extract(DataArchive(tmp_path / "x.zip"), folder)  # 30 MB are nothing by default
    assert (folder / "bomb").stat().st_size == 30 << 20


def test_a_bomb_that_lies_about_its_size_is_refused(tmp_path: Path, folder: Path) -> None:
    path = zip_of(tmp_path / "x.zip", {"bomb": bytes(3 << 20)})
    data = path.read_bytes()
    path.write_bytes(data.replace((3 << 20).to_bytes(4, "little"), (1000).to_bytes(4, "little")))
    refused(DataArchive(path, limits=Limits(ratio_from=1 << 20, max_ratio=10)), folder, "'bomb'")


def test_limits_of_total_size_and_number_of_entries(tmp_path: Path, folder: Path) -> None:
    path = zip_of(tmp_path / "x.zip", {f"{n}": os.urandom(1000) for n in range(20)})
    refused(DataArchive(path, limits=Limits(max_total=10_000)), folder, "unpacking would take")
    refused(DataArchive(path, limits=Limits(max_entries=19)), folder, "one of 20 entries, 19 are allowed")
    tar = tar_of(tmp_path / "x.tar", {f"{n}": os.urandom(1000) for n in range(20)})
    refused(DataArchive(tar, limits=Limits(max_total=10_000)), folder, "unpacking would take")
    refused(DataArchive(tar, limits=Limits(max_entries=19)), folder, "more than 19 entries")


def test_two_entries_of_one_name_are_refused(tmp_path: Path, folder: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("a.txt", b"1")
        archive.writestr("a.txt", b"2")
    refused(DataArchive(tmp_path / "x.zip"), folder, "'a.txt': there are two entries")
    refused(DataArchive(zip_of(tmp_path / "y.zip", {"a": b"1", "a/b": b"2"})), folder, "'a/b': another entry is a file")


@pytest.mark.parametrize("suffix", ["zip", *TARS])
def test_every_cut_is_noticed(tmp_path: Path, folder: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    entries = {f"{n}.bin": os.urandom(700) for n in range(6)}
    whole = (zip_of(path, entries) if suffix == "zip" else tar_of(path, entries, TARS[suffix])).read_bytes()
    end = len(whole) if suffix != "tar" else len(whole.rstrip(b"\0"))
    for length in range(0, end, max(end // 40, 1)):
        path.write_bytes(whole[:length])
        refused(DataArchive(path), folder, "damaged|cut off")


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tgz", "x.gz", "x.tar.xz", "x.tar.bz2"])
@pytest.mark.parametrize("content", [b"", b"no archive at all" * 100, bytes(5000)], ids=["empty", "text", "zeros"])
def test_what_is_no_archive_is_refused(tmp_path: Path, folder: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    refused(DataArchive(tmp_path / name), folder, "damaged")


def test_damaged_streams_inside_are_refused(tmp_path: Path, folder: Path) -> None:
    tar = tar_of(tmp_path / "x.tar", {"a": random.Random(1).randbytes(5000)}).read_bytes()
    for name, packed in (("a.tar.bz2", bz2.compress(tar)), ("b.tar.xz", lzma.compress(tar)), ("c.tgz", gzip.compress(tar))):
        broken = bytearray(packed)
        for position in range(len(broken) // 2, len(broken) // 2 + 20):
            broken[position] ^= 0xFF
        (tmp_path / name).write_bytes(broken)
        refused(DataArchive(tmp_path / name), folder, "damaged")


# -- sums and other circumstances ------------------------------------------------------------------------------------------
def test_checksums(tmp_path: Path, folder: Path) -> None:
    path = zip_of(tmp_path / "x.zip", {"a": b"1"})
    with pytest.raises(DataError, match="md5 checksum .* expected is 0000"):
        extract(DataArchive(path, md5sum="0" * 32), folder)
    with pytest.raises(MMLMisconfigurationException, match="is not an md5"):
        extract(DataArchive(path, md5sum="abc"), folder)
    with pytest.raises(MMLMisconfigurationException, match="must not be given for a folder"):
        extract(DataArchive(tmp_path, md5sum="0" * 32), folder)
    with pytest.raises(DataError, match="does not exist"):
        extract(DataArchive(tmp_path / "none.zip"), folder)
    import hashlib

    extract(DataArchive(path, md5sum=hashlib.sha256(path.read_bytes()).hexdigest().upper()), folder)


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Target, name: str, stream: object) -> None:
        raise OSError(28, "No space left on device", str(self.folder))

    monkeypatch.setattr(Target, "add_file", full)
    with pytest.raises(StorageError, match="disk of .* is full"):
        extract(DataArchive(zip_of(tmp_path / "x.zip", CONTENT)), folder)
    assert list(folder.parent.iterdir()) == []


def test_rar_needs_its_program(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.rar").write_bytes(b"Rar!\x1a\x07\x00")
    monkeypatch.setenv("PATH", "/nowhere")
    refused(DataArchive(tmp_path / "x.rar"), folder, "needs the program 'unrar'.*give the folder")


UNRAR = """#!/bin/sh
# stands for the real program: lists and unpacks what the test prepared
[ "$1" = lt ] && cat "{listing}" && exit {code}
[ "$1" = x ] && for last; do :; done && cp -R "{content}/." "$last" && exit 0
exit 7
"""


def fake_unrar(tmp_path: Path, listing: str, code: int = 0) -> None:
    content = tmp_path / "content"
    content.mkdir(exist_ok=True)
    (tmp_path / "listing").write_text(listing)
    program = tmp_path / "bin" / "unrar"
    program.parent.mkdir(exist_ok=True)
    program.write_text(UNRAR.format(listing=tmp_path / "listing", content=content, code=code))
    program.chmod(0o755)


def entry(name: str, kind: str = "File", size: int = 3) -> str:
    return f"        Name: {name}\n        Type: {kind}\n        Size: {size}\n\n"


def test_rar_is_checked_before_and_after(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.rar").write_bytes(b"Rar!\x1a\x07\x00")
    archive = DataArchive(tmp_path / "x.rar", limits=Limits(max_total=1000))
    fake_unrar(tmp_path, entry("a", "Directory") + entry("a/1.txt"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "content" / "a").mkdir()
    (tmp_path / "content" / "a" / "1.txt").write_text("one")
    extract(archive, folder)
    assert files_below(folder) == {"a/1.txt": b"one"}
    other = folder.parent.parent / "more" / "x"
    other.parent.mkdir()
    for listing, message in (
        (entry("../evil"), "leads out"),
        (entry("evil", "Unix symbolic link"), "symbolic link"),
        (entry("big", size=2000), "decompression bomb"),
    ):
        fake_unrar(tmp_path, listing)
        refused(archive, other, message)
    fake_unrar(tmp_path, "", code=11)
    refused(archive, other, "password")
    fake_unrar(tmp_path, "", code=3)
    refused(archive, other, "cannot be unpacked")
    fake_unrar(tmp_path, entry("harmless"))
    (tmp_path / "content" / "link").symlink_to("/etc/passwd")
    refused(archive, other, "'link': it is not a plain file")
