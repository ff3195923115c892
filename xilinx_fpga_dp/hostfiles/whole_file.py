"""Writes a file whole: a reader sees the old text or the new one. Every function blocks."""

import os
from contextlib import suppress

_MAX_BYTES = 1 << 20
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
_MODE = 0o644


def put(path: str, text: str) -> bool:
    """Give a file this text, unless it has it. Return whether it was written.

    The directories above it are made.

    Raises:
        OSError: it can't be written; then it is as before. The exception names the file.
    """
    content = text.encode()
    with suppress(FileNotFoundError), open(path, "rb", buffering=0) as file:
        if file.read(_MAX_BYTES) == content:
            return False
    directory, name = os.path.split(path)
    beside = f"{directory}/.{name}.new"
    try:
        try:
            descriptor = os.open(beside, _FLAGS, _MODE)
        except FileNotFoundError:
            os.makedirs(directory, mode=0o755, exist_ok=True)
            descriptor = os.open(beside, _FLAGS, _MODE)
        with open(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), _MODE)  # whatever the umask is
        os.replace(beside, path)
    except OSError as error:
        with suppress(OSError):
            os.unlink(beside)
        raise OSError(error.errno, error.strerror, path) from None
    return True


def remove(path: str) -> None:
    """Remove a file; one that is not there is no error."""
    with suppress(FileNotFoundError):
        os.unlink(path)
