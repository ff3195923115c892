"""The sources of a card's telemetry: which files each one reads, and when it does not.

`attributes.TELEMETRY` has what a read of each file costs. All reads here block and may never return; each
source is read by one thread at a time, but for one that hangs, and remembers what does not change.
"""

import os
import re
import sys
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from xilinx_fpga_dp.discovery import sensor_texts, sysfs, xocl_errors
from xilinx_fpga_dp.discovery.drivers import ami, ma35d, xrt, zocl
from xilinx_fpga_dp.discovery.schedules import RARELY
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
_LOOK_EVERY: Final = 4  # samples between two looks for hwmon devices while those in use are there
_FEW: Final = frozenset({"temp", "power"})  # the kinds worth a command or a request each
_POWER: Final = frozenset({"power"})
# All sensors of a kind in one command or request, from XRT 2022.2 on; not the power: subdev/hwmon_sdm.c
_RAW: Final = {"temp": "temp_sensors_raw", "in": "voltage_sensors_raw", "curr": "current_sensors_raw"}
_SDM = re.compile(r"hwmon_sdm\.[um]\.\d{1,10}")
# The sensors of a system monitor, which have no label: subdev/sysmon.c. It prints whole degrees.
_SYSMON_LABELS: Final = {"temp1": "fpga", "in0": "vcc_int", "in1": "vcc_aux", "in2": "vcc_bram"}
# Of a V80: the share of its critical value below which a sensor is far from it, and how long one that is not
# so is left alone, in seconds
_FAR: Final = 0.8
_LEFT_ALONE: Final = 600.0
# Which hwmon devices are read for a side, see `_Hwmon` and `_side_of`
_SIDES: Final[Mapping[str, Sequence[str]]] = {
    "registers": ("registers", "sysmon"),
    "firmware": ("firmware",),
    "mailbox": ("user_firmware", "user"),
    "ami": ("ami",),
}
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
        apart: it has several files, and passes over one that another thread is still reading.
    """

    name: str
    read: Callable[[Stop], Sample | None]
    pause: float = 0.0
    late: float = 2.0
    offline: bool = False
    apart: bool = False


_Use = tuple[str, str, Callable[[str], Iterable[Value]]]
"""A source that shows how a device is used: its name, the attribute and its parser."""
_COMMON_USE: Final[Sequence[_Use]] = (
    ("memory", "memstat_raw", sensor_texts.memory_used),
    ("compute_units", "kds_custat_raw", sensor_texts.compute_units),
)
_XRT_USE: Final[Sequence[_Use]] = (
    ("contexts", "kdsstat", sensor_texts.contexts),
    *_COMMON_USE,
    ("xclbin", "xclbinuuid", sensor_texts.xclbins),
)
_ZOCL_USE: Final[Sequence[_Use]] = (*_COMMON_USE, ("xclbin", "xclbinid", sensor_texts.xclbins))


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
    if sysfs.ADDRESS.fullmatch(device.address):
        yield CardSource("pcie", _Link(path).read)
        yield CardSource("aer", lambda _: _aer(path))
    if device.rule:
        return  # what its driver's attributes are is not known
    if device.driver == xrt.USER_DRIVER:
        yield CardSource("events", _Errors(path).read, offline=True)
        yield _hwmon("hwmon", root, device, "registers")
        if everything:
            yield _hwmon("firmware", root, device, "firmware")
            yield _hwmon("mailbox", root, device, "mailbox")
            yield from _use(path, _XRT_USE, offline=True)
    elif device.driver == ami.DRIVER and everything:
        yield _hwmon("firmware", root, device, "ami")
    elif device.driver == zocl.DRIVER and everything and device.nodes:
        yield from _use(f"{root}/class/drm/{_node_name(device)}/device", _ZOCL_USE, offline=False)
    elif device.driver == ma35d.DRIVER and device.nodes:
        board = _Board(root, device.address, f"{root}/class/misc/{_node_name(device)}")
        yield CardSource("board", board.read, apart=True)


def _hwmon(name: str, root: str, device: Device, side: str) -> CardSource:
    read = _Hwmon(root, device.address, side).read
    if side == "registers":
        return CardSource(name, read, apart=True)
    return CardSource(name, read, RARELY.pause, late=RARELY.pause, apart=True)


def _use(path: str, uses: Iterable[_Use], *, offline: bool) -> Iterator[CardSource]:
    """Yield the sources that show how a device is used; see `_of_kds`."""
    for name, attribute, parse in uses:
        read = _of_kds(path, attribute, parse, offline=offline)
        yield CardSource(name, read, RARELY.pause, late=RARELY.pause)


def _node_name(device: Device) -> str:
    return device.nodes[0].rpartition("/")[2]


class _Link:
    """The PCIe link. What it is capable of is read when it has changed: a reset may load another shell."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._now: tuple[float, int] | None = None
        self._values: Sequence[Value] = ()

    def read(self, _: Stop) -> Sample | None:
        now = self._link("current")
        if now is None:
            self._now = None
            if sysfs.core_text(f"{self._path}/max_link_width") == "":
                return None  # no PCI Express
            raise Unreadable("current_link_width: there is no link")
        if now != self._now:
            self._values = [*_of_link(now, ""), *_of_link(self._link("max"), "_max")]
            self._now = now
        return Sample(self._values)

    def _link(self, which: str) -> tuple[float, int] | None:
        return sensor_texts.link(
            sysfs.core_text(f"{self._path}/{which}_link_speed"),
            sysfs.core_text(f"{self._path}/{which}_link_width"),
        )


