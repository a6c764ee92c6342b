"""The losses that ship, for scores (logits) and targets. New ones derive from :class:`ScoreLoss` and register themselves the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mml_ray.models.sample import ContractError
from mml_ray.registry import registry
from mml_ray.tasks.kinds import IGNORE_INDEX

registry.require_base("loss", nn.Module)


class ScoreLoss(nn.Module):
    """Base of losses of ``scores`` (logits) and ``targets``; subclasses implement :meth:`compute`."""

    requires: tuple[str, ...] = ("targets",)

    def forward(self, sample_list: Mapping[str, Any], model_output: Mapping[str, Any]) -> Any:
        """Compare the scores with the targets."""
        return self.compute(model_output["scores"], sample_list["targets"])

    def compute(self, scores: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of the batch (of the targets that are not ignored)."""
        raise NotImplementedError

    def _vector(self, name: str, values: Any) -> None:
        self.register_buffer(name, None if values is None else torch.as_tensor(values, dtype=torch.float), persistent=False)


class ClassLoss(ScoreLoss):
    """Base of losses of class indices (any shape) with class weights and an excluded ``ignore_index``."""

    weight: Tensor | None

    def __init__(self, weight: Sequence[float] | None = None, ignore_index: int = -100) -> None:
        super().__init__()
        self._vector("weight", weight)
        self.ignore_index = ignore_index


@registry.register_loss("cross_entropy")
class CrossEntropy(ClassLoss):
    """Cross entropy with class indices (any shape, ``ignore_index`` excluded) or with probabilities of the scores' shape; 0 without any."""

    def __init__(self, weight: Sequence[float] | None = None, ignore_index: int = -100, label_smoothing: float = 0.0) -> None:
        super().__init__(weight, ignore_index)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be at least 0 and less than 1, got {label_smoothing}")
        self.label_smoothing = label_smoothing

    def compute(self, scores: Tensor, targets: Tensor) -> Tensor:
        scores = scores.movedim(1, -1).reshape(-1, scores.size(1))  # the 2d kernel has no deterministic form on CUDA
        if targets.is_floating_point():
            targets = targets.movedim(1, -1).reshape(-1, scores.size(1))
            return F.cross_entropy(scores, targets, weight=self.weight, label_smoothing=self.label_smoothing)
        targets = targets.reshape(-1)
        total = F.cross_entropy(
            scores,
            targets,
            weight=self.weight,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction="sum",
        )
        counted = targets[targets != self.ignore_index]
        norm = self.weight[counted].sum() if self.weight is not None else torch.as_tensor(counted.numel(), device=scores.device)
        return total / norm.clamp(min=torch.finfo(torch.float).tiny) if counted.numel() else total


@registry.register_loss("label_smoothing_cross_entropy")
class LabelSmoothingCrossEntropy(CrossEntropy):
    """Cross entropy against smoothed labels (Szegedy et al. 2016)."""

    def __init__(self, weight: Sequence[float] | None = None, ignore_index: int = -100, label_smoothing: float = 0.1) -> None:
        super().__init__(weight, ignore_index, label_smoothing)


@registry.register_loss("soft_label_cross_entropy")
class SoftLabelCrossEntropy(ScoreLoss):
    """Cross entropy against a distribution; class indices are taken as one-hot. Targets of a row need not sum to one."""

    weight: Tensor | None

    def __init__(self, weight: Sequence[float] | None = None, normalize: bool = False) -> None:
        super().__init__()
        self._vector("weight", weight)
        self.normalize = normalize

    def compute(self, scores: Tensor, targets: Tensor) -> Tensor:
        if not targets.is_floating_point():
            targets = F.one_hot(targets, scores.size(1)).to(scores.dtype)
        if self.normalize:
            targets = targets / targets.sum(dim=1, keepdim=True).clamp(min=1e-12)
        terms = -targets * F.log_softmax(scores, dim=1)
        return (terms * self.weight if self.weight is not None else terms).sum(dim=1).mean()


