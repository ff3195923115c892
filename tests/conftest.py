"""Fixtures: a sample node, doubles of kubelet and podresources on it, and the running service."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.double import KubeletDouble
from tests.support.podresources import PodResourcesDouble
from tests.support.process import Service
from tests.support.running import settings_for
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode

# A sample node has thousands of small files: on a disk they take half of the time of the tests.
if os.access("/dev/shm", os.W_OK | os.X_OK):
    os.environ.setdefault("TMPDIR", "/dev/shm")

_TIER_LIMITS = {"unit": 5, "service": 60}  # seconds a test
_PROPERTY_LIMIT = 60  # seconds a property test, which runs many examples

for _profile, _examples in (("fast", 20), ("full", 100)):
    settings.register_profile(
        _profile,
        max_examples=_examples,
        deadline=None,  # benchmarks measure time
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
        derandomize=True,
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "full"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test the time limit of its tier, which is its folder."""
    for item in items:
        tier = item.path.relative_to(Path(__file__).parent).parts[0]
        limit = _TIER_LIMITS.get(tier)
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            limit = _PROPERTY_LIMIT
        if limit and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(limit))


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


@pytest.fixture
def pods(node: SampleNode) -> Iterator[PodResourcesDouble]:
    """A podresources double on the node, not started."""
    double = PodResourcesDouble(f"{node.root}/pods.sock")
    yield double
    double.stop()


@pytest.fixture
def service(node: SampleNode) -> Iterator[Service]:
    """The service on the node, running in its own process."""
    with Service(settings_for(node)) as running:
        yield running
