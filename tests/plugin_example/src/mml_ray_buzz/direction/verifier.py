"""From degrees to the entry of a description."""

import math
from typing import Any

from mml_ray.errors import DataError
from mml_ray.prepare.verifiers import Verified, VerifierContext
from mml_ray.registry import registry


def verify_direction(value: Any, context: VerifierContext) -> Verified:
    """Degrees become ``[cosine, sine]``: 359 and 1 are close to one another then."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"A direction must be a finite number of degrees, got {value!r}.")
    angle = math.radians(value)
    return Verified([math.cos(angle), math.sin(angle)])


registry.add("verifier", "direction", verify_direction)
