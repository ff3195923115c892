"""What XRT's drivers say of a card's health: firewalls, listed errors, `ready`, the image that booted."""

import os
import struct
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.opened import Openings
from tests.support.scanning import only_device, scanner_for, settled
from xilinx_fpga_dp.discovery import xocl_errors
from xilinx_fpga_dp.discovery.scanner import Scanner
from xilinx_fpga_dp.model import Reason
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode, XrtCard

TRIP = 1 | 1 << 16 | 3 << 24 | 1 << 32 | 3 << 40  # as userpf/xocl_drv.c builds it
TIMEOUT = 13 | 1 << 16 | 3 << 24 | 2 << 40  # of a compute unit, userpf/xocl_kds.c
GARBAGE = 0xFFFF_8D80_0000_0000


def errors(*codes: int, time: int = 0, size: int = 24, count: int | None = None) -> bytes:
    records = b"".join(struct.pack("<QQI", code, time, 0).ljust(size, b"\0") for code in codes)
    number = len(codes) if count is None else count
    return struct.pack("<i4x", number) + records.ljust(32 * size, b"\0")


async def reason_after(scanner: Scanner) -> Reason | None:
    """Return the fault after all reads and a health check."""
    await settled(scanner)
    [device] = (await scanner.check()).devices
    return device.reason


def write_firewall(card: XrtCard, status: str, level: str, time: str = "0") -> None:
    for name, text in (("status", status), ("level", level), ("detected_time", time)):
        card.write(f"firewall/{name}", text)


class TestFirewall:
    @pytest.mark.parametrize("release", ["2019.2", "2020.2", "2021.1", "2021.2", "2022.1", "2022.2"])
    @pytest.mark.parametrize(
        ("status", "level"),
        [
            ("0", str(2**64 - 1)),
            ("0", str(2**32 - 1)),
            ("0", str(GARBAGE | 0xFFFF_FFFF)),
            ("0", str(GARBAGE)),
            ("0", "0"),
            ("0x0", "3"),
            ("", ""),
            ("x", "2"),
        ],
    )
    async def test_status_0_or_none_is_no_trip(
        self, node: SampleNode, release: str, status: str, level: str
    ) -> None:
        card = node.add_card("u55c", release=release)
        write_firewall(card, status, level)
        assert (await only_device(node)).reason is None
        card.offline()
        assert (await only_device(node)).reason is Reason.OFFLINE

    @pytest.mark.parametrize("level", ["0", "2", str(2**64 - 1), str(GARBAGE | 2), "", "x"])
    async def test_status_makes_the_trip_whatever_the_level(self, node: SampleNode, level: str) -> None:
        card = node.add_card("u55c", release="2022.2")
        scanner = scanner_for(node)
        await settled(scanner)
        write_firewall(card, "524288", level)
        assert await reason_after(scanner) is Reason.FIREWALL

    @pytest.mark.parametrize("damage", ["zeros", "missing", "empty"])
    async def test_silence_ends_no_trip(self, node: SampleNode, damage: str) -> None:
        card = node.add_card("u55c", release="2022.2")
        scanner = scanner_for(node)
        await settled(scanner)
        card.firewall_trip()
        assert await reason_after(scanner) is Reason.FIREWALL
        for name in ("status", "level", "detected_time"):
            if damage == "missing":
                os.unlink(card.path(f"firewall/{name}"))
            else:
                card.write(f"firewall/{name}", "0" if damage == "zeros" else "")
        assert await reason_after(scanner) is Reason.FIREWALL
        write_firewall(card, "0", str(2**64 - 1))
        assert await reason_after(scanner) is Reason.OFFLINE


