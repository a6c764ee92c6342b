"""Time limits that hold on slow and busy machines too.

Two kinds of limits are in the tests. A *guard* ends a test that hangs: it is far above what the test takes, and nothing is measured by it
(:data:`GUARD`). A *promise* is a time that users are told ("refused within 5 s"): it was given for a machine that does a small fixed piece of work in
:data:`REFERENCE` seconds, and grows where that work takes longer just then (:func:`promised`).
"""

from __future__ import annotations

import time

#: seconds after which something that should have happened is taken for lost
GUARD = 600.0
#: seconds that the fixed piece of work takes on the machine the promises were given for
REFERENCE = 0.12


def promised(seconds: float) -> float:
    """``seconds``, or more where this machine is slower or busier than the one of the promise."""
    return seconds * max(1.0, _work(time.monotonic) / REFERENCE)


def promised_cpu(seconds: float) -> float:
    """The same for seconds of the processor, which other programs take less from."""
    return seconds * max(1.0, _work(time.process_time) / REFERENCE)


def _work(clock: object) -> float:
    began = clock()  # type: ignore[operator]
    total = 0
    for number in range(3_000_000):
        total += number
    return clock() - began  # type: ignore[operator]
