"""Parsers of what sensors and counters print. Pure: a text that is not valid yields nothing.

A value is in base units, as Prometheus counts: volts, amperes, watts, degrees Celsius, bytes.
"""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

Labels = tuple[tuple[str, str], ...]


class Value(NamedTuple):
    """One value of a card: a metric without prefix, the labels beside that of the device, and the number."""

    metric: str
    labels: Labels
    value: float


class Kind(NamedTuple):
    """A kind of hwmon sensor: its metric, how many make one, and the range that a real one stays in."""

    metric: str
    divisor: float
    least: float
    most: float


KINDS: Final = {
    "power": Kind("power_watts", 1e6, 0, 2000),
    "temp": Kind("temperature_celsius", 1e3, -60, 250),
    "in": Kind("voltage_volts", 1e3, 0, 100),
    "curr": Kind("current_amperes", 1e3, 0, 1000),
    "fan": Kind("fan_rpm", 1.0, 0, 100_000),
}
"""By the name of the attribute without number; the units are those of the kernel's hwmon interface."""

_MOST_LANES: Final = 32
_MOST_TRANSFERS: Final = 512.0  # GT/s
_LONGEST_LABEL: Final = 40
_MOST_ROWS: Final = 128  # banks or units taken of one attribute

_SPEED = re.compile(r"(\d{1,3}(?:\.\d)?) GT/s\b")
_AER_TOTAL = re.compile(r"^TOTAL_ERR_(?:COR|NONFATAL|FATAL) (\d{1,19})$", re.MULTILINE)
_INTEGER = re.compile(r"-?\d{1,10}", re.ASCII)
_PRESENT: Final = "1"  # the status of a sensor with a valid value: subdev/hwmon_sdm.c SD_PRESENT
_WORD = re.compile(r"[a-z0-9]+")
# Words of a label that only say what the metric says
_KIND_WORDS: Final = frozenset({"temp", "temperature", "voltage", "current", "speed", "sensor"})
# Compiled where they are used, since most nodes have no such card
_BOARD_POWER: Final = r"Board Power = (\d{1,7}) mW"
_BOARD_TEMPERATURE: Final = r"(?m)^\s*([\w ]{1,40}) Temperature = (-?\d{1,3})\s*$"
_BOARD_LINE: Final = r"(?m)^\s*([\w ]{1,40}?)\s*= (\d{1,7}) (mV|mA)\s*$"
_PVT_TEMPERATURE: Final = r"\bsensor(\d{1,2})=(-?\d{1,3});"
_PVT_VOLTAGE: Final = r"\bsensor(\d{1,2})\([\d.]{1,8}v\)=(\d{1,6}) mV;"
_DDR: Final = (
    r"ddr channel (\d{1,2}) :error uncorrectable counter =(\d{1,10}) error correctable counter =(\d{1,10})"
)
_SRAM: Final = (
    r"THS (\d{1,2}) axi sram :error uncorrectable counter =(\d{1,10}), error correctable counter =(\d{1,10})"
)
_LINK_ERRORS: Final = r"pcie uncorrected error counter =(\d{1,10}) corrected error counter =(\d{1,10})"
_CONTEXTS: Final = r"(?m)^contexts?:\s*(\d{1,9})\s*$"
_BANK: Final = r"(\d{1,20}) \d{1,10}(?: \d{1,20})?"
_UUID: Final = r"(?m)^(?:(\d{1,3})[ ,:]\s*)?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$"


def link(speed: str, width: str) -> tuple[float, int] | None:
    """Return transfers a second and lanes; None if there is no link.

    A function that is being reset answers all ones, printed as 63 lanes: drivers/pci/pci-sysfs.c.
    """
    match = _SPEED.match(speed)
    if not match or not re.fullmatch(r"[0-9]{1,3}", width):
        return None
    transfers, lanes = float(match[1]), int(width)
    if not 0 < transfers <= _MOST_TRANSFERS or not 0 < lanes <= _MOST_LANES:
        return None
    return transfers * 1e9, lanes


def aer_total(text: str) -> int | None:
    """Return the total of `aer_dev_*`: drivers/pci/pcie/aer.c aer_stats_dev_attr."""
    match = _AER_TOTAL.search(text)
    return int(match[1]) if match else None


def sensor_name(label: str, attribute: str) -> str:
    """Return the name of a sensor: its label in lower case, or the attribute if it has none.

    ``FPGA TEMP`` is ``fpga``, ``PCB TOP FRONT`` ``board_top_front``, ``QSPF 0`` ``cage0``: subdev/xmc.c.
    """
    words = [word for word in _WORD.findall(label.lower()) if word not in _KIND_WORDS]
    if words and words[0] == "pcb":
        words[0] = "board"
    if len(words) > 1 and words[0] in ("qspf", "qsfp"):
        words[:2] = [f"cage{words[1]}"]
    return "_".join(words)[:_LONGEST_LABEL] or attribute


def board_power(text: str) -> Iterator[Value]:
    """Parse `board_power` of an MA35D: AMA SDK hw_monitor.c, like all below until `contexts`."""
    if match := re.search(_BOARD_POWER, text):
        yield Value("power_watts", (), int(match[1]) / 1e3)


