"""Proof that steps run side by side: they wait for one another. Does nothing unless ``MML_BUZZ_MEET`` asks for it."""

import contextlib
import json
import os
import time
from pathlib import Path


@contextlib.contextmanager
def rendezvous():
    """With ``MML_BUZZ_MEET=<folder>:<number>`` wait until so many steps have begun, at most two minutes, and note in the folder
    from when to when this one ran.
    """
    folder, _, number = os.environ.get("MML_BUZZ_MEET", "").rpartition(":")
    if not folder:
        yield
        return
    began = time.time()
    note = Path(folder) / f"{os.getpid()}-{time.monotonic_ns()}.json"
    note.write_text(json.dumps([began, None]))
    while len(list(Path(folder).iterdir())) < int(number) and time.time() - began < 120:
        time.sleep(0.05)
    yield
    note.write_text(json.dumps([began, time.time()]))
