"""What the tests of this room share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _torchvision_where_it_is_asked_for(request: pytest.FixtureRequest) -> None:
    """A test with the parameter ``torchvision``, or ``v2`` (the option that is made of it), can import it."""
    callspec = getattr(request.node, "callspec", None)
    if callspec is not None and {"torchvision", "v2"} & {str(value) for value in callspec.params.values()}:
        request.getfixturevalue("torchvision")
