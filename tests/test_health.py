"""Health: the rules alone, the state machine against an oracle, and the real thing as kubelet sees it."""

import asyncio
import dataclasses
import errno
import itertools
import json
import os
import re
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.conftest import settings_for
from tests.double import KubeletDouble
from tests.process import Service, eventually
from xilinx_fpga_dp.aio.rate_limit import RateLimit
from xilinx_fpga_dp.discovery import sysfs, uevents
from xilinx_fpga_dp.discovery.drivers import xrt
from xilinx_fpga_dp.discovery.health import HealthRules, HealthTracker, Observation, first, hold, step
from xilinx_fpga_dp.discovery.scanner import Scanner
from xilinx_fpga_dp.discovery.sysfs import Wanted
from xilinx_fpga_dp.model import Device, Reason, Shell
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode, XrtCard
from xilinx_fpga_dp.simulate.sysfs.xrt_releases import DRIVER_VERSIONS

U200 = "xilinx.com/fpga-xilinx_u200_xdma_201830_2-1561465320"
U250 = "xilinx.com/fpga-xilinx_u250_xdma_201830_2-1561656294"
U55C = "xilinx.com/fpga-xilinx_u55c_gen3x16_xdma_base_3-0"

DEVICE = Device("0000:65:00.1", Shell("a_b", "1", None), "b", "xocl", node="/dev/dri/renderD128")
RULES = HealthRules(recovery_checks=3, reset_grace=100)
LOST = {Reason.RESETTING, Reason.SHELL_UNKNOWN, Reason.NO_DRIVER}


def seen(reason: Reason | None = None, **more: Any) -> Observation:
    return Observation(DEVICE.address, DEVICE, reason, **more)


def lost(reason: Reason | None) -> Observation:
    return Observation(DEVICE.address, reason=reason, why="why")


class TestReadings:
    """What the attributes of one device say."""

    WELL: ClassVar[dict[str, str]] = {
        "shutdown": "0",
        "dev_offline": "0",
        "ready": "0x1",
        "device_bad_state": "0",
    }

    @pytest.mark.parametrize(
        ("other", "reason"),
        [
            ({}, None),
            ({"shutdown": "1"}, Reason.SHUTDOWN),
            ({"dev_offline": "1"}, Reason.OFFLINE),
            ({"dev_offline": "-19"}, Reason.OFFLINE),
            ({"ready": "0x0"}, Reason.NOT_READY),
            ({"ready": "0"}, Reason.NOT_READY),
            ({"ready": "0x3"}, None),
            ({"device_bad_state": "1"}, Reason.BAD_STATE),
            ({"ready": "rubbish", "dev_offline": "", "shutdown": "x"}, None),
            ({"ready": None, "dev_offline": None, "shutdown": None, "device_bad_state": None}, None),
            ({"shutdown": "1", "dev_offline": "1", "ready": "0x0"}, Reason.SHUTDOWN),
            ({"dev_offline": "1", "ready": "0x0"}, Reason.OFFLINE),
        ],
    )
    def test_attributes(self, other: dict[str, str | None], reason: Reason | None) -> None:
        assert xrt.reason_of({**self.WELL, **other}, renders=True, node=True) is reason

    def test_drm_gone_with_its_attributes_is_a_reset(self) -> None:
        gone = {"ready": None, "dev_offline": None, "shutdown": "0"}
        assert xrt.reason_of(gone, renders=False, node=False) is Reason.RESETTING

    def test_drm_gone_alone_or_its_node_is_no_node(self) -> None:
        assert xrt.reason_of(self.WELL, renders=False, node=False) is Reason.NO_NODE
        assert xrt.reason_of(self.WELL, renders=True, node=False) is Reason.NO_NODE

    @pytest.mark.parametrize("level", [None, "18446744073709551615", "4294967295", "-1", "x", ""])
    def test_no_trip(self, level: str | None) -> None:
        assert not xrt.is_trip(level)

    def test_a_trip_differs_from_the_next(self, node: SampleNode) -> None:
        assert xrt.is_trip("2")
        card = node.add_card("u55c", release="2022.2")
        [user] = (
            function
            for function in sysfs.read_bus(
                node.sysfs_root, Wanted(xrt.BACKEND.drivers, xrt.BACKEND.listed, frozenset(), {})
            ).functions
            if function.address == card.address
        )
        trips = set()
        for level, status, time_ in (("2", "524288", "1"), ("2", "524288", "2"), ("2", "1", "2")):
            for name, text in (("level", level), ("status", status), ("detected_time", time_)):
                card.write(f"firewall/{name}", text)
            trips.add(xrt.read_trip(user))
        assert len(trips - {None}) == 3

    @given(st.dictionaries(st.sampled_from(sorted(WELL)), st.one_of(st.none(), st.text())))
    def test_any_text_gives_a_verdict(self, attributes: dict[str, str | None]) -> None:
        xrt.reason_of(attributes, renders=True, node=True)


