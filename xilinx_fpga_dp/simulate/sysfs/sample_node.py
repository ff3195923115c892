"""A sample node: the files of /sys and /dev that cards and their drivers show, and what happens to them.

It knows what drivers do, never what the service makes of it, so it shares no code with `discovery`.
It stands for the hardware in `simulate` and in the tests. Plain blocking calls throughout.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, TypedDict, Unpack, overload

from xilinx_fpga_dp.simulate.sysfs.ami import AmiCard, AmiDriver
from xilinx_fpga_dp.simulate.sysfs.bare import BareCard
from xilinx_fpga_dp.simulate.sysfs.boards import (
    ALIASES,
    ALL_BOARDS,
    XRT_BOARDS,
    AmiBoard,
    BareBoard,
    Board,
    Ma35dBoard,
    XrtBoard,
    ZoclBoard,
)
from xilinx_fpga_dp.simulate.sysfs.bus import Ids, PciFunction, Tree
from xilinx_fpga_dp.simulate.sysfs.files import DAMAGES, Content, Damage, Link, Numbers
from xilinx_fpga_dp.simulate.sysfs.ma35d import Ma35dCard
from xilinx_fpga_dp.simulate.sysfs.sample_card import SampleCard
from xilinx_fpga_dp.simulate.sysfs.xrt import Image, XrtCard, next_slot
from xilinx_fpga_dp.simulate.sysfs.xrt_releases import DRIVER_VERSIONS
from xilinx_fpga_dp.simulate.sysfs.zocl import ZoclCard

__all__ = [
    "DAMAGES",
    "Content",
    "Damage",
    "Ids",
    "Image",
    "Link",
    "PciFunction",
    "SampleCard",
    "SampleNode",
    "XrtCard",
]

AmiName: TypeAlias = Literal["v80"]
Ma35dName: TypeAlias = Literal["ma35d"]
ZoclName: TypeAlias = Literal["zcu102", "zcu104", "kv260", "kr260", "k26", "vck190"]
BareName: TypeAlias = Literal["f2-hdk", "xdma", "qdma", "npu"]

STATES = ("golden", "recovery", "vfio", "no-driver")
"""What a card of XRT can be found in besides: a name of `plug` ends in one."""
_IMAGES: Mapping[str, Image] = {"golden": "golden", "recovery": "recovery"}


class Where(TypedDict, total=False):
    """How a card on the PCI bus is plugged.

    Attributes:
        serial: empty: not fetched yet, or the card has none; None: one is made up.
        numa_node: -1: the firmware does not tell.
        behind: addresses of the bridges above it, root port first; none: a root port of its own.
    """

    serial: str | None
    numa_node: int
    behind: Sequence[str]


class How(Where, total=False):
    """How a card of XRT is plugged.

    Attributes:
        mgmt: whether its management function is to be seen; in a virtual machine it is not.
        release: of XRT; None: the board's. On a real node all cards have the same.
        render: the number of its render node; None: the lowest free one.
        image: `golden`: a factory image, management function only; `recovery`: no `user_pf`.
    """

    mgmt: bool
    release: str | None
    render: int | None
    image: Image


_BUSES = 16  # on one root bus here: see `Tree.bus_above`
_SLOT = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]")
_ORDINARY = (
    ("0000:00:00.0", Ids("8086", "2020", "060000"), None),  # host bridge
    ("0000:01:00.0", Ids("144d", "a808", "010802"), "nvme"),
    ("0000:02:00.0", Ids("15b3", "1017", "020000"), "mlx5_core"),
    ("0000:02:00.1", Ids("15b3", "1017", "020000"), "mlx5_core"),
    ("0000:03:00.0", Ids("1002", "73bf", "030000"), "amdgpu"),
)


class SampleNode(Tree):
    """A node's /sys and /dev in a folder, without a card at first: see `Tree` for the arguments."""

    def __init__(
        self, root: str | os.PathLike[str], *, numa_nodes: str = "0-1", device_nodes: bool = False
    ) -> None:
        super().__init__(root, numa_nodes=numa_nodes, device_nodes=device_nodes)
        self.socket_dir = f"{self.root}/device-plugins"
        self.files.put(self.socket_dir, {})
        self.cards: list[XrtCard] = []
        self._slots: set[str] = set()
        self._ami: AmiDriver | None = None
        self._ma35d = Numbers()

    def environment(self) -> dict[str, str]:
        """The settings that let the service run against this node."""
        return {
            "XILINX_FPGA_DP_SYSFS_ROOT": self.sysfs_root,
            "XILINX_FPGA_DP_DEV_ROOT": self.dev_root,
            "XILINX_FPGA_DP_SOCKET_DIR": self.socket_dir,
        }

    # fmt: off
    # A name that is only known to be a text is taken for one of XRT's boards: they are nearly all
    @overload
    def add_card(self, board: AmiName, slot: str | None = None, **how: Unpack[Where]) -> AmiCard: ...  # type: ignore[overload-overlap]
    @overload
    def add_card(self, board: Ma35dName, slot: str | None = None, **how: Unpack[Where]) -> Ma35dCard: ...  # type: ignore[overload-overlap]
    @overload
    def add_card(self, board: ZoclName) -> ZoclCard: ...  # type: ignore[overload-overlap]
    @overload
    def add_card(self, board: BareName, slot: str | None = None, *, numa_node: int = 0) -> BareCard: ...  # type: ignore[overload-overlap]
    @overload
    def add_card(self, board: str | XrtBoard, slot: str | None = None, **how: Unpack[How]) -> XrtCard: ...
    # fmt: on
    def add_card(self, board: str | XrtBoard, slot: str | None = None, **how: Unpack[How]) -> SampleCard:
        """Plug one device, its drivers loaded: of a U30 or an MA35D one of two; `plug` has whole cards.

        Args:
            board: a name of `boards`, or a board of XRT of one's own.
            slot: domain, bus and device, ``0000:65:00``; None: the next free one.
            how: see `Where` and `How`; what a driver has no use for is not looked at.
        """
        kind = ALL_BOARDS[board] if isinstance(board, str) else board
        if isinstance(kind, ZoclBoard):
            card: SampleCard = ZoclCard(self, kind)
            card.plug()
            return card
        slot = slot or self._free_slot(kind)
        if not _SLOT.fullmatch(slot):
            raise ValueError(f"no slot {slot} (domain:bus:device)")
        bridges = (bridge.partition(".")[0] for bridge in how.get("behind", ()))
        self._slots |= {slot, *bridges, *_beside(kind, slot)}
        numa_node = how.get("numa_node", 0)
        where: Where = {"serial": how.get("serial"), "numa_node": numa_node, "behind": how.get("behind", ())}
        match kind:
            case XrtBoard():
                return self._add_xrt_card(kind, slot, how)
            case AmiBoard():
                self._ami = self._ami or AmiDriver(self)
                card = AmiCard(self, self._ami, kind, slot, **where)
            case Ma35dBoard():
                card = Ma35dCard(self, self._ma35d, kind, slot, **where)
            case BareBoard():
                card = BareCard(self, kind, slot, numa_node=numa_node)
        card.plug()
        return card

    def plug(self, name: str, *, numa_node: int = 0) -> list[SampleCard]:
        """Plug a whole card by the name `simulate --board` has for it; answers its devices.

        Raises:
            KeyError: there is no such board.
            ValueError: the node has no place for it.
        """
        board_name, state = _parsed(name)
        board = ALL_BOARDS[board_name]
        cards: list[SampleCard] = []
        serial: str | None = None  # one for all devices of a card
        if isinstance(board, XrtBoard):
            for where in self._places(board):
                image = _IMAGES.get(state, "shell")
                card = self.add_card(board, **where, serial=serial, numa_node=numa_node, image=image)
                serial = card.serial
                if state == "vfio":
                    card.vfio()
                elif state == "no-driver":
                    card.unbind_mgmt()
                cards.append(card)
        else:
            for _ in range(board.count if isinstance(board, Ma35dBoard) else 1):
                cards.append(self.add_card(board_name, serial=serial, numa_node=numa_node))
                serial = getattr(cards[-1], "serial", None)
        if state == "no-driver":
            for each in cards:
                each.unbind()
        return cards

    def _add_xrt_card(self, board: XrtBoard, slot: str, how: "How") -> XrtCard:
        release = how.get("release") or board.release
        if release not in DRIVER_VERSIONS:
            raise ValueError(f"no XRT release {release}")
        card = XrtCard(
            self,
            board,
            slot,
            serial=how.get("serial"),
            numa_node=how.get("numa_node", 0),
            mgmt=how.get("mgmt", True),
            release=release,
            image=how.get("image", "shell"),
            behind=how.get("behind", ()),
        )
        card.plug(render=how.get("render"))
        self.cards.append(card)
        return card

    def add_ordinary_devices(self) -> None:
        """What a server has besides: host bridge, NVMe, network card, GPU. None of it is ours."""
        for address, ids, driver in _ORDINARY:
            function = self.add_function(address, ids, driver=driver)
            if driver in ("mlx5_core", "amdgpu"):
                function.write("rom", b"")  # the kernel's file for an expansion ROM
            if driver == "amdgpu":
                function.add_drm()

    def _places(self, board: XrtBoard) -> "list[_Place]":
        """Where the devices of one card go: two of a U30 behind a switch; a virtual machine shows none."""
        if board.count == 1 or board.slots:
            return [{} for _ in range(board.count)]
        first = self._free_bus(2 + board.count)
        port = f"0000:{first - first % _BUSES:02x}:{first % _BUSES:02x}.0"
        places: list[_Place] = []
        for index in range(board.count):
            down = f"0000:{first + 1:02x}:{index:02x}.0"
            places.append({
                "slot": f"0000:{first + 2 + index:02x}:00",
                "behind": (port, f"0000:{first:02x}:00.0", down),
            })  # fmt: skip
        return places

    def _free_slot(self, board: Board) -> str:
        known = getattr(board, "slots", ())
        free = (slot for slot in known if not self._slots & {slot, *_beside(board, slot)})
        return next(free, None) or f"0000:{self._free_bus(1):02x}:00"

    def _free_bus(self, count: int) -> int:
        """The first of so many buses behind one root port with nothing on them."""
        taken = {int(slot.split(":")[1], 16) for slot in self._slots if slot.startswith("0000:")}
        return next(
            bus
            for bus in range(0x65, 0x100)
            if bus % _BUSES and bus % _BUSES + count <= _BUSES and not taken & set(range(bus, bus + count))
        )


class _Place(TypedDict, total=False):
    slot: str
    behind: Sequence[str]


def _beside(board: Board, slot: str) -> tuple[str, ...]:
    """The slot that a board takes with its own."""
    return (next_slot(slot),) if isinstance(board, XrtBoard) and board.beside else ()


def _parsed(name: str) -> tuple[str, str]:
    """A board's name, and what is the matter with it: ``u250-golden``."""
    name = ALIASES.get(name, name)
    if name in ALL_BOARDS:
        return name, ""
    for state in STATES:
        board = ALIASES.get(name.removesuffix(f"-{state}"), name.removesuffix(f"-{state}"))
        if board != name and (board in XRT_BOARDS or (state == "no-driver" and board in ALL_BOARDS)):
            return board, state
    raise KeyError(name)


def known_boards() -> list[str]:
    """Every name `SampleNode.plug` knows; one of XRT's boards may also end in one of `STATES`."""
    return sorted([*ALL_BOARDS, *ALIASES])


def is_known(name: str) -> bool:
    """Whether `SampleNode.plug` knows a name."""
    try:
        _parsed(name)
    except KeyError:
        return False
    return True