@registry.register_loss("bce_with_logits")
@registry.register_loss("bce")
@registry.register_loss("logit_bce")
class BCEWithLogits(ScoreLoss):
    """Binary cross entropy of each label's logit, mean over labels and samples; the names mean the same, since all scores are logits."""

    weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(self, weight: Sequence[float] | None = None, pos_weight: Sequence[float] | None = None) -> None:
        super().__init__()
        self._vector("weight", weight)
        self._vector("pos_weight", pos_weight)

    def compute(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Targets are 0/1 or probabilities, of the scores' shape."""
        return F.binary_cross_entropy_with_logits(
            scores, _shaped_as(scores, targets), weight=self.weight, pos_weight=self.pos_weight
        )


@registry.register_loss("nll_loss")
class NLL(ClassLoss):
    """Negative log likelihood; the scores are log probabilities."""

    def compute(self, scores: Tensor, targets: Tensor) -> Tensor:
        return F.nll_loss(scores, targets, weight=self.weight, ignore_index=self.ignore_index)


@registry.register_loss("focal")
class Focal(ClassLoss):
    """Focal loss for one-of-many classification (Lin et al. 2017, eq. 4)."""

    def __init__(self, gamma: float = 2.0, weight: Sequence[float] | None = None, ignore_index: int = -100) -> None:
        super().__init__(weight, ignore_index)
        self.gamma = gamma

    def compute(self, scores: Tensor, targets: Tensor) -> Tensor:
        scores = scores.movedim(1, -1).reshape(-1, scores.size(1))
        targets = targets.reshape(-1)
        keep = targets != self.ignore_index
        scores, targets = scores[keep], targets[keep]
        likelihood = F.log_softmax(scores, dim=1).gather(1, targets[:, None]).squeeze(1)
        terms = -((1 - likelihood.exp()) ** self.gamma) * likelihood
        if self.weight is not None:
            terms = terms * self.weight[targets]
        return terms.sum() / max(1, targets.numel())


@registry.register_loss("mse")
class MSE(ScoreLoss):
    """Mean squared error of all values."""

    def compute(self, scores: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(scores, _shaped_as(scores, targets))


@registry.register_loss("l1")
class L1(ScoreLoss):
    """Mean absolute error of all values."""

    def compute(self, scores: Tensor, targets: Tensor) -> Tensor:
        return F.l1_loss(scores, _shaped_as(scores, targets))


@registry.register_loss("huber")
class Huber(ScoreLoss):
    """Huber loss (1964): quadratic up to ``delta``, linear beyond."""

    def __init__(self, delta: float = 1.0) -> None:
        super().__init__()
        self.delta = delta

    def compute(self, scores: Tensor, targets: Tensor) -> Tensor:
        return F.huber_loss(scores, _shaped_as(scores, targets), delta=self.delta)


@registry.register_loss("dice")
class Dice(ScoreLoss):
    """Soft Dice loss (Milletari et al. 2016) over the batch, mean of the classes that occur; ``ignore_index`` excluded.

    ``scores`` [N, C, H, W], ``targets`` [N, H, W].
    """

    def __init__(self, smooth: float = 0.0, ignore_index: int = IGNORE_INDEX, include_background: bool = True) -> None:
        super().__init__()
        self.smooth = smooth
        self.ignore_index = ignore_index
        self.include_background = include_background

    def compute(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Mean of the classes; 0 where no class occurs."""
        valid = (targets != self.ignore_index).unsqueeze(1)
        classes = scores.size(1)
        truth = F.one_hot(targets.masked_fill(~valid.squeeze(1), 0), classes).movedim(-1, 1).to(scores.dtype) * valid
        guess = scores.float().softmax(dim=1) * valid
        dims = (0, *range(2, scores.dim()))
        overlap = (guess * truth).sum(dims)
        size = guess.sum(dims) + truth.sum(dims)
        score = (2 * overlap + self.smooth) / (size + self.smooth).clamp(min=1e-7)
        occurs = (truth.sum(dims) > 0).to(score.dtype)
        if not self.include_background:
            occurs[0] = 0
        return ((1 - score) * occurs).sum() / occurs.sum().clamp(min=1)


def _shaped_as(scores: Tensor, targets: Tensor) -> Tensor:
    """The targets in the scores' dtype; raises where their shapes differ."""
    if scores.shape != targets.shape:
        raise ContractError(f"Targets must have the shape of the scores, {tuple(scores.shape)}, got {tuple(targets.shape)}.")
    return targets.to(scores.dtype)
