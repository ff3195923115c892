"""The service, or parts of it, on a sample node."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from xilinx_fpga_dp import service as service_module
from xilinx_fpga_dp.settings_model import Settings
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode


def settings_for(node: SampleNode, **more: str) -> dict[str, str]:
    """Return settings without prefix for a node; the intervals are short to keep tests quick."""
    own = {name.removeprefix("XILINX_FPGA_DP_"): value for name, value in node.environment().items()}
    return (
        own
        | {"SCAN_INTERVAL": "0.3", "HEALTH_INTERVAL": "0.1", "RECOVERY_CHECKS": "2", "HTTP_ADDRESS": ""}
        | more
    )


def service_in_the_loop(node: SampleNode, **more: str) -> service_module.Service:
    """Return the real service with the same settings, for tests that run parts of it."""
    given = {name.lower(): value for name, value in settings_for(node, **more).items()}
    return service_module.Service(Settings.load(given))


@asynccontextmanager
async def running(*parts: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run endless coroutines for the duration of a test."""
    tasks = [asyncio.create_task(part) for part in parts]
    yield
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
