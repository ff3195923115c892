"""The table of the attributes that are read, against the files that scans of every board open."""

import re
from collections import Counter
from collections.abc import Iterable

import pytest

from tests.support.opened import Opening, Openings
from tests.support.scanning import scanner_for, settled
from xilinx_fpga_dp.discovery.attributes import (
    NEVER,
    TABLE,
    TELEMETRY,
    UNREAD,
    Attribute,
    Base,
    Level,
    Source,
    rows_of,
)
from xilinx_fpga_dp.discovery.schedules import Schedule
from xilinx_fpga_dp.discovery.telemetry import Telemetry
from xilinx_fpga_dp.simulate.sysfs.boards import AMI_BOARDS, MA35D_BOARDS, XRT_BOARDS, ZOCL_BOARDS
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode, XrtCard
from xilinx_fpga_dp.simulate.sysfs.xrt_releases import DRIVER_VERSIONS

BELOW = {
    Base.FUNCTION: re.compile(r"sys/bus/pci/devices/[^/]+/(.+)"),
    Base.MISC: re.compile(r"sys/class/misc/ama_transcoder\d+/(.+)"),
    Base.RENDER: re.compile(r"sys/class/drm/renderD\d+/device/(.+)"),
    Base.SYSFS: re.compile(r"sys/(?!bus/pci/devices/|class/misc/)(.+)"),
}
# The last one before a change of what is read, and the first one with it
RELEASES = ("2018.3", "2019.1", "2019.2", "2019.2_PU2", "2020.1", "2020.2", "2021.1", "2022.1", "2022.2")
CHECKS = 4


def batched(names: Iterable[str], size: int) -> list[list[str]]:
    every = list(names)
    return [every[first : first + size] for first in range(0, len(every), size)]


def rows(path: str, version: tuple[int, int] | None) -> list[Attribute]:
    """Return the rows of a file that was opened below the root of a node."""
    return [
        row
        for base, pattern in BELOW.items()
        if (match := pattern.fullmatch(path))
        for row in rows_of(base, match[1], version)
    ]


def version_of(release: str) -> tuple[int, int]:
    major, minor, *_ = DRIVER_VERSIONS[release].split(".")
    return int(major), int(minor)


async def opened_by_scans(node: SampleNode, faults: bool = True) -> Openings:
    """Record a service's reads: scans, checks and reads before a grant, healthy and with faults."""
    opened = Openings(node.root)
    scanner = scanner_for(node)
    cards = [card for card in node.cards if isinstance(card, XrtCard) and card._image == "shell"]
    changes = [XrtCard.firewall_trip, XrtCard.reset_begin, XrtCard.reset_end] if faults else []
    for change in (None, *changes):
        for card in cards if change else ():
            change(card)  # type: ignore[misc]
        with opened:
            found = await settled(scanner)
            for _ in range(CHECKS):
                await scanner.check()
            for device in found.devices:
                await scanner.refresh(device)
    return opened


def assert_as_in_table(opened: list[Opening], version: tuple[int, int] | None) -> None:
    assert opened
    unknown = {each.path for each in opened if not rows(each.path, version)}
    assert unknown == set(), "not in the table of discovery/attributes.py"
    assert not [each for each in opened if each.writing]
    for path, count in Counter(each.path for each in opened).items():
        schedules = [row.when for row in rows(path, version)]
        if all(isinstance(each, Schedule) for each in schedules):
            assert count <= 2, f"{path} was read {count} times in a moment: {schedules}"
            assert {each.thread for each in opened if each.path == path} == {"slow"}, path


class TestWhatIsRead:
    @pytest.mark.parametrize("release", RELEASES)
    async def test_cards_of_each_release(self, node: SampleNode, release: str) -> None:
        for board in ("u200", "u55c", "v70"):
            node.add_card(board, release=release)
        node.add_card("u250", release=release, image="golden")
        node.add_card("u250", release=release, image="recovery")
        node.add_card("u50", release=release, mgmt=False).shell_unknown()
        assert_as_in_table(await opened_by_scans(node), version_of(release))

    @pytest.mark.parametrize(
        "boards",
        [*batched(XRT_BOARDS, 5), [*AMI_BOARDS, *MA35D_BOARDS], *([board] for board in ZOCL_BOARDS)],
    )
    async def test_all_boards(self, node: SampleNode, boards: list[str]) -> None:
        node.add_ordinary_devices()
        for board in boards:
            node.plug(board)
        assert_as_in_table(await opened_by_scans(node, faults=False), None)


