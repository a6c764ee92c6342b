"""Weights in files: safetensors with a JSON header that says how to build the model. Nothing in them can run code."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mml_ray.atomic import replacing
from mml_ray.errors import DataError
from mml_ray.models import build_model
from mml_ray.models.base import BaseModel

#: version of the header
FORMAT = 1
_KEY = "mml_ray"


def save_weights(model: BaseModel, path: Path | str, *, state: Mapping[str, Tensor] | None = None) -> None:
    """Write the weights (``state``, or those the model has) and the model's configuration, atomically.

    Raises:
        OSError: they cannot be written.
    """
    tensors = _independent(model.state_dict() if state is None else state)
    header = {"format": FORMAT, "config": model.plain_config()}
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={_KEY: json.dumps(header)})
        except SafetensorError as error:
            number = re.search(r"\(os error (\d+)\)", str(error))  # what it makes of an OSError
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def load_weights(path: Path | str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """``(configuration, state)`` of a file; damaged files and those of newer versions raise :class:`DataError`."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            if _KEY not in metadata:
                raise DataError(f"{path} has no header of mml-ray, so the model of these weights is unknown.")
            header = json.loads(metadata[_KEY])
            if header["format"] > FORMAT:
                raise DataError(f"{path} has format {header['format']}, this version reads up to {FORMAT}: update mml-ray.")
            return header["config"], {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError:
        raise DataError(f"There are no weights at {path}.") from None
    except SafetensorError as error:
        raise DataError(f"{path} is damaged, or no safetensors file: {error}. Train again, or take another model.") from error


def load_model(path: Path | str) -> BaseModel:
    """The model of a file, built, with its weights, in evaluation mode, on the CPU."""
    config, state = load_weights(path)
    model = build_model(_from_scratch(config))
    model.config = type(model)(config).config
    model.load_state_dict(state)
    return model.eval()


def _from_scratch(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without downloads: the weights that follow replace pretrained ones."""
    none: dict[str, Any] = {"pretrained": False, "weights": None}
    arch = {key: none.get(key, value) for key, value in (config.get("arch") or {}).items()}
    return {**config, "arch": arch} if arch else dict(config)


def _independent(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU that share no memory, which the format requires."""
    seen: set[int] = set()
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        made = tensor.detach().to("cpu").contiguous()
        pointer = made.untyped_storage().data_ptr()
        if pointer in seen or made.numel() * made.element_size() != made.untyped_storage().nbytes():
            made = made.clone()
        seen.add(pointer)
        tensors[name] = made
    return tensors


def same_weights(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two states are equal bit by bit."""
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)
