"""A mode whose commands do nothing: what is left is what the engine costs."""

from __future__ import annotations

from omegaconf import DictConfig

from mml_ray.schedulers.base import AbstractBaseScheduler


class NoopScheduler(AbstractBaseScheduler):
    """``mode.count`` independent commands that return their number."""

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__(cfg=cfg, available_subroutines=["all"])

    def create_routine(self) -> None:
        """Commands that wait for nothing."""
        for number in range(int(self.cfg.mode.count)):
            self.add(self.noop, number, after=[])

    def noop(self, number: int) -> int:
        """Nothing."""
        return number
