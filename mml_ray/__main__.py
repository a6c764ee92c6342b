"""``python -m mml_ray`` is the same as ``mml-ray``."""

from __future__ import annotations

import sys

from mml_ray.cli import main

if __name__ == "__main__":
    sys.exit(main())
