"""What is shown and logged."""

from __future__ import annotations

from mml_ray.options import Count, Options


class RenderOptions(Options):
    """How the terminal shows it."""

    color: bool = True
    rich: bool = False


class LoggingOptions(Options):
    """The group ``logging``."""

    group = "logging"

    render: RenderOptions = RenderOptions()
    highlight_task_names: bool = True
    capture_warnings: bool = True
    samples: Count = 0
    cm: bool = False
