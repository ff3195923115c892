"""Generate the tables of docs/reference/boards.md from the boards and sample nodes of `simulate`.

``python docs/tools/boards.py write`` writes them into the page, ``check`` fails if the page has other tables.
"""

import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from xilinx_fpga_dp.simulate.sysfs.boards import (
    ALIASES,
    ALL_BOARDS,
    AMI_BOARDS,
    MA35D_BOARDS,
    XRT_BOARDS,
    ZOCL_BOARDS,
    AmiBoard,
    Board,
    Ma35dBoard,
    XrtBoard,
    ZoclBoard,
)
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleCard, SampleNode

PAGE = Path(__file__).parents[1] / "reference" / "boards.md"
PREFIX = "xilinx.com/"
_BEGIN = "<!-- made by docs/tools/boards.py: {} -->"
_END = "<!-- end -->"
_HEAD = "| `--board` | ids | resource | what a pod gets | seen on hardware | source |\n" + "| --- " * 6 + "|"
_TABLES: Mapping[str, Mapping[str, Board]] = {
    "xrt": XRT_BOARDS,
    "ami": AMI_BOARDS,
    "transcoder": MA35D_BOARDS,
    "zocl": ZOCL_BOARDS,
}


def resource_of(name: str) -> str:
    """Return the default resource of a board: by shell and timestamp, or by product.

    Raises:
        ValueError: the board has no resource.
    """
    board = ALL_BOARDS[name]
    match board:
        case XrtBoard():
            return f"{PREFIX}fpga-{board.vbnv}-{board.timestamp}"
        case AmiBoard():
            return f"{PREFIX}fpga-xilinx_{name.partition('-')[0]}"  # the driver's name follows
        case Ma35dBoard():
            return f"{PREFIX}fpga-MA35"
        case ZoclBoard():
            # the name ends before the revision
            return f"{PREFIX}fpga-{re.sub(r' [Rr]ev.*', '', board.model).replace(' ', '-')}"
        case _:
            raise ValueError(f"{name} has no resource")


def cards_of(name: str, folder: str) -> list[SampleCard]:
    """Return the devices of one card of a board on a new sample node."""
    return SampleNode(folder).plug(name)


def page(text: str) -> str:
    """Return the page with regenerated tables.

    Raises:
        ValueError: the page has no place for a table.
    """
    for table, boards in _TABLES.items():
        begin = _BEGIN.format(table)
        before, found, rest = text.partition(begin)
        _, end, after = rest.partition(_END)
        if not found or not end:
            raise ValueError(f"{PAGE.name} has no place for the table {table}")
        rows = "\n".join(_row(name, board) for name, board in boards.items())
        text = f"{before}{begin}\n\n{_HEAD}\n{rows}\n\n{end}{after}"
    return text


def _row(name: str, board: Board) -> str:
    with tempfile.TemporaryDirectory() as folder:
        cards = cards_of(name, f"{folder}/node")
        nodes = [f"`{node}`" for card in cards for node in card.nodes]
    names = [name, *(alias for alias, of in ALIASES.items() if of == name)]
    return "| {} | {} | `{}` | {} | {} | {} |".format(
        ", ".join(f"`{each}`" for each in names),
        _ids(board),
        resource_of(name),
        (" or " if isinstance(board, Ma35dBoard) else ", ").join(nodes),
        "yes" if board.seen else "no",
        board.source,
    )


def _ids(board: Board) -> str:
    """Return the ids of the user function and the device id of the management function."""
    match board:
        case XrtBoard():
            return f"{board.vendor}:{board.user_id}" + (f", {board.mgmt_id}" if board.mgmt_id else "")
        case Ma35dBoard() if board.vfs:
            return f"{board.ids.vendor}:{board.vf_ids.device}, {board.ids.device}"
        case AmiBoard() | Ma35dBoard():
            return ":".join(board.ids[:2])
        case ZoclBoard():
            return f"`{board.zocl}`"
        case _:
            return "-"


def main(verb: str) -> int:
    """Write the tables into the page or check them; return the exit code."""
    text = PAGE.read_text()
    made = page(text)
    if verb == "write":
        PAGE.write_text(made)
    elif made != text:
        sys.stderr.write(f"{PAGE.name} is out of date: run python docs/tools/boards.py write\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
