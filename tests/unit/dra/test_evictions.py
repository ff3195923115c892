"""Since when a device has its reason, across restarts of the driver."""

from typing import Any

import pytest

from xilinx_fpga_dp.dra.devices import PoolDevice
from xilinx_fpga_dp.dra.evictions import NO_EXECUTE, NO_SCHEDULE, Evictions
from xilinx_fpga_dp.model import Device, History, Reason, Shell

DRIVER = "fpga.xilinx.com"
ADDRESS = "0000:65:00.1"
STARTED = 1000.0  # this process, by the monotonic clock
NOW = "2026-11-30T06:00:00Z"  # by the API server
DEVICE = PoolDevice(
    "pci", "xilinx.com/fpga", (Device(ADDRESS, Shell("s", None, None), "u200", "", reason=Reason.OFFLINE),)
)


class Process:
    """The evictions of a process, and what they depend on."""

    def __init__(self, *reasons: Reason) -> None:
        self.now = STARTED
        self.histories = {ADDRESS: History(STARTED, 0, Reason.OFFLINE)}
        self._evictions = Evictions(
            DRIVER, reasons or (Reason.OFFLINE,), lambda: self.histories, lambda: self.now
        )

    def take_over(self, effect: str, added: str | None, key: str = f"{DRIVER}/offline", **more: str) -> None:
        taint: dict[str, Any] = {"key": key, "effect": effect, **more}
        if added:
            taint["timeAdded"] = added
        devices = [{"name": DEVICE.name, "taints": [taint]}, {"name": "other"}]
        self._evictions.take_over([{"spec": {"devices": devices}}, {"spec": {}}], [DEVICE], NOW)

    def effect(self, after: float = 0.0) -> str:
        self.now = STARTED + after
        return self._evictions.effect(DEVICE, Reason.OFFLINE)


def test_reason_evicts_once_it_has_lasted() -> None:
    process = Process()
    assert process.effect() == NO_SCHEDULE
    assert process.effect(29.9) == NO_SCHEDULE
    assert process.effect(30.0) == NO_EXECUTE


@pytest.mark.parametrize("added", ["2026-11-30T05:59:59Z", None, "no time"])
def test_taint_that_evicts_goes_on_evicting(added: str | None) -> None:
    process = Process()
    process.take_over(NO_EXECUTE, added)
    assert process.effect() == NO_EXECUTE


def test_age_of_a_taint_counts() -> None:
    process = Process()
    process.take_over(NO_SCHEDULE, "2026-11-30T05:59:40Z")
    assert process.effect(9.0) == NO_SCHEDULE, "20 s by a clock of whole seconds"
    assert process.effect(11.0) == NO_EXECUTE


@pytest.mark.parametrize("added", [None, "no time", "2026-11-30T07:00:00Z"])
def test_taint_without_an_age_proves_nothing(added: str | None) -> None:
    process = Process()
    process.take_over(NO_SCHEDULE, added)
    assert process.effect(29.9) == NO_SCHEDULE


@pytest.mark.parametrize(
    "taint", [{"key": f"{DRIVER}/firewall"}, {"key": "example.com/offline"}, {"value": "x"}]
)
def test_other_taint_proves_nothing(taint: dict[str, str]) -> None:
    process = Process()
    process.take_over(NO_EXECUTE, "2026-11-30T01:00:00Z", **taint)
    assert process.effect(29.9) == NO_SCHEDULE


def test_device_that_was_healthy_before_has_a_new_fault() -> None:
    process = Process()
    process.histories[ADDRESS] = History(STARTED, 1, Reason.OFFLINE)
    process.take_over(NO_EXECUTE, "2026-11-30T01:00:00Z")
    assert process.effect(29.9) == NO_SCHEDULE


@pytest.mark.parametrize("changes", [0, 2])
def test_device_that_recovers_or_is_replaced_has_a_new_fault(changes: int) -> None:
    process = Process()
    process.take_over(NO_EXECUTE, "2026-11-30T01:00:00Z")
    process.histories[ADDRESS] = History(STARTED + 60.0, changes, Reason.OFFLINE)
    assert process.effect(89.9) == NO_SCHEDULE


def test_reason_that_evicts_no_more_does_not() -> None:
    process = Process(Reason.FIREWALL)
    process.take_over(NO_EXECUTE, "2026-11-30T01:00:00Z")
    assert process.effect(60.0) == NO_SCHEDULE
