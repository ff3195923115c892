"""Rows of scans, measured inside this process: CPU time, wall time and stalls of the event loop."""

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any
from unittest import mock

from tests.bench.figures import Figure, quantile
from tests.bench.stage import Stage, cards
from xilinx_fpga_dp.discovery.health import HealthRules
from xilinx_fpga_dp.discovery.scanner import Scanner

_READS = ("open", "readlink", "stat", "scandir", "listdir")
_TICK = 0.001  # seconds between two readings of the clock in the loop


def scan(quick: bool) -> Iterator[Figure]:
    """Measure full scans of 200 functions with 16 cards, and health checks of the 16 cards."""
    with Stage(cards(16, shells=4), functions=200) as stage:
        yield from asyncio.run(_scan(stage, 50 if quick else 300))


async def _scan(stage: Stage, runs: int) -> list[Figure]:
    scanner = Scanner(stage.node.sysfs_root, stage.node.dev_root, HealthRules(3, 900))
    await scanner.scan()
    while not scanner.complete:
        await asyncio.sleep(0.02)
    figures = []
    for name, call, target in (
        ("full scan, 200 functions, 16 cards", scanner.scan, 8.0),
        ("health check, 16 cards", scanner.check, None),
    ):
        reads = await _recorded(call)
        total, off, wall, inline = [], [], [], []
        for _ in range(runs):
            await asyncio.sleep(0.01)
            began = time.process_time(), time.thread_time(), time.perf_counter()
            await call()
            ended = time.process_time(), time.thread_time(), time.perf_counter()
            spent, on_loop, waited = (b - a for a, b in zip(began, ended, strict=True))
            total.append(spent * 1000)
            off.append((spent - on_loop) * 1000)
            wall.append(waited * 1000)
        with _Stalls() as stalls:  # separate: reading the clock every millisecond also uses CPU
            for _ in range(runs):
                await asyncio.sleep(0.01)
                await call()
            busy = list(stalls.late)
        with _Stalls() as stalls:
            await asyncio.sleep(1)
            idle = quantile(stalls.late, 0.99)
        for _ in range(runs):
            await asyncio.sleep(0.01)  # as above: other processes use the CPU caches in between
            cpu = time.thread_time()
            _replay(reads)
            inline.append((time.thread_time() - cpu) * 1000)
        compared = f"the same {len(reads)} reads inline"
        figures += [
            Figure(f"{name}, CPU", "ms", total, target, "median", statistics.median(inline), compared),
            Figure("- of it off the loop", "ms", off),
            Figure("- wall", "ms", wall),
            Figure("- loop stall p99 meanwhile", "ms", [quantile(busy, 0.99), max(busy)][:1], None, "worst",
                   idle, "the same loop at rest"),
        ]  # fmt: skip
    return figures


async def _recorded(call: Callable[[], Awaitable[object]]) -> list[tuple[str, str]]:
    """Return the reads of one call: the name of the function and the path."""
    reads: list[tuple[str, str]] = []

    def recorder(name: str) -> Any:
        real = getattr(os, name)

        def record(path: Any, *arguments: Any, **more: Any) -> Any:
            reads.append((name, path))
            return real(path, *arguments, **more)

        return record

    with ExitStack() as patches:
        for name in _READS:
            patches.enter_context(mock.patch.object(os, name, recorder(name)))
        await call()
    return [(name, path) for name, path in reads if isinstance(path, str)]


def _replay(reads: list[tuple[str, str]]) -> None:
    for name, path in reads:
        with suppress(OSError):
            if name == "open":
                descriptor = os.open(path, os.O_RDONLY)
                os.read(descriptor, 4097)
                os.close(descriptor)
            elif name == "scandir":
                with os.scandir(path) as entries:
                    list(entries)
            else:
                getattr(os, name)(path)


class _Stalls:
    """The delays of a timer of the event loop, in ms."""

    def __init__(self) -> None:
        self.late: list[float] = []

    def __enter__(self) -> "_Stalls":
        self._task = asyncio.create_task(self._tick())
        return self

    def __exit__(self, *_: object) -> None:
        self._task.cancel()

    async def _tick(self) -> None:
        while True:
            due = time.perf_counter() + _TICK
            await asyncio.sleep(_TICK)
            self.late.append((time.perf_counter() - due) * 1000)
