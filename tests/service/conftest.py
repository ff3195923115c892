"""Fixtures: three cards on the node, the service registered with kubelet, and the same as a DRA driver."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.api_server import RunningApiServer
from tests.support.double import KubeletDouble
from tests.support.dra_kubelet import NODE, DraKubelet
from tests.support.dra_stage import registry
from tests.support.podresources import PodResourcesDouble
from tests.support.process import Service
from tests.support.resource_names import U200, U250
from tests.support.running import settings_for
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode


@pytest.fixture
def cards(node: SampleNode) -> SampleNode:
    """A node with two U200 and a U250."""
    node.add_ordinary_devices()
    for index, board in enumerate(("u200", "u200", "u250")):
        node.add_card(board, f"0000:{0x10 * (index + 1) + 1:02x}:00", numa_node=index % 2)
    return node


@pytest.fixture
def registered(cards: SampleNode, kubelet: KubeletDouble, service: Service) -> KubeletDouble:
    """A kubelet double with which the service has registered all cards."""
    kubelet.start()
    kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2 and kubelet.allocatable(U250) == 1)
    return kubelet


@pytest.fixture
def node_api(tmp_path: Path) -> Iterator[RunningApiServer]:
    with RunningApiServer(tmp_path, tls=False) as server:
        server.put(f"/api/v1/nodes/{NODE}", {"metadata": {"name": NODE, "uid": "node-uid"}})
        yield server


@pytest.fixture
def answering(pods: PodResourcesDouble) -> PodResourcesDouble:
    pods.start()
    return pods


@pytest.fixture
def dra_settings(cards: SampleNode, answering: PodResourcesDouble) -> dict[str, str]:
    return settings_for(
        cards,
        MODE="dra",
        NODE_NAME=NODE,
        PLUGINS_REGISTRY_DIR=str(registry(cards)),
        CDI_DIR=f"{cards.root}/cdi",
        POD_RESOURCES_SOCKET=answering.path,
    )


@pytest.fixture
def dra_driver(node_api: RunningApiServer, dra_settings: dict[str, str]) -> Iterator[Service]:
    with Service(dra_settings, environment=node_api.environment) as running:
        yield running


@pytest.fixture
def dra(cards: SampleNode, dra_driver: Service) -> Iterator[DraKubelet]:
    """A kubelet that has registered the driver."""
    with DraKubelet(registry(cards)) as kubelet:
        kubelet.register()
        yield kubelet
