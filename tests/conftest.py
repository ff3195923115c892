"""Fixtures: a sample node, a kubelet double on it, and the real service between them."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.double import KubeletDouble
from tests.process import Service
from xilinx_fpga_dp import service as service_module
from xilinx_fpga_dp.settings import Settings
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode

settings.register_profile(
    "project",
    deadline=None,  # benchmarks measure time
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    derandomize=True,
)
settings.load_profile("project")


@pytest.fixture
def node() -> Iterator[SampleNode]:
    """A sample node without cards. Its path is short enough for unix sockets."""
    directory = tempfile.mkdtemp(prefix="fpga-")
    yield SampleNode(directory)
    shutil.rmtree(directory)


@pytest.fixture
def kubelet(node: SampleNode) -> Iterator[KubeletDouble]:
    """A kubelet double on the socket directory of the node, not started."""
    double = KubeletDouble(Path(node.socket_dir))
    yield double
    double.stop()


def settings_for(node: SampleNode, **more: str) -> dict[str, str]:
    """Return settings without prefix for a node; the intervals are short, so that tests are quick."""
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


@pytest.fixture
def service(node: SampleNode) -> Iterator[Service]:
    """The real service on the node, running."""
    with Service(settings_for(node)) as running:
        yield running
