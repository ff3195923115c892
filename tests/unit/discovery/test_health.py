"""Health: the rules alone, the state machine against an oracle, and the real thing as kubelet sees it."""

import asyncio
import dataclasses
import errno
import socket
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from xilinx_fpga_dp.discovery import sysfs, uevents
from xilinx_fpga_dp.discovery.drivers import xrt
from xilinx_fpga_dp.discovery.health import (
    HealthRules,
    HealthTracker,
    Observation,
    first_state,
    next_state,
    with_held,
)
from xilinx_fpga_dp.discovery.sysfs import Bus
from xilinx_fpga_dp.model import Device, Reason, Shell
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode, XrtCard

DEVICE = Device("0000:65:00.1", Shell("a_b", "1", None), "b", "xocl", nodes=("/dev/dri/renderD128",))
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

    @pytest.mark.parametrize(
        ("level", "shown"),
        [
            (str(2**64 - 1), -1),
            (str(2**32 - 1), -1),
            ("-1", -1),
            (str(0xFFFF_8D80_0000_0002), 2),  # the upper half is whatever was in memory
            (str(0xFFFF_8D80_FFFF_FFFF), -1),
            ("x", None),
            ("", None),
        ],
    )
    def test_only_lower_half_of_a_level_counts(self, level: str, shown: int | None) -> None:
        assert xrt.level_of(level) == shown

    def test_each_firewall_trip_has_its_own_text(self, node: SampleNode) -> None:
        card = node.add_card("u55c", release="2022.2")
        [user] = (
            function
            for function in sysfs.read_bus(
                Bus(node.sysfs_root, node.dev_root),
                xrt.BACKEND.wanted,
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
        state = first_state(seen(), 0)
        assert state is not None
        assert state.device.healthy

    def test_never_seen_with_a_shell_is_no_device(self) -> None:
        assert first_state(lost(Reason.SHELL_UNKNOWN), 0) is None

    def test_recovery_takes_checks_in_a_row(self) -> None:
        state = first_state(seen(Reason.OFFLINE), 0)
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
            state = next_state(state, observation, 1, RULES, check=check)
            assert state is not None
            assert state.device.reason is reason

    def test_fault_counts_at_once_even_after_a_wake_up(self) -> None:
        state = first_state(seen(), 0)
        assert state is not None
        state = next_state(state, seen(Reason.BAD_STATE), 1, RULES, check=False)
        assert state is not None
        assert state.device.reason is Reason.BAD_STATE

    @pytest.mark.parametrize("announced", [Reason.SHUTDOWN, Reason.OFFLINE])
    def test_gone_after_a_warning_keeps_its_place(self, announced: Reason) -> None:
        state = first_state(seen(announced), 0)
        assert state is not None
        state = next_state(state, None, 1, RULES, check=True)
        assert state is not None
        assert state.device.reason is Reason.RESETTING
        state = next_state(state, None, 100, RULES, check=True)
        assert state is not None
        assert not state.expired
        state = next_state(state, None, 101, RULES, check=True)
        assert state is not None
        assert state.expired

    def test_its_driver_goes_before_it_does(self) -> None:
        for announced, place in ((Reason.OFFLINE, True), (None, False)):
            state = first_state(seen(announced), 0)
            for _ in range(2):
                assert state is not None
                state = next_state(state, lost(Reason.NO_DRIVER), 1, RULES, check=True)
            assert state is not None
            assert (next_state(state, None, 2, RULES, check=True) is not None) is place

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
        state = first_state(seen(Reason.OFFLINE), 0)
        assert state is not None
        state = next_state(state, observation, 1, RULES, check=True)
        assert state is not None
        state = next_state(state, None, 2, RULES, check=True)
        assert state is not None
        assert state.device.reason is Reason.RESETTING

    def test_fixed_card_that_goes_is_left_out_when_the_grace_ends(self) -> None:
        tracker = HealthTracker(RULES)
        tracker.step([seen(removable=False)], 0, check=True)
        [device] = tracker.step([], 1, check=True).devices
        assert device.reason is Reason.RESETTING
        for now in (101, 1000):
            found = tracker.step([], now, check=True)
            [entry] = found.left_out
            assert (found.devices, entry.function, entry.lost) == ((), DEVICE.address, Reason.RESETTING)
            assert "100 s: it lost its place; it is not on the bus: rescan that" in entry.reason
        back = tracker.step([seen()], 1001, check=True)
        assert [device.reason for device in back.devices] == [Reason.RESETTING]
        assert back.left_out == ()

    @pytest.mark.parametrize("before", [None, Reason.NOT_READY, Reason.UNRESPONSIVE])
    def test_gone_without_a_warning_is_unplugged(self, before: Reason | None) -> None:
        state = first_state(seen(before), 0)
        assert state is not None
        assert next_state(state, None, 1, RULES, check=True) is None

    def test_no_answer_yet_changes_nothing(self) -> None:
        state = first_state(seen(), 0)
        assert state is not None
        assert next_state(state, lost(None), 1, RULES, check=True) is state

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

    def test_trip_ends_with_the_reset_after_it(self) -> None:
        trip: dict[str, Any] = {"trip": "2/1/77", "latched": True}
        state = first_state(seen(), 0)
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
            state = next_state(state, observation, 1, RULES, check=True)
            assert state is not None
            assert state.device.reason is reason

    def test_first_recorded_trip_counts_only_if_the_card_is_offline(self) -> None:
        for reason, expected in ((None, None), (Reason.OFFLINE, Reason.FIREWALL)):
            state = first_state(seen(reason, trip="2/1/77", latched=True), 0)
            assert state is not None
            assert state.device.reason is expected

    def test_trip_of_a_driver_without_record_counts_now(self) -> None:
        state = first_state(seen(trip="2/1/77"), 0)
        assert state is not None
        assert state.device.reason is Reason.FIREWALL

    def test_fault_of_the_device_comes_before_held(self) -> None:
        state = first_state(seen(), 0)
        assert state is not None
        state = with_held(state, True, 1)
        assert state.device.reason is Reason.HELD
        faulty = next_state(state, seen(Reason.OFFLINE), 2, RULES, check=True)
        assert faulty is not None
        assert faulty.device.reason is Reason.OFFLINE
        assert with_held(state, False, 2).device.healthy, "freed is Healthy at once"

    def test_history(self) -> None:
        state = first_state(seen(), 5)
        assert state is not None
        assert (state.history.since, state.history.changes, state.history.last_reason) == (5, 0, None)
        for now, observation in (
            (6, seen()),
            (7, seen(Reason.OFFLINE)),
            (8, seen(Reason.OFFLINE)),
            (9, seen()),
        ):
            state = next_state(
                state, observation, now, dataclasses.replace(RULES, recovery_checks=1), check=True
            )
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


# The real thing


@pytest.fixture
def pair(node: SampleNode) -> tuple[XrtCard, XrtCard]:
    return node.add_card("u55c", "0000:11:00", release="2023.2"), node.add_card("u55c", "0000:21:00")


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

    async def test_burst_of_events_causes_one_or_two_scans(self) -> None:
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
