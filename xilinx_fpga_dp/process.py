"""Every process-wide tweak in one place, each with its gain and when it can go. Imports nothing heavy.

`prepare` comes before the first import of asyncio, pydantic or ssl; the other functions where they are used.
"""

import gc
import marshal
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Final, NoReturn, cast

# The settings and commands for which the process calls the API server, with the values that do not, in lower
# case. A taint may have any word as its key.
_NO: Final = frozenset({"", "0", "false", "f", "no", "n", "off"})
_TLS_SETTINGS: Final = {
    "MODE": frozenset({"", "device-plugin"}),
    "EVENTS": _NO,
    "NODE_CONDITION": _NO,
    "STARTUP_TAINT": frozenset({""}),
}
_TLS_COMMANDS: Final = frozenset({"cluster", "classes"})

SERVICE_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""The signals that the service handles."""

# Seconds for the child of `in_child`, once this process has nothing else to do; a tenth of one is usual.
_CHILD_LIMIT: Final = 10.0

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
    if not asks_for_tls(os.environ, sys.argv[1:]):
        _leave_out_openssl()
    _leave_data_classes_undescribed()


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


def handle_signals(received: Callable[[int], object]) -> None:
    """Call ``received`` with the number of each signal of the service, also of those that have been blocked.

    The loop's add_signal_handler restores the default action as the loop closes, before the process has ended
    (asyncio/unix_events.py): a second SIGTERM would then change the exit code. It can go when asyncio leaves
    the handlers.
    """
    for number in SERVICE_SIGNALS:
        signal.signal(number, lambda number, _frame: received(number))
    deliver_signals()


def ignore_signals() -> None:
    """Let no more signal of the service change its exit code, once it has stopped.

    It is the end of `handle_signals`, whose callback needs the loop, and can go with it.
    """
    for number in SERVICE_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def asks_for_tls(environment: Mapping[str, str], words: Sequence[str]) -> bool:
    """Return whether the process may call the API server, by its variables and its command line.

    It is decided before the settings are read, since asyncio looks for ``ssl`` when it is imported. A wrong
    value counts as one that asks.
    """
    given = {name.upper(): value for name, value in environment.items()}
    for setting, off in _TLS_SETTINGS.items():
        if given.get(f"XILINX_FPGA_DP_{setting}", "").lower() not in off:
            return True
        flag = f"--{setting.lower().replace('_', '-')}"
        if any(
            word == flag or (word.startswith(f"{flag}=") and word[len(flag) + 1 :].lower() not in off)
            for word in words
        ):
            return True
    return not _TLS_COMMANDS.isdisjoint(words)


def _leave_out_openssl() -> None:
    """Import neither ``ssl`` nor ``_hashlib``: saves 4.4 MB, a tenth of the service's memory.

    asyncio, grpclib, hashlib and urllib run without them, as on a Python built without OpenSSL.
    """
    if "_ssl" not in sys.modules and all(map(find_spec, _HASHES)):
        sys.modules["ssl"] = sys.modules["_hashlib"] = None  # type: ignore[assignment]


def _leave_data_classes_undescribed() -> None:
    """Let a data class without docstring have an empty one, not its signature.

    Without docstrings (``PYTHONOPTIMIZE=2``) that is all of them, and making the signatures takes 3 % of a
    start. It can go when `dataclasses` makes the text only where it is read.
    """
    if sys.flags.optimize > 1:
        import dataclasses  # noqa: PLC0415 - not needed otherwise
        import inspect  # noqa: PLC0415

        undescribed = ModuleType("inspect")
        undescribed.__dict__.update(vars(inspect), signature=lambda *_, **__: "")
        dataclasses.inspect = undescribed  # type: ignore[attr-defined]


class _AnyName(ModuleType):
    def __getattr__(self, name: str) -> Any:
        return type(name, (_AnyClass,), {})


class _AnyClass:
    """Stands for a class, which may have subclasses, and for a function, whose result does not matter."""

    def __init__(self, *_: object, **__: object) -> None: ...


@contextmanager
def stand_ins(*names: str) -> Iterator[None]:
    """Allow the import of a library that names members of these modules without using them here.

    prometheus-client names HTTP servers and clients, which it needs only to serve or push. Without them and
    what they load, such as ``html.entities``, the service has 1.2 MB less. httpcore2 names proxies and
    more, see `apiserver.transport`. pydantic names what finds plugins and `.env` files, which takes
    4 % of a start. It can go when those libraries import them only where they use them. A module that is
    loaded is not replaced.
    """
    modules = {name: _AnyName(name) for name in names if sys.modules.get(name) is None}
    forbidden = modules.keys() & sys.modules.keys()
    # ``import a.b`` finds the module in `sys.modules`, and then ``a.b`` in the module ``a``.
    places = [(sys.modules.get(name.rpartition(".")[0]), name.rpartition(".")[2], name) for name in modules]
    attributes = [(parent, own, name) for parent, own, name in places if parent and not hasattr(parent, own)]
    sys.modules.update(modules)
    for parent, own, name in attributes:
        setattr(parent, own, modules[name])
    try:
        yield
    finally:
        for parent, own, _ in attributes:
            delattr(parent, own)
        for name in modules:
            if name in forbidden:
                sys.modules[name] = None  # type: ignore[assignment]
            else:
                del sys.modules[name]


@contextmanager
def replaced(name: str, /, **members: object) -> Iterator[None]:
    """Allow the import of a library that needs no more of a module than these members.

    httpcore2 would load all of anyio, 1.5 MB, for a lock and an event. It can go when it uses those of
    asyncio. A module that is loaded is not replaced.
    """
    if name in sys.modules:
        yield
        return
    module = sys.modules[name] = ModuleType(name)
    vars(module).update(members)
    try:
        yield
    finally:
        del sys.modules[name]


@contextmanager
def without_pydantic() -> Iterator[None]:
    """Keep a library from importing pydantic, which betterproto2 does wherever it is installed.

    It is the other half of `in_child` and can go with it, or when betterproto2 imports pydantic only for the
    data classes of pydantic.
    """
    if "pydantic" in sys.modules:
        yield
        return
    sys.modules["pydantic"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["pydantic"]


@contextmanager
def without_version_check() -> Iterator[None]:
    """Keep betterproto2 from comparing its version with that of the compiler of the messages.

    For that it loads ``importlib.metadata`` and ``email``, 1.5 MB. pyproject.toml pins both versions, and the
    one-off commands do compare them. It can go when betterproto2 has its version as a text.
    """
    unchecked = {"__version__": "", "check_compiler_version": lambda _version: None}
    with replaced("betterproto2._version", **unchecked):
        yield


def in_child(call: Callable[[], dict[str, Any]], meanwhile: Callable[[], None]) -> dict[str, Any] | None:
    """Return the plain values that ``call`` returns in a child process; None if there is no answer from it.

    What the call imports stays out of this process. For pydantic that is 10.5 MB, a quarter of the service's
    memory, and 40 ms of a start on two processors. It can go with pydantic.

    The child prints nothing and reports no error. Whatever ended it, be it an exception, a signal or the time
    limit, and also if no process can be started, the caller makes the call itself and reports what is wrong.

    Args:
        call: is made in the child; returns what `marshal` can write, which needs no import.
        meanwhile: is called in this process, which must not have a second thread yet.
    """
    # If it is ignored, as a parent process may have set it, the child's id is free for another as it ends.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        reader, writer = os.pipe()
    except OSError:
        return None
    try:
        child = os.fork()
    except OSError:  # no more processes
        os.close(reader)
        os.close(writer)
        return None
    if child == 0:
        _answer(call, writer)
    os.close(writer)
    answer = None
    try:
        meanwhile()
        answer = _read(reader, _CHILD_LIMIT)
    finally:
        os.close(reader)
        os.kill(child, signal.SIGKILL)  # a child that has answered does nothing more
        # A child that hangs in the kernel stays as it is.
        os.waitpid(child, os.WNOHANG if answer is None else 0)
    try:
        return cast(dict[str, Any], marshal.loads(answer or b""))  # noqa: S302 - written by this code
    except (EOFError, TypeError, ValueError):  # cut off
        return None


def _answer(call: Callable[[], dict[str, Any]], writer: int) -> NoReturn:
    """Be the child: write what the call returns, and end. The signals of the service stay blocked."""
    try:
        sys.stdout = sys.stderr = None
        with open(writer, "wb") as answer:
            answer.write(marshal.dumps(call()))
    finally:
        os._exit(0)


def _read(descriptor: int, limit: float) -> bytes | None:
    """Read to the end; None if that is not reached in ``limit`` seconds."""
    deadline = time.monotonic() + limit
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    parts: list[bytes] = []
    while poll.poll(max(deadline - time.monotonic(), 0) * 1000):
        part = os.read(descriptor, 1 << 16)
        if not part:
            return b"".join(parts)
        parts.append(part)
    return None


def retry_accept_soon() -> None:
    """Let asyncio retry accept() 0.25 s after EMFILE, not 1 s: kubelet would wait as long.

    It can go when asyncio takes the delay as an argument (asyncio/constants.py).
    """
    from asyncio import constants  # noqa: PLC0415 - after `prepare`

    constants.ACCEPT_RETRY_DELAY = 0.25  # type: ignore[misc,assignment]


def read_tls_in_parts(size: int) -> None:
    """Let each TLS connection of asyncio read into ``size`` bytes of its own: a record has at most 16 KiB.

    asyncio takes 256 KiB, all of it resident. It can go when asyncio has a parameter for it
    (asyncio/sslproto.py).
    """
    from asyncio.sslproto import SSLProtocol  # noqa: PLC0415 - after `prepare`

    SSLProtocol.max_size = size


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


def leave_frames_unprinted() -> None:
    """Let h2 not format each frame it receives for a log that drops it, which costs 3 us a frame.

    It can go when h2 formats only what is logged (h2/connection.py, `_receive_frame`).
    """
    from hyperframe.frame import Frame  # noqa: PLC0415 - too heavy for a module that is imported first

    Frame.__repr__ = object.__repr__  # type: ignore[method-assign]
