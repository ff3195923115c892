"""The log of a node: each change once, and a device that flaps is folded."""

import asyncio
import dataclasses
import logging
from unittest import mock

import pytest

from tests.conftest import running, service_in_the_loop
from xilinx_fpga_dp.model import Device, Inventory, LeftOut, Offers, Reason, Shell
from xilinx_fpga_dp.observe.device_log import DeviceEventLog
from xilinx_fpga_dp.observe.logs import JsonLines, TextLines
from xilinx_fpga_dp.resources.naming import Naming
from xilinx_fpga_dp.resources.offers import offers_of
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode

DEVICE = Device("0000:65:00.1", Shell("xilinx_u200_a", "1", None), "u200", "xocl")
NAMING = Naming("xilinx.com/fpga-", "{shell}-{timestamp}")


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


def tell(journal: DeviceEventLog, time: float, *devices: Device, left_out: tuple[LeftOut, ...] = ()) -> None:
    journal.tell(offers_of(Inventory(devices, left_out), NAMING), time)


def ill(reason: Reason = Reason.OFFLINE) -> Device:
    return dataclasses.replace(DEVICE, reason=reason)


def test_each_change_once(lines: pytest.LogCaptureFixture) -> None:
    journal = DeviceEventLog()
    entry = (LeftOut("0000:66:00.0", "golden image"),)
    for time, device in enumerate((DEVICE, DEVICE, ill(), ill(), ill(Reason.RESETTING), DEVICE)):
        tell(journal, time, device, left_out=entry)
    tell(journal, 9)
    assert [record.message for record in lines.records] == [
        "device found",
        "left out",
        "device Unhealthy",
        "device Unhealthy",
        "device Healthy",
        "device gone",
    ]


def test_a_warning_once(lines: pytest.LogCaptureFixture) -> None:
    journal = DeviceEventLog()
    for time, warnings in enumerate((("a",), ("a",), ("a", "b"), (), ("a",))):
        journal.tell(Offers({}, warnings=warnings), time)
    assert [record.__dict__["problem"] for record in lines.records] == ["a", "b", "a"]


def test_a_device_that_moves(lines: pytest.LogCaptureFixture) -> None:
    journal = DeviceEventLog()
    tell(journal, 0, DEVICE)
    tell(journal, 1, dataclasses.replace(DEVICE, shell=Shell("other", "2", None)))
    assert lines.records[-1].message == "device moved to another resource"


def test_flapping_is_folded_and_counted(lines: pytest.LogCaptureFixture) -> None:
    journal = DeviceEventLog()
    for second in range(100):
        tell(journal, second, ill() if second % 2 else DEVICE)
    assert len(lines.records) <= 1 + 2 * 6
    for second in range(100, 200):
        tell(journal, second, DEVICE)
    untold = sum(getattr(record, "changes_not_told", 0) for record in lines.records)
    told = sum(record.message in ("device Unhealthy", "device Healthy") for record in lines.records)
    assert untold + told >= 99
    assert lines.records[-1].message == "device Healthy", "the newest state comes last"


def test_one_that_comes_and_goes_is_folded_too(lines: pytest.LogCaptureFixture) -> None:
    journal = DeviceEventLog()
    for second in range(61):
        tell(journal, second, *([] if second % 2 else [ill()]))
    assert len(lines.records) <= 2 * 7
    for second in range(61, 200):
        tell(journal, second, ill())
    assert lines.records[-1].message == "device Unhealthy", "the newest state comes last"
    tell(journal, 200)
    for second in range(201, 300):
        tell(journal, second)
    assert lines.records[-1].message == "device gone"
    assert lines.records[-1].__dict__["resource"] == "xilinx.com/fpga-xilinx_u200_a-1"
    assert not journal._stories


async def test_the_log_is_told_of_a_device_that_flapped_though_nothing_changes_any_more(
    node: SampleNode,
) -> None:
    node.add_card("u55c", serial="")
    service = service_in_the_loop(node)
    with mock.patch.object(service._journal, "tell", wraps=service._journal.tell) as tell:
        async with running(service._scan()), asyncio.timeout(20):
            while tell.call_count < 20:
                await asyncio.sleep(0.05)
    assert len({id(call.args[0]) for call in tell.call_args_list}) < 10, "the same offers"


@pytest.mark.parametrize("formatter", [JsonLines(), TextLines()])
def test_nothing_named_outside_breaks_a_line(formatter: logging.Formatter) -> None:
    record = logging.makeLogRecord(
        {"msg": "left out", "levelname": "WARNING", "reason": "a\nb\x1b[31m\u2028"}
    )
    line = formatter.format(record)
    assert line.isprintable()
    assert "left out" in line
