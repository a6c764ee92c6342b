"""Which losses a task gets: from the configuration group ``losses``, with class weights filled in where a loss takes them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from mml_ray.errors import MMLMisconfigurationException
from mml_ray.models.heads import TaskSpec
from mml_ray.models.losses import LossConfig, accepted_params, balancing_weights, parse_losses

logger = logging.getLogger(__name__)

#: settings of the group that are not a route
SETTINGS = ("auto_activate_weighing", "class_weights")


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
    weights, explicit = _class_weights(spec, group or {}, balanced)
    for config in configs:
        _fill_in(config, spec, weights, explicit)
    return configs


def _class_weights(spec: TaskSpec, group: Mapping[str, Any], balanced: bool) -> tuple[list[float] | None, bool]:
    explicit, auto = group.get("class_weights"), bool(group.get("auto_activate_weighing", False))
    if not spec.kind.has_classes:
        return None, False
    if explicit is not None:
        return _explicit_weights(spec, explicit, auto, balanced), True
    if not auto or balanced:
        return None, False
    if len(spec.class_occ) != spec.num_classes:
        logger.warning(
            "Task '%s' has counts of %d of its %d classes, so class weights are not used.",
            spec.name,
            len(spec.class_occ),
            spec.num_classes,
        )
        return None, False
    return balancing_weights(spec.class_occ, list(spec.class_occ)), False


def _explicit_weights(spec: TaskSpec, given: Sequence[float], auto: bool, balanced: bool) -> list[float]:
    if auto:
        raise MMLMisconfigurationException(
            "loss.class_weights and loss.auto_activate_weighing=true exclude each other: turn one of them off."
        )
    if balanced:
        logger.warning("loss.class_weights and sampling.balanced both weight the classes of task '%s'.", spec.name)
    if len(given) != spec.num_classes:
        raise MMLMisconfigurationException(
            f"loss.class_weights has {len(given)} values, but task '{spec.name}' has {spec.num_classes} classes: give one for each."
        )
    return [float(weight) for weight in given]


def _fill_in(config: LossConfig, spec: TaskSpec, weights: list[float] | None, explicit: bool) -> None:
    """Class weights and the ignored label, where the loss has such a parameter and the configuration leaves it open."""
    if config.type == "multi":
        config.params = _multi_params(config, spec, weights, explicit)
        return
    accepted = accepted_params(config.type)
    if spec.kind.ignored_label is not None and "ignore_index" in accepted:
        config.params.setdefault("ignore_index", spec.kind.ignored_label)
    if weights is None or "weight" in config.params:
        return
    if "weight" in accepted:
        config.params["weight"] = weights
    elif explicit:
        logger.warning("The loss '%s' of task '%s' does not take class weights, they are not used.", config.type, spec.name)


def _multi_params(config: LossConfig, spec: TaskSpec, weights: list[float] | None, explicit: bool) -> Any:
    params: Any = config.params
    children = parse_losses(params.get("params") if isinstance(params, Mapping) else params)
    for child in children:
        _fill_in(child, spec, weights, explicit)
    return children
