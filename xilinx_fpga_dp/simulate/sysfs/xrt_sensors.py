"""The hwmon devices of cards of XRT: their names, attributes, labels and units.

`xmc` and `sysmon` have the units of the kernel's hwmon interface: mV, mA, m°C, µW; but the temperature of
`sysmon` is in °C. `hwmon_sdm` prints numbers as the firmware counts them, with the unit and a power of ten in
attributes of their own. The numbers are examples, and grow with the load of the card.
Source files in comments are relative to src/runtime_src/core/pcie/driver/linux/xocl in XRT.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

# By attribute, the label and an example: subdev/xmc.c HWMON_*_SYSFS_NODE, with its spelling. A sensor that a
# card lacks prints 0.
_XMC_SENSORS: Mapping[str, tuple[str, int]] = {
    "in0": ("12V PEX", 12173),
    "in1": ("12V AUX", 12195),
    "in2": ("3V3 PEX", 3284),
    "in3": ("3V3 AUX", 3310),
    "in4": ("5V5 SYS", 5492),
    "in5": ("1V2 TOP", 1200),
    "in6": ("1V2 BTM", 1200),
    "in7": ("1V8 TOP", 1810),
    "in8": ("12V SW", 12180),
    "in9": ("VCC INT", 851),
    "in10": ("0V9 MGT", 904),
    "in11": ("0V85", 852),
    "in12": ("MGT VTT", 1206),
    "in13": ("DDR VPP BOTTOM", 2500),
    "in14": ("DDR VPP TOP", 2500),
    "in15": ("VCC 3V3", 0),
    "in16": ("1V2 HBM", 0),
    "in17": ("2V5 VPP", 0),
    "in18": ("VCC INT BRAM", 0),
    "curr1": ("12V PEX Current", 1240),
    "curr2": ("12V AUX Current", 1060),
    "curr3": ("VCC INT Current", 9800),
    "curr4": ("3V3 PEX Current", 0),
    "curr5": ("VCC 0V85 Current", 0),
    "curr6": ("3V3 AUX Current", 0),
    "temp1": ("PCB TOP FRONT", 33000),
    "temp2": ("PCB TOP REAR", 30000),
    "temp3": ("PCB BTM FRONT", 38000),
    "temp4": ("FPGA TEMP", 41000),
    "temp5": ("TCRIT TEMP", 33000),
    "temp6": ("DIMM0 TEMP", 36000),
    "temp7": ("DIMM1 TEMP", 34000),
    "temp8": ("DIMM2 TEMP", 37000),
    "temp9": ("DIMM3 TEMP", 34000),
    "temp10": ("HBM TEMP", 0),
    "temp11": ("QSPF 0", 35000),
    "temp12": ("QSPF 1", 35000),
    "temp13": ("QSPF 2", 0),
    "temp14": ("QSPF 3", 0),
    "fan1": ("FAN SPEED", 1108),
    "power1": ("POWER", 28011000),
    "power2": ("CS_TARGET_POWER", 0),
    "temp15": ("CS_TARGET_TEMP", 0),
}
_XMC_VALUES = {
    "in": ("max", "average", "input"),
    "curr": ("max", "average", "input"),
    "temp": ("highest", "input"),
    "fan": ("input",),
    "power": ("average", "input"),
}
_TARGETS = ("power2", "temp15")  # of the clock scaling, not measured
_NEWER = {"curr6": "2020.1_PU1"}  # the first release of a sensor, if later than 2019.2

# subdev/xmc.c before 2019.2: six currents and no labels
_OLD_CURRENTS = (1240, 1060, 0, 0, 0, 9800)
_OLD_NAME = "xclmgmt_microblaze"
# subdev/sysmon.c; SYSMON_TO_MILLDEGREE and its use tell the units
_SYSMON = {"temp1": 41, "in0": 851, "in1": 1803, "in2": 851}
_SYSMON_NAME = "xclmgmt_sysmon"


class _SdmSensor(NamedTuple):
    """A sensor of the firmware; the labels, which the firmware chooses, are examples."""

    label: str
    value: int
    units: str
    power_of_ten: int = 0


_SDM_SENSORS: Mapping[str, _SdmSensor] = {
    "temp1": _SdmSensor("Temp PCB", 35, "Celsius"),
    "temp2": _SdmSensor("Temp FPGA", 44, "Celsius"),
    "in0": _SdmSensor("12V PEX", 12150, "Volts", -3),
    "in1": _SdmSensor("VCC INT", 801, "Volts", -3),
    "curr1": _SdmSensor("12V PEX Current", 1730, "Amps", -3),
    "curr2": _SdmSensor("VCC INT Current", 8200, "Amps", -3),
    "power1": _SdmSensor("Total Power", 21, "Watts"),
}
_RAW = {"temp_sensors_raw": "temp", "voltage_sensors_raw": "in", "current_sensors_raw": "curr"}


# How much more a sensor shows under full load
_LOAD = {
    "power1": 62_000_000,
    "temp1": 7000,
    "temp2": 6000,
    "temp3": 9000,
    "temp4": 22_000,
    "curr1": 5200,
    "curr3": 31_000,
    "fan1": 640,
}
_SYSMON_LOAD = {"temp1": 22}
_SDM_LOAD = {"power1": 34, "temp1": 8, "temp2": 22, "curr1": 2800, "curr2": 26_000}


def hwmon_files(
    subdevice: str, side: str, release: str, vbnv: str, load: float = 0.0
) -> dict[str, str] | None:
    """Return the files of the hwmon device that a sub-device adds below its function; None if it adds none.

    Args:
        subdevice: ``xmc``, ``hwmon_sdm``.
        side: `u` for the user, `m` for the management function.
        release: of XRT.
        vbnv: the name of the shell, which begins the name of the device (subdev/xmc.c show_hwmon_name).
        load: of the card, 1 at full load; a card at more runs hot.
    """
    suffix = "user" if side == "u" else "mgmt"
    match subdevice:
        case "xmc" | "xmc.u2" if release < "2019.2":
            return {"name": _OLD_NAME, **dict(_old_currents())}
        case "xmc" | "xmc.u2":
            return {"name": f"{vbnv}_{suffix}", **dict(_xmc_values(release, load))}
        case "sysmon":
            return {"name": _SYSMON_NAME, **dict(_sysmon_values(load))}
        case "hwmon_sdm":
            return {"name": f"{vbnv}_hwmon_sdm_{suffix}", **dict(_sdm_values(release, load))}
    return None


def raw_files(release: str, load: float = 0.0) -> dict[str, str]:
    """Return the attributes of `hwmon_sdm` with a line a sensor (parse_inst_sensors_info)."""
    if release < "2022.2":
        return {}
    files = {}
    for name, kind in _RAW.items():
        rows = []
        for each, sensor in _SDM_SENSORS.items():
            if each.startswith(kind):
                value = sensor.value + round(_SDM_LOAD.get(each, 0) * load)
                rows.append(f"{sensor.label},{value},{value},{value},1,{sensor.power_of_ten}")
        files[name] = "\n".join(rows)
    return files


def is_measured(attribute: str) -> bool:
    """Return whether an attribute of a hwmon device is a value of a sensor, not a text or a limit."""
    sensor, _, kind = attribute.partition("_")
    return kind in ("input", "average", "highest", "max", "lowest") and sensor not in _TARGETS


def _xmc_values(release: str, load: float) -> Iterator[tuple[str, str]]:
    for sensor, (label, value) in _XMC_SENSORS.items():
        if release < _NEWER.get(sensor, "2019.2"):
            continue
        values = ("max", "input") if sensor in _TARGETS else _XMC_VALUES[sensor.rstrip("0123456789")]
        number = value + round(_LOAD.get(sensor, 0) * load)
        yield from ((f"{sensor}_{each}", str(number)) for each in values)
        yield f"{sensor}_label", label


def _old_currents() -> Iterator[tuple[str, str]]:
    for number, value in enumerate(_OLD_CURRENTS, 1):
        yield from ((f"curr{number}_{each}", str(value)) for each in ("highest", "average", "input"))


def _sysmon_values(load: float) -> Iterator[tuple[str, str]]:
    for sensor, value in _SYSMON.items():
        number = value + round(_SYSMON_LOAD.get(sensor, 0) * load)
        extreme = number * 1000 if sensor in _SYSMON_LOAD else number
        yield f"{sensor}_input", str(number)
        yield from ((f"{sensor}_{each}", str(extreme)) for each in ("highest", "lowest"))


def _sdm_values(release: str, load: float) -> Iterator[tuple[str, str]]:
    """Yield the attributes of each sensor (subdev/hwmon_sdm.c parse_sdr_info)."""
    for name, sensor in _SDM_SENSORS.items():
        value = sensor.value + round(_SDM_LOAD.get(name, 0) * load)
        yield from ((f"{name}_{each}", str(value)) for each in ("input", "max", "average"))
        yield f"{name}_label", sensor.label
        if release >= "2022.2":
            yield f"{name}_status", "Sensor Present and Valid"
            yield f"{name}_units", sensor.units
            yield f"{name}_unitm", str(sensor.power_of_ten)