async def opened_by_telemetry(node: SampleNode, *, everything: bool) -> Openings:
    """Record two samples of all cards."""
    found = await settled(scanner_for(node))
    telemetry = Telemetry(node.sysfs_root, lambda: found.devices, everything=everything, interval=1)
    opened = Openings(node.root)
    with opened:
        for _ in range(2):
            for card in telemetry.cards.values():
                card.due = 0.0
                for state in card.sources.values():
                    state.due = 0.0
            await telemetry.once(30)
    return opened


class TestWhatTelemetryReads:
    @pytest.mark.parametrize("level", list(Level))
    @pytest.mark.parametrize("release", ["2018.3", "2019.2", "2021.2", "2022.2", "2025.1"])
    async def test_rows_of_its_level(self, node: SampleNode, release: str, level: Level) -> None:
        node.sensors = True
        for board in ("u200", "v70"):
            node.add_card(board, release=release)
            node.add_card(board, release=release, mgmt=False)
        for board in ("v80", "ma35d", "zcu102"):
            node.plug(board)
        opened = await opened_by_telemetry(node, everything=level is Level.ALL)
        assert opened
        unknown = {each.path for each in opened if not self.allowed(each.path, level)}
        assert unknown == set(), "not in the table of telemetry in discovery/attributes.py"
        assert not any(each.writing for each in opened)
        assert {each.thread for each in opened} == {"worker"}

    @staticmethod
    def allowed(path: str, level: Level) -> bool:
        levels = (Level.SAFE,) if level is Level.SAFE else tuple(Level)
        return any(
            row.level in levels
            for base, pattern in BELOW.items()
            if (match := pattern.fullmatch(path))
            for row in rows_of(base, match[1], table=TELEMETRY)
        )


class TestTable:
    def test_safe_rows_wait_for_nothing(self) -> None:
        for row in TELEMETRY:
            assert row.level
            if row.level is Level.SAFE:
                assert row.source in (Source.MEMORY, Source.CARD), row.pattern
            elif row.slow or row.source is Source.LOCK:
                assert isinstance(row.when, Schedule)
                assert row.when.pause >= 60

    def test_what_is_never_read_is_in_no_row_of_telemetry(self) -> None:
        never = (*NEVER, "vmr_status", "link_status", "ddrbw_s1_axi_r_MBps", "power1_average")
        assert not [row for row in TELEMETRY for name in never if row.pattern.rpartition("/")[2] == name]

    def test_what_is_never_read_is_not_in_it(self) -> None:
        assert not [row for row in TABLE if row.pattern.rpartition("/")[2] in NEVER]

    def test_mailbox_is_asked_by_schedule(self) -> None:
        assert [row for row in TABLE if row.slow]
        for row in TABLE:
            assert isinstance(row.when, Schedule) or not row.slow, row.pattern
            if isinstance(row.when, Schedule):
                assert row.when.pause >= 2

    def test_version_selects_the_row(self) -> None:
        path = "firewall.u.16777216/status"
        [old] = rows_of(Base.FUNCTION, path, (2, 13))
        [new] = rows_of(Base.FUNCTION, path, (2, 14))
        assert (old.slow, new.slow) == (True, False)
        assert len(list(rows_of(Base.FUNCTION, path))) == 2

    @pytest.mark.parametrize("path", ["rom.u.0/x/VBNV", "VBNV", "rom.u.0/VBNV/", "firewall.u.1/clear"])
    def test_other_paths_have_no_row(self, path: str) -> None:
        assert list(rows_of(Base.FUNCTION, path)) == []

    def test_every_row_tells_its_source(self) -> None:
        reasons = [*(row.why for row in (*TABLE, *TELEMETRY)), *(why for *_, why in UNREAD)]
        assert not [why for why in reasons if not re.search(r"\w+\.(c|cpp)\b", why)]
