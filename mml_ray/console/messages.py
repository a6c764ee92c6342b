"""Errors as a person sees them, and the exit code that each of them means."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

from mml_ray.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, MMLError


def guarded(action: Callable[[], int], *, debug: bool = False) -> int:
    """Run ``action`` and turn whatever it raises into one message on standard error and an exit code.

    Errors raised on purpose show no traceback unless ``debug``; all others do, since they are faults of this program.
    """
    try:
        code = action()
        sys.stdout.flush()
        return code
    except MMLError as error:
        if debug:
            traceback.print_exc()
        say("error", str(error))
        return error.exit_code
    except BrokenPipeError:  # the reader went away, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except (KeyboardInterrupt, EOFError):
        say("interrupted", "stopped on request.")
        return EXIT_INTERRUPTED
    except Exception as error:
        traceback.print_exc()
        say("internal error", f"{type(error).__name__}: {error}. This should not happen; the lines above say where it did.")
        return EXIT_FAILED


def say(kind: str, text: str) -> None:
    """One message on standard error, its kind in red on a terminal that has colors."""
    colored = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    label = f"\033[1;31m{kind}:\033[0m" if colored else f"{kind}:"
    print(f"mml-ray: {label} {text}", file=sys.stderr, flush=True)
