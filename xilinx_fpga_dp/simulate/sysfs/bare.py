"""PCI functions without the driver of an FPGA runtime: with another driver, or with none.

The service must leave some of them out with a reason, as an AWS F2 slot without XRT, and ignore others, as
an NPU.
"""

from collections.abc import Mapping

from xilinx_fpga_dp.simulate.sysfs.boards import BareBoard
from xilinx_fpga_dp.simulate.sysfs.bus import PciFunction, Tree
from xilinx_fpga_dp.simulate.sysfs.files import Content
from xilinx_fpga_dp.simulate.sysfs.sample_card import SampleCard


class BareCard(SampleCard):
    """The functions of one slot; its address and attributes are those of function 0."""

    def __init__(self, node: Tree, board: BareBoard, slot: str, *, numa_node: int) -> None:
        super().__init__(node)
        self.board = board
        self.slot = slot
        self._functions = [
            PciFunction(node, f"{slot}.{number}", ids, node.bus_above(f"{slot}.{number}"), numa_node)
            for number, ids in enumerate(board.functions)
        ]
        self.bus_device = self._functions[0]

    @property
    def title(self) -> str:
        """Its vendor and device id."""
        return ":".join(self.board.functions[0][:2])

    @property
    def nodes(self) -> tuple[str, ...]:
        """Empty: no pod can use it."""
        return ()

    def plug(self) -> None:
        """Add its functions to the bus and bind their driver, if any."""
        for function in self._functions:
            function.plug()
        self.bind()

    def remove(self) -> None:
        """Unbind its driver and remove its functions from the bus."""
        self.unbind()
        for function in self._functions:
            function.unplug()

    def bind(self) -> None:
        """Bind its driver, if any."""
        if self.board.driver:
            for function in self._functions:
                function.bind(self.board.driver)
            for kind, name, node in self.board.class_devices:
                self.node.add_class_device(kind, name, node, (509, 0), {}, parent=self.bus_device.path)

    def unbind(self) -> None:
        """Unbind its driver, if any."""
        for function in self._functions:
            if function.driver:
                function.unbind()
        for kind, name, node in self.board.class_devices:
            self.node.remove_class_device(kind, name, node)

    def _attributes(self) -> Mapping[str, Content]:
        return {}
