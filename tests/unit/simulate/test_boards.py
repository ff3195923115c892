"""docs/reference/boards.md and the collected rows against the boards of `simulate`."""

from tests.support.boards_page import rows
from tests.support.observed_boards import all_rows
from xilinx_fpga_dp.simulate.sysfs.boards import (
    ALIASES,
    ALL_BOARDS,
    AMI_BOARDS,
    BARE_BOARDS,
    MA35D_BOARDS,
    XRT_BOARDS,
    ZOCL_BOARDS,
)


def test_every_supported_board_has_a_row() -> None:
    aliases = {alias for alias, board in ALIASES.items() if board not in BARE_BOARDS}
    assert set(rows()) == {*XRT_BOARDS, *AMI_BOARDS, *MA35D_BOARDS, *ZOCL_BOARDS, *aliases}


def test_every_collected_row_has_a_board() -> None:
    """Rows and boards are compared by ids; boards with several shells share their ids."""
    known = {(f"0x{board.vendor}", f"0x{board.user_id}") for board in XRT_BOARDS.values()}
    known |= {("0x10ee", f"0x{ids.device}") for board in AMI_BOARDS.values() for ids, _ in board.others}
    known |= {("0x10ee", f"0x{board.ids.device}") for board in MA35D_BOARDS.values()}
    others = [
        row["board"]
        for row in all_rows()
        if row["device_user"] and (row["vendor"], row["device_user"]) not in known
    ]
    assert others == ["U30"]  # an alpha shell with other ids
    assert all(board.source for board in ALL_BOARDS.values())
