"""What the tests of the cluster folder share."""

from __future__ import annotations

from tests.integration.conftest import digits

__all__ = ["digits"]
