"""A sample node: a directory with the /sys, the /dev and the socket directory of a node with FPGA cards.

It replaces the hardware in `simulate` and in the tests. A new node has no cards; `SampleNode.add_card` plugs
one device, `SampleNode.plug` a whole card by its name, `SampleNode.add_ordinary_devices` devices that the
service must ignore. Methods of the cards then change the files as the drivers do; see `sample_card`. The
files follow the sources of the kernel and of the drivers, not their reader, so this package shares no code
with `discovery`. All calls block.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
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
from xilinx_fpga_dp.simulate.sysfs.bus import Ids, Numbers, PciFunction, Tree
from xilinx_fpga_dp.simulate.sysfs.files import Content, Link
from xilinx_fpga_dp.simulate.sysfs.ma35d import Ma35dCard
from xilinx_fpga_dp.simulate.sysfs.sample_card import DAMAGES, Damage, SampleCard
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

AmiName: TypeAlias = Literal["v80", "v80-slash", "v80-qdma", "v80-amr", "rave-amr"]
Ma35dName: TypeAlias = Literal["ma35d", "ma35d-vf"]
ZoclName: TypeAlias = Literal["zcu102", "zcu104", "kv260", "kr260", "k26", "vck190", "vek385"]
BareName: TypeAlias = Literal["f2-hdk", "xdma", "qdma", "npu", "ul3524-xdma", "opennic", "coyote"]

STATES = ("golden", "recovery", "backup", "waiting", "vfio", "no-driver")
"""States of a card of XRT other than ready; a name for `SampleNode.plug` may end in one."""
_IMAGES: Mapping[str, Image] = {"golden": "golden", "recovery": "recovery"}
_ENTERED: Mapping[str, Callable[[XrtCard], None]] = {
    "backup": lambda card: card.boot("backup"),
    "waiting": XrtCard.never_connected,
    "vfio": XrtCard.vfio,
    "no-driver": XrtCard.unbind_mgmt,
}


class Position(TypedDict, total=False):
    """The position of a card on the PCI bus, and its serial number.

    Attributes:
        serial: empty: unread yet, or the card has none; None: one is made up.
        numa_node: -1: unknown to the firmware.
        behind: the addresses of the bridges above it, root port first; empty: a root port of its own.
    """

    serial: str | None
    numa_node: int
    behind: Sequence[str]


class XrtOptions(Position, total=False):
    """The options of a card of XRT.

    Attributes:
        mgmt: whether it has a management function; in a virtual machine it has none.
        release: of XRT; None: that of the board. On a real node it is the same for all cards.
        render: the number of its render node; None: the lowest free one.
        image: `golden`: a factory image, with a management function only; `recovery`: no `user_pf`.
    """

    mgmt: bool
    release: str | None
    render: int | None
    image: Image


_BUSES = 16  # buses of one root bus: see `Tree.bus_above`
_SLOT = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]")
_ORDINARY = (
    ("0000:00:00.0", Ids("8086", "2020", "060000"), None),  # host bridge
    ("0000:01:00.0", Ids("144d", "a808", "010802"), "nvme"),
    ("0000:02:00.0", Ids("15b3", "1017", "020000"), "mlx5_core"),
    ("0000:02:00.1", Ids("15b3", "1017", "020000"), "mlx5_core"),
    ("0000:03:00.0", Ids("1002", "73bf", "030000"), "amdgpu"),
)


class SampleNode(Tree):
    """A node, at first without cards; see `Tree` for the arguments.

    Attributes:
        cards: the cards of XRT.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        numa_nodes: str = "0-1",
        sensors: bool = False,
        device_nodes: bool = False,
    ) -> None:
        super().__init__(root, numa_nodes=numa_nodes, sensors=sensors, device_nodes=device_nodes)
        self.socket_dir = f"{self.root}/device-plugins"
        self.plugins_dir = f"{self.root}/plugins"
        for directory in (self.socket_dir, self.plugins_dir):
            self.files.put(directory, {})
        self.cards: list[XrtCard] = []
        self._slots: set[str] = set()
        self._ami: AmiDriver | None = None
        self._ma35d = Numbers()

    def environment(self) -> dict[str, str]:
        """Return the settings to run the service against this node."""
        return {
            "XILINX_FPGA_DP_SYSFS_ROOT": self.sysfs_root,
            "XILINX_FPGA_DP_DEV_ROOT": self.dev_root,
            "XILINX_FPGA_DP_SOCKET_DIR": self.socket_dir,
            "XILINX_FPGA_DP_PLUGINS_DIR": self.plugins_dir,
        }

    # fmt: off
    # A name whose type is only str is assumed to be a board of XRT, as most boards are
    @overload
    def add_card(self, board: AmiName, slot: str | None = None, **options: Unpack[Position]) -> AmiCard: ...  # type: ignore[overload-overlap]
    @overload
    def add_card(  # type: ignore[overload-overlap]
        self, board: Ma35dName, slot: str | None = None, **options: Unpack[Position]
    ) -> Ma35dCard: ...
    @overload
    def add_card(self, board: ZoclName) -> ZoclCard: ...  # type: ignore[overload-overlap]
    @overload
    def add_card(self, board: BareName, slot: str | None = None, *, numa_node: int = 0) -> BareCard: ...  # type: ignore[overload-overlap]
    @overload
    def add_card(
        self, board: str | XrtBoard, slot: str | None = None, **options: Unpack[XrtOptions]
    ) -> XrtCard: ...
    # fmt: on
    def add_card(
        self, board: str | XrtBoard, slot: str | None = None, **options: Unpack[XrtOptions]
    ) -> SampleCard:
        """Plug one device and bind its drivers; of a U30 or an MA35D, one of its two devices.

        Args:
            board: a name of `boards`, or a board of XRT.
            slot: domain, bus and device, ``0000:65:00``; None: the next free one.
            options: see `Position` and `XrtOptions`; options that the board does not have are ignored.

        Raises:
            ValueError: the slot is malformed, the release is unknown, or the node has a device tree already.
        """
        kind = ALL_BOARDS[board] if isinstance(board, str) else board
        if isinstance(kind, ZoclBoard):
            card: SampleCard = ZoclCard(self, kind)
            card.plug()
            return card
        slot = slot or self._free_slot(kind)
        if not _SLOT.fullmatch(slot):
            raise ValueError(f"no slot {slot} (domain:bus:device)")
        bridges = (bridge.partition(".")[0] for bridge in options.get("behind", ()))
        self._slots |= {slot, *bridges, *_beside(kind, slot)}
        numa_node = options.get("numa_node", 0)
        where: Position = {
            "serial": options.get("serial"),
            "numa_node": numa_node,
            "behind": options.get("behind", ()),
        }
        match kind:
            case XrtBoard():
                return self._add_xrt_card(kind, slot, options)
            case AmiBoard():
                self._ami = self._ami or AmiDriver(self, amr=kind.amr)
                card = AmiCard(self, self._ami, kind, slot, **where)
            case Ma35dBoard():
                card = Ma35dCard(self, self._ma35d, kind, slot, **where)
            case BareBoard():
                card = BareCard(self, kind, slot, numa_node=numa_node)
        card.plug()
        return card

    def plug(self, name: str, *, numa_node: int = 0, release: str | None = None) -> list[SampleCard]:
        """Plug a whole card by its name for `simulate --board`; return its devices.

        `release` is that of XRT, as in `XrtOptions`.

        Raises:
            KeyError: the name is unknown.
            ValueError: the node cannot take the board.
        """
        board_name, state = _parsed(name)
        board = ALL_BOARDS[board_name]
        cards: list[SampleCard] = []
        serial: str | None = None  # the same for all devices of a card
        if isinstance(board, XrtBoard):
            for where in self._places(board):
                image = _IMAGES.get(state, "shell")
                card = self.add_card(
                    board, **where, serial=serial, numa_node=numa_node, image=image, release=release
                )
                serial = card.serial
                if state in _ENTERED:
                    _ENTERED[state](card)
                cards.append(card)
        else:
            for _ in range(board.count if isinstance(board, Ma35dBoard) else 1):
                one = self.add_card(board_name, serial=serial, numa_node=numa_node)
                serial = getattr(one, "serial", None)
                cards.append(one)
                if isinstance(one, Ma35dCard):
                    cards += one.virtual_functions
        if state == "no-driver":
            for each in cards:
                each.unbind()
        return cards

    def _add_xrt_card(self, board: XrtBoard, slot: str, options: XrtOptions) -> XrtCard:
        release = options.get("release") or board.release
        if release not in DRIVER_VERSIONS:
            raise ValueError(f"no XRT release {release}")
        card = XrtCard(
            self,
            board,
            slot,
            serial=options.get("serial"),
            numa_node=options.get("numa_node", 0),
            mgmt=options.get("mgmt", True),
            release=release,
            image=options.get("image", "shell"),
            behind=options.get("behind", ()),
        )
        card.plug(render=options.get("render"))
        self.cards.append(card)
        return card

    def add_ordinary_devices(self) -> None:
        """Plug devices that the service must ignore: host bridge, NVMe disk, network card, GPU."""
        for address, ids, driver in _ORDINARY:
            function = self.add_function(address, ids, driver=driver)
            if driver in ("mlx5_core", "amdgpu"):
                function.write("rom", b"")  # the kernel's file for an expansion ROM
            if driver == "amdgpu":
                function.add_drm()

    def _places(self, board: XrtBoard) -> "list[_Place]":
        """Return a slot for each device of a card; behind a switch for a U30, unless in a virtual machine."""
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
        """Return the first of ``count`` free buses behind one root port."""
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
    """Return the slots that a board uses in addition to its own."""
    return (next_slot(slot),) if isinstance(board, XrtBoard) and board.beside else ()


def _parsed(name: str) -> tuple[str, str]:
    """Split a name like ``u250-golden`` into the board and its state; the state may be empty.

    Raises:
        KeyError: the name is unknown.
    """
    name = ALIASES.get(name, name)
    if name in ALL_BOARDS:
        return name, ""
    for state in STATES:
        board = ALIASES.get(name.removesuffix(f"-{state}"), name.removesuffix(f"-{state}"))
        if board != name and (board in XRT_BOARDS or (state == "no-driver" and board in ALL_BOARDS)):
            return board, state
    raise KeyError(name)


def known_boards() -> list[str]:
    """Return all names for `SampleNode.plug` without a state of `STATES`."""
    return sorted([*ALL_BOARDS, *ALIASES])


def is_known(name: str) -> bool:
    """Return whether a name is one for `SampleNode.plug`."""
    try:
        _parsed(name)
    except KeyError:
        return False
    return True
