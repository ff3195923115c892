"""The sources of a card's telemetry: which files each one reads, and when it does not.

`attributes.TELEMETRY` has what a read of each file costs. All reads here block and may never return; each
source is read by one thread at a time and remembers what does not change.
"""

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from xilinx_fpga_dp.discovery import sensor_texts, sysfs, xocl_errors
from xilinx_fpga_dp.discovery.attributes import RARELY
from xilinx_fpga_dp.discovery.drivers import ami, ma35d, xrt
from xilinx_fpga_dp.discovery.sensor_texts import KINDS, Value
from xilinx_fpga_dp.discovery.sysfs import Unreadable, slot_of
from xilinx_fpga_dp.discovery.xocl_errors import ErrorRecord
from xilinx_fpga_dp.model import Device

Stop = Callable[[], bool]
"""Whether the card must not be read any more: it is offline, in a reset, or does not answer."""

_AER: Final = ("correctable", "nonfatal", "fatal")
_INPUT = re.compile(r"(power|temp|in|curr|fan)(\d{1,3})_input")
_HWMON = re.compile(r"hwmon\d{1,6}")
_MOST_SENSORS: Final = 128  # taken of one card
# Of the clock scaling, not measured, and writable: subdev/xmc.c CS_TARGET_TEMP, CS_TARGET_POWER
_TARGETS: Final = frozenset({"temp15", "power2"})
_ABSENT_EVERY: Final = 16  # samples between two reads of a sensor that the card seems to lack
_FEW: Final = frozenset({"temp", "power"})  # the kinds worth a command or a request each
# Of a V80: the share of its critical value below which a sensor is far from it, and how long one that is not
# so is left alone, in seconds
_FAR: Final = 0.8
_LEFT_ALONE: Final = 600.0
# The content of a binary attribute may be longer than a page: fs/sysfs/file.c
_LONGEST: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Sample:
    """What one read of a source showed.

    Attributes:
        values: the newest.
        errors: those that the driver recorded since the read before; none at the first one.
    """

    values: Sequence[Value] = ()
    errors: Sequence[ErrorRecord] = ()


@dataclass(frozen=True, slots=True)
class CardSource:
    """One source.

    Attributes:
        name: the value of the label `source`.
        read: reads it; None if the card has no such source.
        pause: seconds between two reads, at least.
        late: seconds after which a read counts as hanging.
        offline: it may also be read while the card is offline.
    """

    name: str
    read: Callable[[Stop], Sample | None]
    pause: float = 0.0
    late: float = 2.0
    offline: bool = False


def sources_of(root: str, device: Device, *, everything: bool) -> tuple[CardSource, ...]:
    """Return the sources of a device.

    Args:
        root: where sysfs is.
        device: the device.
        everything: as TELEMETRY=all, else as TELEMETRY=safe.
    """
    return tuple(_sources(root, device, everything))


def _sources(root: str, device: Device, everything: bool) -> Iterator[CardSource]:
    path = f"{root}/bus/pci/devices/{device.address}"
    rarely = RARELY.pause
    if sysfs.ADDRESS.fullmatch(device.address):
        yield CardSource("pcie", lambda _: _pcie(path))
        yield CardSource("aer", lambda _: _aer(path))
    if device.rule:
        return  # what its driver's attributes are is not known
    if device.driver == xrt.USER_DRIVER:
        yield CardSource("events", _Errors(path).read, offline=True)
        yield CardSource("hwmon", _Hwmon(root, device.address, "registers").read)
        if everything:
            for side in ("firmware", "mailbox"):
                yield CardSource(side, _Hwmon(root, device.address, side).read, rarely, late=rarely)
            for name, attribute, parse in (
                ("contexts", "kdsstat", sensor_texts.contexts),
                ("memory", "memstat_raw", sensor_texts.memory_used),
                ("compute_units", "kds_custat_raw", sensor_texts.compute_units),
                ("xclbin", "xclbinuuid", sensor_texts.xclbins),
            ):
                yield CardSource(name, _of_kds(path, attribute, parse), rarely, late=rarely)
    elif device.driver == ami.DRIVER and everything:
        yield CardSource("firmware", _Hwmon(root, device.address, "ami").read, rarely, late=rarely)
    elif device.driver == ma35d.DRIVER and device.nodes:
        misc = f"{root}/class/misc/{device.nodes[0].rpartition('/')[2]}"
        yield CardSource("board", lambda stop: _board(root, device.address, misc, stop))


