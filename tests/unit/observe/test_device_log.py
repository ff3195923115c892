"""The log of devices: each change once, and a bounded number for a device that flaps."""

import asyncio
import dataclasses
import logging

import pytest

from tests.support.factories import NAMING
from tests.support.running import running
from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.model import Device, Inventory, LeftOut, Offers, Reason, Shell
from xilinx_fpga_dp.observe.device_log import DeviceEventLog
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.observe.logs import JsonLines, TextLines
from xilinx_fpga_dp.resources.offers import offers_of
from xilinx_fpga_dp.snapshot import Snapshot

DEVICE = Device("0000:65:00.1", Shell("xilinx_u200_a", "1", None), "u200", "xocl")


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


def update(
    journal: DeviceEventLog, time: float, *devices: Device, left_out: tuple[LeftOut, ...] = ()
) -> None:
    journal.update(offers_of(Inventory(devices, left_out), NAMING), time)


def unhealthy(reason: Reason = Reason.OFFLINE) -> Device:
    return dataclasses.replace(DEVICE, reason=reason)


def test_each_change_is_logged_once(lines: pytest.LogCaptureFixture) -> None:
    journal = DeviceEventLog()
    entry = (LeftOut("0000:66:00.0", "golden image"),)
    for time, device in enumerate(
        (DEVICE, DEVICE, unhealthy(), unhealthy(), unhealthy(Reason.RESETTING), DEVICE)
    ):
        update(journal, time, device, left_out=entry)
    update(journal, 9)
    assert [record.message for record in lines.records] == [
        Event.DEVICE_FOUND,
        Event.LEFT_OUT,
        Event.DEVICE_UNHEALTHY,
        Event.DEVICE_UNHEALTHY,
        Event.DEVICE_HEALTHY,
        Event.DEVICE_GONE,
    ]


def test_note_is_logged_once_and_again_when_it_changes(lines: pytest.LogCaptureFixture) -> None:
    journal = DeviceEventLog()
    flash = dataclasses.replace(DEVICE, note="flash")
    waits = dataclasses.replace(unhealthy(), note="waits")
    for time, device in enumerate((flash, flash, waits, unhealthy(), waits, waits)):
        update(journal, time, device)
    assert [record.__dict__.get("note") for record in lines.records] == ["flash", "waits"]


def test_each_warning_is_logged_once(lines: pytest.LogCaptureFixture) -> None:
    journal = DeviceEventLog()
    for time, warnings in enumerate((("a",), ("a",), ("a", "b"), (), ("a",))):
        journal.update(Offers({}, warnings=warnings), time)
    assert [record.__dict__["problem"] for record in lines.records] == ["a", "b", "a"]


def test_moved_device_is_logged(lines: pytest.LogCaptureFixture) -> None:
    journal = DeviceEventLog()
    update(journal, 0, DEVICE)
    update(journal, 1, dataclasses.replace(DEVICE, shell=Shell("other", "2", None)))
    assert lines.records[-1].message == Event.DEVICE_MOVED


def test_flapping_is_folded_and_counted(lines: pytest.LogCaptureFixture) -> None:
    journal = DeviceEventLog()
    for second in range(100):
        update(journal, second, unhealthy() if second % 2 else DEVICE)
    assert len(lines.records) <= 1 + 2 * 6
    for second in range(100, 200):
        update(journal, second, DEVICE)
    suppressed = sum(getattr(record, "changes_suppressed", 0) for record in lines.records)
    logged = sum(record.message in (Event.DEVICE_UNHEALTHY, Event.DEVICE_HEALTHY) for record in lines.records)
    assert suppressed + logged >= 99
    assert lines.records[-1].message == Event.DEVICE_HEALTHY, "the newest state is logged last"


def test_repeated_removal_is_folded_and_counted(lines: pytest.LogCaptureFixture) -> None:
    journal = DeviceEventLog()
    for second in range(61):
        update(journal, second, *([] if second % 2 else [unhealthy()]))
    assert len(lines.records) <= 2 * 7
    for second in range(61, 200):
        update(journal, second, unhealthy())
    assert lines.records[-1].message == Event.DEVICE_UNHEALTHY, "the newest state is logged last"
    update(journal, 200)
    for second in range(201, 300):
        update(journal, second)
    assert lines.records[-1].message == Event.DEVICE_GONE
    assert lines.records[-1].__dict__["resource"] == "xilinx.com/fpga-xilinx_u200_a-1"
    assert not journal._devices


def test_line_with_the_count_comes_a_minute_after_the_first_of_six(lines: pytest.LogCaptureFixture) -> None:
    journal = DeviceEventLog()
    for second in range(0, 59, 10):
        update(journal, second, unhealthy() if second % 20 else DEVICE)
    for second, device in ((55, DEVICE), (56, unhealthy()), (59, unhealthy())):
        update(journal, second, device)
    assert len(lines.records) == 6
    assert journal._devices[DEVICE.address].due == 60
    update(journal, 60, unhealthy())
    assert lines.records[-1].__dict__["changes_suppressed"] == 2
    assert journal._devices[DEVICE.address].due is None


async def test_suppressed_changes_are_logged_without_another_change(
    lines: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xilinx_fpga_dp.observe.device_log._WINDOW", 0.2)
    snapshots = Latest(Snapshot())
    async with running(DeviceEventLog().run(snapshots)), asyncio.timeout(20):
        for turn in range(21):
            offers = offers_of(Inventory((unhealthy() if turn % 2 else DEVICE,)), NAMING)
            snapshots.set(Snapshot(offers, offers))
            await asyncio.sleep(0)
        while not getattr(lines.records[-1], "changes_suppressed", 0):
            await asyncio.sleep(0.01)
    assert lines.records[-1].message == Event.DEVICE_HEALTHY


@pytest.mark.parametrize("formatter", [JsonLines(), TextLines()])
def test_text_from_outside_adds_no_log_line(formatter: logging.Formatter) -> None:
    record = logging.makeLogRecord(
        {"msg": "left out", "levelname": "WARNING", "reason": "a\nb\x1b[31m\u2028"}
    )
    line = formatter.format(record)
    assert line.isprintable()
    assert "left out" in line
