"""Cards of `transcoder`, the driver of AMD's AMA video SDK: an Alveo MA35D.

The source of the driver is not public. The sources of this module are the Kubernetes device plugin of Xilinx
(FPGA_as_a_Service, k8s-device-plugin/fpga.go, GetAMADevices), the README of the SDK and scripts of users.
Of the content of `device_info`, only the names of its lines are published.
"""

from collections.abc import Sequence

from xilinx_fpga_dp.simulate.sysfs.boards import Ma35dBoard
from xilinx_fpga_dp.simulate.sysfs.bus import Numbers, PciFunction, Tree
from xilinx_fpga_dp.simulate.sysfs.files import Content
from xilinx_fpga_dp.simulate.sysfs.sample_card import SampleCard, serial_of

_DRIVER = "transcoder"
_MODULE = "ama_transcoder"
_MISC_MAJOR = 10  # misc.h MISC_MAJOR
_FIRST_MINOR = 120  # an example: the kernel assigns it


class Ma35dCard(SampleCard):
    """One of the two devices of an MA35D; each has its own PCIe link (x4x4 bifurcation).

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
        self.bus_device = PciFunction(node, f"{slot}.0", board.ids, above, numa_node)
        self.serial = serial_of(slot) if serial is None else serial
        self._numbers = numbers
        self._number: int | None = None

    @property
    def title(self) -> str:
        """Its product name."""
        return self.board.product

    @property
    def nodes(self) -> tuple[str, ...]:
        """Its character device, ``/dev/ama_transcoder0``."""
        return () if self._number is None else (f"/dev/{_MODULE}{self._number}",)

    def path(self, attribute: str) -> str:
        """Return the path of an attribute of its misc device; of device 0 while it has none."""
        return f"{self.node.sysfs_root}/devices/virtual/misc/{_MODULE}{self._number or 0}/{attribute}"

    def plug(self) -> None:
        """Add it to the bus and bind its driver."""
        self.bus_device.plug()
        self.bind()

    def remove(self) -> None:
        """Unbind its driver and remove it from the bus, as an overheated device does (DS1010)."""
        self.unbind()
        self.bus_device.unplug()

    def bind(self) -> None:
        """Bind `transcoder`."""
        self.bus_device.bind(_DRIVER, module=_MODULE)
        self._number = self._numbers.take(0)
        name = f"{_MODULE}{self._number}"
        number = (_MISC_MAJOR, _FIRST_MINOR + self._number)
        self.node.add_class_device("misc", name, f"/dev/{name}", number, self._attributes())

    def unbind(self) -> None:
        """Unbind `transcoder`."""
        if self._number is None:
            return
        name = f"{_MODULE}{self._number}"
        self.node.remove_class_device("misc", name, f"/dev/{name}")
        self._numbers.free(self._number)
        self._number = None
        self.bus_device.unbind()

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
