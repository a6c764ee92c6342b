"""Cross-validated deep learning on images that survives anything."""

from __future__ import annotations

__version__ = "0.1.0"
