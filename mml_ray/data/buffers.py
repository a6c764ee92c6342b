"""Memory for batches, used again.

A fresh buffer of some megabytes is mapped page by page while it is filled, which takes longer than filling it (five times as
long on virtual machines). So the buffers of past batches are kept and handed out again once nothing refers to them.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: free buffers that are kept
_KEEP = 2


class BufferPool:
    """Hands out CPU tensors. A tensor, and every view of its memory, may be kept for as long as one likes.

    The memory comes from numpy arrays, and a tensor made of one holds a reference until the last view of it is gone: an array
    that only the pool refers to is free. For one thread.
    """

    def __init__(self) -> None:
        self._arrays: list[NDArray[np.uint8]] = []

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An uninitialized contiguous tensor."""
        size = max(1, int(np.prod(shape)) * dtype.itemsize)
        memory = self._free(size)
        return torch.from_numpy(memory[:size]).view(dtype)[: int(np.prod(shape))].view(shape)

    def clear(self) -> None:
        """Forget the buffers; those in use live on until they are not."""
        self._arrays.clear()

    def _free(self, size: int) -> NDArray[np.uint8]:
        free = [number for number in range(len(self._arrays)) if sys.getrefcount(self._arrays[number]) == _UNUSED]
        for number in free:
            if self._arrays[number].nbytes >= size:
                return self._arrays[number]
        for number in reversed(free[max(0, _KEEP - 1) :]):
            del self._arrays[number]
        made = np.empty(size, np.uint8)
        self._arrays.append(made)
        return made


def _references_of_unused() -> int:
    """What ``sys.getrefcount`` says of an array that only a list refers to (this differs between versions of Python)."""
    alone: list[Any] = [np.empty(1, np.uint8)]
    return sys.getrefcount(alone[0])


_UNUSED = _references_of_unused()
