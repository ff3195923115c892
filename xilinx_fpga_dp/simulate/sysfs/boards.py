"""The boards that a sample node can have, by the name that `simulate --board` takes: tables only.

``source`` names the source of a board's values. ``seen`` is False for values that no output of real hardware
confirms; they come from tables of a driver, as XRT's
src/runtime_src/core/pcie/driver/linux/xocl/devices.h.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from xilinx_fpga_dp.simulate.sysfs.bus import Ids


@dataclass(frozen=True, slots=True, kw_only=True)
class XrtBoard:
    """A card with a shell, of the drivers of XRT.

    Attributes:
        vbnv, timestamp: as the driver prints them; a shell with metadata has timestamp 0.
        user_id, mgmt_id: PCI device ids, four hex digits; ``mgmt_id`` None: no management function.
        source: the source of the values.
        seen: whether the values come from hardware; a table of the driver has ids, but no shell.
        metadata: the shell has a device tree (2RP); without one (1RP, AWS) a read of the uuids fails
            (userpf/xocl_sysfs.c logic_uuids_show).
        logic_uuid, interface_uuid: 32 lower-case hex digits; None with metadata: unknown, and made up.
        base_uuid: the uuid of the base, for a shell in two stages.
        monitors: the sub-devices that show sensors and the serial number.
        dma: its DMA sub-device; None if it has none.
        firewall: whether it has a `firewall.u` sub-device.
        expansion_rom: whether the kernel shows the regular file `rom`.
        user_function: the number of the user function in the slot.
        twin_id: the device id of a second function in the slot to which `xocl` binds.
        beside: the ids of a function without driver in the next slot.
        provisional: its VBNV until mpd answers; None: it has one VBNV only.
        ready: whether the management function, in a virtual machine mpd, is connected.
        count: the number of devices of a card, which share one serial number.
        slots: the slots in which virtual machines show it.
        golden_id: the device id of its factory image; None: ``mgmt_id`` with a D as first digit.
        release: of XRT, unless `SampleNode.add_card` gets another.
    """

    vbnv: str
    timestamp: int = 0
    user_id: str
    mgmt_id: str | None = None
    source: str
    seen: bool = True
    vendor: str = "10ee"
    subsystem: tuple[str, str] = ("10ee", "000e")
    pci_class: str = "120000"
    metadata: bool = True
    logic_uuid: str | None = None
    interface_uuid: str | None = None
    base_uuid: str | None = None
    monitors: tuple[str, ...] = ("xmc",)
    dma: str | None = "dma.xdma"
    firewall: bool = True
    versal: bool = False
    expansion_rom: bool = False
    user_function: int = 1
    golden_id: str | None = None
    twin_id: str | None = None
    beside: Ids | None = None
    provisional: str | None = None
    ready: bool = True
    count: int = 1
    slots: tuple[str, ...] = ()
    release: str = "2022.2"

    @property
    def name(self) -> str:
        """Its type, as in the driver's ``board_name``."""
        return "_".join(self.vbnv.split("_")[1:2] or [self.vbnv]).lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class AmiBoard:
    """A card of the driver `ami`.

    Attributes:
        product: its name in the EEPROM.
        ids: those of function 0, to which `ami` binds.
        others: ids and driver of its other functions.
        amr: whether the driver is that of AMR, the successor of AVED.
        queues: the queues that an administrator has made for its data, each with a node.
    """

    product: str
    ids: Ids
    others: tuple[tuple[Ids, str], ...] = ()
    amr: bool = False
    logic_uuid: str
    source: str
    seen: bool = True
    queues: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ma35dBoard:
    """A card of AMD's AMA video SDK with ``count`` devices, each with ``vfs`` enabled virtual functions."""

    product: str
    ids: Ids
    vf_ids: Ids
    vfs: int = 0
    source: str
    seen: bool = True
    count: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoclBoard:
    """A board whose chip has a processor and programmable logic.

    Attributes:
        model, compatible: the properties of the root of the device tree.
        zocl: ``compatible`` of the node of `zocl` in it (zocl_drv.c zocl_drm_of_match).
        parent: the parent of that node.
        engines: whether its AI engines are a device of the driver `amdxdna`.
    """

    model: str
    compatible: tuple[str, ...]
    source: str
    seen: bool = True
    zocl: str = "xlnx,zocl"
    parent: str = "axi"
    engines: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BareBoard:
    """PCI functions without the driver of an FPGA runtime: with another ``driver``, or with none.

    ``class_devices`` are the class, name and node of each class device that this driver creates; in braces
    stand the card's number and the parts of its address. With ``orphans`` they have no parent.
    """

    functions: tuple[Ids, ...]
    source: str
    seen: bool = True
    driver: str | None = None
    class_devices: tuple[tuple[str, str, str], ...] = ()
    orphans: bool = False
    slots: tuple[str, ...] = ()


