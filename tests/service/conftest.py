"""Fixtures: three cards on the node, and the service registered with kubelet."""

import pytest

from tests.support.double import KubeletDouble
from tests.support.process import Service
from tests.support.resource_names import U200, U250
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
