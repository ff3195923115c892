"""What a trial has inside the process of the service: a wall clock it can set, and word of its tasks.

The clock is as many seconds forth as the file FAULTS_CLOCK says; Python's monotonic clock runs on, as the
kernel's does when somebody sets the clock. At SIGUSR2 asyncio's tasks are written to a file that is named
after FAULTS_TASKS and the process, one a line with where it waits: nothing outside shows it.
"""

import contextlib
import datetime as dt
import os
import signal
import time
from pathlib import Path
from typing import Any

_true = time.time
_true_ns = time.time_ns
_last = 0


def _offset() -> int:
    global _last  # noqa: PLW0603
    with contextlib.suppress(OSError, ValueError, KeyError):  # no descriptor to read it with, or half written
        _last = int(Path(os.environ["FAULTS_CLOCK"]).read_text())
    return _last


class _DateTime(dt.datetime):
    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> "_DateTime":
        return cls.fromtimestamp(time.time(), tz)


def _write_tasks(*_: object) -> None:
    import asyncio  # noqa: PLC0415 - when the service has begun, and not before

    with contextlib.suppress(OSError, RuntimeError):  # no descriptor to write it with; no loop
        tasks = [f"{task.get_name()}: {_where(task.get_coro())}\n" for task in asyncio.all_tasks()]
        half = Path(f"{os.environ['FAULTS_TASKS']}.{os.getpid()}.half")
        half.write_text("".join(sorted(tasks)))
        half.rename(half.with_suffix(""))


def _where(waiting: Any) -> str:
    """Where a coroutine is, and the one it waits for, and so on."""
    steps = []
    while frame := getattr(waiting, "cr_frame", None):
        steps.append(f"{Path(frame.f_code.co_filename).stem}:{frame.f_lineno} {frame.f_code.co_name}")
        waiting = waiting.cr_await
    return " > ".join(steps)


time.time = lambda: _true() + _offset()
time.time_ns = lambda: _true_ns() + _offset() * 1_000_000_000
dt.datetime = _DateTime  # type: ignore[misc]
signal.signal(signal.SIGUSR2, _write_tasks)
