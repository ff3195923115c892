"""Kills the process before a write to the files of claims: the `sitecustomize` of a driver under test.

The file LEFT has the number of writes until then; it is removed by the kill. A write is whatever changes a
directory: a file that is opened for writing, renamed or removed, a directory that is made or removed.
"""

import os
import signal
import sys
from typing import Any

LEFT = f"{os.path.dirname(__file__)}/left"

_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}
_WRITING = os.O_WRONLY | os.O_RDWR
_FILES = ("/cdi/", "/dra-device-metadata", "/checkpoint.json")


def audit(event: str, arguments: tuple[Any, ...]) -> None:
    """Count a write; called by the interpreter before it is made (`sys.addaudithook`)."""
    if event not in _CHANGES and not (event == "open" and arguments[2] & _WRITING):
        return
    if not any(each in str(arguments[0]) for each in _FILES):
        return
    try:
        with open(LEFT) as file:
            left = int(file.read())
    except (FileNotFoundError, ValueError):
        return
    if left:
        with open(LEFT, "w") as file:
            file.write(str(left - 1))
        return
    os.unlink(LEFT)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "sitecustomize":
    sys.addaudithook(audit)
