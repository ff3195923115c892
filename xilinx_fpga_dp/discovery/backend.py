"""What a back-end is: one driver's way of showing its devices. The scanner knows back-ends by this alone."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from re import Pattern
from typing import Final, Protocol

from xilinx_fpga_dp.discovery.health import Look
from xilinx_fpga_dp.discovery.slow_attributes import Answers
from xilinx_fpga_dp.discovery.sysfs import Bus
from xilinx_fpga_dp.model import Reason

ODD_ANSWER: Final = "dmesg may say why; if it stays so load its driver anew, or cold-boot the card"
"""The remedy where a driver gives no answer, or one that can't be."""


def odd_answer(address: str, why: object) -> Look:
    """A look at a device of which the driver's answer does not tell what it is."""
    return Look(address, reason=Reason.SHELL_UNKNOWN, why=f"{why}; {ODD_ANSWER}")


class Same(Protocol):
    """See `Probe.same`."""

    def __call__(self, look: Look, /, *, exact: bool) -> bool: ...


@dataclass(frozen=True, slots=True)
class Probe:
    """How a driver is asked about one device, or about what should be one. All calls block on a thread.

    Attributes:
        key: what is asked under this name is never asked twice at a time; the device's address where it is
            known without asking its driver.
        ask: answers with a look, or that there is nothing to say; may never return.
        same: whether a look that found no fault would find none now, told from fewer reads; if asked to be
            exact, whether it would find the same shell and device nodes too. False where that is not sure:
            a whole look follows then.
        ask_slowly: what may take its driver long; is given the serial number that is known already.
        withheld: why it can't be offered yet, asked of another driver; one that hangs says nothing.
        device: it is (or was) a device, not a function that only has a reason why it is none.
    """

    key: str
    ask: Callable[[], Look | None]
    same: Same | None = None
    ask_slowly: Callable[[str | None], Answers] | None = None
    withheld: Callable[[], str | None] | None = None
    device: bool = True


class Backend(Protocol):
    """A module of this package.

    Attributes:
        DRIVERS: the PCI drivers it speaks for.
        LISTED: those of them of whose functions it wants to know what is in their directories.
        CLASSES: the class devices it looks for.
    """

    @property
    def DRIVERS(self) -> frozenset[str]: ...  # noqa: N802 - a module's constant

    @property
    def LISTED(self) -> frozenset[str]: ...  # noqa: N802

    @property
    def CLASSES(self) -> Mapping[str, Pattern[str]]: ...  # noqa: N802

    def probes(self, bus: Bus, dev_root: str) -> Iterable[Probe]:
        """What to ask on this bus. Pure.

        Args:
            bus: what is there.
            dev_root: where device nodes are looked for.
        """
        ...
