"""Keeps endless tasks running, and ends them all."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from xilinx_fpga_dp.observe.events import Event

log = logging.getLogger(__name__)

_RESTART = 1.0  # seconds until a failed task starts again
_ENDING = 1.2  # seconds that tasks may take to end after the first cancellation
_END_AGAIN = 0.05  # and after each further one


async def supervise(name: str, run: Callable[[], Awaitable[None]]) -> None:
    """Run an endless task. If it fails, log the exception and start it again after a second.

    It ends when ``run`` returns, which means that there is nothing to do.
    """
    while True:
        try:
            return await run()
        except Exception:
            log.exception(Event.TASK_FAILED, extra={"task": name})
            await asyncio.sleep(_RESTART)


async def end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait until they have ended, cancelling again where a library swallows a cancellation.

    The second time all tasks of the loop are cancelled: a TaskGroup cancels its own only once.
    """
    pending = to_cancel = set(tasks)
    limit = _ENDING
    while pending:
        for task in to_cancel:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=limit)
        limit = _END_AGAIN
        to_cancel = asyncio.all_tasks() - {asyncio.current_task()}