class TestSteps:
    """Single rules of the state machine."""

    def test_first_seen_well_is_healthy_at_once(self) -> None:
        state = first(seen(), 0)
        assert state is not None
        assert state.device.healthy

    def test_never_seen_with_a_shell_is_no_device(self) -> None:
        assert first(lost(Reason.SHELL_UNKNOWN), 0) is None

    def test_recovery_takes_checks_in_a_row(self) -> None:
        state = first(seen(Reason.OFFLINE), 0)
        for observation, check, reason in [
            (seen(), True, Reason.OFFLINE),
            (seen(), True, Reason.OFFLINE),
            (seen(Reason.OFFLINE), True, Reason.OFFLINE),  # starts over
            (seen(), True, Reason.OFFLINE),
            (seen(), False, Reason.OFFLINE),  # woken: does not count
            (seen(), True, Reason.OFFLINE),
            (seen(), True, None),
        ]:
            assert state is not None
            state = step(state, observation, 1, RULES, check=check)
            assert state is not None
            assert state.device.reason is reason

    def test_a_fault_counts_at_once_even_after_a_wake_up(self) -> None:
        state = first(seen(), 0)
        assert state is not None
        state = step(state, seen(Reason.BAD_STATE), 1, RULES, check=False)
        assert state is not None
        assert state.device.reason is Reason.BAD_STATE

    @pytest.mark.parametrize("announced", [Reason.SHUTDOWN, Reason.OFFLINE])
    def test_gone_after_a_warning_keeps_its_place(self, announced: Reason) -> None:
        state = first(seen(announced), 0)
        assert state is not None
        state = step(state, None, 1, RULES, check=True)
        assert state is not None
        assert state.device.reason is Reason.RESETTING
        state = step(state, None, 100, RULES, check=True)
        assert state is not None
        assert step(state, None, 101, RULES, check=True) is None

    def test_its_driver_goes_before_it_does(self) -> None:
        for announced, place in ((Reason.OFFLINE, True), (None, False)):
            state = first(seen(announced), 0)
            for _ in range(2):
                assert state is not None
                state = step(state, lost(Reason.NO_DRIVER), 1, RULES, check=True)
            assert state is not None
            assert (step(state, None, 2, RULES, check=True) is not None) is place

    @pytest.mark.parametrize(
        "observation",
        [lost(Reason.UNRESPONSIVE), seen(Reason.NO_NODE), lost(Reason.SHELL_UNKNOWN)],
        ids=[
            "its reads hang",
            "its drm went before the last of its attributes",
            "its shell could not be read",
        ],
    )
    def test_it_may_be_observed_while_it_goes(self, observation: Observation) -> None:
        state = first(seen(Reason.OFFLINE), 0)
        assert state is not None
        state = step(state, observation, 1, RULES, check=True)
        assert state is not None
        state = step(state, None, 2, RULES, check=True)
        assert state is not None
        assert state.device.reason is Reason.RESETTING

    def test_a_card_that_is_not_removable_is_lost_when_it_goes(self) -> None:
        state = first(seen(removable=False), 0)
        assert state is not None
        state = step(state, None, 1, RULES, check=True)
        assert state is not None
        assert state.device.reason is Reason.RESETTING
        assert step(state, None, 101, RULES, check=True) is None

    @pytest.mark.parametrize("before", [None, Reason.NOT_READY, Reason.UNRESPONSIVE])
    def test_gone_without_a_warning_is_unplugged(self, before: Reason | None) -> None:
        state = first(seen(before), 0)
        assert state is not None
        assert step(state, None, 1, RULES, check=True) is None

    def test_no_answer_yet_changes_nothing(self) -> None:
        state = first(seen(), 0)
        assert state is not None
        assert step(state, lost(None), 1, RULES, check=True) is state

    def test_lost_for_too_long_loses_its_place_until_it_is_back(self) -> None:
        tracker = HealthTracker(RULES)
        tracker.step([seen()], 0, check=True)
        assert tracker.step([lost(Reason.RESETTING)], 1, check=True).devices
        assert tracker.step([lost(Reason.SHELL_UNKNOWN)], 99, check=True).devices
        gone = tracker.step([lost(Reason.RESETTING)], 101, check=True)
        assert gone.devices == ()
        assert gone.left_out[0].reason == "resetting for more than 100 s: it lost its place; why"
        assert not tracker.step([seen(Reason.RESETTING)], 102, check=True).devices
        back = tracker.step([seen()], 103, check=True)
        assert [device.reason for device in back.devices] == [Reason.RESETTING]
        tracker.step([seen()], 104, check=True)
        assert tracker.step([seen()], 105, check=True).devices[0].healthy

    def test_a_trip_ends_with_the_reset_after_it(self) -> None:
        trip: dict[str, Any] = {"trip": "2/1/77", "latched": True}
        state = first(seen(), 0)
        for observation, reason in [
            (seen(**trip), Reason.FIREWALL),
            (seen(Reason.OFFLINE, **trip), Reason.FIREWALL),
            (seen(**trip), Reason.FIREWALL),  # no reset: it stays
            (lost(Reason.RESETTING), Reason.RESETTING),
            (seen(**trip), Reason.RESETTING),  # on record still, and over
            (seen(**trip), Reason.RESETTING),
            (seen(**trip), None),
            (seen(trip="2/1/99", latched=True), Reason.FIREWALL),  # another one
        ]:
            assert state is not None
            state = step(state, observation, 1, RULES, check=True)
            assert state is not None
            assert state.device.reason is reason

    def test_a_trip_on_record_at_first_is_an_old_one_unless_the_card_is_offline(self) -> None:
        for reason, expected in ((None, None), (Reason.OFFLINE, Reason.FIREWALL)):
            state = first(seen(reason, trip="2/1/77", latched=True), 0)
            assert state is not None
            assert state.device.reason is expected

    def test_a_trip_of_a_driver_that_keeps_no_record_is_a_trip_now(self) -> None:
        state = first(seen(trip="2/1/77"), 0)
        assert state is not None
        assert state.device.reason is Reason.FIREWALL

    def test_a_fault_of_its_own_comes_before_held(self) -> None:
        state = first(seen(), 0)
        assert state is not None
        state = hold(state, True, 1)
        assert state.device.reason is Reason.HELD
        faulty = step(state, seen(Reason.OFFLINE), 2, RULES, check=True)
        assert faulty is not None
        assert faulty.device.reason is Reason.OFFLINE
        assert hold(state, False, 2).device.healthy, "freed is Healthy at once"

    def test_history(self) -> None:
        state = first(seen(), 5)
        assert state is not None
        assert (state.history.since, state.history.changes, state.history.last_reason) == (5, 0, None)
        for now, observation in (
            (6, seen()),
            (7, seen(Reason.OFFLINE)),
            (8, seen(Reason.OFFLINE)),
            (9, seen()),
        ):
            state = step(state, observation, now, dataclasses.replace(RULES, recovery_checks=1), check=True)
            assert state is not None
        assert (state.history.since, state.history.changes) == (9, 2)
        assert state.history.last_reason is Reason.OFFLINE


