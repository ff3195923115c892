"""Fixtures: a sample node in a temporary folder and, between it and a kubelet double, the real service."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.double import KubeletDouble
from tests.process import Service
from xilinx_fpga_dp.simulate.node import SampleNode

settings.register_profile(
    "project",
    deadline=None,  # time is measured in benchmarks
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    derandomize=True,
)
settings.load_profile("project")


@pytest.fixture
def node() -> Iterator[SampleNode]:
    """A sample node without cards; its path is short enough for unix sockets."""
    directory = tempfile.mkdtemp(prefix="fpga-")
    yield SampleNode(directory)
    shutil.rmtree(directory)


@pytest.fixture
def kubelet(node: SampleNode) -> Iterator[KubeletDouble]:
    """A kubelet double on the node's socket directory; not started."""
    double = KubeletDouble(Path(node.socket_dir))
    yield double
    double.stop()


def settings_for(node: SampleNode, **more: str) -> dict[str, str]:
    """Settings, without their prefix, to run against a node; impatient, so that tests are quick."""
    own = {name.removeprefix("XILINX_FPGA_DP_"): value for name, value in node.environment().items()}
    return (
        own
        | {"SCAN_INTERVAL": "0.3", "HEALTH_INTERVAL": "0.1", "RECOVERY_CHECKS": "2", "HTTP_ADDRESS": ""}
        | more
    )


@pytest.fixture
def service(node: SampleNode) -> Iterator[Service]:
    """The real service on the node, started."""
    with Service(settings_for(node)) as running:
        yield running
