"""Migration advice: what replaces the variables and the file of names of plugin 1.3.0. Pure.

It is loaded only with COMPAT=1.3.0.
"""

import glob
import json
from collections.abc import Mapping

from xilinx_fpga_dp.resources.compat_1_3_0 import names

_RENAMES = "XILINX_FPGA_DP_RESOURCE_RENAMES"


def advice(
    old: names.Compat130Settings, environment: Mapping[str, str], *, own_prefix: bool = False
) -> list[tuple[str, str]]:
    """List what is used of plugin 1.3.0, each with the settings of this plugin that replace it.

    With `own_prefix` RESOURCE_PREFIX is set and takes precedence.
    """
    by_default = "" if "U30NameConvention" in environment else ", its default"
    unit, file = "U30AllocUnit" in environment, "DeviceNameCustomize" in environment
    virtual = "VirtualDev" in environment or "VirtualNum" in environment
    shared = f"XILINX_FPGA_DP_SHARED_REPLICAS={old.virtual} and XILINX_FPGA_DP_SHARED_GRANT=all"
    differs = " (names then end in .shared, ids in ::0)" if old.virtual > 1 else ""
    rows = [
        (not own_prefix, "its prefix", f"XILINX_FPGA_DP_RESOURCE_PREFIX={names.PREFIX}"),
        (old.exact, "U30NameConvention=ExactName", "nothing: names are exact"),
        (
            not old.exact,
            f"U30NameConvention=CommonName{by_default}",
            f"into the file that {_RENAMES} names: {_COMMON_RULE}",
        ),
        (unit and old.cards, "U30AllocUnit=Card", "nothing: XILINX_FPGA_DP_U30_UNIT=card is the default"),
        (unit and not old.cards, "U30AllocUnit=Device", "XILINX_FPGA_DP_U30_UNIT=device"),
        (file and old.customize, "DeviceNameCustomize=True", f"rules into a file, and {_RENAMES}=its path"),
        (file and not old.customize, "DeviceNameCustomize=False", "nothing"),
        (old.virtual > 0, f"VirtualDev=True, VirtualNum={old.virtual}", shared + differs),
        (virtual and not old.virtual, "VirtualDev=False", "nothing"),
    ]
    return [(was, write) for applies, was, write in rows if applies]


def as_rules(customize: names.NameCustomize, old: names.Compat130Settings) -> list[str]:
    """Write the rename rules, a line of YAML each, that give the names of NameCustomize.json.

    A rule has no ``index``, and of a uuid only the whole; a name with one of these comes out differently.
    """
    rules = [] if old.exact else [_COMMON_RULE]
    for entry in customize.entries:
        key = {"board": entry.card, "shell": entry.shell}
        match = {name: glob.escape(text) for name, text in key.items() if text != "*"}
        # That plugin invented a timestamp and a uuid for the MA35D; ours have neither.
        if entry.matches({**_OURS_MA35, "shellVer": names.MA35}):
            rules.append(_line({"shell": names.MA35}, _name(entry, _OURS_MA35)))
        if len(entry.build.encode()) == names.UUID_END:
            rules.append(_line({**match, "uuid": "*" + glob.escape(entry.build)}, _name(entry, _OURS)))
        if len(entry.build.encode()) != names.UUID_END or entry.build.isdecimal():
            build = {} if entry.build == "*" else {"timestamp": glob.escape(entry.build)}
            rules.append(_line({**match, **build}, _name(entry, _OURS)))
    return [*rules, _line({"shell": names.MA35}, f"{names.MA35}-0")]


# Our templates for that plugin's fields.
_OURS = {
    "index": "{address}",
    "shellVer": "{shell}",
    "deviceType": "{board}",
    "uuid": "{uuid}",
    "timestamp": "{timestamp}",
    "DBDF": "{address}",
    "deviceID": "0x{device_id}",
    "Healthy": "Healthy",
    "SN": "{serial}",
}
_OURS_MA35 = {**_OURS, "deviceType": names.MA35, "uuid": "ma35", "timestamp": "0"}


def _name(entry: names.NameEntry, ours: Mapping[str, str]) -> str:
    braced = ((kind, text.replace("{", "{{").replace("}", "}}")) for kind, text in entry.parts)
    return "".join(ours[kind] if kind else text for kind, text in braced)


def _line(match: Mapping[str, str], name: str) -> str:
    globs = ", ".join(f"{field}: {json.dumps(value)}" for field, value in match.items())
    return f"- {{match: {{{globs}}}, name: {json.dumps(name)}, share: true}}"


_COMMON_RULE = _line({"shell": f"*{names.U30}*"}, names.U30_COMMON)