class TestListedErrors:
    """XRT 2021.2 and 2022.1: the firewall asks, the list of errors is free."""

    @pytest.fixture(params=["2021.2", "2022.1"])
    def card(self, node: SampleNode, request: pytest.FixtureRequest) -> XrtCard:
        card = node.add_card("u55c", release=request.param)
        card.write("xocl_errors", errors())
        return card

    @pytest.mark.parametrize("size", [24, 32])
    async def test_trip_names_why_it_is_offline(self, node: SampleNode, card: XrtCard, size: int) -> None:
        card.write("xocl_errors", errors(size=size))
        scanner = scanner_for(node)
        with Openings(node.root) as opened:
            await settled(scanner)
            card.write("xocl_errors", errors(TIMEOUT, TRIP, size=size))
            card.offline()
            assert await reason_after(scanner) is Reason.FIREWALL
            assert (await scanner.check()).devices[0].reason is Reason.FIREWALL
        assert not [each for each in opened if "/firewall.u." in each.path]

    async def test_old_trip_names_nothing(self, node: SampleNode, card: XrtCard) -> None:
        card.write("xocl_errors", errors(TRIP))
        scanner = scanner_for(node)
        assert await reason_after(scanner) is None
        card.offline()
        assert await reason_after(scanner) is Reason.OFFLINE
        card.write("xocl_errors", errors(TRIP, TRIP))
        assert await reason_after(scanner) is Reason.FIREWALL

    async def test_trip_while_in_service_is_no_fault(self, node: SampleNode, card: XrtCard) -> None:
        scanner = scanner_for(node)
        await settled(scanner)
        card.write("xocl_errors", errors(TRIP))
        assert await reason_after(scanner) is None

    async def test_reset_after_a_trip_ends_it(self, node: SampleNode, card: XrtCard) -> None:
        scanner = scanner_for(node)
        await settled(scanner)
        record = errors(TRIP)
        card.write("xocl_errors", record)
        card.offline()
        assert await reason_after(scanner) is Reason.FIREWALL
        card.reset_begin()
        assert await reason_after(scanner) is Reason.RESETTING
        card.reset_end()
        card.write("xocl_errors", record)
        assert await reason_after(scanner) is None
        card.offline()
        assert await reason_after(scanner) is Reason.OFFLINE

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"00, Error: Device errors not found\n",
            errors(TRIP)[:-1],
            errors(TRIP) + b"\0",
            errors(TRIP, count=33),
            errors(TRIP, count=-1),
            b"\xff" * 776,
        ],
        ids=["2021.1", "text", "short", "long", "33", "-1", "ones"],
    )
    async def test_what_is_no_list_tells_nothing(
        self, node: SampleNode, card: XrtCard, content: bytes
    ) -> None:
        card.write("xocl_errors", content)
        scanner = scanner_for(node)
        assert await reason_after(scanner) is None
        card.firewall_trip()
        assert await reason_after(scanner) is Reason.FIREWALL  # the firewall is asked instead

    @given(st.binary(max_size=1100))
    def test_any_content_is_parsed_or_none(self, content: bytes) -> None:
        found = xocl_errors.parse(content)
        assert found is None or len(found) <= 32
        xocl_errors.last_trip(content)

    @given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)), max_size=32))
    def test_records_are_read_as_written(self, pairs: list[tuple[int, int]]) -> None:
        for size in (24, 32):
            records = b"".join(struct.pack("<QQI", *pair, 7).ljust(size, b"\0") for pair in pairs)
            content = struct.pack("<i4x", len(pairs)) + records.ljust(32 * size, b"\0")
            assert xocl_errors.parse(content) == tuple(xocl_errors.ErrorRecord(*pair) for pair in pairs)

    def test_each_trip_differs_from_the_last(self) -> None:
        seen = {xocl_errors.last_trip(errors(*[TRIP] * number)) for number in range(33)}
        assert len(seen) == 33
        assert xocl_errors.last_trip(errors(TRIP, time=5)) != xocl_errors.last_trip(errors(TRIP, time=6))
        assert xocl_errors.last_trip(errors(TIMEOUT)) is None


