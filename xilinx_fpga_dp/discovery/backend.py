"""What the scanner knows of a driver: how to find and to observe its devices."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from xilinx_fpga_dp.discovery.health import Observation
from xilinx_fpga_dp.discovery.slow_attributes import SlowRead
from xilinx_fpga_dp.discovery.sysfs import Bus, Wanted
from xilinx_fpga_dp.model import Reason

REMEDY: Final = "dmesg may say why; if it stays so reload its driver, or cold-boot the card"
"""What to do where a driver gives no answer or an invalid one."""


def unidentified(address: str, why: object) -> Observation:
    """Make the observation of a device whose driver does not answer what it is."""
    return Observation(address, reason=Reason.SHELL_UNKNOWN, why=f"{why}; {REMEDY}")


@dataclass(frozen=True, slots=True)
class Probe:
    """How to observe one device, or one function that should be a device. All calls block; use a thread."""

    # The name of the probe; there is never more than one read under way for a key. The device's address where
    # that is known without its driver.
    key: str
    # Observes it; None if there is nothing to report. May never return.
    observe: Callable[[], Observation | None]
    # Cheap check that a healthy device is still healthy; takes its last observation, and whether to check
    # also that shell and device nodes are the same. False if unsure: `observe` follows.
    unchanged: Callable[[Observation, bool], bool] | None = None
    # The slow attributes, by their name in `SlowReadings`; an observation tells which of them to read.
    slow: Mapping[str, SlowRead] = field(default_factory=dict)
    # Returns why another driver forbids to offer the device yet; None if it can be. A hang is no evidence.
    withheld: Callable[[], str | None] | None = None
    device: bool = True  # False for a function that is only reported as left out


@dataclass(frozen=True, slots=True)
class Backend:
    """One driver, or several of one maker."""

    probes: Callable[[Bus], Iterable[Probe]]  # returns the probes for what is on the bus; pure
    wanted: Wanted  # what to read of a node for its devices
