"""What Events and the node's condition say of a snapshot."""

import pytest

from tests.support.factories import NAMING, device
from xilinx_fpga_dp.model import Device, Inventory, LeftOut, Offers, Reason, Shell
from xilinx_fpga_dp.observe.events import NodeEvent
from xilinx_fpga_dp.observe.node_reports import condition_of, counted, occurrences
from xilinx_fpga_dp.resources.offers import offers_of
from xilinx_fpga_dp.snapshot import Snapshot

A, B = "0000:65:00.1", "0000:66:00.1"
U200 = "xilinx.com/fpga-xilinx_u200_xdma_201830_2-1561465320"


def offers(*devices: Device, left_out: tuple[LeftOut, ...] = ()) -> Offers:
    return offers_of(Inventory(devices, left_out), NAMING)


def condition(*devices: Device, left_out: tuple[LeftOut, ...] = ()) -> tuple[str, str, str]:
    known = offers(*devices, left_out=left_out)
    found = condition_of(Snapshot(offers=known, known=known))
    assert found is not None
    return found.status, found.reason, found.message


def told(before: Offers | None, after: Offers) -> list[tuple[str, str]]:
    return [(each.reason, each.note) for each in occurrences(before, after)]


class TestCondition:
    def test_nothing_before_the_first_scan(self) -> None:
        assert condition_of(Snapshot()) is None

    def test_scan_that_fails_is_unknown(self) -> None:
        found = condition_of(Snapshot(scan_error="/sys: no such directory"))
        assert found is not None
        assert (found.status, found.reason, found.message) == (
            "Unknown",
            "ScanFailed",
            "/sys: no such directory",
        )

    def test_healthy_devices(self) -> None:
        assert condition(device(A), device(B)) == (
            "True",
            "AllHealthy",
            "FPGA devices: 2, none has a fault",
        )
        assert condition() == ("True", "AllHealthy", "no FPGA device")

    def test_worst_device_gives_the_reason(self) -> None:
        found = condition(device(A, reason=Reason.NO_DRIVER), device(B, reason=Reason.FIREWALL))
        assert found == ("False", "Firewall", f"{A} (u200): no-driver; {B} (u200): firewall")
        assert condition(device(A, reason=Reason.NO_DRIVER))[1] == "NoDriver"

    @pytest.mark.parametrize("reason", [Reason.HELD, Reason.RESETTING])
    def test_held_and_resetting_devices_do_not_count(self, reason: Reason) -> None:
        assert condition(device(A, reason=reason))[0] == "True"

    def test_device_that_lost_its_place_counts(self) -> None:
        entry = LeftOut(A, "resetting for more than 900 s: it lost its place", lost=Reason.RESETTING)
        assert condition(left_out=(entry,)) == ("False", "Resetting", f"{A}: resetting")
        assert condition(left_out=(LeftOut(A, "golden image"),))[0] == "True"

    @pytest.mark.parametrize("reason", Reason)
    def test_each_reason_gives_a_value(self, reason: Reason) -> None:
        assert condition(device(A, reason=reason))[0] in ("True", "False")

    def test_message_names_ten_devices(self) -> None:
        found = condition(*(device(f"0000:{bus:02x}:00.1", reason=Reason.OFFLINE) for bus in range(12)))
        assert found[2].count("offline") == 10
        assert found[2].endswith("; and 2 more")


class TestOccurrences:
    def test_device_breaks_and_recovers(self) -> None:
        healthy, broken = offers(device(A)), offers(device(A, reason=Reason.FIREWALL))
        [found] = occurrences(healthy, broken)
        assert (found.reason, found.note, found.warning, found.initial) == (
            NodeEvent.UNHEALTHY,
            f"{A} (u200): firewall",
            True,
            False,
        )
        assert told(broken, healthy) == [(NodeEvent.RECOVERED, f"{A} (u200): healthy after firewall")]
        assert told(broken, offers(device(A, reason=Reason.OFFLINE))) == [
            (NodeEvent.UNHEALTHY, f"{A} (u200): offline")
        ]
        assert told(healthy, healthy) == []

    def test_held_device_is_no_fault(self) -> None:
        held = offers(device(A, reason=Reason.HELD))
        assert told(offers(device(A)), held) == []
        assert told(offers(device(A, reason=Reason.OFFLINE)), held)[0][0] == NodeEvent.RECOVERED

    def test_first_snapshot_tells_faults_only_as_initial(self) -> None:
        found = list(occurrences(None, offers(device(A), device(B, reason=Reason.OFFLINE))))
        assert [(each.subject, each.initial) for each in found] == [(B, True)]

    def test_device_that_goes_is_told_with_the_reason(self) -> None:
        assert told(offers(device(A)), offers()) == [
            (NodeEvent.REMOVED, f"{A} (u200): it is no longer on the node")
        ]
        after = offers(left_out=(LeftOut(A, "it lost its place"),))
        assert told(offers(device(A)), after) == [(NodeEvent.REMOVED, f"{A} (u200): it lost its place")]
        assert told(offers(), offers(device(A))) == []

    def test_other_shell_is_told(self) -> None:
        after = offers(device(A, shell=Shell("xilinx_u200_gen3x16_xdma_base_2", None, None)))
        assert told(offers(device(A)), after) == [
            (
                NodeEvent.REPROGRAMMED,
                f"{A} (u200): xilinx_u200_gen3x16_xdma_base_2, before xilinx_u200_xdma_201830_2-1561465320",
            )
        ]


@pytest.mark.parametrize(
    ("capacity", "whole"), [({U200: "2"}, True), ({U200: "1"}, False), ({}, False), (None, False)]
)
def test_node_is_ready_when_kubelet_has_written_the_count(
    capacity: dict[str, str] | None, whole: bool
) -> None:
    assert counted(offers(device(A), device(B)), {"status": {"capacity": capacity}}) is whole
    assert counted(offers(), {"status": {"capacity": capacity}})
