"""The cards a sample node can have, and what each XRT release shows of a card. Tables, no files.

What a release has was compared over XRT's branches 2018.3 to 2026.1; the source named with a table is
relative to the driver's folder there, src/runtime_src/core/pcie/driver/linux/xocl.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One kind of card with a shell on it, as its drivers show it.

    Attributes:
        vbnv, timestamp: as the driver prints them; a shell with metadata has timestamp 0.
        user_id, mgmt_id: PCI device ids, four hex digits; no ``mgmt_id``: no management function.
        source: where the values were seen.
        metadata: the shell brings a device tree (2RP); without one (1RP, AWS) the driver refuses
            to read its uuids (userpf/xocl_sysfs.c logic_uuids_show).
        logic_uuid, interface_uuid: 32 lower-case hex digits; None with metadata: not known, one is made up.
        base_uuid: of the base that the shell was programmed on, for a shell in two stages.
        monitor: the sub-device that knows the serial number, if there is one.
        dma: its DMA sub-device.
        firewall: it has a `firewall.u` sub-device.
        expansion_rom: the kernel shows its plain file `rom`.
        user_function: the user function's number in the slot.
        golden_id: of its factory image; None: the `mgmt_id` with a D in front.
        release: of XRT, unless the node is told another.
    """

    vbnv: str
    timestamp: int = 0
    user_id: str
    mgmt_id: str | None = None
    source: str
    vendor: str = "10ee"
    subsystem: tuple[str, str] = ("10ee", "000e")
    pci_class: str = "120000"
    metadata: bool = True
    logic_uuid: str | None = None
    interface_uuid: str | None = None
    base_uuid: str | None = None
    monitor: str | None = "xmc"
    dma: str = "dma.xdma"
    firewall: bool = True
    versal: bool = False
    expansion_rom: bool = False
    user_function: int = 1
    golden_id: str | None = None
    release: str = "2022.2"

    @property
    def name(self) -> str:
        """The card's type as in the driver's ``board_name``."""
        return "_".join(self.vbnv.split("_")[1:2]).lower()


def _1rp(vbnv: str, timestamp: int, ids: tuple[str, str], source: str) -> Board:
    user, mgmt = ids
    return Board(vbnv=vbnv, timestamp=timestamp, user_id=user, mgmt_id=mgmt, source=source, metadata=False)


_XRT = "https://github.com/Xilinx/XRT/pull/"
_VIDEO_SDK = "Xilinx/video-sdk, card management guide"

_U200 = _1rp("xilinx_u200_xdma_201830_2", 1561465320, ("5001", "5000"), f"{_XRT}5616")
_U30 = Board(
    vbnv="xilinx_u30_gen3x4_base_1",
    user_id="513d",
    mgmt_id="513c",
    source=_VIDEO_SDK,
    logic_uuid="1b5feb2a91b6818da3e8d9867de17da0",
    interface_uuid="937ed70867cf3350bc06304053f4293c",
)

BOARDS: Mapping[str, Board] = {
    "u200": _U200,
    "u200-2019.1": replace(_U200, release="2019.1"),
    "u200-2018.3": replace(
        _1rp(
            "xilinx_u200_xdma_201820_1",
            1535712995,
            ("5001", "5000"),
            "Xilinx/FPGA_as_a_Service, docs of its Kubernetes plugin",
        ),
        release="2018.3",
    ),
    "u200-2rp": Board(
        vbnv="xilinx_u200_gen3x16_xdma_base_1",
        user_id="5001",
        mgmt_id="5000",
        source=f"{_XRT}5750",
        logic_uuid="15fb8da1f552a9f923de6dc54aa8968f",
    ),
    "u250": _1rp("xilinx_u250_xdma_201830_2", 1561656294, ("5005", "5004"), f"{_XRT}2554"),
    # A base that waits for its shell, and one that has got it (xbmgmt program --shell)
    "u250-base": Board(
        vbnv="xilinx_u250_gen3x16_base",
        user_id="5005",
        mgmt_id="5004",
        source=f"{_XRT}3455",
        logic_uuid="38932b102cb9ef9ed81d66f250097e2f",
        interface_uuid="2fc0b9d0d5500e2dbea94af4758726a2",
    ),
    "u250-2rp": Board(
        vbnv="xilinx_u250_gen3x16_xdma_shell_4_1",
        user_id="5005",
        mgmt_id="5004",
        source="xbutil output, renderD133 at 0000:88:00.1",
        base_uuid="38932b102cb9ef9ed81d66f250097e2f",  # of the base above; this one's is not known
    ),
    "u280": Board(
        vbnv="xilinx_u280_gen3x16_xdma_base_1",
        user_id="500d",
        mgmt_id="500c",
        source="xbutil output, renderD132 at 0000:3d:00.1",
    ),
    # A U30 card is two of these with one serial number
    "u30": _U30,
    "u30-vt1": replace(
        _U30, mgmt_id=None, user_function=0, source="https://github.com/Xilinx/video-sdk/issues/8"
    ),
    "u50": Board(
        vbnv="xilinx_u50_gen3x16_xdma_201920_3",
        user_id="5021",
        mgmt_id="5020",
        source="xbutil output; lspci in XRT's doc/toc/security.rst",
        logic_uuid="f465b0a3ae8c64f619bc150384ace69b",
        interface_uuid="862c7020a250293e32036f19956669e5",
    ),
    "u55c": Board(
        vbnv="xilinx_u55c_gen3x16_xdma_base_3",
        user_id="505d",
        mgmt_id="505c",
        source=f"{_XRT}7902",
        logic_uuid="97088961feaeda9152a21d9dfd63ccef",
        interface_uuid="b7ac1abe1e3e1cb686d5a81232452676",
        expansion_rom=True,
    ),
    "u55n": Board(
        vbnv="xilinx_u55n_gen3x4_xdma_base_2",
        user_id="5059",
        mgmt_id="5058",
        source=f"{_XRT}5682",
        logic_uuid="83f843c29fc5103979167817fbd1fe42",
        interface_uuid="28483a7a1386a4f14fc2f28b3d0a658c",
    ),
    "u2": Board(
        vbnv="xilinx_u2_gen3x4_xdma_base_1",
        user_id="6988",
        mgmt_id="6987",
        source=f"{_XRT}4408",
        subsystem=("10ee", "1351"),
        monitor="xmc.u2",
    ),
    "v70": Board(
        vbnv="xilinx_v70_gen5x8_qdma_base_2",
        user_id="5095",
        mgmt_id="5094",
        source="Vitis-AI, V70 docs",
        logic_uuid="56b8085334d65bf285372ef76178cf95",
        monitor="hwmon_sdm",
        dma="dma.qdma",
        firewall=False,  # devices.h RES_USER_V70_VSEC
        versal=True,
    ),
    "vck5000": Board(
        vbnv="xilinx_vck5000_gen3x16_xdma_base_1",
        user_id="5049",
        mgmt_id="5048",
        source="xbutil output, renderD129 at 0000:0b:00.1",
        pci_class="058000",  # "Memory controller" in lspci
        logic_uuid="a96adb1f78c8beac917381fef01b08cd",
        interface_uuid="e221a0ff8695d5eb8725fc65147f90c3",
        firewall=False,  # devices.h RES_USER_VERSAL_VSEC
        versal=True,
    ),
}
"""The boards by the name `simulate --board` knows them by. Values as seen on real nodes."""