def _pcie(path: str) -> Sample | None:
    found = {
        which: sensor_texts.link(
            sysfs.core_text(f"{path}/{which}_link_speed"), sysfs.core_text(f"{path}/{which}_link_width")
        )
        for which in ("current", "max")
    }
    if found["current"] is None:
        if sysfs.core_text(f"{path}/max_link_width") == "":
            return None  # no PCI Express
        raise Unreadable("current_link_width: there is no link")
    names = ("pcie_link_transfers_per_second", "pcie_link_lanes")
    return Sample(
        [
            Value(name + suffix, (), number)
            for which, suffix in (("current", ""), ("max", "_max"))
            for name, number in zip(names, found[which] or (), strict=False)
        ]
    )


def _aer(path: str) -> Sample | None:
    totals = {each: sensor_texts.aer_total(sysfs.core_text(f"{path}/aer_dev_{each}")) for each in _AER}
    values = [
        Value("pcie_errors_total", (("severity", each),), float(total))
        for each, total in totals.items()
        if total is not None
    ]
    return Sample(values) if values else None


class _Errors:
    """Counts what `xocl` records. The record keeps 32 errors, so a count is kept here."""

    def __init__(self, path: str) -> None:
        self._path = f"{path}/xocl_errors"
        self._before: Sequence[ErrorRecord] | None = None
        self._counts: dict[str, int] = {}
        self._last: dict[str, int] = {}

    def read(self, _: Stop) -> Sample | None:
        try:
            data = sysfs.read_bytes(self._path, size=xocl_errors.SIZE + 1)
        except FileNotFoundError:
            return None  # before XRT 2021.1, and during a reset
        records = xocl_errors.parse(data)
        if records is None:
            return None  # XRT 2021.1 shows nothing
        new = records if self._before is None else xocl_errors.added(self._before, records)
        for record in new:
            self._counts[record.kind] = self._counts.get(record.kind, 0) + 1
            self._last[record.kind] = max(record.time, self._last.get(record.kind, 0))
        first, self._before = self._before is None, records
        values = [
            *(Value("errors_total", (("kind", kind),), float(n)) for kind, n in self._counts.items()),
            *(
                Value("last_error_timestamp_seconds", (("kind", kind),), float(moment))
                for kind, moment in self._last.items()
                if moment  # 0: before XRT 2022.2 a trip has none
            ),
        ]
        return Sample(values, () if first else new)


@dataclass(slots=True, eq=False)
class _Sensor:
    """A hwmon sensor."""

    name: str  # of its attribute: ``temp4_input``
    metric: str
    labels: sensor_texts.Labels
    divisor: float
    least: float
    most: float
    limit: Value | None = None  # its critical value, where that is dangerous to read it at
    seen: bool = False  # it has printed something else than 0: the card has it
    due: float = 0.0  # time.monotonic() before which it is left alone


@dataclass(slots=True)
class _Monitor:
    """A hwmon device."""

    path: str
    name: str
    sensors: list[_Sensor] = field(default_factory=list)
    samples: int = 0  # that were complete


