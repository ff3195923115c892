"""Cards driven by `transcoder`, the driver of AMD's AMA video SDK: an Alveo MA35D.

The driver's source is not public. What is told here was read in the Kubernetes device plugin of Xilinx
(FPGA_as_a_Service, k8s-device-plugin/fpga.go, GetAMADevices), in the SDK's README and in scripts of users;
nobody published the content of `device_info` beyond the names of its lines.
"""

from collections.abc import Sequence

from xilinx_fpga_dp.simulate.sysfs.boards import Ma35dBoard
from xilinx_fpga_dp.simulate.sysfs.bus import PciFunction, Tree
from xilinx_fpga_dp.simulate.sysfs.files import Content, Numbers
from xilinx_fpga_dp.simulate.sysfs.sample_card import SampleCard

_DRIVER = "transcoder"
_MODULE = "ama_transcoder"
_MISC_MAJOR = 10  # misc.h MISC_MAJOR
_FIRST_MINOR = 120  # any free one


class Ma35dCard(SampleCard):
    """One of the two devices of an MA35D, each with a link of its own (x4x4 bifurcation).

    An attribute is named by its path in the device's directory of class `misc`: ``bus_id``, ``device_info``.
    """

    def __init__(
        self,
        node: Tree,
        numbers: Numbers,
        board: Ma35dBoard,
        slot: str,
        *,
        serial: str | None,
        numa_node: int,
        behind: Sequence[str],
    ) -> None:
        super().__init__(node)
        self.board = board
        self.slot = slot
        above = node.bus_above(f"{slot}.0", behind)
        self._function = PciFunction(node, f"{slot}.0", board.ids, above, numa_node)
        self.serial = f"XFL1{slot.replace(':', '')[-8:].upper()}" if serial is None else serial
        self._numbers = numbers
        self._number: int | None = None

    @property
    def title(self) -> str:
        """Its product name."""
        return self.board.product

    @property
    def address(self) -> str:
        """Of its function."""
        return self._function.address

    @property
    def user(self) -> str:
        """The directory of its function."""
        return self._function.path

    @property
    def nodes(self) -> tuple[str, ...]:
        """Its character device, ``/dev/ama_transcoder0``."""
        return () if self._number is None else (f"/dev/{_MODULE}{self._number}",)

    def path(self, attribute: str) -> str:
        """The path of an attribute of its misc device; where that is gone, the one of number 0."""
        return f"{self.node.sysfs_root}/devices/virtual/misc/{_MODULE}{self._number or 0}/{attribute}"

    def plug(self) -> None:
        """Let the bus find it and the driver take it."""
        self._function.plug()
        self.bind()

    def remove(self) -> None:
        """Pull it: a device that gets too hot leaves the bus by itself (DS1010)."""
        self.unbind()
        self._function.unplug()

    def bind(self) -> None:
        """Let `transcoder` take it."""
        self._function.bind(_DRIVER, module=_MODULE)
        self._number = self._numbers.take(0)
        name = f"{_MODULE}{self._number}"
        number = (_MISC_MAJOR, _FIRST_MINOR + self._number)
        self.node.add_class_device("misc", name, f"/dev/{name}", number, self._attributes())

    def unbind(self) -> None:
        """Let `transcoder` go."""
        if self._number is None:
            return
        name = f"{_MODULE}{self._number}"
        self.node.remove_class_device("misc", name, f"/dev/{name}")
        self._numbers.free(self._number)
        self._number = None
        self._function.unbind()

    def mend(self) -> None:
        """Let every attribute say what it does on a healthy card."""
        for name, content in self._attributes().items():
            self.write(name, content)

    def _attributes(self) -> dict[str, Content]:
        board = self.board
        lines = {
            "Product name": board.product,
            "Product serial number": self.serial,
            "PCIe device ID": f"0x{board.ids.device}",
        }
        return {
            "bus_id": self.address,
            "device_info": "\n".join(f"{name} = {text}" for name, text in lines.items()),
            "version_information": "\n",
            "perf": {"gc620": {"load0": "0", "load1": "0"}},
        }
