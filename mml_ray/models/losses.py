"""Losses chosen by name: ``Losses`` turns a batch and an output into ``{<phase>/<data set>/<loss>: tensor}``.

A loss is a module with ``forward(sample_list, model_output)``, registered under the kind ``loss``; :class:`ScoreLoss` is the base
of those that compare ``output["scores"]`` (logits) with ``batch["targets"]``. A configuration item is a name, a mapping
``{type, params, weight, datasets}`` or a :class:`LossConfig`; a list of them, a single one, or null (none).
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mml_ray.errors import MMLMisconfigurationException
from mml_ray.models import criteria  # noqa: F401  # registers the losses that ship
from mml_ray.registry import registry


@dataclass
class LossConfig:
    """One loss: ``weight`` multiplies it, ``datasets`` (if given) limits it to these data sets."""

    type: str
    params: dict[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    datasets: list[str] | None = None


def parse_losses(given: Any) -> list[LossConfig]:
    """All accepted forms as a list; anything else raises :class:`MMLMisconfigurationException`."""
    if given is None:
        return []
    if isinstance(given, (str, Mapping, LossConfig)):
        given = [given]
    if not isinstance(given, Sequence):
        raise MMLMisconfigurationException(f"Losses must be a name, a mapping with 'type', or a list of these, got {given!r}.")
    return [_parse_loss(item) for item in given]


def _parse_loss(item: Any) -> LossConfig:
    if isinstance(item, LossConfig):
        return item
    if isinstance(item, str):
        return LossConfig(item)
    allowed = ("type", "params", "weight", "datasets")
    if not isinstance(item, Mapping) or not item.get("type") or set(item) - set(allowed):
        raise MMLMisconfigurationException(
            f"A loss must be a name or a mapping of {', '.join(allowed)} ('type' is required), got {item!r}."
        )
    params = item.get("params") or {}
    weight = item.get("weight", 1.0)
    return LossConfig(str(item["type"]), params if item["type"] == "multi" else dict(params), float(weight), item.get("datasets"))


class LossTerm(nn.Module):
    """One configured loss. Its result is named ``<dataset_type>/<dataset_name>/<type>[/<child>]``."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        parsed = parse_losses(config)
        if len(parsed) != 1:
            raise MMLMisconfigurationException(f"A loss term must be exactly one loss, got {config!r}.")
        self.config = parsed[0]
        self.name = self.config.type
        self.criterion = build_criterion(self.config)
        self.requires: tuple[str, ...] = tuple(getattr(self.criterion, "requires", ("targets",)))

    def forward(self, sample_list: Mapping[str, Any], model_output: Mapping[str, Any]) -> dict[str, Tensor]:
        """The weighted results, each with at least one dimension; none of another data set or where a needed field is missing."""
        datasets = self.config.datasets
        wanted = datasets is None or sample_list["dataset_name"] in datasets
        if not wanted or any(sample_list.get(name) is None for name in self.requires):
            return {}
        value = self.criterion(sample_list, model_output)
        key = f"{sample_list['dataset_type']}/{sample_list['dataset_name']}/{self.name}"
        named = {f"{key}/{child}": v for child, v in value.items()} if isinstance(value, Mapping) else {key: value}
        return {name: self.config.weight * _as_tensor(part) for name, part in named.items()}


#: the name in the documents of the model contract
MMFLoss = LossTerm


def _as_tensor(value: Any) -> Tensor:
    tensor = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float)
    return tensor.view(1) if tensor.dim() == 0 else tensor


class Losses(nn.Module):
    """All losses of one model (or of one task). The same type twice is kept apart as ``<type>`` and ``<type>#2``."""

    def __init__(self, loss_list: Any) -> None:
        super().__init__()
        self.terms = nn.ModuleList()
        seen: dict[str, int] = {}
        for config in parse_losses(loss_list):
            term = LossTerm(config)
            seen[term.name] = seen.get(term.name, 0) + 1
            if seen[term.name] > 1:
                term.name = f"{term.name}#{seen[term.name]}"
            self.terms.append(term)
        self._warned = False

    def __len__(self) -> int:
        return len(self.terms)

    def forward(self, sample_list: Mapping[str, Any], model_output: Mapping[str, Any]) -> dict[str, Tensor]:
        """The results of all terms that apply; warns once where a training batch lacks what every loss needs."""
        results: dict[str, Tensor] = {}
        for term in self.terms:
            results.update(term(sample_list, model_output))
        if len(self.terms) and not results and not self._warned and sample_list.get("dataset_type") == "train":
            self._warned = True
            warnings.warn(
                f"No loss applies to a training batch with the fields {', '.join(sample_list)}.", UserWarning, stacklevel=2
            )
        return results


def build_criterion(config: LossConfig) -> nn.Module:
    """The module behind ``config``; unknown names and wrong parameters raise a user error."""
    cls = registry.lookup("loss", config.type)
    if config.type == "multi":
        multi: nn.Module = cls(config.params)
        return multi
    try:
        criterion: nn.Module = cls(**{name: _plain(value) for name, value in config.params.items()})
    except (TypeError, ValueError) as error:
        accepted = ", ".join(accepted_params(config.type)) or "none"
        raise MMLMisconfigurationException(
            f"Loss '{config.type}' with {config.params}: {error}. Its parameters: {accepted}."
        ) from error
    return criterion


def accepted_params(name: str) -> list[str]:
    """The parameters that the loss ``name`` takes."""
    return [p for p in inspect.signature(registry.lookup("loss", name)).parameters if p not in ("self", "args", "kwargs")]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


@registry.register_loss("multi")
class MultiLoss(nn.Module):
    """The weighted sum of several losses: ``params`` is a list of losses, each with an optional ``weight`` (1)."""

    requires: tuple[str, ...] = ()

    def __init__(self, params: Any) -> None:
        super().__init__()
        given = params.get("params") if isinstance(params, Mapping) else params
        terms = [LossTerm(config) for config in parse_losses(given)]
        if not terms:
            raise MMLMisconfigurationException("The loss 'multi' needs a list of losses under 'params'.")
        self.terms = nn.ModuleList(terms)

    def forward(self, sample_list: Mapping[str, Any], model_output: Mapping[str, Any]) -> Any:
        """The sum of the means of the terms that apply; empty if none does."""
        values = [v.mean() for term in self.terms for v in term(sample_list, model_output).values()]
        return torch.stack(values).sum() if values else {}


def balancing_weights(class_occ: Mapping[str, int | float], names: Sequence[str]) -> list[float]:
    """``max(occ) / occ_c`` for the classes ``names``; a class without samples gets the largest weight of the others."""
    counts = [float(class_occ.get(name, 0)) for name in names]
    top = max(counts, default=0.0)
    weights = [top / count if count > 0 else None for count in counts]
    largest = max((weight for weight in weights if weight is not None), default=1.0)
    return [largest if weight is None else weight for weight in weights]
