"""What a client of the actor makes of its answers; no Ray is running."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest

from mml_ray.journal.actor import StoreClient


class _Late(StoreClient):
    """The actor answers after ``lag`` seconds that whoever is not ``current`` has to stop."""

    def __init__(self) -> None:
        super().__init__(None)
        self.current, self.lag = ("a", 1), 0.0

    def _tell(self, attempt: dict[str, Any], progress: dict[str, Any]) -> Mapping[str, Any]:
        time.sleep(self.lag)
        return {"stop": (attempt["command"], attempt["attempt"]) != self.current}


@pytest.mark.parametrize("following", [("b", 1), ("a", 2)])
def test_a_late_answer_is_not_for_the_next_attempt(following: tuple[str, int]) -> None:
    client = _Late()
    client.lag = 0.05
    client.report({"command": "a", "attempt": 1}, {"step": 9})
    client.current = following  # the first one has committed before its last report was answered
    time.sleep(0.2)
    client.lag = 0.0
    attempt = {"command": following[0], "attempt": following[1]}
    for step in range(5):
        assert client.report(attempt, {"step": step}) == {"stop": False}
        time.sleep(0.02)


def test_a_request_to_stop_arrives_with_the_next_report() -> None:
    client = _Late()
    client.current = ("somebody", 1)
    client.report({"command": "a", "attempt": 1}, {})
    time.sleep(0.1)
    assert client.report({"command": "a", "attempt": 1}, {}) == {"stop": True}
