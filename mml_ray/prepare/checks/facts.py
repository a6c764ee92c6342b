"""What was learned about a task while it was created, kept beside it: classes in its masks, duplicates across its splits.

It does not belong to the description (whose keys are fixed) and can be recomputed: a file that is missing or of another version of
the task is ignored.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from mml_ray import atomic
from mml_ray.tasks.description import TaskDescription, clean_name
from mml_ray.tasks.variant import content_digest

FOLDER = ".facts"


def facts_path(description_path: Path, name: str) -> Path:
    """Where the facts of the task ``name`` are kept."""
    return description_path.parent / FOLDER / f"{clean_name(name)}.json"


def save_facts(
    description_path: Path,
    description: TaskDescription,
    *,
    mask_classes: Mapping[str, Sequence[int]] | None = None,
    integrity: Mapping[str, Any] | None = None,
) -> None:
    """Write what is known; a folder that cannot be written is ignored."""
    content: dict[str, Any] = {"digest": content_digest(description), "integrity": integrity}
    if mask_classes is not None:
        kinds = {values: number for number, values in enumerate(dict.fromkeys(map(tuple, mask_classes.values())))}
        content["mask_kinds"] = list(kinds)
        content["mask_kind_of"] = {sample_id: kinds[tuple(values)] for sample_id, values in mask_classes.items()}
    with contextlib.suppress(OSError):
        atomic.write_bytes(facts_path(description_path, description.name), orjson.dumps(content))


def load_facts(description_path: Path, description: TaskDescription) -> dict[str, Any]:
    """``{"mask_classes": ..., "integrity": ...}`` as far as it is known."""
    try:
        content = orjson.loads(facts_path(description_path, description.name).read_bytes())
        if content["digest"] != content_digest(description):
            return {}
        found: dict[str, Any] = {"integrity": content["integrity"]} if content.get("integrity") else {}
        if "mask_kinds" in content:
            kinds = content["mask_kinds"]
            found["mask_classes"] = {sample_id: kinds[number] for sample_id, number in content["mask_kind_of"].items()}
        return found
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return {}
