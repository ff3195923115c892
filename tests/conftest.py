"""Fixtures: a sample node, doubles of kubelet and podresources on it, and the running service."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.double import KubeletDouble
from tests.support.podresources import PodResourcesDouble
from tests.support.process import Service
from tests.support.running import settings_for
from xilinx_fpga_dp.discovery import scanner
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode

# A sample node has thousands of small files: on a disk they take half of the time of the tests.
if os.access("/dev/shm", os.W_OK | os.X_OK):
    os.environ.setdefault("TMPDIR", "/dev/shm")
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", os.environ["TMPDIR"])  # of tmp_path
    tempfile.tempdir = None  # pytest has asked before

_NODE = "fpga-"  # how the names of their directories begin
_DAY = 86400.0  # seconds
_TIER_LIMITS = {"unit": 5, "service": 60}  # seconds a test
_LONGEST = {"test_simulate", "test_capture", "test_docs", "test_held", "test_registration", "test_health"}
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


def pytest_configure(config: pytest.Config) -> None:
    """Remove the sample nodes that killed runs have left: no run takes a day."""
    if hasattr(config, "workerinput"):
        return
    for each in Path(tempfile.gettempdir()).glob(f"{_NODE}*"):
        with suppress(OSError):  # another run removes it too
            status = each.lstat()
            if status.st_uid == os.getuid() and time.time() - status.st_mtime > _DAY:
                shutil.rmtree(each)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test the time limit of its tier, which is its folder, and put the long ones first.

    Workers that share a processor have as much more time.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    processors = len(os.sched_getaffinity(0))
    for item in items:
        limit = _TIER_LIMITS.get(_tier(item))
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            limit = _PROPERTY_LIMIT
        if limit and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(limit * max(1, workers // processors)))
    items[:] = _dealt(items, workers)


def _tier(item: pytest.Item) -> str:
    return item.path.relative_to(Path(__file__).parent).parts[0]


def _dealt(items: Sequence[pytest.Item], workers: int) -> list[pytest.Item]:
    """Begin the part of each worker with its share of the tests that wait.

    ``--dist=worksteal`` gives each worker a part of the list, and moves tests from the end of a part.
    """
    waiting = [item for item in items if _tier(item) == "service"]
    waiting.sort(key=lambda item: item.path.stem not in _LONGEST)
    others = [item for item in items if _tier(item) != "service"]
    ends = [len(others) * number // workers for number in range(workers + 1)]
    parts = [others[first:last] for first, last in pairwise(ends)]
    return [item for number in range(workers) for item in (*waiting[number::workers], *parts[number])]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let scans in this process wait for reads that a busy machine delays; `impatient` undoes that."""
    monkeypatch.setattr(scanner, "_PATIENCE", 10.0)


@pytest.fixture
def node() -> Iterator[SampleNode]:
    """A sample node without cards. Its path is short enough for unix sockets."""
    directory = tempfile.mkdtemp(prefix=_NODE)
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
