"""GPUs of a process that runs many commands. Imports no torch itself, but looks at what the commands have imported.

Ray names the GPUs of a command in ``CUDA_VISIBLE_DEVICES``, but CUDA reads that variable once per process. So a process that has loaded CUDA
libraries stays bound to the GPUs it had then, and commands with other GPUs must run in another one.
"""

from __future__ import annotations

import gc
import os
import sys

VARIABLE = "CUDA_VISIBLE_DEVICES"
#: libraries that initialize CUDA
_LIBRARIES = ("torch", "cupy", "jax", "tensorflow", "numba")

_bound: str | None = None


def is_bound_elsewhere() -> bool:
    """Whether this process is bound to other GPUs than those of the current command (having none counts, too)."""
    return _bound is not None and _bound != os.environ.get(VARIABLE, "")


def bind() -> None:
    """Call after each command: a process in which it loaded a library that uses GPUs stays bound to those it had."""
    global _bound
    if _bound is None and any(name in sys.modules for name in _LIBRARIES):
        _bound = os.environ.get(VARIABLE, "")


def release_cached_memory() -> None:
    """Return the GPU memory that torch caches in this process, so that commands in other processes can use it."""
    if "torch" in sys.modules:
        gc.collect()
        sys.modules["torch"].cuda.empty_cache()
