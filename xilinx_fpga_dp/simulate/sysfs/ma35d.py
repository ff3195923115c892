"""Cards of `transcoder`, the driver of AMD's AMA video SDK: an Alveo MA35D.

`binding` plays the probe in its order: the misc device and its node appear first, with `hw_err`, then
`bus_id` and the link; the attributes of the firmware follow when it runs, after up to 30 s, and the codecs
last. A failed probe removes the misc device (`unbind`). `enable_vfs` releases the codecs of a device to
virtual functions, each with a misc device of its own; the node of the device stays.
Source files in comments are those of the SDK's kernel module (kmod.tar.gz), which is under the GPL. The
numbers of sensors are examples.
"""

import os
from collections.abc import Iterator, Mapping, Sequence

from xilinx_fpga_dp.simulate.sysfs.boards import Ma35dBoard
from xilinx_fpga_dp.simulate.sysfs.bus import Numbers, PciFunction, Tree
from xilinx_fpga_dp.simulate.sysfs.files import Content, link
from xilinx_fpga_dp.simulate.sysfs.sample_card import SampleCard, serial_of

_DRIVER = "transcoder"
_MODULE = "ama_transcoder"
_MISC_MAJOR = 10  # misc.h MISC_MAJOR
_FIRST_MINOR = 120  # an example: the kernel assigns it
_MAX_VFS = 2  # of the capability; made up

# transcoder.c trans_sysfs_entries
_CORE = {"drv_log": "2", "drv_rev": "1.5.0", "hw_err": "0x0"}
# pcie.c trans_pcie_pf_sysfs_entries; most are for writing
_PCIE_PF = {
    **dict.fromkeys(
        ("trig_zsp_int", "flr_mode", "flr_chk", "pw_cold", "send_date_to_vf1", "send_date_to_vf2"), ""
    ),
    "isolate_vf": "0x0 - two VF\n0x0 - no-isolate, fps_limit:0 ",
    "err_bypass": "echo 1: bypass;  0: no bypass\ns1:0x0 - no-bypass  s2:0x0 - no-bypass",
    "vf_count": "one VF mode",
}
_LINK_STATUS = "Speed = 32GT/s, Width = x4"
# hw_monitor.c sn_pf_zsp_sysfs_entries
_FIRMWARE_PF = {
    **dict.fromkeys(("pvt_process", "pvt_process_sensor0", "pvt_process_sensor1", "pvt_process_sensor2"), ""),
    "reset_zsp": "",
    "flash_status": "<<<Flash Status>>>\n Flash Status = 0",
    "sc_update_flag": "",
    "sc_update_status": "<<<SC Update Status>>>\n SC Update Status = 0",
}
_VERSIONS = {
    "ZSP": "1.2.14",
    "SC": "1.2.3",
    "eSecure": "1.0.6",
    "PCIe FW": "1.3.2",
    "PCIe CTRL Patch": "1.0.1",
    "PCIe PHY Patch A": "1.0.1",
}
_BOARD = {
    "3V PEX Voltage": "3305 mV",
    "3V AUX Voltage": "3291 mV",
    "12V PEX Voltage": "12160 mV",
    "3V PEX Current": "310 mA",
    "3V AUX Current": "60 mA",
    "12V PEX Current": "1190 mA",
    "VRM ASIC1 Voltage": "751 mV",
    "VRM ASIC2 Voltage": "752 mV",
    "VRM ASIC1 Current": "4100 mA",
    "VRM ASIC2 Current": "3900 mA",
    **{f"ADC Voltage CH{channel}": "1200 mV" for channel in (0, 1, 2, 3, 4, 5, 10)},
}
_DDR_CHANNELS = 8


