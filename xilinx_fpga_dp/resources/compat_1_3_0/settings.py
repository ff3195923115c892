"""The environment variables of plugin 1.3.0, and which of our settings mean the same. Pure.

Its Go sources are https://github.com/Xilinx/FPGA_as_a_Service, folder k8s-device-plugin; a rule that comes
from one of them names it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

VARIABLES: Final = ("U30NameConvention", "U30AllocUnit", "DeviceNameCustomize", "VirtualDev", "VirtualNum")
PREFIX: Final = "amd.com/"
NAME_CUSTOMIZE: Final = "/opt/xilinx/device-plugin-configmap/NameCustomize.json"
MAX_VIRTUAL: Final = 1000
"""The most ids of a device, as SHARED_REPLICAS allows; that plugin was limited by memory alone."""


@dataclass(frozen=True, slots=True)
class Compat130Settings:
    """The values of that plugin's variables."""

    exact: bool = False  # U30 cards are named by their shells as others are, instead of all alike
    cards: bool = True  # U30 devices with one serial number are one unit
    customize: bool = False  # names come from NameCustomize.json if it has one
    virtual: int = 0  # the number of ids of a device; 0: each has one, its address

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """Read the variables as main.go does: case does not matter, and an unknown value is the default."""

        def has(variable: str, value: str) -> bool:
            return equal_fold(environment.get(variable, ""), value)

        number = environment.get("VirtualNum", "")
        wanted = int(number[:20]) if re.fullmatch(r"[+-]?[0-9]+", number, re.ASCII) else 1
        return cls(
            exact=has("U30NameConvention", "ExactName"),
            cards=not has("U30AllocUnit", "Device"),
            customize=has("DeviceNameCustomize", "True"),
            virtual=min(max(wanted, 1), MAX_VIRTUAL) if has("VirtualDev", "True") else 0,
        )

    def settings(self) -> dict[str, object]:
        """Return our settings that mean the same, as far as there are any."""
        same: dict[str, object] = {"resource_prefix": PREFIX, "u30_unit": "card" if self.cards else "device"}
        if self.virtual:
            same |= {"shared_replicas": self.virtual, "shared_grant": "all"}
        if self.customize:
            same["resource_renames"] = NAME_CUSTOMIZE
        return same


def equal_fold(one: str, other: str) -> bool:
    """Compare as Go's strings.EqualFold does, letter by letter."""
    return list(map(str.casefold, one)) == list(map(str.casefold, other))