def board_temperatures(text: str) -> Iterator[Value]:
    """Parse `board_temp`."""
    for label, value in re.findall(_BOARD_TEMPERATURE, text)[:_MOST_ROWS]:
        yield Value("temperature_celsius", _sensor(sensor_name(label, "board")), float(value))


def board_supplies(text: str) -> Iterator[Value]:
    """Parse `board_vc`: voltages and currents."""
    for label, value, unit in re.findall(_BOARD_LINE, text)[:_MOST_ROWS]:
        metric = "voltage_volts" if unit == "mV" else "current_amperes"
        yield Value(metric, _sensor(sensor_name(label, "board")), int(value) / 1e3)


def chip_temperatures(text: str) -> Iterator[Value]:
    """Parse `pvt_temperature`."""
    for number, value in re.findall(_PVT_TEMPERATURE, text)[:_MOST_ROWS]:
        yield Value("temperature_celsius", _sensor(f"chip{number}"), float(value))


def chip_voltages(text: str) -> Iterator[Value]:
    """Parse `pvt_voltage`."""
    for number, value in re.findall(_PVT_VOLTAGE, text)[:_MOST_ROWS]:
        yield Value("voltage_volts", _sensor(f"chip{number}"), int(value) / 1e3)


def memory_errors(text: str) -> Iterator[Value]:
    """Parse `ddr_error_information` or `axi_sram_error_information`. Counters of 16 bits, which wrap."""
    for pattern, memory in ((_DDR, "ddr"), (_SRAM, "sram")):
        for number, *counts in re.findall(pattern, text)[:_MOST_ROWS]:
            for kind, count in zip(("uncorrectable", "correctable"), counts, strict=True):
                labels = (("memory", f"{memory}{number}"), ("kind", kind))
                yield Value("memory_errors_total", labels, float(count))


def link_errors(text: str) -> Iterator[Value]:
    """Parse `pcie_error_information`, which the firmware counts beside those. Counters of 8 bits.

    They are no series of their own: the kernel's AER counts a link's errors, in other numbers.
    """
    if match := re.search(_LINK_ERRORS, text):
        for kind, count in zip(("uncorrectable", "correctable"), match.groups(), strict=True):
            yield Value("memory_errors_total", (("memory", "pcie"), ("kind", kind)), float(count))


def firmware_sensors(text: str, kind: str) -> Iterator[Value]:
    """Parse `*_sensors_raw` of XRT, a line a sensor: ``label,value,average,most,status,power of ten``.

    A fan is among the temperatures. Source: subdev/hwmon_sdm.c parse_inst_sensors_info, parse_sdr_info.

    Args:
        text: the content.
        kind: of its sensors, a key of `KINDS`.
    """
    taken = set()
    for number, line in enumerate(text.splitlines()[:_MOST_ROWS], 1):
        label, *fields = line.strip().rsplit(",", 5)
        if len(fields) != 5 or not all(map(_INTEGER.fullmatch, fields)) or fields[3] != _PRESENT:  # noqa: PLR2004
            continue
        each = "fan" if kind == "temp" and "fan" in label else kind
        name = sensor_name(label, f"{each}{number}")
        name = f"{each}{number}" if (each, name) in taken else name
        taken.add((each, name))
        value = int(fields[0]) / 10.0 ** max(-12, min(-int(fields[4]), 12))
        if KINDS[each].least <= value <= KINDS[each].most:
            yield Value(KINDS[each].metric, _sensor(name), value)


def contexts(text: str) -> Iterator[Value]:
    """Parse `kdsstat` of XRT: how many clients have the card open."""
    if match := re.search(_CONTEXTS, text):
        yield Value("contexts", (), float(match[1]))


def memory_used(text: str) -> Iterator[Value]:
    """Parse `memstat_raw` of XRT: a line a bank, ``bytes buffers [flag]``; other lines end them."""
    for bank, line in enumerate(text.splitlines()[:_MOST_ROWS]):
        if not (match := re.fullmatch(_BANK, line.strip())):
            return
        yield Value("memory_used_bytes", (("bank", str(bank)),), float(match[1]))


def compute_units(text: str) -> Iterator[Value]:
    """Parse `kds_custat_raw` of XRT: ``[slot,]index,name,address,status,starts``; the slot from 2022.1 on."""
    starts: dict[str, int] = {}
    for line in text.splitlines()[:_MOST_ROWS]:
        fields = line.strip().split(",")
        if len(fields) in (5, 6) and re.fullmatch(r"[0-9]{1,19}", fields[-1]) and fields[-4]:
            name = fields[-4][:_LONGEST_LABEL]
            starts[name] = starts.get(name, 0) + int(fields[-1])
    for name, count in starts.items():
        yield Value("compute_unit_starts_total", (("unit", name),), float(count))


def xclbins(text: str) -> Iterator[Value]:
    """Parse `xclbinuuid` of XRT: a line a slot; zeros where none is loaded."""
    for line, (slot, uuid) in enumerate(re.findall(_UUID, text.lower())[:_MOST_ROWS]):
        if uuid.strip("0-"):
            yield Value("xclbin_info", (("uuid", uuid), ("slot", slot or str(line))), 1.0)


def _sensor(name: str) -> Labels:
    return (("sensor", name),)
