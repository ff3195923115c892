"""A sample node: the files of /sys and /dev that cards and their drivers show, and what happens to them.

It knows what drivers do, never what the service makes of it, so it shares no code with `discovery`.
It stands for the hardware in `simulate` and in the tests. Plain blocking calls throughout.
"""

import os
import re
from collections.abc import Sequence

from xilinx_fpga_dp.simulate.boards import BOARDS, Board
from xilinx_fpga_dp.simulate.bus import Ids, PciFunction, Tree
from xilinx_fpga_dp.simulate.cards import Card
from xilinx_fpga_dp.simulate.files import DAMAGES, Content, Damage, Link
from xilinx_fpga_dp.simulate.releases import DRIVER_VERSIONS
from xilinx_fpga_dp.simulate.xrt import Image, SampleCard

__all__ = [
    "DAMAGES",
    "Card",
    "Content",
    "Damage",
    "Ids",
    "Image",
    "Link",
    "PciFunction",
    "SampleCard",
    "SampleNode",
]

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
        self.cards: list[SampleCard] = []

    def environment(self) -> dict[str, str]:
        """The settings that let the service run against this node."""
        return {
            "XILINX_FPGA_DP_SYSFS_ROOT": self.sysfs_root,
            "XILINX_FPGA_DP_DEV_ROOT": self.dev_root,
            "XILINX_FPGA_DP_SOCKET_DIR": self.socket_dir,
        }

    def add_card(
        self,
        board: str | Board,
        slot: str | None = None,
        *,
        serial: str | None = None,
        numa_node: int = 0,
        mgmt: bool = True,
        release: str | None = None,
        render: int | None = None,
        image: Image = "shell",
        behind: Sequence[str] = (),
    ) -> SampleCard:
        """Plug a card, its drivers loaded.

        Args:
            board: a name of `BOARDS`, or a board of one's own. A U30 card is two, with one serial.
            slot: domain, bus and device, ``0000:65:00``; None: the next free one.
            serial: empty: not fetched yet, or the card has none; None: one is made up.
            numa_node: -1: the firmware does not tell.
            mgmt: whether its management function is to be seen; in a virtual machine it is not.
            release: of XRT; None: the board's. On a real node all cards have the same.
            render: the number of its render node; None: the lowest free one.
            image: `golden`: a factory image, management function only; `recovery`: no `user_pf`.
            behind: addresses of the bridges above it, root port first; none: a root port of its own.
        """
        board = BOARDS[board] if isinstance(board, str) else board
        slot = slot or self._free_slot()
        release = release or board.release
        if not _SLOT.fullmatch(slot) or release not in DRIVER_VERSIONS:
            raise ValueError(f"no slot {slot} (domain:bus:device) or no XRT release {release}")
        card = SampleCard(
            self,
            board,
            slot,
            serial=serial,
            numa_node=numa_node,
            mgmt=mgmt,
            release=release,
            image=image,
            behind=behind,
        )
        card.plug(render=render)
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

    def _free_slot(self) -> str:
        taken = {card.slot for card in self.cards}
        slots = (f"0000:{bus:02x}:00" for bus in range(0x65, 0x100) if bus % 16)
        return next(slot for slot in slots if slot not in taken)
