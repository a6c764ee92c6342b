"""Downloads that resume, and take their name only when they are complete."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mml_ray import atomic
from mml_ray.errors import DataError, MMLMisconfigurationException
from mml_ray.prepare.archives import check_sum
from mml_ray.prepare.context import Progress
from mml_ray.store.data_root import writing

if TYPE_CHECKING:
    import requests

log = logging.getLogger(__name__)
ATTEMPTS = 4
WAIT_SECONDS = 2.0
TIMEOUT_SECONDS = 60.0
_CHUNK = 1 << 16
_RETRIED = (408, 425, 429, 500, 502, 503, 504)


def fetch(
    url: str,
    path: Path,
    *,
    checksum: str | None = None,
    auth: tuple[str, str] | None = None,
    progress: Progress | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Download ``url`` to ``path``; a file that exists is only checked.

    What arrives is kept beside it as ``wip_<name>`` and continued by the next call, if the server still has the same version (or
    a checksum will tell). ``checksum``: md5, sha1 or sha256 in hexadecimal digits. Transient failures are retried.
    """
    if path.exists():
        log.info("%s already exists.", path)
    else:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _with_retries(url, path, checksum=checksum, auth=auth, progress=progress, sleep=sleep)
    if checksum is not None:
        _verified(path, checksum)
    return path


def _verified(path: Path, checksum: str) -> None:
    try:
        check_sum(path, checksum)
    except DataError:
        path.unlink()
        raise


def _with_retries(
    url: str,
    path: Path,
    *,
    checksum: str | None,
    auth: tuple[str, str] | None,
    progress: Progress | None,
    sleep: Callable[[float], None],
) -> None:
    import requests

    part = path.with_name(f"wip_{path.name}")
    said = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            sleep(WAIT_SECONDS * 2 ** (attempt - 1))
        try:
            complete = _attempt(url, part, resumable=checksum is not None, auth=auth, progress=progress)
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            said = f"{type(error).__name__}: {error}"
            log.warning("Download of %s was interrupted (%s).", url, said)
            continue
        if complete:
            atomic.sync(part)
            atomic.fs.replace(part, path)
            _notes(part).unlink(missing_ok=True)
            return
        said = "the server sent less than it announced, or is busy"
    raise DataError(
        f"{url} cannot be downloaded after {ATTEMPTS} attempts ({said}). Start again to continue, or put the file at "
        f"{path} yourself."
    )


def _attempt(url: str, part: Path, *, resumable: bool, auth: tuple[str, str] | None, progress: Progress | None) -> bool:
    """One request; whether the file is complete now."""
    import requests

    have = part.stat().st_size if part.exists() else 0
    validator = _validator(_read_notes(part))
    headers = {"Accept-Encoding": "identity"}
    if have and (validator or resumable):
        headers["Range"] = f"bytes={have}-"
        if validator:
            headers["If-Range"] = validator
    with requests.get(url, stream=True, timeout=TIMEOUT_SECONDS, headers=headers, auth=auth) as response:
        if response.status_code == 416 and have:  # nothing is left, or the file changed
            if _total(response.headers) == have:
                return True
            part.unlink()
            return False
        if response.status_code in _RETRIED:
            return False
        if not response.ok:
            raise DataError(f"{url} cannot be downloaded: the server says {response.status_code} {response.reason}.")
        start = have if response.status_code == 206 else 0
        _write_notes(part, response.headers)
        return _receive(response, part, start=start, progress=progress)


def _receive(response: requests.Response, part: Path, *, start: int, progress: Progress | None) -> bool:
    length = response.headers.get("Content-Length")
    total = start + int(length) if length is not None else 0
    done = start
    with part.open("ab" if start else "wb") as stream:
        for chunk in response.iter_content(_CHUNK):
            stream.write(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, total, f"download {part.name[4:]}")
    return total in (0, done)


def _total(headers: Mapping[str, str]) -> int | None:
    """The whole size, from ``Content-Range: bytes */1234``."""
    whole = headers.get("Content-Range", "").rpartition("/")[2]
    return int(whole) if whole.isdigit() else None


def _notes(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _write_notes(part: Path, headers: Mapping[str, str]) -> None:
    atomic.write_json(_notes(part), {name: headers[name] for name in ("ETag", "Last-Modified") if name in headers})


def _read_notes(part: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(_notes(part).read_text())
        return found if isinstance(found, dict) else {}
    return {}


def _validator(notes: Mapping[str, Any]) -> str:
    """What tells versions of the file apart (RFC 9110, 13.1.5: weak tags do not)."""
    tag = str(notes.get("ETag", ""))
    return tag if tag and not tag.startswith("W/") else str(notes.get("Last-Modified", ""))


def kaggle_credentials() -> tuple[str, str]:
    """User name and key, from KAGGLE_USERNAME and KAGGLE_KEY or ``~/.kaggle/kaggle.json``."""
    user, key = os.environ.get("KAGGLE_USERNAME"), os.environ.get("KAGGLE_KEY")
    if not (user and key):
        with contextlib.suppress(OSError, ValueError, KeyError):
            stored = json.loads((Path.home() / ".kaggle" / "kaggle.json").read_text())
            user, key = str(stored["username"]), str(stored["key"])
    if not (user and key):
        raise MMLMisconfigurationException(
            "Kaggle needs credentials: set KAGGLE_USERNAME and KAGGLE_KEY (in mml.env, say), or put kaggle.json into ~/.kaggle. "
            "The key comes from your account's settings at www.kaggle.com."
        )
    return user, key
