"""Turns the errors of a command's output and files into one line and an exit code."""

import os
import sys
from collections.abc import Callable


def exit_code(name: str, run: Callable[[], int]) -> int:
    """Run a command and return its exit code: 1, with a line on stderr, if a file or the output fails."""
    try:
        code = run()
        if sys.stdout:  # None where it is closed
            sys.stdout.flush()
    except BrokenPipeError:  # `list | head`
        _discard_output()
        return 0
    except OSError as error:  # a full disk behind `list > file`
        where = f": {error.filename}" if error.filename else ""
        why = error.strerror or str(error) or repr(error)
        print(f"{name}: {why}{where}", file=sys.stderr)
        _discard_output()
        return 1
    return code


def _discard_output() -> None:
    """Drop the output that is still buffered; else Python reports an error when it exits."""
    with open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), sys.stdout.fileno())
