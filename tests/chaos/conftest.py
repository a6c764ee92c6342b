"""What the chaos tests share: a lab, the result of an undisturbed run, and one Ray head in a process of its own, which drivers join, so that
their death does not end it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.lab import REPOSITORY, TOKEN, Lab, outcome
from tests.patience import GUARD

_HEAD = """
import os, sys
from mml_ray.driver.ray import cluster
from mml_ray.driver.ray.cluster import RayOptions, RaySession
cluster.new_token = lambda: os.environ["RAY_AUTH_TOKEN"]  # that of the drivers
session = RaySession(RayOptions(num_cpus=2))
print("address", session.address, flush=True)
sys.stdin.read()
session.close()
"""


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What every run has to end as."""
    lab = Lab.at(tmp_path_factory.mktemp("undisturbed"))
    code, output = lab.fork(*lab.next(), "sys.executor=inline")
    assert code == 0, output
    return outcome(lab)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A place of its own."""
    return Lab.at(tmp_path)


@pytest.fixture(scope="session")
def ray_head() -> Iterator[str]:
    """The address of a Ray with two CPUs whose workers find the scheduler of these tests."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **TOKEN}
    process = subprocess.Popen(
        [sys.executable, "-c", _HEAD],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None
    lines = iter(process.stdout.readline, "")
    address = next((line.split()[1] for line in lines if line.startswith("address")), "")
    assert address, "Ray did not start"
    yield address
    process.stdin.close()
    process.wait(timeout=GUARD)
    process.stdout.close()