class _Hwmon:
    """The sensors of one card, from one side.

    Args:
        root: where sysfs is.
        address: of the user function.
        side: ``registers``: the management function's where its driver reads the card's registers itself;
            ``firmware``: the management function's where the firmware answers; ``mailbox``: the user
            function's where there is no management function; ``ami``: a V80's.
    """

    def __init__(self, root: str, address: str, side: str) -> None:
        self._root = root
        self._address = address
        self._own = f"{root}/bus/pci/devices/{address}"
        self._side = side
        self._known: dict[str, _Monitor] = {}  # by path

    def read(self, stop: Stop) -> Sample | None:
        directory = self._directory()
        monitor = directory and self._monitor(f"{directory}/hwmon")
        if not monitor:
            return None
        if self._side in ("mailbox", "firmware") and _is_offline(self._own):
            raise Unreadable("the card is offline")
        values: list[Value] = []
        numbers = set()
        absent = monitor.samples % _ABSENT_EVERY == 0
        for sensor in monitor.sensors:
            if not sensor.seen and not absent:
                continue
            if stop():
                raise Unreadable("the card went offline")
            number = self._number(f"{monitor.path}/{sensor.name}", sensor)
            if number is None:
                continue
            numbers.add(number)
            # One that the card lacks prints 0: subdev/xmc.c
            sensor.seen = sensor.seen or number != 0
            if sensor.seen and sensor.least <= number / sensor.divisor <= sensor.most:
                values.append(Value(sensor.metric, sensor.labels, number / sensor.divisor))
        if numbers == {0}:  # no measurement, but a management function or firmware that gives no answer
            raise Unreadable(f"{monitor.name}: all sensors print 0")
        monitor.samples += 1
        return Sample([*values, *(sensor.limit for sensor in monitor.sensors if sensor.limit)])

    def _directory(self) -> str | None:
        """Return the directory of the function whose sensors are read; None if there is none to read."""
        devices = f"{self._root}/bus/pci/devices"
        if self._side == "ami":
            return self._own
        slot = slot_of(self._address)
        beside = (f"{slot}.{number}" for number in range(8))
        managed = next(
            (
                f"{devices}/{each}"
                for each in beside
                if each != self._address and sysfs.driver_of(f"{devices}/{each}") == xrt.MGMT_DRIVER
            ),
            None,
        )
        if self._side == "mailbox":
            return None if managed else self._own
        return managed

    def _monitor(self, directory: str) -> _Monitor | None:
        """Return the hwmon device with the sensors of this side; None if there is none."""
        paths = [
            f"{directory}/{name}" for name in sorted(filter(_HWMON.fullmatch, sysfs.list_names(directory)))
        ]
        for path in self._known.keys() - set(paths):
            del self._known[path]
        for path in paths:
            # A number may be given to another device after a reset, so its name is read again.
            name = sysfs.core_text(f"{path}/name")
            if path not in self._known or self._known[path].name != name:
                self._known[path] = _Monitor(path, name)
        sides = {path: _side_of(monitor.name) for path, monitor in self._known.items()}
        if self._side == "firmware" and "registers" in sides.values():
            return None  # the same card, read without the firmware
        wanted = "user" if self._side == "mailbox" else self._side
        for path in paths:
            if sides[path].startswith(wanted):
                monitor = self._known[path]
                monitor.sensors = monitor.sensors or list(self._sensors(path, sides[path]))
                return monitor
        return None

    def _sensors(self, path: str, side: str) -> Iterator[_Sensor]:
        taken = set()
        for name in sorted(sysfs.list_names(path))[:1024]:
            match = _INPUT.fullmatch(name)
            if not match or (each := f"{match[1]}{match[2]}") in _TARGETS:
                continue
            if side in ("firmware", "user_firmware", "ami") and match[1] not in _FEW:
                continue
            if match[1] == "power" and match[2] != "1":
                continue
            kind = KINDS[match[1]]
            label = sensor_texts.sensor_name(sysfs.core_text(f"{path}/{each}_label"), each)
            label = each if (kind.metric, label) in taken else label
            taken.add((kind.metric, label))
            labels = () if match[1] == "power" else _labels(label)
            # hwmon_sdm prints in the units of the firmware, with a power of ten: subdev/hwmon_sdm.c
            divisor = kind.divisor
            if side.endswith("firmware"):
                power = sysfs.number(sysfs.core_text(f"{path}/{each}_unitm")) or 0
                divisor = 10.0 ** max(-12, min(-power, 12))
            sensor = _Sensor(sys.intern(name), kind.metric, labels, divisor, kind.least, kind.most)
            if side == "ami":
                limit = sysfs.number(sysfs.read_optional(f"{path}/{each}_crit"))
                if not limit:
                    continue  # how near it is to what must not be read is not known
                metric = "power_limit_watts" if match[1] == "power" else "temperature_critical_celsius"
                sensor.limit = Value(metric, labels, limit / divisor)
            yield sensor
            if len(taken) == _MOST_SENSORS:
                return

    @staticmethod
    def _number(path: str, sensor: _Sensor) -> int | None:
        """Read a sensor; None if there is nothing to read now."""
        if sensor.limit is None:
            return _integer(path)
        now = time.monotonic()
        if now < sensor.due:
            return None
        number = _integer(path)
        if number is None or number / sensor.divisor >= _FAR * sensor.limit.value:
            sensor.due = now + _LEFT_ALONE
        return number