class Against(RuleBasedStateMachine):
    """Many devices through any observations, against a few lines with what must be true of one."""

    ADDRESSES = ("0000:01:00.1", "0000:02:00.1", "0000:03:00.1")

    def __init__(self) -> None:
        super().__init__()
        self.tracker = HealthTracker(RULES)
        self.now = 0.0
        self.observations: dict[str, Observation | None] = dict.fromkeys(self.ADDRESSES)
        self.reasons: dict[str, Reason | None] = {}
        self.good: dict[str, int] = {}
        self.since: dict[str, float] = {}
        self.announced: dict[str, bool] = {}

    @rule(
        address=st.sampled_from(ADDRESSES),
        reason=st.one_of(
            st.none(), st.sampled_from([r for r in Reason if r not in (Reason.HELD, Reason.FIREWALL)])
        ),
        shell=st.booleans(),
        there=st.booleans(),
    )
    def observe(self, address: str, reason: Reason | None, shell: bool, there: bool) -> None:
        device = dataclasses.replace(DEVICE, address=address) if shell else None
        self.observations[address] = Observation(address, device, reason, why="why") if there else None

    @rule(seconds=st.floats(0, 120), check=st.booleans())
    def step(self, seconds: float, check: bool) -> None:
        self.now += seconds
        found = self.tracker.step(
            [each for each in self.observations.values() if each], self.now, check=check
        )
        for address in self.ADDRESSES:
            self._oracle(address, self.observations[address], check)
            reason = self.reasons.get(address)
            warned = reason in (Reason.SHUTDOWN, Reason.OFFLINE, Reason.RESETTING)
            self.announced[address] = warned or (
                reason in (Reason.NO_DRIVER, Reason.UNRESPONSIVE, Reason.NO_NODE, Reason.SHELL_UNKNOWN)
                and self.announced.get(address, False)
            )
        told = {device.address: device.reason for device in found.devices}
        offered = {a: r for a, r in self.reasons.items() if not self._expired(a)}
        assert told == offered

    def _expired(self, address: str) -> bool:
        return address in self.since and self.now - self.since[address] >= RULES.reset_grace

    def _oracle(self, address: str, observation: Observation | None, check: bool) -> None:
        known = address in self.reasons
        if observation is None and known:
            if self.announced[address]:
                self._lose(address, Reason.RESETTING)
                if not self._expired(address):
                    return
            for memory in (self.reasons, self.good, self.since):
                memory.pop(address, None)
        elif observation is not None and observation.device is None:
            if known and observation.reason:
                self._lose(address, observation.reason)
        elif observation is not None and observation.reason in LOST:
            self._lose(address, observation.reason)
        elif observation is not None:
            self.since.pop(address, None)
            self.good[address] = 0 if observation.reason else self.good.get(address, 0) + check
            mending = known and self.reasons[address] and self.good[address] < RULES.recovery_checks
            if observation.reason or not mending:
                self.reasons[address] = observation.reason

    def _lose(self, address: str, reason: Reason | None) -> None:
        self.reasons[address] = reason
        self.good[address] = 0
        if reason in LOST:
            self.since.setdefault(address, self.now)

    @invariant()
    def nothing_is_remembered_for_ever(self) -> None:
        assert self.tracker.known <= set(self.ADDRESSES)