Board: TypeAlias = XrtBoard | AmiBoard | Ma35dBoard | ZoclBoard | BareBoard


def _1rp(vbnv: str, timestamp: int, ids: tuple[str, str], source: str) -> XrtBoard:
    user, mgmt = ids
    return XrtBoard(vbnv=vbnv, timestamp=timestamp, user_id=user, mgmt_id=mgmt, source=source, metadata=False)


def _2rp(vbnv: str, ids: tuple[str, str], source: str) -> XrtBoard:
    user, mgmt = ids
    return XrtBoard(vbnv=vbnv, user_id=user, mgmt_id=mgmt, source=source)


def _table(vbnv: str, ids: tuple[str, str]) -> XrtBoard:
    """A board of which only the driver's table is published; that is its name without a shell."""
    return replace(_2rp(vbnv, ids, "XRT devices.h"), seen=False)


_XRT = "https://github.com/Xilinx/XRT/pull/"
_VIDEO_SDK = "Xilinx/video-sdk, card management guide"

_U200 = _1rp("xilinx_u200_xdma_201830_2", 1561465320, ("5001", "5000"), f"{_XRT}5616")
_U30 = XrtBoard(
    vbnv="xilinx_u30_gen3x4_base_1",
    user_id="513d",
    mgmt_id="513c",
    golden_id="d03c",
    source=_VIDEO_SDK,
    logic_uuid="1b5feb2a91b6818da3e8d9867de17da0",
    interface_uuid="937ed70867cf3350bc06304053f4293c",
    count=2,
)

# fpga_mgmt_tools/README.md in the branches master (F1) and f2 of aws/aws-fpga: the slots of an instance with
# eight FPGAs. The slot of the only FPGA of a smaller instance comes first here.
_F1_SLOTS = tuple(f"0000:00:{slot:02x}" for slot in range(0x1D, 0x0D, -2))
_F2_SLOTS = ("0000:34:00", *(f"0000:{bus}:00" for bus in ("9f", "a1", "a3", "a5", "ae", "b0", "b2", "b4")))
_AWS_FPGA = "https://github.com/aws/aws-fpga"
_AWS_TIMESTAMP = 0xABCD  # subdev/feature_rom.c

# mpd uses its management function from user space: sdk/userspace/include/hal/fpga_common.h in aws/aws-fpga
_F1 = XrtBoard(
    vbnv="xilinx_aws-vu9p-f1_shell-v04261818_201920_3",
    timestamp=_AWS_TIMESTAMP,
    user_id="f010",
    vendor="1d0f",
    source="XRT devices.h and subdev/feature_rom.c for the name, which was not seen; lspci of F1 instances",
    seen=False,
    subsystem=("fedd", "1d51"),
    pci_class="058000",  # "Memory controller" in lspci
    metadata=False,
    monitors=(),
    firewall=False,
    user_function=0,
    beside=Ids("1d0f", "1041", "058000"),
    release="2021.2",
    slots=_F1_SLOTS,
)
_F2 = replace(
    _F1,
    vbnv="xilinx_aws-vu47p-f2_xdma-shell-v10212415_202410_1",
    provisional="xilinx_aws-vu47p-f2_xdma-shell-v04052421_202410_1",  # devices.h AWS_F2_XDMA_SHELL_NAME
    user_id="9048",
    twin_id="9248",
    source=f"{_AWS_FPGA}/issues/795",
    seen=True,
    subsystem=("0000", "0000"),
    beside=None,
    release="2024.1",
    slots=_F2_SLOTS,
)
_F2_FUNCTIONS = (Ids("1d0f", "9048", "058000"), Ids("1d0f", "9248", "058000"))
_AZURE_SLOTS = (
    "d34a:00:00",
    "8c01:00:00",
    "4e22:00:00",
    "b7f0:00:00",
)  # made up: Hyper-V does not count domains

