"""Shows a text until SIGINT or SIGTERM: on a terminal in place, else each time it has changed."""

import asyncio
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from xilinx_fpga_dp.cli.screen import Screen, is_terminal


async def watch(
    text: Callable[[], Awaitable[str | None]],
    interval: float,
    *,
    end: str,
    compared: Callable[[str], str] = str,
) -> None:
    """Show what ``text`` returns.

    Args:
        text: returns the newest text; None where the last one still counts.
        interval: seconds between two calls of it.
        end: is printed behind each text where the output is no terminal.
        compared: returns the part of a text in which a change counts.
    """
    screen = Screen(sys.stdout) if is_terminal(sys.stdout) else None
    last: str | None = None

    async def follow() -> None:
        nonlocal last
        while True:
            began = time.monotonic()
            shown = await text()
            if shown is not None:
                if screen:
                    screen.draw(shown)
                elif last is None or compared(shown) != compared(last):
                    print(shown, end=end, flush=True)
                last = shown
            await asyncio.sleep(max(0.0, began + interval - time.monotonic()))

    def resized() -> None:
        if screen and last is not None:
            screen.draw(last)

    loop = asyncio.get_running_loop()
    following = asyncio.ensure_future(follow())
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, following.cancel)
    loop.add_signal_handler(signal.SIGWINCH, resized)
    with suppress(asyncio.CancelledError):
        await following
    if screen:
        screen.leave()