TestAgainstAnOracle = Against.TestCase


class TestPace:
    @given(st.lists(st.floats(0, 3), max_size=60))
    def test_five_in_a_row_then_one_a_second(self, waits: list[float]) -> None:
        pace = RateLimit(5, 1.0)
        now = 0.0
        sent: list[float] = []
        for wait in waits:
            now += wait
            delay = pace.delay(now)
            if wait >= 1 and sent:
                assert delay == 0, "never after a quiet second"
            now += delay
            pace.done(now)
            sent.append(now)
        for index, start in enumerate(sent):
            within = [time for time in sent[index:] if time - start < 1 - 1e-6]
            assert len(within) <= 5 + 1
        for first_, sixth in zip(sent, sent[5:], strict=False):
            assert sixth - first_ >= 1 - 1e-6


# The real thing


@pytest.fixture
def pair(node: SampleNode) -> tuple[XrtCard, XrtCard]:
    return node.add_card("u55c", "0000:11:00", release="2023.2"), node.add_card("u55c", "0000:21:00")


@pytest.fixture
def watched(
    node: SampleNode, pair: tuple[XrtCard, XrtCard], kubelet: KubeletDouble, service: Service
) -> KubeletDouble:
    kubelet.start()
    kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 2)
    return kubelet


def _back_from_vfio(card: XrtCard) -> None:
    card.unbind()
    card.bind()


FAULTS: dict[str, tuple[Callable[[XrtCard], None], Callable[[XrtCard], None], Reason]] = {
    "shutdown": (XrtCard.shutdown, XrtCard.online, Reason.SHUTDOWN),
    "offline": (XrtCard.offline, XrtCard.mend, Reason.OFFLINE),
    "not-ready": (XrtCard.not_ready, XrtCard.mend, Reason.NOT_READY),
    "bad-state": (XrtCard.bad_state, XrtCard.mend, Reason.BAD_STATE),
    "resetting": (XrtCard.reset_begin, XrtCard.reset_end, Reason.RESETTING),
    "shell-unknown": (XrtCard.shell_unknown, XrtCard.mend, Reason.SHELL_UNKNOWN),
    "no-driver": (XrtCard.unbind, XrtCard.bind, Reason.NO_DRIVER),
    "no-driver (vfio)": (XrtCard.vfio, _back_from_vfio, Reason.NO_DRIVER),
    "no management driver": (XrtCard.unbind_mgmt, XrtCard.bind_mgmt, Reason.NOT_READY),
    "unresponsive": (
        lambda card: card.hang("ready"),
        lambda card: card.unhang("ready"),
        Reason.UNRESPONSIVE,
    ),
    "no-node": (
        lambda card: card.node.remove_node(str(card.render_node)),
        lambda card: card.node.add_node(str(card.render_node)),
        Reason.NO_NODE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_every_reason_is_raised_and_cleared(
    watched: KubeletDouble, pair: tuple[XrtCard, XrtCard], service: Service, name: str
) -> None:
    breaks, mends, reason = FAULTS[name]
    breaks(pair[0])
    watched.wait_for(lambda: watched.resources()[U55C][pair[0].address] == "Unhealthy")
    service.logged(Event.DEVICE_UNHEALTHY, device=pair[0].address, reason=str(reason))
    assert watched.capacity(U55C) == 2
    assert watched.resources()[U55C][pair[1].address] == "Healthy"
    mends(pair[0])
    watched.wait_for(lambda: watched.allocatable(U55C) == 2)
    assert watched.ends == []


@pytest.mark.parametrize("release", ["2022.1", "2022.2"])
def test_firewall(node: SampleNode, kubelet: KubeletDouble, service: Service, release: str) -> None:
    card = node.add_card("u55c", release=release)
    kubelet.start()
    kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1)
    card.firewall_trip()
    kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 0)
    if release == "2022.2":
        service.logged(Event.DEVICE_UNHEALTHY, device=card.address, reason="firewall")
    card.reset_begin()
    service.logged(Event.DEVICE_UNHEALTHY, device=card.address, reason="resetting")
    card.reset_end()
    kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1, 15)


_HALF = 5  # steps of a reset, after which it waits for the management function


