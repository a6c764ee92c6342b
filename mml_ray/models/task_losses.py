"""Which losses a task gets: from the configuration group ``losses``, with class weights filled in where a loss takes them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from mml_ray.errors import MMLMisconfigurationException
from mml_ray.models.heads import TaskSpec
from mml_ray.models.losses import LossConfig, accepted_params, balancing_weights, parse_losses
from mml_ray.models.options import LossOptions

logger = logging.getLogger(__name__)


def losses_for(spec: TaskSpec, given: Any, *, balanced: bool = False) -> list[LossConfig]:
    """The losses of a task: ``given`` is one list for every task, or a mapping of routes (and the settings of class weights)."""
    group = given if isinstance(given, Mapping) and "type" not in given else None
    items = given if group is None else group.get(spec.route)
    if items is None:
        items = list(spec.kind.losses)
        if not items:
            raise MMLMisconfigurationException(
                f"There is no default loss for task '{spec.name}' ({spec.task_type}). Set loss.{spec.route}."
            )
    configs = parse_losses(items)
    _fill_in(configs, spec, *_class_weights(spec, group or {}, balanced))
    return configs


def _class_weights(spec: TaskSpec, group: Mapping[str, Any], balanced: bool) -> tuple[list[float] | None, bool]:
    """The weights of the classes, and whether the user gave them."""
    options = LossOptions.of({key: group[key] for key in LossOptions.declared() if key in group})
    explicit = options.class_weights
    if not spec.kind.has_classes:
        return None, False
    if explicit is None:
        if not options.auto_activate_weighing or balanced:
            return None, False
        if (counted := len(spec.class_occ)) != spec.num_classes:
            told = "Task '%s' has counts of %d of its %d classes, so class weights are not used."
            logger.warning(told, spec.name, counted, spec.num_classes)
            return None, False
        return balancing_weights(spec.class_occ, list(spec.class_occ)), False
    if balanced:
        logger.warning("loss.class_weights and sampling.balanced both weight the classes of task '%s'.", spec.name)
    if len(explicit) != spec.num_classes:
        raise MMLMisconfigurationException(
            f"loss.class_weights has {len(explicit)} values, but task '{spec.name}' has {spec.num_classes} classes: give one for each."
        )
    return [float(weight) for weight in explicit], True


def _fill_in(configs: Sequence[LossConfig], spec: TaskSpec, weights: list[float] | None, explicit: bool) -> None:
    """Class weights and the ignored label, where a loss has such a parameter and the configuration leaves it open."""
    for config in configs:
        params: Any = config.params
        if config.type == "multi":
            config.params = children = parse_losses(params.get("params") if isinstance(params, Mapping) else params)  # type: ignore[assignment]
            _fill_in(children, spec, weights, explicit)
            continue
        accepted = accepted_params(config.type)
        if spec.kind.ignored_label is not None and "ignore_index" in accepted:
            params.setdefault("ignore_index", spec.kind.ignored_label)
        if weights is None or "weight" in params:
            continue
        if "weight" in accepted:
            params["weight"] = weights
        elif explicit:
            logger.warning("The loss '%s' of task '%s' does not take class weights, they are not used.", config.type, spec.name)
