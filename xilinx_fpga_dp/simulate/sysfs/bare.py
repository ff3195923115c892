"""Functions that no driver of ours has: a driver of another kind, or none.

They stand for what must be left out with a reason, as the plain flow of AWS F2, and for what must be
ignored, as an NPU.
"""

from xilinx_fpga_dp.simulate.sysfs.boards import BareBoard
from xilinx_fpga_dp.simulate.sysfs.bus import PciFunction, Tree
from xilinx_fpga_dp.simulate.sysfs.sample_card import SampleCard


class BareCard(SampleCard):
    """The functions of one slot, each with its driver or none."""

    def __init__(self, node: Tree, board: BareBoard, slot: str, *, numa_node: int) -> None:
        super().__init__(node)
        self.board = board
        self.slot = slot
        self._functions = [
            PciFunction(node, f"{slot}.{number}", ids, node.bus_above(f"{slot}.{number}"), numa_node)
            for number, ids in enumerate(board.functions)
        ]

    @property
    def title(self) -> str:
        """Its ids."""
        return ":".join(self._functions[0].ids[:2])

    @property
    def address(self) -> str:
        """Of its first function."""
        return self._functions[0].address

    @property
    def nodes(self) -> tuple[str, ...]:
        """None that a pod could use."""
        return ()

    def path(self, attribute: str) -> str:
        """The path of an attribute of its first function."""
        return f"{self._functions[0].path}/{attribute}"

    def plug(self) -> None:
        """Let the bus find it and its driver, if any, take it."""
        for function in self._functions:
            function.plug()
        self.bind()

    def remove(self) -> None:
        """Pull it."""
        self.unbind()
        for function in self._functions:
            function.unplug()

    def bind(self) -> None:
        """Let its driver, if any, take it."""
        if self.board.driver:
            for function in self._functions:
                function.bind(self.board.driver)
            for kind, name, node in self.board.class_devices:
                self.node.add_class_device(kind, name, node, (509, 0), {})

    def unbind(self) -> None:
        """Let its driver go."""
        for function in self._functions:
            if function.driver:
                function.unbind()
        for kind, name, node in self.board.class_devices:
            self.node.remove_class_device(kind, name, node)

    def mend(self) -> None:
        """Nothing ails it."""
