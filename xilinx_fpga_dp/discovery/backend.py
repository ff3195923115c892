"""What the scanner knows of a driver: how to find and to observe its devices."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from re import Pattern
from typing import Final

from xilinx_fpga_dp.discovery.health import Observation
from xilinx_fpga_dp.discovery.slow_attributes import SlowReadings
from xilinx_fpga_dp.discovery.sysfs import Bus
from xilinx_fpga_dp.model import Reason

REMEDY: Final = "dmesg may say why; if it stays so reload its driver, or cold-boot the card"
"""What to do where a driver gives no answer or an invalid one."""


def unidentified(address: str, why: object) -> Observation:
    """Make the observation of a device whose driver does not answer what it is."""
    return Observation(address, reason=Reason.SHELL_UNKNOWN, why=f"{why}; {REMEDY}")


@dataclass(frozen=True, slots=True)
class Probe:
    """How to observe one device, or one function that should be a device. All calls block; use a thread.

    Attributes:
        key: the name of the probe; there is never more than one read under way for a key. The device's
            address where that is known without its driver.
        observe: observes it; None if there is nothing to report. May never return.
        unchanged: cheap check that a healthy device is still healthy; takes its last observation, and whether
            to check also that shell and device nodes are the same. False if unsure: `observe` follows.
        read_slow: reads the slow attributes; takes the serial number if it is known.
        withheld: why the device cannot be offered yet, by another driver; None if it can. A read that hangs
            is no evidence.
        device: False for a function that is only reported as left out.
    """

    key: str
    observe: Callable[[], Observation | None]
    unchanged: Callable[[Observation, bool], bool] | None = None
    read_slow: Callable[[str | None], SlowReadings] | None = None
    withheld: Callable[[], str | None] | None = None
    device: bool = True


@dataclass(frozen=True, slots=True)
class Backend:
    """One driver, or several of one maker.

    Attributes:
        probes: returns the probes for what is on the bus; takes the bus and where device nodes are. Pure.
        drivers: its PCI drivers.
        listed: those of them whose functions' directories have to be listed.
        classes: the pattern of its class devices' names, by class.
    """

    probes: Callable[[Bus, str], Iterable[Probe]]
    drivers: frozenset[str] = frozenset()
    listed: frozenset[str] = frozenset()
    classes: Mapping[str, Pattern[str]] = field(default_factory=dict)
