"""Threads for calls that may never return. They are daemons: one that hangs does not keep the process alive.

In asyncio's default executor a hung call would occupy a worker that other calls need, and the interpreter
would wait for it at exit.
"""

import errno
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import Any, TypeVar

from xilinx_fpga_dp.observe.events import Event

T = TypeVar("T")

log = logging.getLogger(__name__)

IDLE_WORKERS = 2  # kept, since to start a thread costs more than most reads

_start_failed = threading.Event()  # the last thread could not be started, and that was logged


def start_thread(run: Callable[[], None], name: str) -> bool:
    """Start a daemon thread. Return False if the process may not have another one."""
    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError as error:
        if not _start_failed.is_set():
            log.warning(Event.NO_THREAD, extra={"error": str(error)})
        _start_failed.set()
        return False
    _start_failed.clear()
    return True


class Worker:
    """A thread that runs one job after another. A job that hangs delays no other job."""

    _idle: deque["Worker"] = deque()  # noqa: RUF012 - shared by all; append and pop are atomic

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()

    @classmethod
    def send(cls, job: Callable[[], None]) -> bool:
        """Run a job on an idle worker or a new one. Return False if no thread can be started."""
        try:
            worker = cls._idle.pop()
        except IndexError:
            worker = cls()
            if not start_thread(worker._run, "worker"):
                return False
        worker._jobs.put(job)
        return True

    def _run(self) -> None:
        while True:
            self._jobs.get()()
            if len(self._idle) >= IDLE_WORKERS:
                return
            self._idle.append(self)


class DaemonExecutor(Executor):
    """Runs on daemon threads what a library runs in an executor, such as aiofiles."""

    def __init__(self, limit: int) -> None:
        self._limit = limit  # calls in progress; one more is refused, since the earlier ones hang
        self._in_progress: set[Future[Any]] = set()

    def submit(self, call: Callable[..., T], /, *arguments: Any, **keywords: Any) -> Future[T]:
        """Run a call on a thread.

        Raises:
            TimeoutError: ``limit`` earlier calls have not returned.
            BlockingIOError: no thread can be started.
        """
        if len(self._in_progress) >= self._limit:
            raise TimeoutError(f"{self._limit} earlier calls have not returned")
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(call(*arguments, **keywords))
            except BaseException as error:
                future.set_exception(error)

        future.set_running_or_notify_cancel()
        if not Worker.send(run):
            raise BlockingIOError(errno.EAGAIN, "out of threads")
        self._in_progress.add(future)
        future.add_done_callback(self._in_progress.discard)
        return future
