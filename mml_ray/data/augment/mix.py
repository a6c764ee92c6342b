"""Mixup and CutMix: functions on a finished batch that return soft targets.

Zhang et al., "mixup: Beyond Empirical Risk Minimization" (ICLR 2018); Yun et al., "CutMix" (ICCV 2019). The partner of a
sample is the one at the mirrored place of the batch; each pair draws its own share.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mml_ray.errors import MMLMisconfigurationException


def mixup(
    images: Tensor, targets: Tensor, *, num_classes: int, seed: int, alpha: float = 0.4, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """``share * sample + (1 - share) * partner`` for images ``[N, C, H, W]`` and targets; ``share ~ Beta(alpha, alpha)``.

    ``targets``: class indices int64 ``[N]`` or probabilities ``[N, num_classes]``. Returns probabilities ``[N, num_classes]``.
    """
    _check(alpha)
    share = _tensor(np.random.default_rng(seed).beta(alpha, alpha, len(images)), images)
    weight = share.view(-1, 1, 1, 1)
    mixed = images * weight + images.flip(0) * (1 - weight)
    return mixed, _mixed_targets(targets, share, num_classes=num_classes, label_smoothing=label_smoothing)


def cutmix(
    images: Tensor,
    targets: Tensor,
    *,
    num_classes: int,
    seed: int,
    alpha: float = 0.4,
    label_smoothing: float = 0.0,
    minmax: Sequence[float] | None = None,
) -> tuple[Tensor, Tensor]:
    """Put a box of the partner into each image. The box has the area ``1 - share``, ``share ~ Beta(alpha, alpha)``, or with
    ``minmax`` sides between these parts of the image's; it is cut at the border, and targets follow the area it has then.

    ``targets`` and the result as in :func:`mixup`.
    """
    _check(alpha)
    count, _, height, width = images.shape
    random = np.random.default_rng(seed)
    if minmax is None:
        part = np.sqrt(1.0 - random.beta(alpha, alpha, count))
        sides = np.stack([part * height, part * width])
    else:
        low, high = float(minmax[0]), float(minmax[1])
        if not 0.0 <= low <= high <= 1.0:
            raise MMLMisconfigurationException(
                f"cutmix.minmax must be two numbers between 0 and 1 in ascending order, got {list(minmax)}."
            )
        sides = random.uniform(low, high, (2, count)) * np.array([[height], [width]])
    centre = random.random((2, count)) * np.array([[height], [width]])
    limits = np.array([[height], [width]])
    start = np.clip(np.rint(centre - sides / 2), 0, limits).astype(np.int64)
    end = np.clip(np.rint(centre + sides / 2), 0, limits).astype(np.int64)
    box = (
        _inside(start[0], end[0], height, images.device)[:, None, :, None]
        & _inside(start[1], end[1], width, images.device)[:, None, None]
    )
    share = _tensor(1.0 - np.prod(end - start, axis=0) / (height * width), images)
    mixed = torch.where(box, images.flip(0), images)
    return mixed, _mixed_targets(targets, share, num_classes=num_classes, label_smoothing=label_smoothing)


def _inside(start: np.ndarray[tuple[int], np.dtype[np.int64]], end: np.ndarray[tuple[int], np.dtype[np.int64]], size: int,
            device: torch.device) -> Tensor:  # fmt: skip
    places = torch.arange(size, device=device)
    first, last = (torch.from_numpy(value).to(device).view(-1, 1) for value in (start, end))
    return (places >= first) & (places < last)


def _mixed_targets(targets: Tensor, share: Tensor, *, num_classes: int, label_smoothing: float) -> Tensor:
    if targets.dim() == 1:
        targets = torch.nn.functional.one_hot(targets, num_classes)
    soft = targets.to(share.dtype) * (1.0 - label_smoothing) + label_smoothing / num_classes
    weight = share.view(-1, 1)
    return soft * weight + soft.flip(0) * (1.0 - weight)


def _tensor(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]], like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(device=like.device, dtype=torch.float32)


def _check(alpha: float) -> None:
    if not alpha > 0.0:
        raise MMLMisconfigurationException(f"alpha of mixup and cutmix must be above 0, got {alpha}.")