class TestAResetInTheMiddleOfAScan:
    """A scan reads one file after the other; a reset goes on meanwhile, and no later scan may fall into it.

    A trip stays on record from 2022.2 on. One that was over, or is with this reset, must not count again.
    """

    @pytest.mark.parametrize("tripped", ["before this reset", "and reset before", "before the service began"])
    @settings(max_examples=30, deadline=None)
    @given(listed=st.integers(2, 8), more=st.integers(1, 8), read=st.integers(0, 14))
    def test_its_trip_is_over(self, tripped: str, listed: int, more: int, read: int) -> None:
        with tempfile.TemporaryDirectory(prefix="fpga-") as root:
            asyncio.run(self._scanned(SampleNode(root), tripped, listed, more, read))

    async def _scanned(self, node: SampleNode, tripped: str, listed: int, more: int, read: int) -> None:
        """Scan a card when so many steps of a reset are done; after so many reads some more are."""
        card = node.add_card("u55c", release="2022.2")
        scanner = Scanner(node.sysfs_root, node.dev_root, HealthRules(recovery_checks=1, reset_grace=100))
        if tripped != "before the service began":
            await self._reasons(scanner)
        card.firewall_trip()
        if tripped == "before this reset":
            assert await self._reasons(scanner) == [Reason.FIREWALL]
        elif tripped == "and reset before":
            card.reset_begin()
            assert await self._reasons(scanner) == [Reason.RESETTING]
            card.reset_end()
            assert await self._reasons(scanner) == [None]
        steps = itertools.chain(card.resetting(), card.returning())
        done = list(itertools.islice(steps, listed))
        if listed + more > _HALF:  # a reset takes seconds: another scan was before
            await self._reasons(scanner)
        reads = itertools.count()
        real = sysfs.read_attribute

        def meanwhile(path: str) -> str | None:
            if threading.current_thread().name == "worker" and next(reads) == read:  # the scan's, no slow one
                done.extend(itertools.islice(steps, more))
            return real(path)

        with (
            mock.patch.object(sysfs, "read_attribute", meanwhile),
            mock.patch("xilinx_fpga_dp.discovery.scanner._PATIENCE", 5),
        ):
            await scanner.scan(check=True)
        done.extend(steps)
        await self._reasons(scanner)
        assert await self._reasons(scanner) == [None]

    async def _reasons(self, scanner: Scanner) -> list[Reason | None]:
        return [each.reason for each in (await scanner.scan(check=True)).devices]


def _trips(card: XrtCard) -> Iterator[str]:
    """Two trips on record, one after the other, that show nowhere else; then a reset."""
    for level in ("2", "3"):
        card.write("firewall/level", level)
        yield level
        card.mend()
        yield "mended"
    card.write("firewall/level", "3")
    yield from itertools.chain(card.resetting(), card.returning(suffix=1))


def _one_by_one(card: XrtCard) -> Iterator[str]:
    """What else a fault shows in, each alone."""
    for attribute in ("rom/VBNV", "driver"):
        card.corrupt(attribute, "missing")
        yield attribute
        card.unbind()
        card.bind()
        yield "bound again"


def _broken_and_mended(name: str) -> Callable[[XrtCard], Iterator[str]]:
    def steps(card: XrtCard) -> Iterator[str]:
        for change in FAULTS[name][:2]:
            change(card)
            yield name

    return steps


CHANGES: dict[str, Callable[[XrtCard], Iterator[str]]] = {
    **{name: _broken_and_mended(name) for name in FAULTS if name != "unresponsive"},
    "reset": lambda card: itertools.chain(card.resetting(), card.returning(suffix=1)),
    "trips": _trips,
    "one by one": _one_by_one,
}
# The first release that has it. Before, a trip is read apart from scans, and only now and then.
SINCE = {"shutdown": "2020.1", "trips": "2022.2"}


@settings(max_examples=20, deadline=None)
@given(
    release=st.sampled_from(tuple(DRIVER_VERSIONS)),
    names=st.lists(st.sampled_from(sorted(CHANGES)), min_size=1, max_size=3),
)
@example(release="2023.2", names=["trips", "one by one"])
@mock.patch("xilinx_fpga_dp.discovery.scanner._PATIENCE", 5)
def test_a_check_finds_what_a_scan_would(release: str, names: list[str]) -> None:
    async def compare(node: SampleNode) -> None:
        card = node.add_card("u55c", release=release)
        rules = HealthRules(recovery_checks=2, reset_grace=100)
        checks, scans = (Scanner(node.sysfs_root, node.dev_root, rules) for _ in range(2))
        await checks.scan()
        await scans.scan()
        for name in names:
            for done in CHANGES[name](card) if release >= SINCE.get(name, "") else ():
                for _ in range(3):
                    checked, scanned = await checks.check(), await scans.scan(check=True)
                    told, true = ([(d.reason, d.node) for d in each.devices] for each in (checked, scanned))
                    assert told == true, (name, done)

    with tempfile.TemporaryDirectory(prefix="fpga-") as root:
        asyncio.run(compare(SampleNode(root)))


