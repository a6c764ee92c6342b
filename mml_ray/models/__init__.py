"""Models: batches in, scores and losses out. Nothing heavy is imported before a model is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mml_ray.models.base import BaseModel


def build_model(config: Mapping[str, Any]) -> BaseModel:
    """The model that the plain ``config`` describes, built and with its losses, on the CPU.

    ``config["model"]`` is the registered name. With ``config["seed"]`` the initial weights are a function of that seed,
    whatever ran before. An unknown name raises :class:`~mml_ray.errors.UnknownNameError`.
    """
    from mml_ray.errors import MMLMisconfigurationException
    from mml_ray.models.state import seeded
    from mml_ray.registry import registry

    name = config.get("model")
    if not name:
        raise MMLMisconfigurationException(
            f"A model configuration needs 'model', which must be one of {', '.join(registry.names('model'))}."
        )
    model: BaseModel = registry.lookup("model", str(name))(config)
    with seeded(config.get("seed"), "init"):
        model.ensure_built()
    return model