@lru_cache(256)
def _labels(sensor: str) -> sensor_texts.Labels:
    """Return the labels of a sensor, the same object for all cards."""
    return (("sensor", sensor),)


def _integer(path: str) -> int | None:
    """Read a number as hwmon prints it; None if there is none. Half the time of `sysfs.read_attribute`."""
    try:
        return int(sysfs.read_bytes(path, size=32))
    except (OSError, ValueError):
        return None


def _is_offline(path: str) -> bool:
    """Whether XRT's driver says so of a user function, given by its directory."""
    return sysfs.number(sysfs.read_optional(f"{path}/dev_offline")) not in (None, 0)


def _side_of(name: str) -> str:
    """Return what answers for the sensors of a hwmon device: subdev/xmc.c, hwmon_sdm.c, AVED ami_hwmon.c."""
    if name == "Alveo":
        return "ami"
    if name.endswith("_hwmon_sdm_mgmt"):
        return "firmware"
    if name.endswith("_hwmon_sdm_user"):
        return "user_firmware"
    if name.endswith("_mgmt") or name == "xclmgmt_microblaze":
        return "registers"
    return "user" if name.endswith("_user") else ""


def _of_kds(
    path: str, attribute: str, parse: Callable[[str], Iterable[Value]]
) -> Callable[[Stop], Sample | None]:
    """Return how to read an attribute of XRT's scheduler. It waits while an image is loaded."""

    def read(stop: Stop) -> Sample | None:
        if stop() or _is_offline(path):
            raise Unreadable("the card is offline")
        try:
            text = sysfs.read_bytes(f"{path}/{attribute}", size=_LONGEST).decode("ascii", "replace")
        except FileNotFoundError:
            return None
        except OSError as error:  # EINVAL without an image
            raise Unreadable(f"{attribute}: {error.strerror}") from error
        return Sample(list(parse(text)))

    return read


_BOARD: Final = (
    ("board_power", sensor_texts.board_power),
    ("board_temp", sensor_texts.board_temperatures),
    ("board_vc", sensor_texts.board_supplies),
    ("pvt_temperature", sensor_texts.chip_temperatures),
    ("pvt_voltage", sensor_texts.chip_voltages),
    ("ddr_error_information", sensor_texts.memory_errors),
    ("axi_sram_error_information", sensor_texts.memory_errors),
)


def _board(root: str, address: str, misc: str, stop: Stop) -> Sample | None:
    """Read an MA35D, from the card's memory: only while its function answers."""
    if sysfs.read_optional(f"{misc}/bus_id").lower() != address:
        raise Unreadable("bus_id: the device belongs to another function")
    values: dict[tuple[str, sensor_texts.Labels], Value] = {}
    for name, parse in _BOARD:
        if stop() or not ma35d.answers(root, misc):
            raise Unreadable("config: the link is down")
        for value in parse(sysfs.read_optional(f"{misc}/{name}")):
            values.setdefault((value.metric, value.labels), value)
    return Sample(list(values.values())) if values else None