class Ma35dCard(SampleCard):
    """One of the two devices of an MA35D, or a virtual function of one; each device has its own PCIe link.

    An attribute is named by its path in the device's directory of class `misc`: ``bus_id``, ``device_info``.

    Attributes:
        virtual_functions: the enabled ones.
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
        virtual: int = 0,
    ) -> None:
        super().__init__(node)
        self.board = board
        self.slot = slot
        address = f"{slot}.{virtual}"
        ids = board.vf_ids if virtual else board.ids
        self._function = self.bus_device = PciFunction(
            node, address, ids, node.bus_above(address, behind), numa_node
        )
        self.serial = serial_of(slot) if serial is None else serial
        self.virtual_functions: list[Ma35dCard] = []
        self._numa_node, self._behind = numa_node, behind
        self._virtual = virtual  # the number of the function in the slot; 0: it is the device itself
        self._load = 0.0
        self._numbers = numbers
        self._number: int | None = None
        self._plugged = False

    @property
    def title(self) -> str:
        """Its product name."""
        return self.board.product

    @property
    def nodes(self) -> tuple[str, ...]:
        """Its character device, ``/dev/ama_transcoder0``; empty while virtual functions have its codecs."""
        if self._number is None or self.virtual_functions:
            return ()
        return (f"/dev/{_MODULE}{self._number}",)

    def path(self, attribute: str) -> str:
        """Return the path of an attribute of its misc device; of device 0 while it has none."""
        return f"{self.node.sysfs_root}/devices/virtual/misc/{_MODULE}{self._number or 0}/{attribute}"

    def plug(self) -> None:
        """Add it to the bus, bind its driver, and enable the virtual functions of its board."""
        self._function.plug()
        self._plugged = True
        if not self._virtual:
            self._write_vfs(0)
        self.bind()
        if not self._virtual and self.board.vfs:
            self.enable_vfs(self.board.vfs)

    def remove(self) -> None:
        """Unbind its driver and remove it from the bus, as an overheated device does (DS1010)."""
        if self._plugged:
            self.unbind()
            self._function.unplug()
            self._plugged = False

    def bind(self) -> None:
        """Bind `transcoder`."""
        for _ in self.binding():
            pass

    def binding(self) -> Iterator[str]:
        """Bind step by step; yield the name of each finished step (transcoder.c sn_trans_probe)."""
        if not self._plugged:
            return
        self._function.bind(_DRIVER, module=_MODULE)
        yield "driver"
        self._number = self._numbers.take(0)
        name = f"{_MODULE}{self._number}"
        number = (_MISC_MAJOR, _FIRST_MINOR + self._number)
        self.node.add_class_device("misc", name, f"/dev/{name}", number, {})
        yield "node"
        for step, attributes in self._groups():
            for attribute, content in attributes.items():
                self.write(attribute, content)
            yield step

    def unbind(self) -> None:
        """Unbind `transcoder`; its virtual functions go (transcoder.c sn_trans_remove)."""
        if self._number is None:
            return
        self.disable_vfs()
        name = f"{_MODULE}{self._number}"
        self.node.remove_class_device("misc", name, f"/dev/{name}")
        self._numbers.free(self._number)
        self._number = None
        self._function.unbind()

    def mend(self) -> None:
        """Set every attribute to the value of a healthy card, if it has a misc device."""
        if self._number is not None:
            super().mend()

    def work(self, load: float) -> None:
        """Let its sensors show a load, if it has a misc device with them."""
        self._load = load
        for name in ("board_power", "board_temp", "board_vc", "pvt_temperature"):
            if self._number is not None and os.path.isfile(self.path(name)):
                self.write(name, self._firmware_attributes()[name])

    def hw_error(self, code: int = 0xDEADDEAD) -> None:
        """Set the sticky error of the chip; codecs refuse work then (transcoder.c hw_err_show)."""
        self.write("hw_err", f"0x{code:x}")

    def enable_vfs(self, count: int = 1) -> "list[Ma35dCard]":
        """Give its codecs to virtual functions, as a write to `sriov_numvfs` (pcie.c sn_sriov_configure)."""
        self.node.files.drop(self.path("perf"))
        for number in range(1, count + 1):
            card = Ma35dCard(
                self.node, self._numbers, self.board, self.slot,
                serial=self.serial, numa_node=self._numa_node, behind=self._behind, virtual=number,
            )  # fmt: skip
            card.plug()
            self.virtual_functions.append(card)
            self._function.write(
                f"virtfn{number - 1}", link(f"{self._function.path}/virtfn{number - 1}", card.user)
            )
            card._function.write("physfn", link(f"{card.user}/physfn", self._function.path))
        self._write_vfs(count)
        return self.virtual_functions

    def disable_vfs(self) -> None:
        """Take its codecs back."""
        if not self.virtual_functions:
            return
        for index, card in enumerate(self.virtual_functions):
            self._function.drop(f"virtfn{index}")
            card.remove()
        self.virtual_functions = []
        self._write_vfs(0)
        self.mend()

    def _write_vfs(self, count: int) -> None:
        """Set the attributes of the PCI core for virtual functions (drivers/pci/iov.c)."""
        texts = {"sriov_numvfs": count, "sriov_totalvfs": _MAX_VFS, "sriov_drivers_autoprobe": 1}
        for name, number in texts.items():
            self._function.write(name, str(number))

    def _attributes(self) -> Mapping[str, Content]:
        groups = self._groups()
        if self.virtual_functions:
            groups = groups[:-1]
        return {name: content for _, group in groups for name, content in group.items()}

    def _groups(self) -> Sequence[tuple[str, Mapping[str, Content]]]:
        """Return the attributes by the step of the probe in which they appear."""
        pcie = {} if self._virtual else _PCIE_PF
        firmware = {} if self._virtual else _FIRMWARE_PF
        return (
            ("hw_err", _CORE),
            ("bus_id", {**pcie, "link_status": _LINK_STATUS, "bus_id": self.address}),
            ("device_info", {**firmware, **self._firmware_attributes()}),
            ("codecs", {"perf": {"gc620": {"load0": "0", "load1": "0"}}}),
        )

    def _firmware_attributes(self) -> dict[str, Content]:
        """Return the attributes of the running firmware (hw_monitor.c sn_zsp_sysfs_entries)."""
        ids = self.board.ids
        amperes, degrees = round(1900 * self._load), round(20 * self._load)
        board = {**_BOARD, "12V PEX Current": f"{1190 + amperes} mA"}
        power = 12160 * (1190 + amperes) // 1000 + 3305 * 310 // 1000 + 3291 * 60 // 1000
        bandwidths = {
            f"ddrbw_s{half}_{bus}_{way}_MBps": "0 0 0 0"
            for half in (1, 2)
            for bus in ("axi", "dfi")
            for way in ("r", "w")
        }
        errors = (
            f"ddr channel {channel} :error uncorrectable counter =0 error correctable counter =0 \n "
            for channel in range(_DDR_CHANNELS)
        )
        sram = "THS {} axi sram :error uncorrectable counter =0, error correctable counter =0 \n"
        return {
            "version_information": "<<<Version Info>>>\n"
            + "".join(f"\t {name} Version = {version}\n" for name, version in _VERSIONS.items()),
            "pcie_error_information": "pcie uncorrected error counter =0 corrected error counter =0",
            "ddr_error_information": "".join(errors).encode(),
            "axi_sram_error_information": sram.format(1) + sram.format(2),
            "pvt_voltage": "<<<Voltage>>>\n sensor0(0.75v)=751 mV;\n sensor1(0.75v)=752 mV;\n "
            "sensor2(0.85v)=853 mV;\n sensor3(0.75v)=751 mV;",
            "pvt_temperature": "<<<Temperature>>>\n"
            + "\n".join(f" sensor{number}={each + degrees};" for number, each in enumerate((43, 44, 42))),
            "uptime_s": "86400",
            **bandwidths,
            "board_temp": f"<<<Board temperature>>> \n \tBoard Temperature = {37 + degrees // 3}\n"
            f"\t VRM Temperature = {41 + degrees}\n\t VRM Max Temperature = {46 + degrees}",
            "board_power": f" <<<Board power>>> \n Board Power = {power} mW ",
            "board_vc": "<<<Board Voltage, Current>>>\n"
            + "".join(f"\t {name} = {value}\n" for name, value in board.items()),
            "device_info": "<<<Device Info>>>\n"
            f" Product name = {self.board.product}\n"
            " Product revision = A\n"
            f" Product serial number = {self.serial}\n"
            " Part number = 05175-02\n"
            " OEM ID = 0x10da \n"
            f" PCIe vendor ID = 0x{ids.vendor}\n"
            f" PCIe device ID = 0x{ids.device}\n"
            " PCIe sub vendor ID = 0x10ee\n"
            " PCIe sub device ID = 0xe\n"
            " Max power mode = 0",
            "asic_num": f"<<<ASIC Number>>>\n ASIC Num = {int(self.slot.split(':')[1], 16) % 2}",
            "err_code": "ZSP error code = 0\nDDR init retry count = 0",
            "reset_encoder_fw": "",
        }
