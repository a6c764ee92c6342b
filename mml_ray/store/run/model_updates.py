"""Model storages change by delta: the commit carries the change, the store journals it and rewrites the file.

In the file ``updates`` lists the changes with the run and command of each, and ``committed`` keeps the fields that they change as the
file's own command committed them. The fields that readers see are computed from both each time. So applying a change twice changes
nothing, and the committed content can still be verified.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mml_ray import atomic
from mml_ray.errors import DataError, MMLMisconfigurationException
from mml_ray.failpoints import failpoint
from mml_ray.store.files import LOCAL, Files

UPDATES = "updates"
COMMITTED = "committed"
FIELDS = ("predictions", "append_metrics")
_CHANGED = ("predictions", "metrics")
#: seconds to wait for another run that changes the same folder: its process may be stopped
LOCK_TIMEOUT = 5.0


def check_delta(path: str, delta: Any) -> None:
    """Refuse a ``delta`` that is not a change of a model storage.

    Raises:
        MMLMisconfigurationException: says what is allowed.
    """
    right = isinstance(delta, Mapping) and bool(delta) and all(name in FIELDS for name in delta)
    if right:
        predictions, metrics = delta.get("predictions", {}), delta.get("append_metrics", [])
        right = isinstance(predictions, Mapping) and all(isinstance(item, str) for item in predictions.values())
        right = right and isinstance(metrics, list) and all(isinstance(item, Mapping) for item in metrics)
    if not right:
        raise MMLMisconfigurationException(
            f"models_update of {path} must have 'predictions' ({{task: stored path}}), 'append_metrics' ([{{name: value}}]) or both, "
            f"got {delta!r}."
        )


def entry(run: str, command: str, position: int, delta: Mapping[str, Any]) -> dict[str, Any]:
    """The form in which a change stands in the file; paths relative to the results root."""
    predictions = {task: path.removeprefix("results:") for task, path in delta.get("predictions", {}).items()}
    metrics = list(delta.get("append_metrics", []))
    return {"run": run, "command": command, "position": position, "predictions": predictions, "metrics": metrics}


def write_updates(path: Path, entries: Iterable[Mapping[str, Any]]) -> bool:
    """Add ``entries`` to the file at ``path``, atomically; returns whether any was missing there.

    Raises:
        DataError: the file is not a model storage.
        FileNotFoundError: it does not exist.
    """
    with exclusive_lock(path.parent):
        content = load(path)
        present = content.get(UPDATES, [])
        known = {(item["run"], item["command"]) for item in present}
        missing = [dict(item) for item in entries if (item["run"], item["command"]) not in known]
        if not missing:
            return False
        together = [*present, *missing]
        runs = list(dict.fromkeys(item["run"] for item in together))
        content[UPDATES] = sorted(together, key=lambda item: (runs.index(item["run"]), item["position"], item["command"]))
        content.setdefault(COMMITTED, {name: content[name] for name in _CHANGED if name in content})
        content["predictions"], content["metrics"] = apply_updates(content)
        failpoint("update.before_write")
        atomic.write_json(path, content)
        failpoint("update.after_write")
        return True


@contextlib.contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Keep other runs of this machine (or of a file system that shares locks) from changing files in the folder. Two that read, change
    and write a file at once would lose the change of one, until that run is opened again. After a timeout it goes on without the lock.
    """
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        deadline = time.monotonic() + LOCK_TIMEOUT
        while time.monotonic() < deadline:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.001)
            except OSError:
                break
        yield
    finally:
        os.close(descriptor)


def apply_updates(content: Mapping[str, Any]) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Predictions and metrics of a storage with all updates applied."""
    own = content.get(COMMITTED, content)
    predictions, metrics = dict(own.get("predictions") or {}), list(own.get("metrics") or [])
    for update in content.get(UPDATES, []):
        predictions.update(update["predictions"])
        metrics += update["metrics"]
    return predictions, metrics


def load(path: Path, files: Files = LOCAL) -> dict[str, Any]:
    """The content of a model storage's file; errors as :func:`write_updates`."""
    try:
        content = json.loads(files.read(path))
    except ValueError as error:
        raise DataError(
            f"{path} is not a model storage: {error}. It is always written whole, so another program changed it."
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is not a model storage: it holds a {type(content).__name__}, not an object.")
    return content


def committed_bytes(path: Path, files: Files = LOCAL) -> bytes | None:
    """The bytes that the file's own command committed, where it has updates; ``None`` where it has none, or where its fields are not
    those that the updates give.
    """
    try:
        content = load(path, files)
    except DataError:
        return None
    if COMMITTED in content and json.dumps([content.get(name) for name in _CHANGED]) != json.dumps(apply_updates(content)):
        return None
    if content.pop(UPDATES, None) is None:
        return None
    own = content.pop(COMMITTED, content)
    for name in _CHANGED:
        if name in own:
            content[name] = own[name]
        else:
            content.pop(name, None)
    return (json.dumps(content, indent=2) + "\n").encode()