class TestReadyThatAsks:
    """xocl 2.4 to 2.7: a read of `ready` costs a line in the kernel's log, or 20 s."""

    @pytest.fixture(params=["2.4.655", "2.5.0", "2.6.655,2d6bfe4ce910", "2.7.766"])
    def card(self, node: SampleNode, request: pytest.FixtureRequest) -> XrtCard:
        card = node.add_card("u55c", release="2020.1")
        node.files.put(f"{node.sysfs_root}/module/xocl/version", request.param)
        return card

    async def test_is_read_once_a_minute(self, node: SampleNode, card: XrtCard) -> None:
        scanner = scanner_for(node)
        with Openings(node.root) as opened:
            for _ in range(5):
                await settled(scanner)
                [device] = (await scanner.check()).devices
                await scanner.refresh(device)
        reads = [each for each in opened if each.path.endswith("/ready")]
        assert [each.thread for each in reads] == ["slow"]

    async def test_state_of_the_mailbox_tells_in_between(self, node: SampleNode, card: XrtCard) -> None:
        scanner = scanner_for(node)
        assert await reason_after(scanner) is None
        card.write("mailbox_connect_state", "0x0")
        assert (await scanner.check()).devices[0].reason is Reason.NOT_READY
        card.write("mailbox_connect_state", "0x3")
        assert (await scanner.check()).devices[0].reason is None

    async def test_without_mpd_a_guest_is_not_ready(self, node: SampleNode, card: XrtCard) -> None:
        card.write("mailbox_connect_state", "0x1")
        card.write("ready", "0x0")
        scanner = scanner_for(node)
        assert (await scanner.scan()).devices == (), "not known yet"
        assert await reason_after(scanner) is Reason.NOT_READY

    async def test_guest_is_healthy_once_ready_is_read(self, node: SampleNode, card: XrtCard) -> None:
        card.write("mailbox_connect_state", "0x1")
        assert (await only_device(node)).reason is None

    async def test_guest_that_was_away_waits_for_ready(self, node: SampleNode, card: XrtCard) -> None:
        card.write("mailbox_connect_state", "0x1")
        scanner = scanner_for(node)
        assert await reason_after(scanner) is None
        card.write("mailbox_connect_state", "0x0")
        [device] = (await scanner.check()).devices
        assert device.reason is Reason.NOT_READY
        card.write("mailbox_connect_state", "0x1")
        [device] = (await scanner.check()).devices
        assert device.reason is Reason.NOT_READY, "a minute has not passed"
        again = await scanner.refresh(device)
        assert again is not None
        assert again.reason is Reason.NOT_READY

    async def test_hanging_ready_holds_up_no_scan(self, node: SampleNode, card: XrtCard) -> None:
        card.hang("ready")
        scanner = scanner_for(node)
        found = await scanner.scan()
        assert [device.reason for device in found.devices] == [None]
        card.unhang("ready")

    @pytest.mark.parametrize("version", ["2.3.1301", "2.8.743", "2.13.466", "", "x", "99999999.1"])
    async def test_other_versions_are_read_each_check(self, node: SampleNode, version: str) -> None:
        card = node.add_card("u55c", release="2020.2")
        node.files.put(f"{node.sysfs_root}/module/xocl/version", version)
        scanner = scanner_for(node)
        assert await reason_after(scanner) is None
        card.write("ready", "0x0")
        assert (await scanner.check()).devices[0].reason is Reason.NOT_READY


class TestBootedImage:
    STATUS = "HAS_FPT:1\nBOOT_ON_DEFAULT:{}\nBOOT_ON_BACKUP:{}\nBOOT_ON_RECOVERY:{}\n"

    @pytest.mark.parametrize(
        ("images", "image"), [((0, 1, 0), "backup"), ((0, 0, 1), "recovery"), ((0, 1, 1), "recovery")]
    )
    async def test_other_image_is_a_warning(
        self, node: SampleNode, images: tuple[int, ...], image: str
    ) -> None:
        card = node.add_card("v70")
        card.write("vmr_status", self.STATUS.format(*images))
        device = await only_device(node)
        assert device.healthy
        assert f"booted its {image} image" in (device.warning or "")

    @pytest.mark.parametrize("text", ["", "BOOT_ON_DEFAULT:1\nBOOT_ON_BACKUP:0\n", "BOOT_ON_BACKUP:x\n"])
    async def test_default_image_or_no_answer_is_none(self, node: SampleNode, text: str) -> None:
        node.add_card("v70").write("vmr_status", text)
        assert (await only_device(node)).warning is None

    @pytest.mark.parametrize(("board", "reads"), [("v70", 1), ("u55c", 0)])
    async def test_is_read_once_and_of_versal_only(self, node: SampleNode, board: str, reads: int) -> None:
        node.add_card(board)
        scanner = scanner_for(node)
        with Openings(node.root) as opened:
            for _ in range(4):
                await settled(scanner)
                await scanner.check()
        assert Counter(os.path.basename(each.path) for each in opened)["vmr_status"] == reads