def test_a_base_that_waits_for_its_shell(node: SampleNode, kubelet: KubeletDouble, service: Service) -> None:
    card = node.add_card("u250-base")
    card.write("mgmt/rp_program", "1")
    node.add_card("u55c")
    kubelet.start()
    kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1)
    service.logged(Event.LEFT_OUT, function=card.address)
    assert list(kubelet.resources()) == [U55C]
    card.reprogram("u250-2rp")
    kubelet.wait_for(lambda: len(kubelet.resources()) == 2)


@pytest.mark.parametrize("release", ["2019.1", "2019.2", "2020.1", "2022.2", "2023.2"])
def test_a_reset_step_by_step(
    node: SampleNode, kubelet: KubeletDouble, service: Service, release: str
) -> None:
    card = node.add_card("u200", release=release)
    other = node.add_card("u200", release=release)
    kubelet.start()
    kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2)
    before = len(kubelet.lists(U200))  # a scan may have come between the two cards
    for going, steps in ((True, card.resetting()), (False, card.returning())):
        for _ in steps:
            if going:
                kubelet.wait_for(lambda: kubelet.allocatable(U200) == 1)
            time.sleep(0.25)
            assert kubelet.capacity(U200) == 2
            assert kubelet.resources()[U200][other.address] == "Healthy"
    kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2)
    assert all(len(each.health) == 2 for each in kubelet.lists(U200)[before:])
    assert kubelet.ends == []


def test_a_reset_of_all_cards_keeps_capacity(watched: KubeletDouble, pair: tuple[XrtCard, XrtCard]) -> None:
    for card in pair:
        card.reset_begin()
    watched.wait_for(lambda: watched.allocatable(U55C) == 0)
    assert watched.capacity(U55C) == 2
    pair[0].reset_end(render=200, suffix=9)
    pair[1].reset_end()
    watched.wait_for(lambda: watched.allocatable(U55C) == 2)
    assert len(watched.registrations) == 1
    [container] = watched.allocate(U55C, [pair[0].address]).container_responses
    assert container.devices[0].host_path == "/dev/dri/renderD200"


def test_a_hot_reset_off_the_bus_keeps_its_place(
    watched: KubeletDouble, pair: tuple[XrtCard, XrtCard]
) -> None:
    pair[0].offline()
    watched.wait_for(lambda: watched.allocatable(U55C) == 1)
    pair[0].remove()
    time.sleep(1)
    assert watched.capacity(U55C) == 2
    pair[0].plug()
    watched.wait_for(lambda: watched.allocatable(U55C) == 2)


def test_a_reset_that_never_ends_loses_its_place(node: SampleNode, kubelet: KubeletDouble) -> None:
    card = node.add_card("u55c")
    with Service(settings_for(node, RESET_GRACE="1")) as service:
        kubelet.start()
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1)
        card.reset_begin()
        kubelet.wait_for(lambda: kubelet.capacity(U55C) == 0)
        assert (
            "resetting for more than 1 s" in service.logged(Event.LEFT_OUT, function=card.address)["reason"]
        )
        card.reset_end()
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1)


def test_another_shell_after_the_reset_is_one_step(
    watched: KubeletDouble, pair: tuple[XrtCard, XrtCard]
) -> None:
    pair[0].reset_begin()
    watched.wait_for(lambda: watched.allocatable(U55C) == 1)
    for _ in pair[0].returning(board="u250"):
        time.sleep(0.15)
        both = [name for name, devices in watched.resources().items() if pair[0].address in devices]
        assert len(both) <= 1, "never in both lists"  # and in none while the other one registers
    watched.wait_for(lambda: watched.allocatable(U250) == 1 and watched.capacity(U55C) == 1)


def test_a_hanging_read_is_reported_in_time_and_parks_one_thread(
    watched: KubeletDouble, pair: tuple[XrtCard, XrtCard], service: Service
) -> None:
    threads = len(os.listdir(f"/proc/{service.process.pid}/task"))
    pair[0].hang("dev_offline")
    watched.wait_for(lambda: watched.allocatable(U55C) == 1)
    pair[1].offline()
    watched.wait_for(lambda: watched.allocatable(U55C) == 0)
    time.sleep(1)
    assert len(os.listdir(f"/proc/{service.process.pid}/task")) - threads <= 5  # walkers may be at work
    pair[0].unhang("dev_offline")


def test_flapping_is_bounded_and_the_newest_state_comes_last(
    node: SampleNode, kubelet: KubeletDouble
) -> None:
    card = node.add_card("u55c")
    with Service(settings_for(node, HEALTH_INTERVAL="0.05", RECOVERY_CHECKS="1")):
        kubelet.start()
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1)
        end = time.monotonic() + 4
        while time.monotonic() < end:
            card.offline()
            time.sleep(0.07)
            card.mend()
            time.sleep(0.07)
        card.offline()
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 0)
        time.sleep(1.5)
        kubelet.wait_for(lambda: kubelet.lists(U55C)[-1].health == {card.address: "Unhealthy"})
        assert 6 <= len(kubelet.lists(U55C)) <= 20, "of 57 changes"


