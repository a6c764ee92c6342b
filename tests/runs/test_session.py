"""Where a run runs, without running it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mml_ray.driver.graph import Entry, build_plan
from mml_ray.options import build
from mml_ray.runs.options import RunOptions
from mml_ray.runs.session import Session

CHAIN = [Entry("a", [1], after=[]), Entry("b", [1], after=[0])]
SIDE_BY_SIDE = [Entry("a", [n], after=[]) for n in range(2)]


def _uses_ray(entries: list[Entry], *, gpu: str = "", sequential: bool = False, **sys: Any) -> bool:
    root = Path("/results")
    session = Session(
        workload=SimpleNamespace(gpu_commands=frozenset({gpu}), uses_ray_when_sequential=sequential),
        plan=build_plan(entries, scheduler="s"),
        manager=SimpleNamespace(proj_path=root / "p", results_path=root, data_path=Path("/data")),
        options=build(RunOptions, "", {"sys": sys}),
        manifest={"mode": "m", "project": "p"},
        config="",
        finish=lambda _: (),
    )
    return session.uses_ray


@pytest.mark.parametrize(
    ("entries", "given", "expected"),
    [
        (CHAIN, {}, False),
        (SIDE_BY_SIDE, {}, True),
        (SIDE_BY_SIDE, {"executor": "inline"}, False),
        (CHAIN, {"executor": "ray"}, True),
        (CHAIN, {"sequential": True}, True),
        (CHAIN, {"address": "head:6379"}, False),
        (CHAIN, {"address": "head:6379", "gpu": "b"}, True),
        (CHAIN, {"address": "local", "gpu": "b"}, False),
    ],
)
def test_auto_picks_ray_where_it_helps(
    entries: list[Entry], given: dict[str, Any], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert _uses_ray(entries, **given) is expected