XRT_BOARDS: Mapping[str, XrtBoard] = {
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
    "u200-2rp": XrtBoard(
        vbnv="xilinx_u200_gen3x16_xdma_base_1",
        user_id="5001",
        mgmt_id="5000",
        source=f"{_XRT}5750",
        logic_uuid="15fb8da1f552a9f923de6dc54aa8968f",
    ),
    "u250": _1rp("xilinx_u250_xdma_201830_2", 1561656294, ("5005", "5004"), f"{_XRT}2554"),
    # A base without and with its shell (xbmgmt program --shell)
    "u250-base": XrtBoard(
        vbnv="xilinx_u250_gen3x16_base",
        user_id="5005",
        mgmt_id="5004",
        source=f"{_XRT}3455",
        logic_uuid="38932b102cb9ef9ed81d66f250097e2f",
        interface_uuid="2fc0b9d0d5500e2dbea94af4758726a2",
    ),
    "u250-2rp": XrtBoard(
        vbnv="xilinx_u250_gen3x16_xdma_shell_4_1",
        user_id="5005",
        mgmt_id="5004",
        source="xbutil output, renderD133 at 0000:88:00.1",
        base_uuid="38932b102cb9ef9ed81d66f250097e2f",  # of the base above; its own is unknown
    ),
    "u280": XrtBoard(
        vbnv="xilinx_u280_gen3x16_xdma_base_1",
        user_id="500d",
        mgmt_id="500c",
        source="xbutil output, renderD132 at 0000:3d:00.1",
    ),
    # A U30 card has two of these with one serial number
    "u30": _U30,
    "u30-vt1": replace(
        _U30,
        mgmt_id=None,
        user_function=0,
        source="https://github.com/Xilinx/video-sdk/issues/8",
        slots=tuple(f"0000:00:{slot:02x}" for slot in range(0x1F, 0x0F, -1)),
    ),
    "u50": XrtBoard(
        vbnv="xilinx_u50_gen3x16_xdma_201920_3",
        user_id="5021",
        mgmt_id="5020",
        source="xbutil output; lspci in XRT's doc/toc/security.rst",
        logic_uuid="f465b0a3ae8c64f619bc150384ace69b",
        interface_uuid="862c7020a250293e32036f19956669e5",
    ),
    "u50lv": _2rp(
        "xilinx_u50lv_gen3x4_xdma_base_2",
        ("5061", "5060"),
        "xbmgmt output, card 0000:c3:00.0; ids XRT devices.h",
    ),
    "u50c": _table("xilinx_u50c", ("506d", "506c")),
    "u55c": XrtBoard(
        vbnv="xilinx_u55c_gen3x16_xdma_base_3",
        user_id="505d",
        mgmt_id="505c",
        source=f"{_XRT}7902",
        logic_uuid="97088961feaeda9152a21d9dfd63ccef",
        interface_uuid="b7ac1abe1e3e1cb686d5a81232452676",
        expansion_rom=True,
    ),
    "u55n": XrtBoard(
        vbnv="xilinx_u55n_gen3x4_xdma_base_2",
        user_id="5059",
        mgmt_id="5058",
        source=f"{_XRT}5682",
        logic_uuid="83f843c29fc5103979167817fbd1fe42",
        interface_uuid="28483a7a1386a4f14fc2f28b3d0a658c",
    ),
    "u2": XrtBoard(
        vbnv="xilinx_u2_gen3x4_xdma_base_1",
        user_id="6988",
        mgmt_id="6987",
        source=f"{_XRT}4408",
        subsystem=("10ee", "1351"),
        monitors=("xmc.u2",),
        golden_id="e987",
    ),
    "u25": replace(
        _2rp("xilinx_u25_gen3x8_xdma_base_1", ("5051", "5050"), "ids XRT devices.h, shell Vitis tutorials"),
        seen=False,
        golden_id="d04c",
    ),
    "u26z": _table("xilinx_u26z", ("504f", "504e")),
    "v70": XrtBoard(
        vbnv="xilinx_v70_gen5x8_qdma_base_2",
        user_id="5095",
        mgmt_id="5094",
        source="Vitis-AI, V70 docs",
        logic_uuid="56b8085334d65bf285372ef76178cf95",
        monitors=("hwmon_sdm",),
        dma="dma.qdma",
        firewall=False,  # devices.h RES_USER_V70_VSEC
        versal=True,
    ),
    "vck5000": XrtBoard(
        vbnv="xilinx_vck5000_gen3x16_xdma_base_1",
        user_id="5049",
        mgmt_id="5048",
        source="xbutil output, renderD129 at 0000:0b:00.1",
        pci_class="058000",  # "Memory controller" in lspci
        logic_uuid="a96adb1f78c8beac917381fef01b08cd",
        interface_uuid="e221a0ff8695d5eb8725fc65147f90c3",
        # devices.h RES_USER_VERSAL_VSEC; XOCL_DSAFLAG_VERSAL_ES3 adds hwmon_sdm (userpf/xocl_drv.c)
        firewall=False,
        monitors=("xmc", "hwmon_sdm"),
        versal=True,
    ),
    "vck5000-es1": XrtBoard(
        vbnv="xilinx_vck5000-es1_gen3x16_base_2",
        user_id="5045",
        mgmt_id="5044",
        source="xbmgmt output, card 0000:02:00.0; Vitis-AI docs",
        firewall=False,
        versal=True,
    ),
    "vck190-pcie": replace(
        _table("xilinx_vck190", ("6099", "6098")),  # devices.h RES_USER_VCK190_VSEC
        versal=True,
        golden_id="e098",
    ),
    "v65": replace(_table("xilinx_v65", ("5079", "5078")), firewall=False, versal=True),
    "v70pq2": replace(
        _table("xilinx_v70pq2", ("50b1", "50b0")),
        monitors=("hwmon_sdm",),
        dma="dma.qdma",
        firewall=False,
        versal=True,
    ),
    "x3522pv": _table("xilinx_x3522pv", ("5075", "5074")),
    "ul3524": _table("xilinx_ul3x24", ("5099", "5098")),
    # Embedded+: an x86 processor and a Versal on one board. Its VBNV has no underscore
    "rave": replace(
        _table("emb-plus", ("5701", "5700")),  # devices.h RES_USER_RAVE_VSEC
        monitors=("hwmon_sdm",),
        firewall=False,
        versal=True,
        release="2024.1",
    ),
    "vcu1525": replace(
        _1rp(
            "xilinx_vcu1525_dynamic_5_1",
            1521279439,
            ("6a90", "6a8f"),
            "Xilinx/FPGA_as_a_Service, docs of its Kubernetes plugin; ids (not seen) XRT devices.h",
        ),
        subsystem=("10ee", "4353"),
        release="2018.3",
    ),
    # Ids of other vendors in XRT's drivers
    "advantech": replace(
        _1rp("advantech_vega-4000_dynamic_5_1", 0, ("0065", "006c"), "ids XRT devices.h, shell made up"),
        seen=False,
        vendor="13fe",
        golden_id="806c",
    ),
    "arista": replace(
        _1rp(
            "arista_lb2_qdma_1", 0, ("5011", "5010"), "ids XRT devices.h of 2020.2 to 2022.1, shell made up"
        ),
        seen=False,
        vendor="3475",
        dma="dma.qdma",
        release="2022.1",
    ),
    # AWS F1: the shells, and a slot on which mpd has not loaded the default image (f1-cleared)
    "f1": _F1,
    "f1-2019": replace(
        _F1,
        vbnv="xilinx_aws-vu9p-f1_dynamic_5_0",
        source=f"{_AWS_FPGA}, master: Vitis/docs/XRT_installation_instructions.md; lspci",
        seen=True,
        release="2019.2",
    ),
    "f1-nodma": replace(
        _F1,
        vbnv="xilinx_aws-vu9p-f1_nodma-shell-v09142114_202120_1",
        user_id="f011",
        source="XRT devices.h and subdev/feature_rom.c",
        dma=None,
    ),
    "f1-cleared": replace(
        _F1,
        vbnv="xilinx_aws-vu9p-f1_dynamic-shell",
        user_id="1042",
        source="XRT devices.h and subdev/feature_rom.c",
        ready=False,
    ),
    # AWS F2 with an XRT shell: XRT >= 2024.1 binds to both functions. With a
    # loaded image the slot may show the id of F1 (f2-afi)
    "f2": _F2,
    "f2-afi": replace(
        _F2,
        provisional=_F1.vbnv,
        user_id="f010",
        source="XRT devices.h, subdev/feature_rom.c; core/pcie/tools/cloud-daemon/aws/aws_dev.cpp for the id",
        seen=False,
    ),
    # Azure NP: a U250 without its management function, in a domain of its own (pci-hyperv.c)
    "azure-np": XrtBoard(
        vbnv="xilinx_u250_gen3x16_xdma_shell_2_1",
        user_id="5005",
        source="the resource name in kubernetes/autoscaler, cloudprovider/azure/azure_template.go",
        user_function=0,
        slots=_AZURE_SLOTS,
    ),
}
"""Boards of XRT's drivers `xocl` and `xclmgmt`."""

