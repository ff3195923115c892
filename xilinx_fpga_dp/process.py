"""Every process-wide tweak in one place, each with its gain and when it can go. Imports nothing heavy.

`prepare` comes before the first import of asyncio, pydantic or ssl; the other functions where they are used.
"""

import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Final

SERVICE_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""The signals that the service handles."""

# The modules of hashlib itself, which some distributions leave to OpenSSL (Lib/hashlib.py). The last is two
# modules up to Python 3.11.
_HASHES: Final = ("_md5", "_sha1", "_sha3", "_blake2", "_sha2" if sys.version_info >= (3, 12) else "_sha512")


def prepare() -> None:
    """Set up the process before anything else is imported."""
    # Loaded modules are no garbage: without collections a start takes a tenth less time. It can go when
    # Python's collector no longer visits what an import allocates.
    gc.disable()
    # pydantic would search all installed packages for plugins. It can go with pydantic.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # A signal that arrives while the service starts is delivered once the service handles it.
    signal.pthread_sigmask(signal.SIG_BLOCK, SERVICE_SIGNALS)
    _leave_out_openssl()


def become_service() -> None:
    """Collect garbage again, without visiting the loaded modules and classes, which stay for good."""
    gc.freeze()
    gc.enable()


def become_command() -> None:
    """Behave like any other program: collect garbage, and end by a signal."""
    gc.enable()
    deliver_signals()


def deliver_signals() -> None:
    """Deliver the signals that have been blocked since `prepare`."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SERVICE_SIGNALS)


def _leave_out_openssl() -> None:
    """Import neither ``ssl`` nor ``_hashlib``: saves 4.4 MB, a tenth of the service's memory.

    asyncio, grpclib, hashlib and urllib run without them, as on a Python built without OpenSSL. It can go
    where the process needs TLS.
    """
    if "_ssl" not in sys.modules and all(map(find_spec, _HASHES)):
        sys.modules["ssl"] = sys.modules["_hashlib"] = None  # type: ignore[assignment]


class _AnyName(ModuleType):
    def __getattr__(self, name: str) -> Any:
        return object


@contextmanager
def ssl_by_name() -> Iterator[None]:
    """Allow the import of a library that names members of ``ssl`` without using them here.

    prometheus-client needs it for an HTTP server of its own. It can go when that library imports ``ssl`` only
    where it serves.
    """
    if sys.modules.get("ssl", sys) is not None:
        yield
        return
    sys.modules["ssl"] = _AnyName("ssl")
    try:
        yield
    finally:
        sys.modules["ssl"] = None  # type: ignore[assignment]


def retry_accept_soon() -> None:
    """Let asyncio retry accept() 0.25 s after EMFILE, not 1 s: kubelet would wait as long.

    It can go when asyncio takes the delay as an argument (asyncio/constants.py).
    """
    from asyncio import constants  # noqa: PLC0415 - after `prepare`

    constants.ACCEPT_RETRY_DELAY = 0.25  # type: ignore[misc,assignment]


def log_without_source() -> None:
    """Let logging not look up the source line of each record, which costs more than the line itself.

    From the logging HOWTO, "Optimization". It can go when formatters that need no source line ask for none.
    """
    import logging  # noqa: PLC0415 - not needed before

    logging._srcfile = None  # noqa: SLF001


def limit_closed_streams(count: int) -> None:
    """Let each HTTP/2 connection remember at most ``count`` ended streams.

    h2 remembers 65,536, which costs 8 MB on a connection that lives as long as kubelet. h2 has no setting for
    it, only this class attribute, which a connection reads when it is made (h2/connection.py). It can go when
    h2 has one.
    """
    from h2.connection import H2Connection  # noqa: PLC0415 - too heavy for a module that is imported first

    H2Connection.MAX_CLOSED_STREAMS = count
