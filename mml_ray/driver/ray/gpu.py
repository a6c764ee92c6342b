"""GPUs of a process that runs many commands. Nothing here imports torch; what a command has imported is enough to know.

Ray names the GPUs of a command in ``CUDA_VISIBLE_DEVICES``, but CUDA reads that variable once in the life of a process. So a process whose
libraries have been loaded stays with the GPUs it had then, and commands that were given others have to run elsewhere.
"""

from __future__ import annotations

import gc
import os
import sys

VARIABLE = "CUDA_VISIBLE_DEVICES"
#: libraries that look for GPUs
_LIBRARIES = ("torch", "cupy", "jax", "tensorflow", "numba")

_bound: str | None = None


def is_bound_elsewhere() -> bool:
    """Whether this process cannot use the GPUs that the command at hand was given (none, too, is a choice)."""
    return _bound is not None and _bound != os.environ.get(VARIABLE, "")


def bind() -> None:
    """To be called when a command is through: if it loaded a library that uses GPUs, the process stays with those it had."""
    global _bound
    if _bound is None and any(name in sys.modules for name in _LIBRARIES):
        _bound = os.environ.get(VARIABLE, "")


def give_back() -> None:
    """What torch keeps of a GPU for later goes back to it."""
    if "torch" in sys.modules:
        gc.collect()
        sys.modules["torch"].cuda.empty_cache()
