"""The boards of data/boards.json, which were observed on real nodes, for a sample node."""

import json
import re
from functools import cache
from typing import Any

from tests.support.paths import DATA
from xilinx_fpga_dp.simulate.sysfs.boards import XrtBoard

Row = dict[str, Any]

_ROWS = DATA / "boards.json"


@cache
def all_rows() -> list[Row]:
    """Return all rows in the order of the file."""
    rows: list[Row] = json.loads(_ROWS.read_text())
    return rows


def allocatable_rows() -> list[Row]:
    """Return the rows with a shell, observed or from the driver: `xocl` offers a device for each."""
    return [
        row
        for row in all_rows()
        if row["kind"] in ("observed", "driver-constant")
        and row["vbnv"] is not None
        and row["timestamp"] is not None
    ]


def board_of(row: Row) -> XrtBoard:
    """Return a board with the values of a row.

    On AWS the management function is in another slot and has no driver, so the board has none.
    """
    aws = row["vendor"] == "0x1d0f"
    return XrtBoard(
        vbnv=row["vbnv"],
        timestamp=row["timestamp"],
        user_id=_hex(row["device_user"]) or "ffff",  # a placeholder for an unknown id
        mgmt_id=None if aws else _hex(row["device_mgmt"]),
        source=row["source"],
        vendor=_hex(row["vendor"]) or "10ee",
        subsystem=(_hex(row["subsystem_vendor"]) or "10ee", _hex(row["subsystem_device"]) or "000e"),
        metadata=row["timestamp"] == 0,
        logic_uuid=_uuid(row["logic_uuid"]),
        interface_uuid=_uuid(row["interface_uuid"]),
        monitors=() if aws else (_monitor(row["serial_attr_dir"]),),
        firewall=not aws and not row["board"].startswith(("V70", "VCK5000")),
        user_function=int(row["user_bdf"][-1]) if row["user_bdf"] else 1,
    )


def slot_of(row: Row) -> str | None:
    """Return the slot in which the card was observed; None if unknown."""
    return row["user_bdf"].rpartition(".")[0] if row["user_bdf"] else None


def name_of(row: Row) -> str:
    """Return a name of the row for the output of a test."""
    return f"{row['vbnv']}-{row['timestamp']}"


def _monitor(directory: str | None) -> str:
    """Return the sub-device of ``xmc.u2.u.*``."""
    return re.sub(r"\.u\.[^.]*$", "", directory) if directory else "xmc"


def _hex(number: str | None) -> str | None:
    return number.removeprefix("0x") if number else None


def _uuid(uuid: str | None) -> str | None:
    """Return a uuid as sysfs prints it; tools print it in upper case and with dashes."""
    return uuid.replace("-", "").lower() if uuid else None


@cache
def documented_tree() -> dict[str, str]:
    """Return the tree of the card in XRT's documentation: for each path ``/`` or the target of a link."""
    lines = (DATA / "xrt-2019.1-tree.txt").read_text().splitlines()
    parts = (line.partition(" -> ") for line in lines if not line.startswith("#"))
    return {name.rstrip("/"): "/" if name.endswith("/") else target for name, _, target in parts}
