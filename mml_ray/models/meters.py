"""What is collected while an epoch runs: sums of losses, and a row per sample for the metrics.

Everything is a tensor or plain data: a checkpoint can hold it, an epoch can continue after a resume, and nothing waits for the device
before the epoch ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mml_ray.metrics.rows import Array, pixel_counts
from mml_ray.tasks.kinds import TaskKind


def batch_rows(kind: TaskKind, scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """What is collected of one batch for the metrics, a row per sample: scores and targets, or the pixel counts of masks."""
    scores = scores.detach().float()
    if kind.metric_rows == "pixel_counts":
        return pixel_counts(scores.argmax(dim=1), targets, scores.size(1), xp=torch), scores.new_empty(0)
    return scores, targets.detach()


class EpochMeter:
    """Sums of losses and collected rows of one phase."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._rows: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def reset(self) -> None:
        """Forget everything."""
        self._sums, self._counts, self._rows = {}, {}, {}

    def add_loss(self, name: str, value: Tensor, count: int) -> None:
        """Add the mean loss of ``count`` samples; stays on its device."""
        self._sums[name] = self._sums.get(name, torch.zeros_like(value, dtype=torch.float64)) + value.double() * count
        self._counts[name] = self._counts.get(name, 0) + count

    def add_rows(self, task: str, scores: Tensor, targets: Tensor) -> None:
        """Collect the rows of one batch, see :func:`batch_rows`; they stay on their device."""
        self._rows.setdefault(task, []).append((scores, targets))

    def losses(self) -> dict[str, float]:
        """The mean per sample of each loss, over all processes."""
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for part_sums, part_counts in _gathered(({n: v.item() for n, v in self._sums.items()}, self._counts)):
            for name, value in part_sums.items():
                sums[name] = sums.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + part_counts[name]
        return {name: sums[name] / counts[name] for name in sums}

    def rows(self) -> dict[str, tuple[Array, Array]]:
        """Scores and targets of all rows of each task, over all processes, as numpy arrays."""
        collected: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for part in _gathered({task: _joined(chunks) for task, chunks in self._rows.items()}):
            for task, pair in part.items():
                collected.setdefault(task, []).append(pair)
        joined = {task: _joined(pairs) for task, pairs in collected.items()}
        return {task: (scores.cpu().numpy(), targets.cpu().numpy()) for task, (scores, targets) in joined.items()}

    def state(self) -> dict[str, Any]:
        """Plain data and tensors, for a checkpoint."""
        rows = {task: list(_joined(chunks)) for task, chunks in self._rows.items()}
        return {"sums": dict(self._sums), "counts": dict(self._counts), "rows": rows}

    def load(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        self._sums = dict(state["sums"])
        self._counts = dict(state["counts"])
        self._rows = {task: [(scores, targets)] for task, (scores, targets) in state["rows"].items()}


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
