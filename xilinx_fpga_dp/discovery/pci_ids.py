"""The PCI ids of the cards that the supported drivers take: board, role and drivers.

Sources: XRT devices.h of all releases from 2018.2_XDF to 2026.1 (XOCL_MGMT_PCI_IDS, XOCL_USER_XDMA_PCI_IDS,
XOCL_USER_QDMA_PCI_IDS); ami_pcie.h of AVED and of AMR; the id table of the MA35D's driver (pcie.c); SLASH,
driver/slash_config.h; aws-fpga, fpga_common.h. Subsystem ids, by which XRT tells some old boards from other
designs, are not looked at.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

XILINX: Final = "10ee"
AMAZON: Final = "1d0f"  # its NVMe and network cards have this vendor id too

XOCL: Final = "xocl"
XCLMGMT: Final = "xclmgmt"
AMI: Final = "ami"
TRANSCODER: Final = "transcoder"


class Role(Enum):
    """What a function is on its card, the one that stands for the card last."""

    OTHER = auto()  # none of these drivers' business: a network card, or a further function of a card
    PART = auto()  # a further function of a card, which says nothing without the others
    GOLDEN = auto()  # the image that a card leaves the factory with: management function only
    RECOVERY = auto()  # the image that a card boots if its own fails
    MANAGEMENT = auto()
    USER = auto()  # the one that programs use


@dataclass(frozen=True, slots=True)
class PciId:
    """What is known of a vendor and device id."""

    board: str
    role: Role
    drivers: tuple[str, ...]  # that take it, by their names on the PCI bus; the usual one first
    until: str | None = None  # the last release of XRT that takes it; None if the newest one does


# Board, management function, user function, last release.
_XRT: Final[tuple[tuple[str, str, str, str | None], ...]] = (
    ("u200", "5000", "5001", None),
    ("u200", "5010", "5011", "2022.1"),  # QDMA shells
    ("u250", "5004", "5005", None),
    ("u250", "5014", "5015", "2022.1"),
    ("u280", "5008", "5009", "2023.2"),  # first samples
    ("u280", "500c", "500d", "2023.2"),
    ("u280", "5018", "5019", "2022.1"),
    ("u280", "501c", "501d", "2022.1"),
    ("u50", "5020", "5021", None),
    ("u50lv", "5060", "5061", "2023.2"),
    ("u50c", "506c", "506d", None),
    ("u55n", "5058", "5059", "2023.2"),
    ("u55c", "505c", "505d", None),
    ("u25", "5050", "5051", None),
    ("u26z", "504e", "504f", None),
    ("u30", "503c", "503d", None),
    ("u30", "513c", "513d", None),
    ("u2", "5034", "5035", None),
    ("u2", "6987", "6988", None),
    ("poc1465", "5030", "5031", None),
    ("versal", "5028", "5029", None),
    ("vck5000", "5044", "5045", None),  # first samples
    ("vck5000", "5048", "5049", None),
    ("vck190", "6098", "6099", None),
    ("v65", "5078", "5079", None),
    ("v70", "5094", "5095", None),
    ("v70pq2", "50b0", "50b1", None),
    ("v80", "50b4", "50b5", None),
    ("rave", "5700", "5701", None),
    ("rave", "5710", "5711", None),
    ("x3522pv", "5074", "5075", None),
    ("ul3524", "5098", "5099", None),  # 5098 is its golden image's id too: the driver's `mfg` tells
    # Boards of 2015 to 2018: KCU1500, VCU1525 and their like
    ("kcu1500", "4a47", "4a48", None),
    ("kcu1500", "4a87", "4a88", None),
    ("kcu1500", "4b47", "4b48", None),
    ("kcu1500", "4b87", "4b88", None),
    ("vcu1525", "684f", "6850", None),
    ("vcu1525", "688f", "6890", None),
    ("vcu1525", "694f", "6950", None),
    ("vcu1525", "698f", "6990", None),
    ("vcu1525", "6a4f", "6a50", None),
    ("vcu1525", "6a8f", "6a90", None),
    ("vcu1525", "6b0f", "6b10", None),
    ("vcu1525", "6e4f", "6e50", None),
    ("vcu1525", "6e8f", "6e90", None),
    ("vcu1525", "788f", "7890", None),
    ("vcu1525", "798f", "7990", None),
    ("vcu1525", "888f", "8890", None),
    ("vcu1525", "898f", "8990", None),
    ("mpsoc", "a883", "a884", None),
    ("mpsoc", "a983", "a984", None),
)

# XRT, XBB_MFG and its like. abcd, a U30 without a working image, was seen in Xilinx/video-sdk issue 99.
_GOLDEN: Final = {
    "d000": "u200",
    "d004": "u250",
    "d008": "u280",
    "d00c": "u280",
    "d020": "u50",
    "d030": "poc1465",
    "d03c": "u30",
    "d04c": "u25",
    "d050": "u25",
    "e098": "vck190",
    "e987": "u2",
    "f987": "u2",
    "eb10": "twitch",
}

_PCI_IDS: Final[dict[tuple[str, str], PciId]] = {
    **{(XILINX, mgmt): PciId(board, Role.MANAGEMENT, (XCLMGMT,), until) for board, mgmt, _, until in _XRT},
    **{(XILINX, user): PciId(board, Role.USER, (XOCL,), until) for board, _, user, until in _XRT},
    (XILINX, "5086"): PciId("x3522pv", Role.USER, (XOCL,)),
    (XILINX, "6a9f"): PciId("vcu1525", Role.MANAGEMENT, (XCLMGMT,)),
    (XILINX, "6aa0"): PciId("vcu1525", Role.USER, (XOCL,), "2022.1"),
    **{(XILINX, device): PciId(board, Role.GOLDEN, (XCLMGMT,)) for device, board in _GOLDEN.items()},
    (XILINX, "abcd"): PciId("u30", Role.RECOVERY, ()),
    # AMI takes these too. A V80 has a function for data, and with SLASH a third one.
    (XILINX, "5048"): PciId("vck5000", Role.MANAGEMENT, (XCLMGMT, AMI)),
    (XILINX, "5094"): PciId("v70", Role.MANAGEMENT, (XCLMGMT, AMI)),
    (XILINX, "50b4"): PciId("v80", Role.MANAGEMENT, (AMI, XCLMGMT)),
    (XILINX, "50b5"): PciId("v80", Role.PART, (XOCL, "qdma-pf", "slash_qdma", "slash")),
    (XILINX, "50b6"): PciId("v80", Role.OTHER, ()),
    (XILINX, "50bc"): PciId("v80p", Role.MANAGEMENT, (AMI,)),
    (XILINX, "5710"): PciId("rave", Role.MANAGEMENT, (AMI, XCLMGMT)),
    (XILINX, "5070"): PciId("ma35d", Role.USER, (TRANSCODER,)),
    (XILINX, "5071"): PciId("ma35d", Role.USER, (TRANSCODER,)),  # its virtual functions
    # Linux, drivers/net/ethernet/sfc/ef100.c (SN1000); lspci of an X3522
    **{(XILINX, device): PciId("", Role.OTHER, ()) for device in ("0100", "1100", "5084")},
    # Advantech, Arista
    ("13fe", "006c"): PciId("advantech", Role.MANAGEMENT, (XCLMGMT,)),
    ("13fe", "0065"): PciId("advantech", Role.USER, (XOCL,)),
    ("13fe", "0078"): PciId("advantech", Role.MANAGEMENT, (XCLMGMT,)),
    ("13fe", "0077"): PciId("advantech", Role.USER, (XOCL,)),
    ("13fe", "806c"): PciId("advantech", Role.GOLDEN, (XCLMGMT,)),
    ("3475", "5010"): PciId("arista", Role.MANAGEMENT, (XCLMGMT,), "2022.1"),
    ("3475", "5011"): PciId("arista", Role.USER, (XOCL,), "2022.1"),
    # 1042 is a cleared slot of F1; f000 and f010 are applications' own ids, on F1 and on F2; f011 is F1's
    # shell without DMA; xocl takes both functions of F2, of which 9248 is the management function.
    (AMAZON, "1042"): PciId("aws-f1", Role.USER, (XOCL,)),
    (AMAZON, "f000"): PciId("aws", Role.USER, (XOCL,), "2021.1"),
    (AMAZON, "f010"): PciId("aws", Role.USER, (XOCL,)),
    (AMAZON, "f011"): PciId("aws-f1", Role.USER, (XOCL,)),
    (AMAZON, "9048"): PciId("aws-f2", Role.USER, (XOCL,)),
    (AMAZON, "9248"): PciId("aws-f2", Role.PART, (XOCL,)),
}
PCI_IDS: Final[Mapping[tuple[str, str], PciId]] = _PCI_IDS
"""By vendor and device id, both four hex digits."""

VENDORS: Final = frozenset(vendor for vendor, _ in PCI_IDS)
"""The vendor ids of these cards, and of other devices."""


def find(vendor: str | None, device: str | None) -> PciId | None:
    """Return what is known of an id; None if it is not in the tables."""
    return PCI_IDS.get((vendor or "", device or ""))
