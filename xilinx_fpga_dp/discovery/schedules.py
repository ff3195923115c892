"""How often an attribute is read whose read costs something. `attributes` has the table of all attributes.

The service has only this module: the table is for `capture`, the documentation and the tests.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Schedule:
    """How often an attribute is read whose read costs something: apart from scans, on a thread of its own."""

    text: str  # for people: from when to when
    pause: float  # seconds between two reads, at least
    growth: float = 1.0  # of the pause, with each read
    longest: float = float("inf")  # the longest pause, seconds
    tries: int | None = None  # reads, until the device has had a fault; None: read for ever
    until_known: bool = False  # a result ends it for good


SERIAL: Final = Schedule(
    "until it is known, 8 times in 4 minutes at most; again after a fault",
    pause=2.0,
    growth=2.0,
    longest=300.0,
    tries=8,
    until_known=True,
)
"""Some cards have no serial number."""
TRIP: Final = Schedule("once when `dev_offline` rises, every 30 s at most", pause=30.0, tries=1)
READY: Final = Schedule("every 60 s", pause=60.0)
BOOT: Final = Schedule("once, and after a fault", pause=60.0, tries=1)
DEVICE_INFO: Final = Schedule(
    "once, while the function answers", pause=2.0, growth=2.0, longest=300.0, tries=1, until_known=True
)
RARELY: Final = Schedule("each sample, every 60 s at most", pause=60.0)

READY_ASKS: Final = ((2, 4), (2, 8))
"""The first version of `xocl` whose ``ready`` asks the card for its board's data, and the first without that:
XRT 2019.2_PU1 to 2020.1_PU1, userpf/xocl_sysfs.c ready_show."""