def _get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
    return number


def test_state_shows_since_when_and_how_often(node: SampleNode, kubelet: KubeletDouble, port: int) -> None:
    card = node.add_card("u55c", release="2023.2")
    with Service(settings_for(node, HTTP_ADDRESS=f"127.0.0.1:{port}")) as service:
        service.logged(Event.SERVING_HTTP)
        kubelet.start()
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1)
        card.bad_state()
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 0)
        card.mend()
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1)
        status, body = _get(port, "/state")
        document = json.loads(body)
        [device] = document["devices"]
        assert status == 200
        assert (device["health"], device["changes"], device["last_reason"]) == ("Healthy", 2, "bad-state")
        assert device["since"].endswith("Z")
        assert document["resources"][U55C] == {"devices": 1, "healthy": 1, "registered": True}


def test_synthetic_events_wake_the_scan(node: SampleNode, kubelet: KubeletDouble) -> None:
    """A real event of the kernel, which root can ask for; no timer would find the card soon."""
    devices = "/sys/bus/pci/devices"
    if os.geteuid() != 0 or not os.path.isdir(devices) or not os.listdir(devices):
        pytest.skip("needs root and a PCI device")
    event = os.path.join(devices, min(os.listdir(devices)), "uevent")
    with Service(settings_for(node, SCAN_INTERVAL="3600", HEALTH_INTERVAL="3600")) as service:
        kubelet.start()
        time.sleep(1.5)
        if any(each["event"].startswith("kernel events unavailable") for each in service.events):
            pytest.skip("no netlink here")
        node.add_card("u55c")
        done = subprocess.run(["sh", "-c", f"echo add > {event}"], check=False, capture_output=True)
        if done.returncode:
            pytest.skip("the kernel takes no synthetic events here")
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1)


class TestEvents:
    """Kernel events by a socket pair in the kernel's place."""

    async def listen(self, sent: list[bytes]) -> int:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        ours.setblocking(False)
        woken = []
        with theirs:
            task = asyncio.create_task(uevents.listen(lambda: woken.append(1), lambda: ours))
            for event in sent:
                theirs.send(event)
            await asyncio.sleep(0.1)
            task.cancel()
        return len(woken)

    @pytest.mark.parametrize("subsystem", [b"pci", b"drm", b"xrt_user"])
    async def test_ours_wake(self, subsystem: bytes) -> None:
        assert await self.listen([b"add@/devices/x\0ACTION=add\0SUBSYSTEM=" + subsystem + b"\0"]) == 1

    @pytest.mark.parametrize(
        "event", [b"", b"\0", b"add@/x\0SUBSYSTEM=net\0", b"\xff" * 100, b"SUBSYSTEM=pcie\0"]
    )
    async def test_others_do_not(self, event: bytes) -> None:
        assert await self.listen([event]) == 0

    async def test_a_burst_is_folded(self) -> None:
        assert 1 <= await self.listen([b"add@/x\0SUBSYSTEM=pci\0"] * 8) <= 2

    async def test_lost_events_cause_a_scan(self) -> None:
        class Overrun(socket.socket):
            def recvfrom(self, *_: Any) -> Any:
                if errors:
                    raise OSError(errors.pop(), "No buffer space available")
                raise BlockingIOError

        errors = [errno.ENOBUFS]
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        overrun = Overrun(fileno=ours.detach())
        overrun.setblocking(False)
        woken = []
        with theirs:
            task = asyncio.create_task(uevents.listen(lambda: woken.append(1), lambda: overrun))
            theirs.send(b"add@/x\0SUBSYSTEM=net\0")
            await asyncio.sleep(0.05)
            task.cancel()
        assert woken

    async def test_no_netlink_is_one_line(self, caplog: pytest.LogCaptureFixture) -> None:
        def refuse() -> socket.socket:
            raise PermissionError(1, "Operation not permitted")

        await uevents.listen(lambda: None, refuse)
        assert [record.message for record in caplog.records] == [Event.NO_KERNEL_EVENTS]