def _of_link(link: tuple[float, int] | None, suffix: str) -> Iterator[Value]:
    names = ("pcie_link_transfers_per_second", "pcie_link_lanes")
    for name, number in zip(names, link or (), strict=False):
        yield Value(name + suffix, (), number)


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
    identity: tuple[int, int] | None = None  # of its directory when it was last looked for
    sensors: list[_Sensor] = field(default_factory=list)
    samples: int = 0  # that were complete
    raw: bool = False  # most of its sensors are read by kind, without hwmon


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
        self._used: Sequence[_Monitor] = ()  # of the last sample
        self._samples = 0
        self._busy: set[str] = set()  # the paths that are being read; of a thread that hangs, its last one

    def read(self, stop: Stop) -> Sample | None:
        if not self._used or self._samples % _LOOK_EVERY == 0 or self._changed():
            function = self._function()
            self._used = self._monitors(function) if function else ()
        if not self._used:
            return None
        self._samples += self._side == "registers"  # the sides exclude each other, so the others always look
        if self._side in ("mailbox", "firmware") and _is_offline(self._own):
            raise Unreadable("the card is offline")
        first = self._used[0]
        values = list(self._raw(first.path.rpartition("/hwmon/")[0], stop)) if first.raw else []
        for monitor in self._used:
            values += self._sensed(monitor, stop)
        return Sample(values)

    def _sensed(self, monitor: _Monitor, stop: Stop) -> Iterator[Value]:
        """Read the sensors of a hwmon device.

        Raises:
            Unreadable: the card went offline, or all sensors print 0: no measurement, but a management
                function or firmware that gives no answer.
        """
        values: list[Value] = []
        numbers = set()
        absent = monitor.samples % _ABSENT_EVERY == 0
        with sysfs.opened(monitor.path) as directory:
            for sensor in monitor.sensors:
                if not sensor.seen and not absent:
                    continue
                if stop():
                    raise Unreadable("the card went offline")
                number = self._number(directory, monitor, sensor)
                if number is None:
                    continue
                numbers.add(number)
                # One that the card lacks prints 0: subdev/xmc.c
                sensor.seen = sensor.seen or number != 0
                if sensor.seen and sensor.least <= number / sensor.divisor <= sensor.most:
                    values.append(Value(sensor.metric, sensor.labels, number / sensor.divisor))
        if numbers == {0} and not monitor.raw:
            raise Unreadable(f"{monitor.name}: all sensors print 0")
        monitor.samples += 1
        yield from values
        yield from (sensor.limit for sensor in monitor.sensors if sensor.limit)

    def _raw(self, function: str, stop: Stop) -> Iterator[Value]:
        """Read all sensors of each kind in one command or request.

        Raises:
            Unreadable: the firmware or the management function does not answer.
        """
        directory = _raw_directory(function)
        if directory is None:
            raise Unreadable("hwmon_sdm: it is gone")
        values: list[Value] = []
        for kind, name in _RAW.items():
            if stop():
                raise Unreadable("the card went offline")
            path = f"{directory}/{name}"
            if path in self._busy:
                continue
            self._busy.add(path)
            try:
                text = sysfs.read_attribute(path) or ""
            finally:
                self._busy.discard(path)
            values += sensor_texts.firmware_sensors(text, kind)
        if values and not any(value.value for value in values):
            raise Unreadable("all sensors print 0")
        yield from values

    def _changed(self) -> bool:
        """Whether a hwmon device in use is gone, or another has its number, as after a reset."""
        return any(sysfs.identity_of(monitor.path) != monitor.identity for monitor in self._used)

    def _function(self) -> str | None:
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

    def _monitors(self, function: str) -> Sequence[_Monitor]:
        """Return the hwmon devices with the sensors of this side."""
        directory = f"{function}/hwmon"
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
            self._known[path].identity = sysfs.identity_of(path)
        by_side = {_side_of(monitor.name): monitor for monitor in self._known.values()}
        if self._side == "firmware" and "registers" in by_side:
            return []  # the same card, read without the firmware
        found = [by_side[side] for side in _SIDES[self._side] if side in by_side]
        for monitor in found:
            if not monitor.sensors:
                monitor.raw = "_hwmon_sdm_" in monitor.name and bool(_raw_directory(function))
                monitor.sensors = list(self._sensors(monitor, _side_of(monitor.name)))
        # A system monitor adds nothing to an `xmc`, but before XRT 2019.2, which shows only currents
        only_currents = all(each.metric == KINDS["curr"].metric for one in found[:1] for each in one.sensors)
        return found if only_currents else found[:1]

    def _sensors(self, monitor: _Monitor, side: str) -> Iterator[_Sensor]:
        path = monitor.path
        taken = set()
        few: Container[str] = KINDS
        if side in ("firmware", "user_firmware", "ami"):
            few = _POWER if monitor.raw else _FEW
        for name in sorted(sysfs.list_names(path))[:1024]:
            match = _INPUT.fullmatch(name)
            if not match or (each := f"{match[1]}{match[2]}") in _TARGETS or match[1] not in few:
                continue
            if match[1] == "power" and match[2] != "1":
                continue
            kind = KINDS[match[1]]
            divisor = kind.divisor
            if side == "sysmon":
                label = _SYSMON_LABELS.get(each, each)
                divisor = 1.0 if match[1] == "temp" else divisor
            else:
                label = sensor_texts.sensor_name(sysfs.core_text(f"{path}/{each}_label"), each)
            label = each if (kind.metric, label) in taken else label
            taken.add((kind.metric, label))
            labels = () if match[1] == "power" else _labels(label)
            # hwmon_sdm prints in the units of the firmware, with a power of ten: subdev/hwmon_sdm.c
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

    def _number(self, directory: int, monitor: _Monitor, sensor: _Sensor) -> int | None:
        """Read a sensor; None if there is nothing to read now."""
        path = f"{monitor.path}/{sensor.name}"
        now = time.monotonic() if sensor.limit else 0.0
        if now < sensor.due or path in self._busy:
            return None
        self._busy.add(path)
        try:
            number = sysfs.read_integer(directory, sensor.name)
        finally:
            self._busy.discard(path)
        if sensor.limit and (number is None or number / sensor.divisor >= _FAR * sensor.limit.value):
            sensor.due = now + _LEFT_ALONE
        return number


