"""Fixtures: one real node for all cases, a new stage for each case, and a report of the run."""

import os
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from .build import binaries
from .configuration import why_not
from .live_sample import LiveSample
from .machine_lock import why_not_here
from .node import Node
from .report import FAILED, NOT_APPLICABLE, PASSED, Report
from .stage import Stage

_HERE = Path(__file__).parent
_REPORT = pytest.StashKey[Report]()

# Set in CI, where a run without executed cases must fail.
_REQUIRED = "E2E_REQUIRED"


def pytest_configure(config: pytest.Config) -> None:
    """Create the report."""
    config.stash[_REPORT] = Report()
    # The service under test reads the settings of the case only.
    for name in [name for name in os.environ if name.startswith("XILINX_FPGA_DP_")]:
        del os.environ[name]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip all cases on a machine that cannot run a node, or fail if it must run one."""
    mine = [item for item in items if _HERE in item.path.parents]
    lacking = why_not_here() if mine and not config.option.collectonly else None
    if lacking and os.environ.get(_REQUIRED):
        pytest.exit(f"{_REQUIRED} is set, but {lacking}", returncode=1)
    for item in mine if lacking else ():
        item.add_marker(pytest.mark.skip(reason=f"end-to-end tests skipped: {lacking}"))


@pytest.fixture(scope="session")
def report(request: pytest.FixtureRequest) -> Report:
    """The report of this run."""
    return request.config.stash[_REPORT]


@pytest.fixture(scope="session")
def live_node(report: Report) -> Iterator[Node]:
    """The node of all cases: containerd and the kubelet of the requested release."""
    built = binaries(os.environ.get("KUBERNETES", ""))
    report.kubernetes = str(built.kubernetes)
    with Node(built, log_dir=report.folder / "logs") as node:
        yield node


@pytest.fixture
def empty_stage(live_node: Node, report: Report, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """A stage without cards and without service."""
    root = live_node.folder / f"sample-{abs(hash(request.node.nodeid))}"
    stage = Stage(live_node, report, LiveSample(root, live_node))
    yield stage
    stage.close()


@pytest.fixture
def stage(empty_stage: Stage) -> Stage:
    """Two U200 of one shell and a U250 of another, offered by the service."""
    empty_stage.add_cards()
    empty_stage.start_service()
    empty_stage.wait_all()
    return empty_stage


@pytest.fixture
def needs(live_node: Node) -> Callable[[str], None]:
    """A function that skips a case if this release of Kubernetes lacks a feature gate."""

    def skip(gate: str) -> None:
        if reason := why_not(gate, live_node.binaries.kubernetes):
            pytest.skip(f"not applicable: {reason}")

    return skip


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Record the outcome of each case; add the logs of the services to a failure."""
    result = yield
    if _HERE not in item.path.parents:
        return result
    report = item.config.stash[_REPORT]
    name = (item.name.removeprefix("test_")).replace("_", " ")
    if result.failed:
        report.case(name, FAILED)
        stage = getattr(item, "funcargs", {}).get("empty_stage")
        for service in stage.services if isinstance(stage, Stage) else ():
            result.sections.append((f"{service.name}.log", service.output()))
    elif result.skipped and call.excinfo is not None:
        report.case(name, NOT_APPLICABLE, str(call.excinfo.value).removeprefix("not applicable: "))
    elif call.when == "call":
        report.case(name, PASSED)
    return result


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print and save the report."""
    report = config.stash[_REPORT]
    if not report.kubernetes:
        return  # no node was up
    report.took = time.time() - report.began
    terminalreporter.section("end to end")
    for line in report.page():
        terminalreporter.write_line(line)
    terminalreporter.write_line(f"kept in {report.save()}")
