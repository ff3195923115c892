"""Management functions in slots of their own."""

from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from tests.support.factories import device
from xilinx_fpga_dp.discovery.management import Management, pair
from xilinx_fpga_dp.model import Device, Inventory, LeftOut, Shell

U200 = device().shell
U50 = Shell("xilinx_u50_gen3x16_xdma_base_5", "0", None)
OLD = "management function only"


def user(bus: str, serial: str | None = None, shell: Shell = U200) -> Device:
    return device(f"0000:{bus}:00.0", serial=serial, shell=shell)


def management(bus: str, serial: str | None = None, shell: Shell = U200) -> Management:
    return Management(f"0000:{bus}:00.0", shell, serial, f"/dev/xclmgmt{bus}")


def paired(devices: list[Device], managements: list[Management], other: Device | None = None) -> Inventory:
    left_out = tuple(LeftOut(each.address, OLD) for each in managements)
    found = Inventory((*devices, other) if other else tuple(devices), left_out)
    return pair(found, managements, {each.address for each in devices})


def nodes(found: Inventory) -> dict[str, str | None]:
    """Return the number of each device's management node, by its bus."""
    return {each.address[5:7]: each.mgmt_node and each.mgmt_node[-2:] for each in found.devices}


def test_shell_tells_which_is_whose() -> None:
    found = paired([user("07"), user("09", shell=U50)], [management("06", shell=U50), management("08")])
    assert nodes(found) == {"07": "08", "09": "06"}
    assert found.left_out == ()


def test_serial_tells_cards_of_one_shell_apart() -> None:
    found = paired([user("07", "A"), user("09", "B")], [management("06", "B"), management("08", "A")])
    assert nodes(found) == {"07": "08", "09": "06"}
    assert found.left_out == ()


def test_cards_that_show_the_same_get_no_management_node() -> None:
    for serial in (None, "0"):
        devices = [user("07", serial), user("09", serial)]
        found = paired(devices, [management("06", serial), management("08", serial)])
        assert nodes(found) == {"07": None, "09": None}
        reasons = {entry.function: entry.reason for entry in found.left_out}
        assert list(reasons) == ["0000:06:00.0", "0000:08:00.0"]
        assert all("0000:07:00.0, 0000:09:00.0 it manages can't be told" in each for each in reasons.values())


def test_two_managements_of_one_device_are_not_guessed() -> None:
    found = paired([user("07")], [management("06"), management("08")])
    assert nodes(found) == {"07": None}


def test_management_of_another_shell_keeps_its_reason() -> None:
    found = paired([user("07")], [management("06", shell=U50)])
    assert nodes(found) == {"07": None}
    assert [entry.reason for entry in found.left_out] == [OLD]


def test_device_with_its_management_beside_it_is_no_candidate() -> None:
    beside = device("0000:65:00.1", mgmt_node="/dev/xclmgmt25856")
    found = paired([], [management("06")], beside)
    assert found.devices == (beside,)
    assert [entry.reason for entry in found.left_out] == [OLD]


serials = st.sampled_from([None, "A", "B"])
shells = st.sampled_from([U200, U50])
cards = st.lists(st.tuples(serials, shells), max_size=4)


@given(cards, cards)
def test_no_two_devices_get_one_management_node(
    users: list[tuple[str | None, Shell]], others: list[tuple[str | None, Shell]]
) -> None:
    devices = [user(f"{2 * n:02}", *each) for n, each in enumerate(users)]
    managements = [management(f"{2 * n + 1:02}", *each) for n, each in enumerate(others)]
    found = paired(devices, managements)
    given_nodes = [each.mgmt_node for each in found.devices if each.mgmt_node]
    assert len(given_nodes) == len(set(given_nodes))
    by_node = {each.node: each for each in managements}
    for each in found.devices:
        assert not each.mgmt_node or by_node[each.mgmt_node].may_manage(each)
    assert {e.function for e in found.left_out} | {by_node[node].address for node in given_nodes} == {
        each.address for each in managements
    }
    for order in list(permutations(managements))[:6]:
        assert nodes(paired(devices, list(order))) == nodes(found)
