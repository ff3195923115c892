"""Writes a file whole: a reader sees the old text or the new one. Every function blocks."""

import os
from contextlib import suppress

_MAX_BYTES = 1 << 20


def put(path: str, text: str) -> bool:
    """Give a file this text, unless it has it. Return whether it was written.

    The directories above it are made.

    Raises:
        OSError: it can't be written; then it is as before. The exception names the file.
    """
    with suppress(FileNotFoundError), open(path, encoding="utf-8", errors="replace") as file:
        if file.read(_MAX_BYTES) == text:
            return False
    directory, name = os.path.split(path)
    os.makedirs(directory, mode=0o755, exist_ok=True)
    beside = f"{directory}/.{name}.new"
    try:
        descriptor = os.open(
            beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644
        )
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)  # whatever the umask is
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