_AMI_SUBSYSTEM = ("10ee", "000e")  # ami_pcie.h
_V80 = AmiBoard(
    product="ALVEO V80",
    ids=Ids("10ee", "50b4", "120000", _AMI_SUBSYSTEM),
    others=((Ids("10ee", "50b5", "120000", _AMI_SUBSYSTEM), "qdma-pf"),),
    logic_uuid="109f3b56e8a83949b9058b25400de946",
    source="https://github.com/Xilinx/AVED, its driver; ami_tool output in its documentation of 24.1",
)

AMI_BOARDS: Mapping[str, AmiBoard] = {
    "v80": _V80,
    "v80-slash": replace(
        _V80,
        others=(
            (Ids("10ee", "50b5", "120000", _AMI_SUBSYSTEM), "slash_qdma"),
            (Ids("10ee", "50b6", "120000", _AMI_SUBSYSTEM), "slash_ctl"),
        ),
        source="https://github.com/Xilinx/SLASH, driver/slash_config.h, slash_ctldev.c, slash_qdma.c",
        seen=False,
    ),
    # libqdma_export.c qdma_queue_add, cdev.c: a node for each queue that `dma-ctl` makes
    "v80-qdma": replace(_V80, queues=2, source="https://github.com/Xilinx/dma_ip_drivers, QDMA: cdev.c"),
    "v80-amr": replace(
        _V80,
        amr=True,
        source="https://github.com/Xilinx/amr, sw/AMI/driver/ami_top.c, ami_cdev.c",
        seen=False,
    ),
    # Embedded+: the same hardware as `rave` with the driver `ami`
    "rave-amr": AmiBoard(
        product="RAVE",
        ids=Ids("10ee", "5710", "120000", _AMI_SUBSYSTEM),
        amr=True,
        logic_uuid="0" * 32,
        source="https://github.com/Xilinx/amr, sw/AMI/driver/ami_pcie.h; the rest made up",
        seen=False,
    ),
}
"""Boards of the driver `ami`."""

