"""The part of a configuration that a model was made with, as a YAML file that can be put in place of the current one."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mml_ray import atomic
from mml_ray.errors import DataError, MMLMisconfigurationException
from mml_ray.store.files import LOCAL, Files

if TYPE_CHECKING:
    from mml_ray.store.manager import MMLFileManager

log = logging.getLogger(__name__)
#: the groups that make up a pipeline
PIPELINE_KEYS = "arch augmentations cbs loss lr_scheduler mode optimizer peft preprocessing sampling trainer tta tune".split()
_MISSING = object()


class PipelineError(MMLMisconfigurationException, ValueError):
    """A pipeline lacks what was asked of it."""


class PipelineCfg:
    """Some top-level groups of a configuration, as plain containers; interpolations in them are kept unresolved."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PipelineCfg) and other.content == self.content

    __hash__ = None  # type: ignore[assignment]

    @property
    def keys(self) -> list[str]:
        """The groups."""
        return list(self.content)

    @classmethod
    def from_cfg(cls, cfg: Any, keys: Sequence[str] = tuple(PIPELINE_KEYS)) -> PipelineCfg:
        """These groups of a configuration.

        Raises:
            PipelineError: one is not there (a ValueError).
        """
        plain = _plain(cfg)
        absent = [key for key in keys if key not in plain]
        if absent:
            raise PipelineError(f"The configuration has no {', '.join(absent)}; it has {', '.join(sorted(map(str, plain)))}.")
        return cls({key: copy.deepcopy(plain[key]) for key in keys})

    @classmethod
    def load(cls, path: Path | str, keys: Sequence[str] | None = None, *, files: Files = LOCAL) -> PipelineCfg:
        """Read a file, all of it or these groups; warns about groups that it lacks.

        Raises:
            DataError: the file is not a YAML mapping.
            PipelineError: it has none of the groups (a ValueError).
        """
        try:
            content = yaml.safe_load(files.read(Path(path)))
        except yaml.YAMLError as error:
            raise DataError(f"{path} is not a pipeline: {error}") from error
        if not isinstance(content, dict):
            raise DataError(f"{path} is not a pipeline: it holds {type(content).__name__}, not groups of a configuration.")
        wanted = list(content) if keys is None else list(keys)
        absent = [key for key in wanted if key not in content]
        if len(absent) == len(wanted):
            raise PipelineError(f"{path} has none of {', '.join(wanted) or 'the groups'}; it has {', '.join(map(str, content))}.")
        if absent:
            log.warning("%s has no %s: taken from the current configuration.", path, ", ".join(absent))
        return cls({key: content[key] for key in wanted if key in content})

    def store(self, target: Any, manager: MMLFileManager | None = None, *, as_blueprint: bool = False) -> Path:
        """Write it to a path, or for a struct (anything with a name) to where the file manager says."""
        path = path_for(self, "blueprint" if as_blueprint else "pipeline", target, manager)
        atomic.write_text(path, yaml.safe_dump(self.content, sort_keys=False, allow_unicode=True))
        return path

    @contextlib.contextmanager
    def activate(self, cfg: MutableMapping[str, Any]) -> Iterator[None]:
        """Within the block the groups stand in ``cfg`` in place of its own, which come back at its end, however it ends."""
        before = {key: _raw(cfg, key) for key in self.content}
        try:
            for key, value in self.content.items():
                cfg[key] = copy.deepcopy(value)
            yield
        finally:
            for key, value in before.items():
                if value is not _MISSING:
                    cfg[key] = value
                elif key in cfg:
                    del cfg[key]

    def clone(self) -> PipelineCfg:
        """An independent copy."""
        return PipelineCfg(copy.deepcopy(self.content))


def path_for(obj: Any, key: str, target: Any, manager: MMLFileManager | None, *, file_name: str | None = None) -> Path:
    """Where to store ``obj``: the path given as ``target``, or for a struct (anything with a name) one from the file manager."""
    if isinstance(target, str | Path):
        return Path(os.path.abspath(target))
    if manager is None:
        raise MMLMisconfigurationException(
            f"To store a {type(obj).__name__} for task '{target.name}' give the file manager, too: store(struct, self.fm)."
        )
    return manager.construct_saving_path(obj, key, task_name=str(target.name), file_name=file_name)


def _is_omegaconf(cfg: Any) -> bool:
    return any(cls.__module__.startswith("omegaconf.") for cls in type(cfg).__mro__)


def _plain(cfg: Any) -> dict[str, Any]:
    if not _is_omegaconf(cfg):
        return dict(cfg)
    from omegaconf import OmegaConf

    content = OmegaConf.to_container(cfg, resolve=False)
    if not isinstance(content, dict):
        raise MMLMisconfigurationException(f"A pipeline is part of a configuration, got {type(cfg).__name__}.")
    return {str(key): value for key, value in content.items()}


def _raw(cfg: Any, key: str) -> Any:
    """The value of a group without resolving interpolations."""
    if key not in cfg:
        return _MISSING
    return copy.deepcopy(cfg._get_node(key)) if _is_omegaconf(cfg) else cfg[key]
