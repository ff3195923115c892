"""The metrics of the cards: what `Telemetry` has sampled, with the container that holds each card.

A scrape renders what is there and waits for nothing. It writes the text itself: there are a hundred values a
card, and prometheus-client takes 10 µs for each. All series of a card go with it, so the labels are bounded
by the cards that exist, their sensors and the containers that hold them.

The label `device` is the id of the device at kubelet, without the number of a replica: its address, of a U30
card the lower one of its two. So a card with two devices has each series once. What names a part of it (a
sensor, a bank, a source) also names which device: ``fpga``, ``fpga_2``. All else is of the card: errors and
contexts are sums, the link is the slower one. Both devices compute the power from the supplies of the slot,
which they share (XRT subdev/xmc.c xmc_get_power), so it is counted once.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple

from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.discovery.driver_versions import DriverVersions
from xilinx_fpga_dp.discovery.schedules import RARELY
from xilinx_fpga_dp.discovery.sensor_texts import Labels
from xilinx_fpga_dp.discovery.telemetry import CardState, SourceState, Telemetry
from xilinx_fpga_dp.discovery.xocl_errors import ErrorRecord
from xilinx_fpga_dp.model import Device, Held, Holder, Offers
from xilinx_fpga_dp.observe.device_log import log_card_errors
from xilinx_fpga_dp.resources.holders import holders_of
from xilinx_fpga_dp.snapshot import Snapshot

_PREFIX: Final = "xilinx_fpga_"
_HELP: Final = {
    "card_info": "The card.",
    "allocated": "1 while a container holds the device.",
    "power_watts": "Power of the card.",
    "power_limit_watts": "Power at which the card acts.",
    "temperature_celsius": "Temperature of a sensor.",
    "temperature_critical_celsius": "Temperature at which the card acts.",
    "voltage_volts": "Voltage of a supply.",
    "current_amperes": "Current of a supply.",
    "fan_rpm": "Speed of a fan.",
    "pcie_link_transfers_per_second": "Speed of the PCIe link.",
    "pcie_link_transfers_per_second_max": "Speed that the device is capable of.",
    "pcie_link_lanes": "Width of the PCIe link.",
    "pcie_link_lanes_max": "Width that the device is capable of.",
    "pcie_errors_total": "PCIe errors that the kernel counted (AER).",
    "errors_total": "Errors that the driver recorded.",
    "last_error_timestamp_seconds": "When the driver recorded the last error of a kind.",
    "contexts": "Clients that have the device open.",
    "memory_used_bytes": "Memory of the device in use.",
    "compute_unit_starts_total": "Starts of a compute unit since the image was loaded.",
    "xclbin_info": "The loaded image.",
    "memory_errors_total": "Errors of the memory of the device.",
    "telemetry_success": "Whether the last read of a source succeeded.",
    "telemetry_age_seconds": "Time since a read of a source succeeded.",
    "telemetry_duration_seconds": "Time of the last read of a source.",
}
"""The metrics in their order, without prefix."""

_HISTORY: Final = 8  # changes of the holders of a device that are remembered
# The labels that name a part of a device
_PARTS: Final = frozenset({"sensor", "memory", "bank", "unit", "slot"})
_OF_SLOT: Final = frozenset({"power_watts", "power_limit_watts"})

_Series = tuple[str, Labels, float]
"""The metric without prefix, the labels and the value."""


class _Since(NamedTuple):
    """Which containers hold a device from a time on, in seconds since 1970."""

    time: float
    holders: tuple[Holder, ...]


class CardMetrics:
    """The series of all cards.

    Args:
        snapshots: what is offered.
        sysfs_root: where sysfs is.
        everything: as TELEMETRY=all, else as TELEMETRY=safe.
        interval: seconds between two samples.
        held: asks which container holds which device.
    """

    def __init__(
        self,
        snapshots: Latest[Snapshot],
        sysfs_root: str,
        *,
        everything: bool,
        interval: float,
        held: Callable[[], Awaitable[Held]],
    ) -> None:
        self._snapshots = snapshots
        self._interval = interval
        self._ask = held
        self._telemetry = Telemetry(
            sysfs_root,
            self._devices,
            everything=everything,
            interval=interval,
            on_errors=self._new_errors,
            pause=self._pause,
        )
        self._versions = DriverVersions(sysfs_root)
        self._known_versions: Mapping[str, str] = {}
        self._drivers: set[str] = set()  # whose versions are known
        self._versions_due = 0.0
        self._errors: deque[tuple[str, Sequence[ErrorRecord]]] = deque(maxlen=1000)
        self._wake = asyncio.Event()
        self._asked = time.time()  # when the holders were last asked for
        self._holders: dict[str, deque[_Since]] = {}  # by the label `device`; the newest last

    async def sample(self) -> None:
        """Sample the cards. Endless."""
        await self._telemetry.run()

    async def follow_holders(self) -> None:
        """Ask which containers hold which cards, once in an interval, and log errors with them. Endless."""
        while True:
            self._wake.clear()
            self._remember(await self._ask(), time.time())
            await self._read_versions()
            while self._errors:
                address, records = self._errors.popleft()
                log_card_errors(address, records, partial(self.holders_at, address))
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._wake.wait()

    async def _read_versions(self) -> None:
        """Read the versions of the drivers: of new ones at once, of all now and then."""
        drivers = {device.driver for device in self._devices()}
        now = time.monotonic()
        if now >= self._versions_due or not drivers <= self._drivers or not self._versions.complete:
            self._known_versions = await self._versions.of(drivers)
            self._drivers, self._versions_due = drivers, now + RARELY.pause

    def holders_at(self, address: str, moment: float) -> tuple[Holder, ...]:
        """Return the containers that held a device at a time; 0: now. Empty also if that is not known."""
        cards = self._cards().items()
        card = next((name for name, devices in cards if any(each.address == address for each in devices)), "")
        known = self._holders.get(card, ())
        past = [each for each in known if not moment or each.time <= moment]
        return past[-1].holders if past else ()

    def text(self) -> list[bytes | bytearray]:
        """Return all series as a part of a scrape, in pieces."""
        # As bytes at once, and not joined: a list of lines or a copy would stay part of the process's memory
        series = {name: bytearray() for name in _HELP}
        for name, labels, value in self._values():
            series[name] += f"{_PREFIX}{name}{{{_labels(labels)}}} {value!r}\n".encode()
        return [part for name, lines in series.items() if lines for part in (_head(name), lines)]

    async def _pause(self, seconds: float) -> None:
        """Wait for so many seconds, or until the devices have changed."""
        seen = self._devices()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._snapshots.until(lambda _: self._devices() != seen)

    def _devices(self) -> tuple[Device, ...]:
        offers = self._snapshots.value.known
        return offers.devices if offers else ()

    def _cards(self) -> dict[str, tuple[Device, ...]]:
        """Return the devices that have one id, by the value of the label `device`."""
        offers = self._snapshots.value.known or Offers({})
        units = (unit for offer in offers.by_resource.values() for unit in offer.units)
        return {unit.devices[0].address: unit.devices for unit in units}

    def _values(self) -> Iterator[_Series]:
        offers = self._snapshots.value.known or Offers({})
        for resource, offer in offers.by_resource.items():
            for device in dict.fromkeys(unit.devices[0] for unit in offer.units):
                yield "card_info", self._info(device, resource), 1.0
        sampled = self._telemetry.cards
        now = time.monotonic()
        for card, devices in self._cards().items():
            label = ("device", card)
            history = self._holders.get(card)
            for labels in sorted({_holder_labels(each) for each in (history[-1].holders if history else ())}):
                yield "allocated", (label, *labels), 1.0
            states = [sampled[each.address] for each in devices if each.address in sampled]
            values = _of_one(states[0]) if len(devices) == len(states) == 1 else _of_several(states, devices)
            for name, labels, value in values:
                yield name, (label, *labels), value
            for number, state in enumerate(states):
                for source in state.sources.values():
                    yield from _of_source(label, number, source, now)

    def _info(self, device: Device, resource: str) -> Labels:
        return (
            ("device", device.address),
            ("board", device.board),
            ("shell", device.shell.vbnv),
            ("serial", device.serial or ""),
            ("driver", device.driver),
            ("driver_version", self._known_versions.get(device.driver, "")),
            ("resource", resource),
            ("numa_node", "" if device.numa_node is None else str(device.numa_node)),
        )

    def _new_errors(self, address: str, errors: Sequence[ErrorRecord]) -> None:
        self._errors.append((address, errors))
        self._wake.set()

    def _remember(self, held: Held, now: float) -> None:
        """Remember who holds what.

        A container got its device at some time since the holders were last asked for; one that is gone may
        have had it until now.
        """
        cards = self._cards()
        for card in self._holders.keys() - cards:
            del self._holders[card]
        for card, devices in cards.items():
            holders = tuple(holder for device in devices for holder in holders_of(held, device.address))
            history = self._holders.setdefault(card, deque([_Since(0.0, ())], maxlen=_HISTORY))
            if holders != history[-1].holders:
                history.append(_Since(self._asked if holders else now, holders))
        self._asked = now


def _head(name: str) -> bytes:
    kind = "counter" if name.endswith("_total") else "gauge"
    return f"# HELP {_PREFIX}{name} {_HELP[name]}\n# TYPE {_PREFIX}{name} {kind}\n".encode()


def _of_one(state: CardState) -> Iterator[_Series]:
    """Yield what the sources of a device show."""
    for source in state.sources.values():
        yield from source.values


def _of_several(states: Sequence[CardState], devices: Sequence[Device]) -> Iterator[_Series]:
    """Yield what the devices of a card show.

    A sum is there only while each device shows its share: with fewer it would be wrong, and look like a
    counter that starts again.
    """
    together: dict[tuple[str, Labels], list[float]] = {}
    for source in dict.fromkeys(name for state in states for name in state.sources):
        each = [state.sources[source] for state in states if source in state.sources]
        whole = len(states) == len(devices) and not any(one.success is False or one.pending for one in each)
        for number, one in enumerate(each):
            for name, labels, value in one.values:
                if any(key in _PARTS for key, _ in labels):
                    yield name, _of_part(labels, number), value
                elif whole or name in _OF_SLOT:
                    together.setdefault((name, labels), []).append(value)
    for (name, labels), values in together.items():
        yield name, labels, _combined(name)(values)


def _combined(metric: str) -> Callable[[Iterable[float]], float]:
    """Return how the values of the devices of a card are one."""
    if metric.startswith("pcie_link_"):
        return min
    return max if metric in _OF_SLOT or metric == "last_error_timestamp_seconds" else sum


def _of_part(labels: Labels, number: int) -> Labels:
    return tuple((key, _numbered(text, number) if key in _PARTS else text) for key, text in labels)


def _of_source(label: tuple[str, str], number: int, source: SourceState, now: float) -> Iterator[_Series]:
    """Yield how the reads of a source go; nothing for one that its device does not have."""
    if source.success is None:
        return
    labels = (label, ("source", _numbered(source.source.name, number)))
    yield "telemetry_success", labels, float(source.success)
    yield "telemetry_duration_seconds", labels, source.seconds
    if source.good_at is not None:
        yield "telemetry_age_seconds", labels, now - source.good_at


def _numbered(part: str, number: int) -> str:
    """Return the name of a part with that of its device: ``fpga`` of the first, ``fpga_2`` of the second."""
    return f"{part}_{number + 1}" if number else part


def _holder_labels(holder: Holder) -> Labels:
    return (("namespace", holder.namespace), ("pod", holder.pod), ("container", holder.container))


def _labels(labels: Iterable[tuple[str, str]]) -> str:
    return ",".join([f'{name}="{_escaped(value)}"' for name, value in labels])


def _escaped(text: str) -> str:
    """Return the value of a label as the text format of Prometheus wants it."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return text
    printable = "".join(char if char.isprintable() else "?" for char in text)
    return printable.replace("\\", "\\\\").replace('"', '\\"')
