"""Keeps OpenSSL out of a process that speaks no TLS: a tenth of its memory. To be imported before asyncio.

asyncio, grpclib, hashlib and urllib do without `ssl` and `_hashlib`, as some Pythons have neither.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Any

# hashlib's own, which some distributions leave to OpenSSL: Lib/hashlib.py. The last is two up to Python 3.11.
_HASHES = ("_md5", "_sha1", "_sha3", "_blake2", "_sha2" if sys.version_info >= (3, 12) else "_sha512")

if "_ssl" not in sys.modules and all(map(find_spec, _HASHES)):
    sys.modules["ssl"] = sys.modules["_hashlib"] = None  # type: ignore[assignment]


class _Names(ModuleType):
    def __getattr__(self, name: str) -> Any:
        return object


@contextmanager
def ssl_by_name() -> Iterator[None]:
    """Let a library be imported that names what is in `ssl` and, as it is used here, needs none of it."""
    if sys.modules.get("ssl", sys) is not None:
        yield
        return
    sys.modules["ssl"] = _Names("ssl")
    try:
        yield
    finally:
        sys.modules["ssl"] = None  # type: ignore[assignment]
