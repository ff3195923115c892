"""The table of PCI ids: whole, and the same as the boards that were seen and that the simulator knows."""

import json

import pytest

from tests.support.paths import PROJECT
from xilinx_fpga_dp.discovery.drivers import ami, ma35d, xrt
from xilinx_fpga_dp.discovery.pci_ids import PCI_IDS, Role, find
from xilinx_fpga_dp.simulate.sysfs.boards import AMI_BOARDS, XRT_BOARDS

SEEN = json.loads((PROJECT / "tests/data/boards.json").read_text())


@pytest.mark.parametrize(
    ("member", "roles"), [("device_user", {Role.USER, Role.PART}), ("device_mgmt", None)]
)
def test_ids_of_each_row_are_in_the_table(member: str, roles: set[Role] | None) -> None:
    for row in SEEN:
        if (device := row[member]) and row["vendor"] and "1041" not in device:
            pci_id = find(row["vendor"][2:], device[2:])
            assert pci_id is not None, row
            assert roles is None or pci_id.role in roles, row


def test_ids_of_each_sample_board_are_in_the_table() -> None:
    for name, board in XRT_BOARDS.items():
        user, management = find(board.vendor, board.user_id), find(board.vendor, board.mgmt_id)
        assert user, name
        assert "xocl" in user.drivers, name
        assert management or not board.mgmt_id, name
    for name, other in AMI_BOARDS.items():
        found = find(other.ids.vendor, other.ids.device)
        assert found is not None
        assert "ami" in found.drivers, name


def test_ids_are_four_lower_case_hex_digits() -> None:
    for ids in PCI_IDS:
        for each in ids:
            assert (len(each), each) == (4, f"{int(each, 16):04x}")


def test_each_card_names_drivers_that_a_back_end_has() -> None:
    wanted = {driver for each in (xrt, ami, ma35d) for driver in each.BACKEND.wanted.drivers}
    for ids, known in PCI_IDS.items():
        if known.role in (Role.USER, Role.MANAGEMENT, Role.GOLDEN):
            assert known.drivers[0] in wanted, ids


@pytest.mark.parametrize("ids", [(None, None), ("10ee", None), ("8086", "5001"), ("10ee", "903f")])
def test_other_ids_are_not_found(ids: tuple[str | None, str | None]) -> None:
    assert find(*ids) is None
