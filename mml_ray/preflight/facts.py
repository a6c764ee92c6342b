"""What a mode tells about itself, so that its settings can be checked before it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mml_ray.options import Options, Text, Texts


class ModeOptions(Options):
    """Base of the options of a mode (the group ``mode``); a mode that has none of its own takes any setting."""

    group = "mode"

    id: Text = ""
    scheduler: dict[str, Any] = {}
    subroutines: Texts = ()


@dataclass(frozen=True)
class ModeFacts:
    """A mode, as far as its settings are concerned.

    ``uses`` are the keys of the configuration that the chosen subroutines read (``sampling``, ``trainer.enable_progress_bar``), beside
    those that every run reads; ``None``: all, so that a setting of a plugin is never refused. ``builds_models``: what describes a
    training is looked up and, where only that tells, built.
    """

    name: str = ""
    options: type[ModeOptions] | None = None
    uses: frozenset[str] | None = None
    builds_models: bool = False

    def reads(self, key: str) -> bool:
        """Whether a setting (or some setting below it) has an effect."""
        if self.uses is None:
            return True
        return any(f"{key}.".startswith(f"{used}.") or used.startswith(f"{key}.") for used in (*COMMON, *self.uses))


#: what every run reads, whatever its mode
COMMON = (
    *("proj", "proj_path", "seed", "continue", "data_dir", "out_dir", "allow_gpu", "task_list", "pivot", "tagging", "source"),
    *("sys", "resources", "logging", "mode", "remove", "trainer.enable_progress_bar"),
)


def used_by(subroutines: Mapping[str, tuple[str, ...]] | None, chosen: tuple[str, ...]) -> frozenset[str] | None:
    """What the chosen subroutines read, of what each of them declares."""
    if subroutines is None:
        return None
    return frozenset(key for name in chosen for key in subroutines.get(name, ()))