@lru_cache(256)
def _labels(sensor: str) -> sensor_texts.Labels:
    """Return the labels of a sensor, the same object for all cards."""
    return (("sensor", sensor),)


def _is_offline(path: str) -> bool:
    """Whether XRT's driver says so of a user function, given by its directory."""
    return sysfs.number(sysfs.read_optional(f"{path}/dev_offline")) not in (None, 0)


def _raw_directory(function: str) -> str | None:
    """Return the directory of a function's `hwmon_sdm`; None if it shows no sensors by kind."""
    found = (f"{function}/{name}" for name in sysfs.list_names(function) if _SDM.fullmatch(name))
    return next((each for each in found if os.path.exists(f"{each}/{_RAW['temp']}")), None)


def _side_of(name: str) -> str:
    """Return what answers for the sensors of a hwmon device, by its name; empty for any other.

    Source: subdev/xmc.c, sysmon.c, hwmon_sdm.c; AVED ami_hwmon.c.
    """
    if name == "Alveo":
        return "ami"
    if name == "xclmgmt_sysmon":
        return "sysmon"
    if name.endswith("_hwmon_sdm_mgmt"):
        return "firmware"
    if name.endswith("_hwmon_sdm_user"):
        return "user_firmware"
    if name.endswith("_mgmt") or name == "xclmgmt_microblaze":
        return "registers"
    return "user" if name.endswith("_user") else ""


def _of_kds(
    path: str, attribute: str, parse: Callable[[str], Iterable[Value]], *, offline: bool = False
) -> Callable[[Stop], Sample | None]:
    """Return how to read an attribute of XRT's scheduler. It waits while an image is loaded.

    Args:
        path: the directory of the device.
        attribute: its name.
        parse: the parser of its text.
        offline: whether the driver tells that the device is offline.
    """

    def read(stop: Stop) -> Sample | None:
        if stop() or (offline and _is_offline(path)):
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
    ("pcie_error_information", sensor_texts.link_errors),
)


class _Board:
    """The sensors and counters of an MA35D.

    Args:
        root: where sysfs is.
        address: of its function.
        misc: the directory of its misc device.
    """

    def __init__(self, root: str, address: str, misc: str) -> None:
        self._root = root
        self._address = address
        self._misc = misc
        self._busy: set[str] = set()  # the names that are being read; of a thread that hangs, its last one

    def read(self, stop: Stop) -> Sample | None:
        """Read from the card's memory: only while its function answers."""
        if sysfs.read_optional(f"{self._misc}/bus_id").lower() != self._address:
            raise Unreadable("bus_id: the device belongs to another function")
        values: dict[tuple[str, sensor_texts.Labels], Value] = {}
        for name, parse in _BOARD:
            if name in self._busy:
                continue
            if stop() or not ma35d.answers(self._root, self._misc):
                raise Unreadable("config: the link is down")
            self._busy.add(name)
            try:
                text = sysfs.read_optional(f"{self._misc}/{name}")
            finally:
                self._busy.discard(name)
            for value in parse(text):
                values.setdefault((value.metric, value.labels), value)
        return Sample(list(values.values())) if values else None