_MA35D = Ma35dBoard(
    product="MA35D",
    ids=Ids("10ee", "5070", "048000"),  # "Multimedia controller" in lspci
    vf_ids=Ids("10ee", "5071", "048000"),
    source="MA35D SDK, README of 1.5.0 and kmod; Xilinx/FPGA_as_a_Service, k8s-device-plugin/fpga.go",
)

MA35D_BOARDS: Mapping[str, Ma35dBoard] = {
    "ma35d": _MA35D,
    "ma35d-vf": replace(_MA35D, vfs=1, source="MA35D SDK, kmod: transcoder.c, pcie.c", seen=False),
}
"""Boards of the driver `transcoder`."""

_LINUX = "Linux arch/arm64/boot/dts/xilinx"
_K26 = tuple(f"xlnx,zynqmp-smk-k26{revision}" for revision in ("-rev1", "-revB", "-revA", ""))

ZOCL_BOARDS: Mapping[str, ZoclBoard] = {
    "zcu102": ZoclBoard(
        model="ZynqMP ZCU102 Rev1.0",
        compatible=("xlnx,zynqmp-zcu102-rev1.0", "xlnx,zynqmp-zcu102", "xlnx,zynqmp"),
        source=f"{_LINUX}/zynqmp-zcu102-rev1.0.dts",
        seen=False,
    ),
    "zcu104": ZoclBoard(
        model="ZynqMP ZCU104 RevC",
        compatible=("xlnx,zynqmp-zcu104-revC", "xlnx,zynqmp-zcu104", "xlnx,zynqmp"),
        source=f"{_LINUX}/zynqmp-zcu104-revC.dts",
        seen=False,
    ),
    "kv260": ZoclBoard(
        model="ZynqMP KV260 revB",
        compatible=(
            *(f"xlnx,zynqmp-sk-kv260{revision}" for revision in ("-rev2", "-rev1", "-revB", "")),
            "xlnx,zynqmp",
        ),
        source=f"{_LINUX}/zynqmp-sck-kv-g-revB.dtso; boot logs",
    ),
    "kr260": ZoclBoard(
        model="ZynqMP KR260 revB",
        compatible=("xlnx,zynqmp-sk-kr260-revB", "xlnx,zynqmp-sk-kr260", "xlnx,zynqmp"),
        source=f"{_LINUX}/zynqmp-sck-kr-g-revB.dtso",
        seen=False,
    ),
    "k26": ZoclBoard(
        model="ZynqMP SMK-K26 Rev1/B/A",
        compatible=(*_K26, "xlnx,zynqmp"),
        source=f"{_LINUX}/zynqmp-smk-k26-revA.dts before 6.9; boot logs",
    ),
    "vck190": ZoclBoard(
        model="Xilinx Versal vck190 Eval board revA",
        compatible=("xlnx,versal-vck190-revA", "xlnx,versal"),
        source="boot logs; the device tree of Xilinx' U-Boot",
        zocl="xlnx,zocl-versal",
        parent="amba_pl@0",
    ),
    # Versal Gen 2, with AI engines
    "vek385": ZoclBoard(
        model="Xilinx Versal Gen 2 VEK385 revA",
        compatible=("xlnx,versal2-vek385-revA", "xlnx,versal2"),
        source="https://github.com/amd/xdna-driver, amdxdna_aux_drv.c; the model is made up",
        seen=False,
        zocl="xlnx,zocl-versal",
        engines=True,
    ),
}
"""Boards of the driver `zocl-drm`."""

