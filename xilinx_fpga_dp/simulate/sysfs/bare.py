"""PCI functions without the driver of an FPGA runtime: with another driver, or with none.

The service must leave some of them out with a reason, as an AWS F2 slot without XRT, and ignore others, as
an NPU.
"""

import re
from collections.abc import Mapping

from xilinx_fpga_dp.simulate.sysfs.boards import BareBoard
from xilinx_fpga_dp.simulate.sysfs.bus import PciFunction, Tree
from xilinx_fpga_dp.simulate.sysfs.files import Content
from xilinx_fpga_dp.simulate.sysfs.sample_card import SampleCard

_MAJOR = 509  # an example: the kernel assigns it


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
        self._number = node.card_numbers[board.driver or ""].take(0)

    @property
    def title(self) -> str:
        """Its vendor and device id."""
        return ":".join(self.board.functions[0][:2])

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes of its driver, which pods get by a rule only."""
        return tuple(node for _, _, node in self._class_devices()) if self.bus_device.driver else ()

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
            parent = None if self.board.orphans else self.bus_device.path
            for minor, (kind, name, node) in enumerate(self._class_devices(), 16 * self._number):
                self.node.add_class_device(kind, name, node, (_MAJOR, minor), {}, parent=parent)

    def unbind(self) -> None:
        """Unbind its driver, if any."""
        for function in self._functions:
            if function.driver:
                function.unbind()
        for kind, name, node in self._class_devices():
            self.node.remove_class_device(kind, name, node)

    def _class_devices(self) -> list[tuple[str, str, str]]:
        _, bus, device, function = re.split("[:.]", self.bus_device.name)
        values = {"number": self._number, "bus": bus, "device": device, "function": function}
        return [
            (kind.format_map(values), name.format_map(values), node.format_map(values))
            for kind, name, node in self.board.class_devices
        ]

    def _attributes(self) -> Mapping[str, Content]:
        return {}
