"""The part of a trial inside the process of the service: a clock, injected errors and a dump of tasks.

The file FAULTS_CLOCK has the offset of the wall clock in seconds; the monotonic clock is unchanged, as when
the clock of a machine is set.

The file FAULTS_ERRORS has JSON: the errno by path, of ``listdir`` for a directory, otherwise of ``read``;
and whether no thread can start.

The file FAULTS_KILL, while it exists, has a number of lines: the process is killed when its threads have run
so many of the DRA driver and of what it writes files with.

FAULTS_RIGHT has the seconds between two attempts of a call for which there is no right.

SIGUSR2 writes the asyncio tasks to a file named by FAULTS_TASKS and the process id, each with its position,
and after an empty line the names of the threads.
"""

import contextlib
import datetime as dt
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

_true = time.time
_true_ns = time.time_ns
_open, _read, _close, _listdir = os.open, os.read, os.close, os.listdir
_start_thread: Any = threading._start_new_thread  # type: ignore[attr-defined]
_last = 0


def _offset() -> int:
    global _last  # noqa: PLW0603
    with contextlib.suppress(OSError, ValueError, KeyError):  # no free descriptor, or half written
        _last = int(Path(os.environ["FAULTS_CLOCK"]).read_text())
    return _last


class _DateTime(dt.datetime):
    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> "_DateTime":
        return cls.fromtimestamp(time.time(), tz)


class _Errors:
    """The current errors, read again whenever the file has changed."""

    def __init__(self) -> None:
        self._made = 0
        self._by_path: dict[str, int] = {}
        self._threadless = False
        self._open: dict[int, int] = {}  # errno by descriptor

    def of(self, path: Any) -> int | None:
        self._refresh()
        return self._by_path.get(path) if isinstance(path, str) else None

    @property
    def threadless(self) -> bool:
        self._refresh()
        return self._threadless

    def _refresh(self) -> None:
        with contextlib.suppress(OSError, ValueError, KeyError):
            name = os.environ["FAULTS_ERRORS"]
            if (made := os.stat(name).st_mtime_ns) != self._made:
                found = json.loads(Path(name).read_text())
                self._by_path, self._threadless, self._made = found["errors"], found["threadless"], made

    def open(self, path: Any, *arguments: Any, **more: Any) -> int:
        number = self.of(path)
        descriptor = _open(path, *arguments, **more)
        if number:
            self._open[descriptor] = number
        return descriptor

    def read(self, descriptor: int, length: int) -> bytes:
        if number := self._open.get(descriptor):
            raise OSError(number, os.strerror(number))
        return _read(descriptor, length)

    def close(self, descriptor: int) -> None:
        self._open.pop(descriptor, None)
        _close(descriptor)

    def listdir(self, path: Any = ".") -> Any:
        if number := self.of(path):
            raise OSError(number, os.strerror(number), path)
        return _listdir(path)

    def start_thread(self, *arguments: Any) -> int:
        if self.threadless:
            raise RuntimeError("can't start new thread")
        return _start_thread(*arguments)


class _Kill:
    """Kills the process at a line that a thread other than the main one runs."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._left: int | None = None  # lines

    def trace(self, frame: Any, event: str, _: Any) -> Any:
        if "/xilinx_fpga_dp/dra/" not in (name := frame.f_code.co_filename) and "/hostfiles/" not in name:
            return None
        if event == "call":
            try:
                number = int(Path(self._path).read_text())
            except (OSError, ValueError):
                self._left = None
            else:
                self._left = number if self._left is None else self._left
        elif event == "line" and self._left is not None:
            self._left -= 1
            if self._left < 0 and Path(self._path).exists():
                os.kill(os.getpid(), signal.SIGKILL)
        return self.trace


def _write_tasks(*_: object) -> None:
    import asyncio  # noqa: PLC0415 - only after the start of the service

    with contextlib.suppress(OSError, RuntimeError):  # no free descriptor, or no loop
        tasks = [f"{task.get_name()}: {_where(task.get_coro())}\n" for task in asyncio.all_tasks()]
        threads = [f"{thread.name}\n" for thread in threading.enumerate()]
        half = Path(f"{os.environ['FAULTS_TASKS']}.{os.getpid()}.half")
        half.write_text("".join([*sorted(tasks), "\n", *sorted(threads)]))
        half.rename(half.with_suffix(""))


def _where(waiting: Any) -> str:
    """Return the position of a coroutine and of each coroutine it awaits."""
    steps = []
    while frame := getattr(waiting, "cr_frame", None):
        steps.append(f"{Path(frame.f_code.co_filename).stem}:{frame.f_lineno} {frame.f_code.co_name}")
        waiting = waiting.cr_await
    return " > ".join(steps)


time.time = lambda: _true() + _offset()
time.time_ns = lambda: _true_ns() + _offset() * 1_000_000_000
dt.datetime = _DateTime  # type: ignore[misc]
_errors = _Errors()
os.open, os.read, os.close, os.listdir = _errors.open, _errors.read, _errors.close, _errors.listdir  # type: ignore[assignment]
threading._start_new_thread = _errors.start_thread  # type: ignore[attr-defined]
signal.signal(signal.SIGUSR2, _write_tasks)
if "FAULTS_KILL" in os.environ:
    threading.settrace(_Kill(os.environ["FAULTS_KILL"]).trace)
if "FAULTS_RIGHT" in os.environ:
    from xilinx_fpga_dp.apiserver import backoff

    backoff._WITHOUT_RIGHT = float(os.environ["FAULTS_RIGHT"])
