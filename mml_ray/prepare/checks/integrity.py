"""Leakage: equal images (by their pixels) or parts of one group in splits or folds that should be disjoint."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mml_ray.errors import LeakageError
from mml_ray.prepare.checks.facts import load_facts
from mml_ray.store.data_root import DataRoot
from mml_ray.tasks.attributes import Modality
from mml_ray.tasks.description import TaskDescription

SHOWN = 10
#: copies of unlabeled images count, their groups do not: no score is computed on them
UNLABELED = "unlabelled"


@dataclass(frozen=True)
class IntegrityReport:
    """Counts, and some examples each as ``[place/sample id, ...]``; a place is ``fold 0``, ``test`` or ``unlabelled``."""

    duplicated_images: int = 0
    duplicates: list[list[str]] = field(default_factory=list)
    torn_groups: int = 0
    groups: list[list[str]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.duplicated_images and not self.torn_groups

    def lines(self) -> list[str]:
        """What was found, as sentences without a stop."""
        found = []
        if self.duplicated_images:
            found.append(
                f"{self.duplicated_images} image(s) occur in several splits or folds, such as {_examples(self.duplicates)}"
            )
        if self.torn_groups:
            found.append(f"{self.torn_groups} group(s) are spread over several splits or folds, such as {_examples(self.groups)}")
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain data; ``IntegrityReport(**data)`` is the inverse."""
        return asdict(self)

    def refuse(self, name: str) -> None:
        """Raise :class:`LeakageError` if anything was found."""
        if not self.ok:
            raise LeakageError(
                f"Task '{name}' leaks: {'; '.join(self.lines())}. Remove the copies, or give them a common group so that they "
                "stay together."
            )


def _examples(found: list[list[str]]) -> str:
    return ", ".join(" = ".join(places) for places in found[:3])


def check_integrity(description: TaskDescription, digests: Mapping[str, str]) -> IntegrityReport:
    """Compare all places of a task. ``digests`` maps entries of the modality image to a digest of their pixels."""
    by_image: dict[str, dict[str, str]] = defaultdict(dict)
    by_group: dict[str, dict[str, str]] = defaultdict(dict)
    for place, pool in _places(description).items():
        for sample_id, sample in pool.items():
            digest = digests.get(sample.get(Modality.IMAGE, ""))
            if digest is not None:
                by_image[digest].setdefault(place, f"{place}/{sample_id}")
            if Modality.GROUP in sample and place != UNLABELED:
                by_group[sample[Modality.GROUP]].setdefault(place, f"{sample[Modality.GROUP]} in {place}")
    copies = [list(places.values()) for places in by_image.values() if len(places) > 1]
    torn = [list(places.values()) for places in by_group.values() if len(places) > 1]
    return IntegrityReport(len(copies), copies[:SHOWN], len(torn), torn[:SHOWN])


def stored_report(data_root: DataRoot, name: str) -> IntegrityReport | None:
    """The report that was made with a task; ``None`` if there is none, or if the task has changed since."""
    path = data_root.description_path(name)
    found = load_facts(path, TaskDescription.load(path)).get("integrity")
    return IntegrityReport(**found) if found else None


def _places(description: TaskDescription) -> dict[str, dict[str, dict[str, Any]]]:
    places = {
        f"fold {number}": {sample_id: description.train_samples[sample_id] for sample_id in ids}
        for number, ids in enumerate(description.train_folds)
    }
    return places | {"test": description.test_samples, UNLABELED: description.unlabeled_samples}
