"""A node with a card of each driver."""

from xilinx_fpga_dp.simulate.sysfs.sample_card import SampleCard
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode

PREFIX = "xilinx.com/fpga-"
FIVE = ("u200", "f1", "v80", "ma35d", "zcu102")


class Mixed:
    """A node with a card of each supported driver, and with cards of other drivers."""

    def __init__(self, node: SampleNode) -> None:
        self.node = node
        node.add_ordinary_devices()
        self.cards = {board: node.plug(board) for board in FIVE}
        for other in ("xdma", "qdma", "npu"):
            node.plug(other)

    def by_address(self) -> dict[str, SampleCard]:
        return {card.address: card for cards in self.cards.values() for card in cards}
