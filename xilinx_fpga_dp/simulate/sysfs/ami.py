"""Cards of `ami`, the driver of AVED and of AMR, its successor: an Alveo V80, an Embedded+ board.

Loading the driver (`AmiDriver`) creates its attributes and a first node, which belongs to no card. `bind`
of a card creates a hwmon device, the attributes of function 0 and a node with the next number; a number is
never used again, so a card has another node after each bind. The driver's attribute `devices` lists the
bound cards. `enter` sets the state that the driver prints for the card. AMR names the node of a card by
its address, and keeps the rest.
Source files in comments are relative to sw/AMI/driver in https://github.com/Xilinx/AVED, version 2.4.0, and
https://github.com/Xilinx/amr, version 3.0.0; those that begin with slash to driver in
https://github.com/Xilinx/SLASH.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from xilinx_fpga_dp.simulate.sysfs.boards import AmiBoard
from xilinx_fpga_dp.simulate.sysfs.bus import PciFunction, Tree
from xilinx_fpga_dp.simulate.sysfs.files import Content
from xilinx_fpga_dp.simulate.sysfs.sample_card import SampleCard, serial_of

State: TypeAlias = Literal["INIT", "READY", "MISSING_INFO", "NO_AMC", "INIT_ERROR", "SHUTDOWN", "COMPAT"]

_DRIVER = "ami"  # ami_cdev.h: KBUILD_MODNAME names the driver, the class and the nodes
# ami.h MDL_VERSION; ami_driver_version.h, printed by ami_top.c version_show
_VERSIONS = {False: ("1.0.0", "2.4.0 +0 *0"), True: ("3.0.0", "3.0.0 +0 *0")}  # by whether it is AMR's
_MAJOR = 510  # an example: the kernel assigns it
_MISC_MAJOR = 10  # misc.h MISC_MAJOR
_SLASH_MINOR = 60  # an example: the kernel assigns it
# slash_config.h: by driver, the name of its misc devices and their mode
_SLASH_DEVICES = {"slash_qdma": "slash_qdma_ctl", "slash_ctl": "slash_ctl"}
_SLASH_MODE = 0o600
# ami_hwmon.c, in the units of the kernel's hwmon interface. The firmware chooses the labels; these and the
# numbers are examples.
_SENSORS = {
    "temp1": ("PCB", 34000, 85000),
    "temp2": ("Device", 45000, 97000),
    "in0": ("1V2_VCC_HBM", 1200, 1260),
    "curr1": ("1V2_VCC_HBM", 970, 30000),
    "power1": ("Total_Power", 24030000, 300000000),
}
# How much more a sensor shows under full load
_LOAD = {"temp1": 8000, "temp2": 20_000, "power1": 60_000_000}
_HWMON: Mapping[str, str] = {
    "name": "Alveo",
    "update_interval": "1000",
    **{
        f"{sensor}_{name}": text
        for sensor, (label, value, limit) in _SENSORS.items()
        for name, text in {
            "label": label,
            "input": str(value),
            "max": str(limit - limit // 10),
            "crit": str(limit),
            "alarm": "0",
            "status": "Sensor Present and Valid",
        }.items()
    },
}


class AmiDriver:
    """The loaded driver: its attributes, its own node and the number of the next node.

    Attributes:
        version: as the driver prints it.
        module_version: of its module.
    """

    def __init__(self, node: Tree, *, amr: bool) -> None:
        self._node = node
        self._amr = amr
        self.module_version, self.version = _VERSIONS[amr]
        # By address: the number and the name of the node, and the number of the hwmon device
        self._cards: dict[str, tuple[int, str, int]] = {}
        self._slash: dict[str, list[str]] = {}  # by driver, the functions whose nodes it has numbered
        self._count = 0
        self._directory = f"{node.sysfs_root}/bus/pci/drivers/{_DRIVER}"
        node.files.put(self._directory, {"version": self.version, "ami_debug_enabled": "0"})
        self._add_device(f"{_DRIVER}0")  # the node without a card: ami_top.c register_driver_kernel
        self._write_devices()

    def _add_device(self, name: str) -> None:
        """Create the next node; a number is never used again (ami_top.c pf_dev_index)."""
        self._node.add_class_device(_DRIVER, name, f"/dev/{name}", (_MAJOR, self._count), {})
        self._count += 1

    def add_card(self, address: str, hwmon: int) -> str:
        """Create the node of a card; return its name, in AMR ``ami-bdf-c1:00.0`` (ami_top.c bdf_str)."""
        number = self._count
        name = f"{_DRIVER}-bdf-{address.partition(':')[2]}" if self._amr else f"{_DRIVER}{number}"
        self._add_device(name)
        self._cards[address] = (number, name, hwmon)
        self._write_devices()
        return name

    def remove_card(self, address: str) -> None:
        """Remove the node of a card."""
        _, name, _ = self._cards.pop(address)
        self._node.remove_class_device(_DRIVER, name, f"/dev/{name}")
        self._write_devices()

    def slash_number(self, driver: str, address: str) -> int:
        """Return the number of SLASH for a function, which it keeps (slash_ctldev.c, slash_qdma.c)."""
        numbered = self._slash.setdefault(driver, [])
        if address not in numbered:
            numbered.append(address)
        return numbered.index(address)

    def _write_devices(self) -> None:
        """Write the attribute `devices`: the number of cards, then a line each.

        A line has the address without domain, the number of the node and that of the hwmon device (ami_top.c
        create_map_str).
        """
        rows = [
            f"{address.partition(':')[2]} {number} {hwmon}"
            for address, (number, _, hwmon) in sorted(self._cards.items())
        ]
        self._node.files.put(f"{self._directory}/devices", "\n".join([str(len(rows)), *rows]))


class AmiCard(SampleCard):
    """A card of `ami`, which is bound to function 0; other drivers are bound to its other functions.

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
        self.bus_device = PciFunction(node, f"{slot}.0", board.ids, above, numa_node)
        self._others = [
            (PciFunction(node, f"{slot}.{number}", ids, above, numa_node), driver)
            for number, (ids, driver) in enumerate(board.others, 1)
        ]
        self.serial = serial_of(slot) if serial is None else serial
        self._driver = driver
        self._name: str | None = None  # of its node
        self._hwmon = -1

    @property
    def title(self) -> str:
        """Its product name."""
        return self.board.product

    @property
    def nodes(self) -> tuple[str, ...]:
        """Its character device, ``/dev/ami1``, or ``/dev/ami-bdf-c1:00.0``."""
        return (f"/dev/{self._name}",) if self._name else ()

    @property
    def others(self) -> list[PciFunction]:
        """Its functions other than function 0."""
        return [function for function, _ in self._others]

    @property
    def slash_nodes(self) -> tuple[str, ...]:
        """The nodes of SLASH for its data, ``/dev/slash_qdma_ctl0``; empty without SLASH."""
        return tuple(self._slash_device(*each)[1] for each in self._others if each[1] in _SLASH_DEVICES)

    def plug(self) -> None:
        """Add its functions to the bus and bind their drivers."""
        self.bus_device.plug()
        for function, driver in self._others:
            function.plug()
            if driver not in _SLASH_DEVICES:
                function.bind(driver)
                function.write("qdma", {"qmax": str(self.board.queues)})
                for minor, (name, node) in enumerate(self._queues(function)):
                    self.node.add_class_device(
                        driver, name, node, (_MAJOR - 1, minor), {}, parent=function.path
                    )
                continue
            function.bind(driver, module="slash")
            name, node, number = self._slash_device(function, driver)
            self.node.add_class_device(
                "misc", name, node, (_MISC_MAJOR, number), {}, parent=function.path, mode=_SLASH_MODE
            )
        self.bind()

    def remove(self) -> None:
        """Unbind its drivers and remove it from the bus, as a hot reset also does."""
        self.unbind()
        self.bus_device.unplug()
        for function, driver in self._others:
            if driver in _SLASH_DEVICES:
                self.node.remove_class_device("misc", *self._slash_device(function, driver)[:2])
            else:
                for name, node in self._queues(function):
                    self.node.remove_class_device(driver, name, node)
            function.unbind()
            function.unplug()

    def _queues(self, function: PciFunction) -> list[tuple[str, str]]:
        """Return the names of its queues and their nodes: qdma_mod.c, bus, device and function in hex."""
        start = "qdma" + re.sub("[:.]", "", function.address.partition(":")[2])
        return [(f"{start}-MM-{queue}", f"/dev/{start}-MM-{queue}") for queue in range(self.board.queues)]

    def _slash_device(self, function: PciFunction, driver: str) -> tuple[str, str, int]:
        """Return the name of a misc device of SLASH, its node, which is named otherwise, and the minor."""
        kind = _SLASH_DEVICES[driver]
        number = self._driver.slash_number(driver, function.address)
        minor = _SLASH_MINOR + 2 * number + list(_SLASH_DEVICES).index(driver)
        return f"{kind}_{function.address}", f"/dev/{kind}{number}", minor

    def bind(self) -> None:
        """Bind `ami` to function 0 (ami_top.c create_pf_dev_data); it refuses the id of function 1."""
        self.bus_device.bind(_DRIVER, self._driver.module_version)
        self._hwmon = self.bus_device.add_hwmon(_HWMON)
        self.mend()
        self._name = self._driver.add_card(self.address, self._hwmon)

    def unbind(self) -> None:
        """Unbind `ami` from function 0."""
        if self._name is None:
            return
        self._driver.remove_card(self.address)
        self._name = None
        self.bus_device.remove_hwmon(self._hwmon)
        self.bus_device.drop(*self._attributes())
        self.bus_device.unbind()

    def work(self, load: float) -> None:
        """Let its sensors show a load, short of the critical values."""
        for sensor, more in _LOAD.items():
            path = self.path(f"hwmon/hwmon{self._hwmon}/{sensor}_input")
            if os.path.isfile(path):
                _, value, limit = _SENSORS[sensor]
                self.node.files.put(path, str(min(value + round(more * load), limit - limit // 10)))

    def enter(self, state: State) -> None:
        """Set its state (ami_top.h); `NO_AMC`: the management controller does not respond."""
        self.write("dev_state", state)

    def _attributes(self) -> Mapping[str, Content]:
        """Return the attributes of function 0 (ami_sysfs.c mgmt_attrs).

        The driver cuts a text of the EEPROM to the length of its record (read_mfg_field), so names and
        serial numbers have no newline. The record of a card without serial number is empty.
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
            "amc_version": self._driver.version,
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