# Made by the XDMA driver of dma_ip_drivers
_XDMA_NODES = tuple(
    ("xdma", f"xdma{{number}}_{name}", f"/dev/xdma{{number}}_{name}")
    for name in ("user", "control", "h2c_0", "c2h_0")
)

BARE_BOARDS: Mapping[str, BareBoard] = {
    "f2-hdk": BareBoard(
        functions=_F2_FUNCTIONS,
        source=f"{_AWS_FPGA}, f2: sdk/userspace/fpga_mgmt_tools/README.md, hal/fpga_common.h",
        slots=_F2_SLOTS,
    ),
    "xdma": BareBoard(
        functions=(Ids("10ee", "903f", "070001", ("10ee", "0007")),),
        source="https://github.com/Xilinx/dma_ip_drivers, XDMA",
        driver="xdma",
        class_devices=_XDMA_NODES,
    ),
    "ul3524-xdma": BareBoard(
        functions=(Ids("10ee", "5099", "070001", ("10ee", "0007")),),
        source="https://github.com/Xilinx/Alveo-Cards, with the driver of dma_ip_drivers, XDMA",
        seen=False,
        driver="xdma",
        class_devices=_XDMA_NODES,
    ),
    "opennic": BareBoard(
        functions=(Ids("10ee", "903f", "020000", ("10ee", "0007")), Ids("10ee", "913f", "020000")),
        source="https://github.com/Xilinx/open-nic-driver, onic_main.c",
        driver="onic",
    ),
    # coyote_setup.c setup_vfpga_devices, setup_reconfig_device: device_create without a parent
    "coyote": BareBoard(
        functions=(Ids("10ee", "903f", "070001", ("10ee", "0007")),),
        source="https://github.com/fpgasystems/Coyote, driver/src/coyote_setup.c",
        seen=False,
        driver="coyote_driver",
        class_devices=tuple(
            (
                f"coyote_fpga_{{number}}{kind}",
                f"coyote_fpga_{{number}}{name}",
                f"/dev/coyote_fpga_{{number}}{name}",
            )
            for kind, name in (("", "_v0"), ("", "_v1"), ("_reconfig", "_reconfig"))
        ),
        orphans=True,
    ),
    "qdma": BareBoard(
        functions=(Ids("10ee", "903f", "058000", ("10ee", "0007")),),
        source="https://github.com/Xilinx/dma_ip_drivers, QDMA",
        driver="qdma-pf",
        class_devices=tuple(
            (
                "qdma-pf",
                f"qdma{{bus}}{{device}}{{function}}-MM-{queue}",
                f"/dev/qdma{{bus}}{{device}}{{function}}-MM-{queue}",
            )
            for queue in (0, 1)
        ),
    ),
    "npu": BareBoard(
        functions=(Ids("1022", "17f0", "118000", ("1022", "17f0")),),
        source="https://github.com/amd/xdna-driver",
        driver="amdxdna",
        class_devices=(("accel", "accel0", "/dev/accel/accel0"),),
    ),
}
"""Boards that the service leaves out with a reason, or ignores."""

ALIASES: Mapping[str, str] = {"vt1": "u30-vt1", "aws-f2-slot": "f2-hdk", "accel": "vek385"}

ALL_BOARDS: Mapping[str, Board] = {**XRT_BOARDS, **AMI_BOARDS, **MA35D_BOARDS, **ZOCL_BOARDS, **BARE_BOARDS}
