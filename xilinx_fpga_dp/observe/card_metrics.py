"""The metrics of the cards: what `Telemetry` has sampled, with the container that holds each card.

A scrape renders what is there and waits for nothing. It writes the text itself: there are a hundred values a
card, and prometheus-client takes 10 µs for each. All series of a card go with it, so the labels are bounded
by the cards that exist, their sensors and the containers that hold them.
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
from xilinx_fpga_dp.discovery.sensor_texts import Labels
from xilinx_fpga_dp.discovery.telemetry import Telemetry
from xilinx_fpga_dp.discovery.xocl_errors import ErrorRecord
from xilinx_fpga_dp.model import Device, Held, Holder, Offers
from xilinx_fpga_dp.observe.device_log import log_card_errors
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

_Line = tuple[Labels, float]


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
            sysfs_root, self._devices, everything=everything, interval=interval, on_errors=self._new_errors
        )
        self._versions = DriverVersions(sysfs_root)
        self._known_versions: Mapping[str, str] = {}
        self._errors: deque[tuple[str, Sequence[ErrorRecord]]] = deque(maxlen=1000)
        self._wake = asyncio.Event()
        self._asked = time.time()  # when the holders were last asked for
        self._holders: dict[str, deque[_Since]] = {}  # by address; the newest last

    async def sample(self) -> None:
        """Sample the cards. Endless."""
        await self._telemetry.run()

    async def follow_holders(self) -> None:
        """Ask which containers hold which cards, once in an interval, and log errors with them. Endless."""
        while True:
            self._wake.clear()
            self._remember(await self._ask(), time.time())
            self._known_versions = await self._versions.of({device.driver for device in self._devices()})
            while self._errors:
                address, records = self._errors.popleft()
                log_card_errors(address, records, partial(self.holders_at, address))
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._wake.wait()

    def holders_at(self, address: str, moment: float) -> tuple[Holder, ...]:
        """Return the containers that held a device at a time; 0: now. Empty also if that is not known."""
        known = self._holders.get(address, ())
        past = [each for each in known if not moment or each.time <= moment]
        return past[-1].holders if past else ()

    def text(self) -> bytes:
        """Return all series as a part of a scrape."""
        series: dict[str, list[_Line]] = {name: [] for name in _HELP}
        for name, labels, value in self._values():
            series[name].append((labels, value))
        lines: list[str] = []
        for name, found in series.items():
            if found:
                kind = "counter" if name.endswith("_total") else "gauge"
                full = f"{_PREFIX}{name}"
                lines += (f"# HELP {full} {_HELP[name]}", f"# TYPE {full} {kind}")
                lines += [f"{full}{{{_labels(labels)}}} {value!r}" for labels, value in found]
        return "".join(f"{line}\n" for line in lines).encode()

    def _devices(self) -> tuple[Device, ...]:
        offers = self._snapshots.value.known
        return offers.devices if offers else ()

    def _values(self) -> Iterator[tuple[str, Labels, float]]:
        now = time.monotonic()
        offers = self._snapshots.value.known or Offers({})
        for resource, offer in offers.by_resource.items():
            for device in offer.devices:
                yield "card_info", self._info(device, resource), 1.0
                history = self._holders.get(device.address)
                holders = {_holder_labels(holder) for holder in (history[-1].holders if history else ())}
                for labels in sorted(holders):
                    yield "allocated", (("device", device.address), *labels), 1.0
        for address, card in self._telemetry.cards.items():
            label = ("device", address)
            for name, labels, value in card.values():
                yield name, (label, *labels), value
            for source, state in card.sources.items():
                if state.success is None:
                    continue
                labels = (label, ("source", source))
                yield "telemetry_success", labels, float(state.success)
                yield "telemetry_duration_seconds", labels, state.seconds
                if state.good_at is not None:
                    yield "telemetry_age_seconds", labels, now - state.good_at

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
        devices = {device.address for device in self._devices()}
        for address in self._holders.keys() - devices:
            del self._holders[address]
        for address in devices:
            holders = held.get(address, ())
            history = self._holders.setdefault(address, deque([_Since(0.0, ())], maxlen=_HISTORY))
            if holders != history[-1].holders:
                history.append(_Since(self._asked if holders else now, holders))
        self._asked = now


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
