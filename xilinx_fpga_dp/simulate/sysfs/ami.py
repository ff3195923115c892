"""Cards driven by `ami`, the driver of AVED: an Alveo V80.

The source named with a step is relative to sw/AMI/driver in https://github.com/Xilinx/AVED, version 2.4.0.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from xilinx_fpga_dp.simulate.sysfs.boards import AmiBoard
from xilinx_fpga_dp.simulate.sysfs.bus import PciFunction, Tree
from xilinx_fpga_dp.simulate.sysfs.files import Content, link
from xilinx_fpga_dp.simulate.sysfs.sample_card import SampleCard

State: TypeAlias = Literal["INIT", "READY", "MISSING_INFO", "NO_AMC", "INIT_ERROR", "SHUTDOWN", "COMPAT"]

_DRIVER = "ami"  # ami_cdev.h: KBUILD_MODNAME names the driver, the class and the nodes
_MODULE_VERSION = "1.0.0"  # ami.h MDL_VERSION
_VERSION = "2.4.0 +0 *0"  # ami_driver_version.h, printed by ami_top.c version_show
_MAJOR = 510  # any dynamic one
_DMA_DRIVER = "qdma-pf"


class AmiDriver:
    """What the driver has once for all its cards: its attributes, its own node, its count of nodes."""

    def __init__(self, node: Tree) -> None:
        self._node = node
        self._cards: dict[str, tuple[int, int]] = {}  # by address: the numbers of node and hwmon device
        self._count = 0
        folder = f"{node.sysfs_root}/bus/pci/drivers/{_DRIVER}"
        self.folder = folder
        node.files.put(folder, {"version": _VERSION, "ami_debug_enabled": "0"})
        self.add_device()  # the driver's own, without a card: ami_top.c register_driver_kernel
        self._tell()

    def add_device(self) -> int:
        """Make the next node; a number is never given twice (ami_top.c pf_dev_index)."""
        number = self._count
        self._count += 1
        name = f"{_DRIVER}{number}"
        self._node.add_class_device(_DRIVER, name, f"/dev/{name}", (_MAJOR, number), {})
        return number

    def take(self, address: str, hwmon: int) -> int:
        """A card is probed; answers the number of its node."""
        number = self.add_device()
        self._cards[address] = (number, hwmon)
        self._tell()
        return number

    def leave(self, address: str) -> None:
        """A card is gone, and its node with it."""
        number, _ = self._cards.pop(address)
        self._node.remove_class_device(_DRIVER, f"{_DRIVER}{number}", f"/dev/{_DRIVER}{number}")
        self._tell()

    def _tell(self) -> None:
        """The attribute `devices`: how many there are, then a line each, its bus, node and hwmon device.

        ami_top.c create_map_str; the domain is not printed.
        """
        rows = [
            f"{address.partition(':')[2]} {number} {hwmon}"
            for address, (number, hwmon) in sorted(self._cards.items())
        ]
        self._node.files.put(f"{self.folder}/devices", "\n".join([str(len(rows)), *rows]))


class AmiCard(SampleCard):
    """A card of AVED: `ami` has function 0 and its attributes, `qdma-pf` function 1.

    An attribute is named by its path in the directory of function 0: ``dev_state``, ``board_serial``.
    """

    def __init__(
        self,
        node: Tree,
        driver: AmiDriver,
        board: AmiBoard,
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
        self._dma = PciFunction(node, f"{slot}.1", board.dma_ids, above, numa_node)
        self.serial = f"XFL1{slot.replace(':', '')[-8:].upper()}" if serial is None else serial
        self._driver = driver
        self._number: int | None = None
        self._hwmon = -1

    @property
    def title(self) -> str:
        """Its product name."""
        return self.board.product

    @property
    def address(self) -> str:
        """Of function 0."""
        return self._function.address

    @property
    def user(self) -> str:
        """The directory of function 0."""
        return self._function.path

    @property
    def nodes(self) -> tuple[str, ...]:
        """Its character device, ``/dev/ami1``."""
        return () if self._number is None else (f"/dev/{_DRIVER}{self._number}",)

    def path(self, attribute: str) -> str:
        """The path of an attribute of function 0."""
        return f"{self._function.path}/{attribute}"

    def plug(self) -> None:
        """Let the bus find both functions and their drivers take them."""
        self._function.plug()
        self._dma.plug()
        self._dma.bind(_DMA_DRIVER)
        self._dma.write("qdma", {"qmax": "0"})
        self.bind()

    def remove(self) -> None:
        """Pull it; a hot reset does so too, and the card comes back with another node."""
        self.unbind()
        self._function.unplug()
        self._dma.unbind()
        self._dma.unplug()

    def bind(self) -> None:
        """Let `ami` take function 0 (ami_top.c create_pf_dev_data); it refuses function 1's id."""
        self._function.bind(_DRIVER, _MODULE_VERSION)
        self._hwmon = self.node.hwmons.take(0)
        hwmon = f"hwmon{self._hwmon}"
        self._function.write("hwmon", {hwmon: {"name": "Alveo"}})
        path = f"{self.node.sysfs_root}/class/hwmon/{hwmon}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self.node.files.put(path, link(path, f"{self._function.path}/hwmon/{hwmon}"))
        self.mend()
        self._number = self._driver.take(self.address, self._hwmon)

    def unbind(self) -> None:
        """Let `ami` go."""
        if self._number is None:
            return
        self._driver.leave(self.address)
        self._number = None
        self.node.files.drop(f"{self.node.sysfs_root}/class/hwmon/hwmon{self._hwmon}")
        self.node.hwmons.free(self._hwmon)
        self._function.drop(*self._attributes(), "hwmon")
        self._function.unbind()

    def enter(self, state: State) -> None:
        """Let it be in a state (ami_top.h): a dead management controller shows as `NO_AMC`."""
        self.write("dev_state", state)

    def mend(self) -> None:
        """Let every attribute say what it does on a healthy card."""
        for name, content in self._attributes().items():
            self._function.write(name, content)

    def _attributes(self) -> Mapping[str, Content]:
        """The attributes of function 0: ami_sysfs.c mgmt_attrs.

        The texts of its EEPROM are cut to the length the controller tells (read_mfg_field), so a name and
        a serial number end without a newline; without a serial the record is empty.
        """
        board = self.board
        return {
            "logic_uuid": board.logic_uuid,
            "link_speed_max": "5",
            "link_speed_current": "5",
            "link_width_max": "8",
            "link_width_current": "8",
            "dev_state": "READY",
            "dev_name": board.product.encode(),
            "amc_version": _VERSION,
            "eeprom_version": b"4.0",
            "product_name": board.product.encode(),
            "board_rev": b"A",
            "board_serial": self.serial.encode(),
            "memory_size": b"32GB",
            "part_num": b"05129-01",
            "mfg_part_num": "N/A",
            "mac_addr_count": "4",
            "mac_addr": "00:0a:35:00:00:00",
            "mac_addr_n": "00:0a:35:00:00:03",
            "active_state": "Passive",
            "fpga_config_mode": "OSPI",
            "mfg_date": "0",
            "mfg_uuid": "00000000-0000-0000-0000-000000000000",
            "pcie_id": f"{board.ids.vendor}, {board.ids.device}, 10ee, 000e",
            "power_mode": "300W",
            "oem_id": "N/A",
            "mfg_capability": "N/A",
        }