def test_metrics_and_probes(node: SampleNode, kubelet: KubeletDouble, port: int) -> None:
    card = node.add_card("u55c")
    with Service(settings_for(node, HTTP_ADDRESS=f"127.0.0.1:{port}")) as service:
        service.logged(Event.SERVING_HTTP)
        eventually(lambda: _get(port, "/livez")[0] == 200, "alive")
        eventually(lambda: _get(port, "/readyz") == (503, f"not registered: {U55C}\n"), "not ready")
        kubelet.start()
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1)
        eventually(lambda: _get(port, "/readyz")[0] == 200, "ready")
        kubelet.allocate(U55C, [card.address])
        _, text = _get(port, "/metrics")
        for line in (
            f'xilinx_fpga_dp_devices{{health="Healthy",reason="",resource="{U55C}"}} 1.0',
            f'xilinx_fpga_dp_registered{{resource="{U55C}"}} 1.0',
            f'xilinx_fpga_dp_registrations_total{{resource="{U55C}",result="ok"}} 1.0',
            f'xilinx_fpga_dp_list_updates_total{{resource="{U55C}"}} 1.0',
            f'xilinx_fpga_dp_allocations_total{{code="OK",resource="{U55C}"}} 1.0',
            "xilinx_fpga_dp_kubelet_restarts_total 0.0",
            "xilinx_fpga_dp_scan_errors_total 0.0",
        ):
            assert line in text
        for name in ("build_info", "allocate_duration_seconds_bucket", "scan_duration_seconds_bucket"):
            assert f"xilinx_fpga_dp_{name}" in text
        kubelet.restart()
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1)
        assert "xilinx_fpga_dp_kubelet_restarts_total 1.0" in _get(port, "/metrics")[1]
        assert _get(port, "/nowhere")[0] == 404
        card.remove()
        kubelet.wait_for(lambda: kubelet.capacity(U55C) == 0)
        eventually(lambda: U55C not in _get(port, "/metrics")[1], "its series are gone")
        assert _get(port, "/readyz") == (200, "ok\n"), "a node without cards is ready"


def _closes(peer: socket.socket) -> None:
    peer.close()


def _closes_when_it_was_asked(peer: socket.socket) -> None:
    peer.recv(4096)
    peer.close()


def _greets(peer: socket.socket) -> None:
    peer.sendall(b"SSH-2.0-x\r\n")


def _sends_zeros(peer: socket.socket) -> None:
    peer.sendall(bytes(64))


def _is_silent(peer: socket.socket) -> None:
    """It has nothing to say."""


@contextmanager
def _no_kubelet(path: Path, answer: Callable[[socket.socket], None]) -> Iterator[list[socket.socket]]:
    """Serve kubelet's socket with another program, and yield its connections."""
    peers: list[socket.socket] = []

    def serve() -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                peers.append(listener.accept()[0])
                with suppress(OSError):
                    answer(peers[-1])

    with socket.socket(socket.AF_UNIX) as listener:
        aside = path.with_name("aside")
        listener.bind(str(aside))
        listener.listen(100)
        aside.rename(path)  # no client is refused
        server = threading.Thread(target=serve, daemon=True)
        server.start()
        try:
            yield peers
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            server.join(10)
            for peer in peers:
                peer.close()


@pytest.mark.parametrize("answer", [_closes, _closes_when_it_was_asked, _sends_zeros, _greets, _is_silent])
def test_a_program_without_grpc_at_kubelets_socket_is_reported_and_outlived(
    node: SampleNode, kubelet: KubeletDouble, port: int, answer: Callable[[socket.socket], None]
) -> None:
    node.add_card("u55c")
    failed = re.compile(
        rf'^xilinx_fpga_dp_registrations_total{{resource="{U55C}",result="failed"}} (\S+)$', re.MULTILINE
    )

    def failures() -> float:
        found = failed.search(_get(port, "/metrics")[1])
        return float(found[1]) if found else 0

    with Service(settings_for(node, HTTP_ADDRESS=f"127.0.0.1:{port}")) as service:
        service.logged(Event.SERVING_HTTP)
        with _no_kubelet(kubelet.socket, answer) as peers:
            # A connection that stays open is waited for as long as kubelet may take
            least = 1 if answer in (_greets, _is_silent) else 10
            eventually(lambda: failures() >= least, "each attempt counts", 40)
            assert failures() <= len(peers)
            status, why = _get(port, "/readyz")
            assert status == 503
            assert why.startswith(f"not registered: {U55C} (")
            assert service.process.poll() is None
        kubelet.start()
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1, 20)
        eventually(lambda: _get(port, "/readyz")[0] == 200, "ready")
        service.logged(Event.NOT_REGISTERED, resource=U55C)
        assert not [each for each in service.events if "exception" in each or each["level"] == "error"]
        assert not [line for line in service.raw if not line.startswith("{")]


def test_a_name_server_that_does_not_answer_stops_nothing(
    node: SampleNode, kubelet: KubeletDouble, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import socket, time\nsocket.getaddrinfo = lambda *given, **more: time.sleep(60)\n"
    )
    node.add_card("u55c")
    kubelet.start()
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    with Service(settings_for(node, HTTP_ADDRESS="metrics.example:80"), environment=environment) as service:
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1)
        told = service.logged(Event.HTTP_ADDRESS_UNAVAILABLE)
        assert (told["address"], told["error"]) == ("metrics.example:80", "no answer from the name server")
        assert service.terminate() == 0


def test_a_taken_address_stops_nothing(node: SampleNode, kubelet: KubeletDouble) -> None:
    node.add_card("u55c")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with Service(settings_for(node, HTTP_ADDRESS=address)) as service:
            service.logged(Event.HTTP_ADDRESS_UNAVAILABLE)
            kubelet.start()
            kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1)
