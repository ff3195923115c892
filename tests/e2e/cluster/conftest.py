"""One cluster for all cases, with two U200 and a U250, a registry, and the image of the Containerfile."""

import os
import time
from collections.abc import Generator, Iterator

import pytest

from ..build import install_packages, programs
from ..image import PACKAGES as IMAGE_PACKAGES
from ..image import builder
from ..images import write_program_image
from ..pods import STAY
from ..report import Report
from .cluster import PACKAGES, Cluster
from .deployed import MANIFEST, wait_available, wait_offered, wait_withdrawn
from .driver import driver_installed
from .registry import Registry
from .user import User, commands

EMULATED = os.environ.get("EMULATED_VERSION", "")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put cases with a cluster of their own first: a machine has one at a time. Skip what the API lacks."""
    items.sort(key=lambda item: "cluster" in getattr(item, "fixturenames", ()))
    for item in items:
        for mark in item.iter_markers("since"):
            (minor,) = mark.args
            if EMULATED and int(EMULATED.partition(".")[2]) < minor:
                item.add_marker(pytest.mark.skip(f"the API has that since Kubernetes 1.{minor}"))


@pytest.fixture(scope="session")
def cluster(report: Report) -> Iterator[Cluster]:
    """The cluster of all cases.

    KUBERNETES names a release, KUBELET one for the node, EMULATED_VERSION the stage of the API.
    """
    built, plane = programs(os.environ.get("KUBERNETES", ""), os.environ.get("KUBELET", ""))
    install_packages(PACKAGES | IMAGE_PACKAGES)
    report.kubernetes, report.kind = str(built.kubernetes), "cluster"
    with Cluster(built, plane, emulated_version=EMULATED, log_dir=report.folder / "logs") as cluster:
        cluster.add_cards()
        if EMULATED:
            report.note(f"API stages of Kubernetes {EMULATED}")
        report.note("start: " + ", ".join(f"{what} {took:.1f} s" for what, took in cluster.took.items()))
        yield cluster
        memory = cluster.memory()
        report.note(
            f"memory of the parts: {sum(memory.values()):.0f} MiB ("
            + ", ".join(f"{part} {size:.0f}" for part, size in memory.items())
            + ")"
        )


@pytest.fixture(scope="session")
def registry(cluster: Cluster) -> Registry:
    """The registry, with a busybox as the image of the example pods: it has what they call."""
    registry = Registry(cluster)
    archive = cluster.folder / "application.tar"
    write_program_image(archive, {"busybox": cluster.binaries.busybox}, ["/bin/sh", "-c", STAY])
    for name in ("library/ubuntu:24.04", "my/fpga-application:latest"):
        registry.push(archive, name)
    return registry


@pytest.fixture(scope="session")
def user(cluster: Cluster, registry: Registry) -> Iterator[User]:
    """A user with a checkout."""
    with builder(cluster.folder) as environment:
        yield User(cluster, registry, environment)


@pytest.fixture(scope="session")
def image(user: User, report: Report) -> None:
    """The image in the registry, built and pushed by the first two commands of the README's section."""
    build, push = commands("README.md", "Install")[:2]
    began = time.monotonic()
    user.run(build, 900)
    user.run(push)
    report.time("image built and pushed by the README's commands", time.monotonic() - began)


@pytest.fixture(scope="module")
def daemonset(cluster: Cluster, image: None, report: Report) -> Iterator[None]:
    """The DaemonSet of the static manifest, as it is shipped, with all cards in the status of the node."""
    began = time.monotonic()
    cluster.kubectl("create", "-f", MANIFEST)
    wait_offered(cluster)
    report.time("manifest applied to resources in the status of the node", time.monotonic() - began)
    wait_available(cluster)
    report.time("manifest applied to DaemonSet available", time.monotonic() - began)
    yield
    cluster.kubectl("delete", "-f", MANIFEST, "--wait")
    wait_withdrawn(cluster)


@pytest.fixture(scope="module")
def driver(cluster: Cluster, user: User, image: None) -> Iterator[None]:
    """The DRA driver, with its reports of the node."""
    with driver_installed(cluster, user, "events=true,nodeCondition=true"):
        yield


@pytest.fixture
def bare(user: User, image: None) -> Iterator[None]:
    """Remove the plugin that the case has installed."""
    yield
    user.remove_plugin()


@pytest.fixture
def pods(cluster: Cluster) -> Iterator[None]:
    """Remove the pods of the case from the default namespace."""
    yield
    cluster.kubectl("delete", "pods", "--all", "--wait", "--now")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the state of the cluster to a failure."""
    result = yield
    cluster = getattr(item, "funcargs", {}).get("cluster")
    if result.failed and isinstance(cluster, Cluster):
        result.sections.append(("cluster", cluster.described()))
    return result
