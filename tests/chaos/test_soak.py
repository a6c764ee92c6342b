"""Random SIGKILL to all processes of a run. ``CHAOS_SEED`` and ``CHAOS_SECONDS`` say with which seed, and for how long."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.chaos.soak import Soak

_KEPT = "chaos/failing_seeds"


def _seeds(request: pytest.FixtureRequest) -> list[int]:
    """A given one; else those that failed before (pytest's cache keeps them), and a new one."""
    if "CHAOS_SEED" in os.environ:
        return [int(os.environ["CHAOS_SEED"])]
    kept: list[int] = request.config.cache.get(_KEPT, [])
    return [*kept, random.SystemRandom().randrange(10**6)]


def _soak(folder: Path, request: pytest.FixtureRequest, seconds: float, places: list[str]) -> None:
    seeds = _seeds(request)
    for seed in seeds:
        print(f"CHAOS_SEED={seed}")
        soak = Soak(folder / str(seed), seed)
        try:
            soak.run(seconds / len(seeds), places)
        except BaseException:
            request.config.cache.set(_KEPT, sorted({*request.config.cache.get(_KEPT, []), seed}))
            raise
        request.config.cache.set(_KEPT, [known for known in request.config.cache.get(_KEPT, []) if known != seed])
        print(f"{soak.rounds} rounds, killed: {dict(soak.killed)}")


def test_a_short_soak_inline(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    _soak(tmp_path, request, 6, ["inline"])


@pytest.mark.ray
def test_a_short_soak_on_ray(tmp_path: Path, request: pytest.FixtureRequest, ray_head: str) -> None:
    _soak(tmp_path, request, 10, [ray_head])


@pytest.mark.ray
@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_long_soak(tmp_path: Path, request: pytest.FixtureRequest, ray_head: str) -> None:
    """Also the processes of an own Ray: its raylet, its server, its agents."""
    _soak(tmp_path, request, float(os.environ.get("CHAOS_SECONDS", "600")), ["inline", "ray", ray_head])
