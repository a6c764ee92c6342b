"""What is collected while an epoch runs: sums of losses, and a row per sample for the metrics.

Everything is a tensor or plain data, so that a checkpoint can hold it and an epoch can go on after a resume.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mml_ray.tasks.kinds import IGNORE_INDEX as IGNORED


@dataclass(frozen=True)
class Rows:
    """What was collected of one task in one phase, a row per sample.

    ``scores`` are logits [N, C] (regression [N, 1]); for segmentation they are counts [N, C, 3]: true positives, guessed,
    true pixels. ``targets`` [N] class indices, [N, C] labels, [N, 1] values; for segmentation empty.
    """

    scores: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return int(self.scores.size(0))

    def draw(self, index: Tensor) -> Rows:
        """The rows at ``index``."""
        return Rows(self.scores[index], self.targets[index] if self.targets.numel() else self.targets)


def rows_of(route: str, scores: Tensor, targets: Tensor) -> Rows:
    """The rows of one batch: logits and targets as they are, or the counts of a segmentation."""
    scores = scores.detach().float()
    return Rows(pixel_counts(scores, targets), scores.new_empty(0)) if route == "seg" else Rows(scores, targets.detach())


def pixel_counts(scores: Tensor, targets: Tensor) -> Tensor:
    """``scores`` [N, C, H, W], ``targets`` [N, H, W] -> int64 [N, C, 3]: hits, guessed and true pixels that are not ignored."""
    classes = scores.size(1)
    valid = targets != IGNORED
    guess = scores.argmax(dim=1)
    offset = torch.arange(len(guess), device=guess.device)[:, None, None] * classes

    def histogram(labels: Tensor, mask: Tensor) -> Tensor:
        return torch.bincount((labels + offset)[mask], minlength=len(guess) * classes).view(len(guess), classes)

    hits = histogram(guess, valid & (guess == targets))
    return torch.stack([hits, histogram(guess, valid), histogram(targets, valid)], dim=-1)


class EpochMeter:
    """Sums of losses and collected rows of one phase; plain tensors, so a checkpoint can hold it."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._rows: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def reset(self) -> None:
        """Forget everything."""
        self._sums, self._counts, self._rows = {}, {}, {}

    def add_loss(self, name: str, value: Tensor, count: int) -> None:
        """Add the mean loss of ``count`` samples; stays on its device."""
        self._sums[name] = (
            self._sums.get(name, torch.zeros((), dtype=torch.float64, device=value.device)) + value.double() * count
        )
        self._counts[name] = self._counts.get(name, 0) + count

    def add_rows(self, task: str, rows: Rows) -> None:
        """Collect the rows of one batch."""
        self._rows.setdefault(task, []).append((rows.scores, rows.targets))

    def losses(self) -> dict[str, float]:
        """The mean per sample of each loss, over all processes."""
        sums, counts = self._shared_sums()
        return {name: sums[name] / counts[name] for name in sums}

    def rows(self) -> dict[str, Rows]:
        """All rows of each task, over all processes."""
        collected: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for part in _gathered({task: _joined(chunks) for task, chunks in self._rows.items()}):
            for task, pair in part.items():
                collected.setdefault(task, []).append(pair)
        return {task: Rows(*_joined(pairs)) for task, pairs in collected.items()}

    def state(self) -> dict[str, Any]:
        """Plain data and tensors, for a checkpoint."""
        rows = {task: list(_joined(chunks)) for task, chunks in self._rows.items()}
        return {"sums": dict(self._sums), "counts": dict(self._counts), "rows": rows}

    def load(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        self._sums = dict(state["sums"])
        self._counts = dict(state["counts"])
        self._rows = {task: [(scores, targets)] for task, (scores, targets) in state["rows"].items()}

    def _shared_sums(self) -> tuple[dict[str, float], dict[str, int]]:
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for part_sums, part_counts in _gathered(({n: v.item() for n, v in self._sums.items()}, self._counts)):
            for name, value in part_sums.items():
                sums[name] = sums.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + part_counts[name]
        return sums, counts


def _joined(chunks: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    device = chunks[-1][0].device
    return torch.cat([s.to(device) for s, _ in chunks]), torch.cat([t.to(device) for _, t in chunks])


def _gathered(part: Any) -> list[Any]:
    """``part`` of every process, in their order; just this one's without processes."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return [part]
    parts: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, part)
    return parts
