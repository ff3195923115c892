"""Sample nodes with many boards."""

from pathlib import Path

import pytest

from xilinx_fpga_dp.simulate.sysfs.boards import (
    ALL_BOARDS,
    ZOCL_BOARDS,
)
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode


@pytest.fixture
def node(tmp_path: Path) -> SampleNode:
    return SampleNode(tmp_path / "node")


NOT_WITH_ZCU102 = set(ZOCL_BOARDS) - {"zcu102"}


class TestWholeCards:
    def test_all_boards_on_one_node_have_distinct_addresses_and_nodes(self, node: SampleNode) -> None:
        node.add_ordinary_devices()
        cards = [card for name in ALL_BOARDS if name not in NOT_WITH_ZCU102 for card in node.plug(name)]
        addresses = [card.address for card in cards]
        assert len(set(addresses)) == len(addresses)
        taken = [path for card in cards for path in card.nodes]
        assert len(set(taken)) == len(taken)
