"""ZIP archives, plain and encrypted."""

from __future__ import annotations

import importlib
import stat
import zipfile
from typing import Any

from mml_ray.errors import ArchiveError
from mml_ray.prepare.archives.base import DataArchive, Target

_AES = 99
_ENCRYPTED = 0x1


def extract_zip(archive: DataArchive, target: Target) -> None:
    """Unpack; every entry is checked against its CRC. Encrypted entries need the password; AES ones also the package pyzipper."""
    with zipfile.ZipFile(archive.path) as opened:
        infos = opened.infolist()
        if infos:
            largest = max(infos, key=lambda info: info.file_size)
            target.declare(sum(info.file_size for info in infos), len(infos), largest.filename)
        for info in infos:
            _check_type(info, target)
        encrypted = next((info for info in infos if info.flag_bits & _ENCRYPTED), None)
        if encrypted is not None and archive.password is None:
            raise target.refuse(encrypted.filename, "it is encrypted, and no password was given (source.password)")
        aes = next((info for info in infos if info.compress_type == _AES), None)
        if aes is None:
            _extract_all(opened, archive, target)
    if aes is not None:
        with _aes_reader(aes.filename, target)(archive.path) as opened:
            _extract_all(opened, archive, target)


def _extract_all(opened: Any, archive: DataArchive, target: Target) -> None:
    password = archive.password.encode() if archive.password is not None else None
    for info in opened.infolist():
        name = info.orig_filename
        if info.is_dir():
            target.add_folder(name)
            continue
        try:
            with opened.open(info, pwd=password if info.flag_bits & _ENCRYPTED else None) as stream:
                target.add_file(name, stream)
        except ArchiveError:
            raise
        except (RuntimeError, zipfile.BadZipFile, NotImplementedError) as error:
            if isinstance(error, RuntimeError) and "password" in str(error).lower():
                raise target.refuse(name, "the password is wrong") from error
            hint = " (or the password is wrong)" if info.flag_bits & _ENCRYPTED else ""
            raise target.refuse(name, f"it is damaged{hint}: {error}") from error


def _check_type(info: zipfile.ZipInfo, target: Target) -> None:
    mode = info.external_attr >> 16
    kind = stat.S_IFMT(mode)
    if stat.S_ISLNK(mode):
        raise target.refuse(info.filename, "it is a link")
    if kind and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise target.refuse(info.filename, "it is not a plain file (a device?)")


def _aes_reader(entry: str, target: Target) -> Any:
    try:
        return importlib.import_module("pyzipper").AESZipFile
    except ImportError:
        raise target.refuse(
            entry,
            "it is encrypted with AES, which needs the package pyzipper (pip install pyzipper). Or unpack the archive with "
            "7-Zip and give the folder",
        ) from None
