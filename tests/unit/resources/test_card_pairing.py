"""Card pairing: the two devices of a U30, with, without and with late serial numbers."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.factories import NAMING
from xilinx_fpga_dp.model import Device, Inventory, Shell
from xilinx_fpga_dp.resources.card_pairing import WAIT, CardAssignment, CardPairing
from xilinx_fpga_dp.resources.naming import Naming
from xilinx_fpga_dp.resources.offers import offers_of

SHELL = Shell("xilinx_u30_gen3x4_base_1", "0", None)
NAME = "xilinx.com/fpga-xilinx_u30_gen3x4_base_1-0"


def u30(bus: str, serial: str | None = None, path: str = "switch", shell: Shell = SHELL) -> Device:
    address = f"0000:{bus}:00.1"
    above = ("pci0000:00", f"0000:00:{path}.0", f"0000:10:{bus}.0") if path else ()
    return Device(address, shell, "u30", "xocl", serial=serial, pcie_path=above)


def cards(assignment: CardAssignment) -> set[tuple[str, ...]]:
    """Return the buses of each card with two devices."""
    return {tuple(address[5:7] for address in card) for card in assignment.cards.values()}


def waiting(assignment: CardAssignment) -> set[str]:
    return {address[5:7] for address in assignment.waiting}


def ids(devices: Sequence[Device], assignment: CardAssignment) -> list[str]:
    offer = offers_of(Inventory(tuple(devices)), NAMING, 1, assignment).by_resource.get(NAME)
    return [unit.id[5:7] for unit in offer.units] if offer else []


class TestBySerial:
    def test_two_devices_with_one_serial_are_a_card_at_once(self) -> None:
        devices = [u30("21", "A"), u30("22", "B"), u30("23", "A"), u30("24", "B")]
        assignment = CardPairing(pair=True).assign(devices, 0)
        assert cards(assignment) == {("21", "23"), ("22", "24")}
        assert ids(devices, assignment) == ["21", "22"]
        assert not assignment.waiting

    def test_single_device_is_a_card_with_a_warning(self) -> None:
        assignment = CardPairing(pair=True).assign([u30("21", "A")], 0)
        assert not assignment.waiting
        assert ids([u30("21", "A")], assignment) == ["21"]
        [warning] = assignment.warnings
        assert warning.startswith("0000:21:00.1 is half a card")
        assert "bifurcation" in warning
        assert "U30_UNIT=device" in warning

    def test_late_second_device_changes_no_id(self) -> None:
        pairing = CardPairing(pair=True)
        pairing.assign([u30("22", "A")], 0)
        devices = [u30("21", "A"), u30("22", "A")]
        assignment = pairing.assign(devices, 1)
        assert ids(devices, assignment) == ["22"]
        assert cards(assignment) == {("22", "21")}
        assert assignment.warnings == ()

    def test_serial_of_three_devices_is_ignored(self) -> None:
        devices = [u30(bus, "0000", path) for bus, path in (("21", "01"), ("22", "01"), ("23", "02"))]
        assert cards(CardPairing(pair=True).assign(devices, 0)) == {("21", "22")}

    def test_u30_unit_device_neither_pairs_nor_waits(self) -> None:
        devices = [u30("21", "A"), u30("22", "A"), u30("23")]
        assignment = CardPairing(pair=False).assign(devices, 0)
        assert assignment.cards == {}
        assert not assignment.waiting

    def test_other_boards_never_pair(self) -> None:
        devices = [replace(u30(bus, "A"), board="u50") for bus in ("21", "22")]
        assert CardPairing(pair=True).assign(devices, 0).cards == {}


class TestWithoutSerial:
    def test_device_waits_thirty_seconds(self) -> None:
        pairing = CardPairing(pair=True)
        devices = [u30("21"), u30("22")]
        assert waiting(pairing.assign(devices, 100)) == {"21", "22"}
        assert waiting(pairing.assign(devices, 100 + WAIT - 0.1)) == {"21", "22"}
        assignment = pairing.assign(devices, 100 + WAIT)
        assert not assignment.waiting
        assert cards(assignment) == {("21", "22")}

    def test_waiting_device_is_left_out_with_the_reason(self) -> None:
        devices = [u30("21"), u30("22")]
        offers = offers_of(Inventory(tuple(devices)), NAMING, 1, CardPairing(pair=True).assign(devices, 0))
        assert offers.by_resource == {}
        assert {entry.reason for entry in offers.left_out} == {
            "waiting for its serial number; that takes 30 s at most"
        }

    def test_serial_in_time_counts(self) -> None:
        pairing = CardPairing(pair=True)
        pairing.assign([u30("21"), u30("22"), u30("23", "A")], 0)
        devices = [u30("21", "A"), u30("22"), u30("23", "A")]
        assignment = pairing.assign(devices, 29)
        assert cards(assignment) == {("21", "23")}
        assert waiting(assignment) == {"22"}

    def test_device_with_a_serial_waits_for_one_without(self) -> None:
        assert waiting(CardPairing(pair=True).assign([u30("21", "A"), u30("22")], 0)) == {"21", "22"}

    def test_nearest_bridge_must_have_exactly_two_devices(self) -> None:
        two_and_two = [u30("21", path="01"), u30("22", path="01"), u30("23", path="02"), u30("24", path="02")]
        late = CardPairing(pair=True, wait=0)
        assert cards(late.assign(two_and_two, 0)) == {("21", "22"), ("23", "24")}
        four = [u30(bus) for bus in ("21", "22", "23", "24")]
        assignment = CardPairing(pair=True, wait=0).assign(four, 0)
        assert assignment.cards == {}
        assert ids(four, assignment) == ["21", "22", "23", "24"]

    def test_root_bus_counts_as_a_bridge(self) -> None:  # AWS VT1: 0000:00:1e.0 and 0000:00:1f.0
        devices = [replace(u30(bus), pcie_path=("pci0000:00",)) for bus in ("21", "22")]
        assert cards(CardPairing(pair=True, wait=0).assign(devices, 0)) == {("21", "22")}

    def test_device_of_unknown_pcie_path_is_a_card(self) -> None:
        devices = [u30("21", path=""), u30("22", path="")]
        assert CardPairing(pair=True, wait=0).assign(devices, 0).cards == {}

    def test_different_serials_never_pair(self) -> None:
        devices = [u30("21", "A"), u30("22", "B")]
        assert CardPairing(pair=True, wait=0).assign(devices, 0).cards == {}


class TestDecided:
    def test_late_serial_that_agrees_changes_nothing(self) -> None:
        pairing = CardPairing(pair=True, wait=0)
        before = pairing.assign([u30("21"), u30("22")], 0)
        after = pairing.assign([u30("21", "A"), u30("22", "A")], 1)
        assert after.cards == before.cards
        assert after.warnings == ()

    def test_late_serial_that_contradicts_is_a_warning(self) -> None:
        pairing = CardPairing(pair=True, wait=0)
        before = pairing.assign([u30("21"), u30("22")], 0)
        after = pairing.assign([u30("21", "A"), u30("22", "B")], 1)
        assert after.cards == before.cards
        [warning] = after.warnings
        assert "0000:21:00.1 and 0000:22:00.1 were taken for one card" in warning

    def test_late_serials_of_one_card_do_not_join_two(self) -> None:
        pairing = CardPairing(pair=True, wait=0)
        devices = [u30(bus) for bus in ("21", "22", "23")]
        pairing.assign(devices, 0)
        late = [u30("21", "A"), u30("22", "A"), u30("23", "B")]
        assignment = pairing.assign(late, 1)
        assert ids(late, assignment) == ["21", "22", "23"]
        half, warning = assignment.warnings
        assert half.startswith("0000:23:00.1 is half a card")
        assert "were taken for different cards" in warning

    def test_third_device_never_joins_a_pair(self) -> None:
        pairing = CardPairing(pair=True, wait=0)
        pairing.assign([u30("21"), u30("22")], 0)
        devices = [u30("21", "A"), u30("22"), u30("23", "A")]
        assignment = pairing.assign(devices, 1)
        assert cards(assignment) == {("21", "22")}
        assert ids(devices, assignment) == ["21", "23"]

    @pytest.mark.parametrize("serial", ["A", None])
    def test_device_that_is_left_is_offered_as_after_a_start(self, serial: str | None) -> None:
        pairing = CardPairing(pair=True, wait=0)
        both = [u30("21", serial), u30("22", serial)]
        pairing.assign(both, 0)
        for left in ([both[0]], [both[1]]):
            running, fresh = pairing.assign(left, 1), CardPairing(pair=True, wait=0).assign(left, 1)
            assert ids(left, running) == ids(left, fresh) == [left[0].address[5:7]]
            assert running.warnings == fresh.warnings
            [warning] = fresh.warnings
            assert "half a card" in warning
        assert ids(both, pairing.assign(both, 2)) == ["21"]

    def test_card_that_returns_keeps_its_id(self) -> None:
        pairing = CardPairing(pair=True, wait=0)
        devices = [u30("21"), u30("22")]
        pairing.assign(devices, 0)
        pairing.assign([], 1)
        assert ids(devices, pairing.assign(devices, 2)) == ["21"]

    def test_card_with_two_shells_is_not_offered(self) -> None:
        other = replace(SHELL, vbnv="xilinx_u30_gen3x4_base_2")
        devices = (u30("21", "A"), u30("22", "A", shell=other))
        offers = offers_of(Inventory(devices), NAMING, 1, CardPairing(pair=True).assign(devices, 0))
        assert offers.by_resource == {}
        assert {"different shells" in entry.reason for entry in offers.left_out} == {True}


def always(_device: Device) -> bool:
    return True


class TestNamesBySerial:
    NAMING = Naming("xilinx.com/", "{board}-{serial}")

    def test_device_waits_for_the_serial_that_its_name_needs(self) -> None:
        pairing = CardPairing(pair=True)
        device = replace(u30("21"), board="u50")
        assert waiting(pairing.assign([device], 0, always)) == {"21"}
        assignment = pairing.assign([replace(device, serial="A")], 1, always)
        offers = offers_of(Inventory((replace(device, serial="A"),)), self.NAMING, 1, assignment)
        assert list(offers.by_resource) == ["xilinx.com/u50-A"]

    def test_serial_of_one_device_names_the_card(self) -> None:
        devices = (u30("21", "A"), u30("22"))
        pairing = CardPairing(pair=True)
        pairing.assign(devices, 0, always)
        offers = offers_of(Inventory(devices), self.NAMING, 1, pairing.assign(devices, WAIT, always))
        assert list(offers.by_resource) == ["xilinx.com/u30-A"]

    def test_serial_after_the_wait_does_not_change_the_name(self) -> None:
        pairing = CardPairing(pair=True, wait=0)
        device = replace(u30("21"), board="u50")
        pairing.assign([device], 0, always)
        assignment = pairing.assign([replace(device, serial="A")], 1, always)
        offers = offers_of(Inventory((replace(device, serial="A"),)), self.NAMING, 1, assignment)
        assert list(offers.by_resource) == ["xilinx.com/u50"]


serials = st.sampled_from([None, "A", "B", "C"])
steps = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from(["21", "22", "23", "24", "25"]), serials, max_size=5),
        st.floats(0, 40),
    ),
    max_size=8,
)


@given(steps)
def test_card_of_two_stays_the_card_of_its_devices(
    history: list[tuple[dict[str, str | None], float]],
) -> None:
    """Devices and serial numbers appear and vanish; a card that was offered keeps its id and devices."""
    pairing = CardPairing(pair=True)
    offered: dict[str, tuple[str, ...]] = {}
    now = 0.0
    for present, wait in history:
        devices = [
            u30(bus, serial, path="01" if bus < "23" else "02") for bus, serial in sorted(present.items())
        ]
        assignment = pairing.assign(devices, now)
        offers = offers_of(Inventory(tuple(devices)), NAMING, 1, assignment)
        units = [unit for offer in offers.by_resource.values() for unit in offer.units]
        offered_now = [device.address for unit in units for device in unit.devices]
        out = [entry.function for entry in offers.left_out]
        assert sorted(offered_now + out) == [device.address for device in devices]
        for unit in units:
            addresses = tuple(device.address for device in unit.devices)
            assert unit.id == addresses[0]
            assert len(addresses) <= 2
            if len(addresses) == 2:
                assert all(offered.setdefault(each, addresses) == addresses for each in addresses)
            else:  # alone only if its second device is not there
                assert sum(each in offered_now for each in offered.get(unit.id, ())) <= 1
        now += wait
