"""The record of errors that `xocl` keeps of a card, attribute ``xocl_errors``: XRT core/include/xclerr_int.h.

A C ``int`` with their number, then room for 32 of them, the oldest first: code, time, process id and, from
XRT 2025.1, one more number. XRT 2021.1 shows nothing there; a driver without memory for it shows a text.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

_HEADER: Final = struct.Struct("<i4x")
_CAPACITY: Final = 32
_FORMATS: Final[Mapping[int, struct.Struct]] = {
    _HEADER.size + _CAPACITY * record.size: record
    for record in (struct.Struct("<QQI4x"), struct.Struct("<QQI4xQ"))
}
SIZE: Final = max(_FORMATS)
"""Bytes of the longest content."""

_NUMBER_MASK: Final = 0xFFFF
# xrt_error_code.h xrtErrorNum, from 1 on; `kds_cu` is a compute unit that does not end, `kds_exec` a command
_KINDS: Final = (
    *("firewall", "temperature", "aie_saturation", "aie_fp", "aie_stream", "aie_access", "aie_bus"),
    *("aie_instruction", "aie_ecc", "aie_lock", "aie_dma", "aie_mem_parity", "cu_timeout", "exec_timeout"),
)
_FIREWALL_TRIP: Final = 1  # XRT_ERROR_NUM_FIRWWALL_TRIP


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    """One error.

    Attributes:
        code: number, driver, severity, module and class of it (xrt_error_code.h).
        time: seconds since 1970; 0 for a firewall trip before XRT 2022.2 (userpf/xocl_drv.c).
    """

    code: int
    time: int

    @property
    def is_firewall_trip(self) -> bool:
        return self.code & _NUMBER_MASK == _FIREWALL_TRIP

    @property
    def kind(self) -> str:
        """Its number as a word: ``firewall``, ``cu_timeout``; ``other`` if the number is not known."""
        number = self.code & _NUMBER_MASK
        return _KINDS[number - 1] if 1 <= number <= len(_KINDS) else "other"


def parse(data: bytes) -> tuple[ErrorRecord, ...] | None:
    """Return the errors, the oldest first; None if it is no such record."""
    record = _FORMATS.get(len(data))
    if record is None:
        return None
    (count,) = _HEADER.unpack_from(data)
    if not 0 <= count <= _CAPACITY:
        return None
    found = (record.unpack_from(data, _HEADER.size + number * record.size) for number in range(count))
    return tuple(ErrorRecord(code, time) for code, time, *_ in found)


def added(before: Sequence[ErrorRecord], now: Sequence[ErrorRecord]) -> Sequence[ErrorRecord]:
    """Return the errors that a record got since an earlier read of it; the oldest may have left it.

    A driver that was loaded again begins with an empty one.
    """
    for gone in range(len(before)):
        kept = len(before) - gone
        if tuple(now[:kept]) == tuple(before[gone:]):
            return now[kept:]
    return now


def last_trip(data: bytes) -> str | None:
    """Return a text that differs for every firewall trip on record; None without a trip or a record.

    Trips before XRT 2022.2 have no time: there their number tells them apart, until the record is full.
    """
    trips = [each for each in parse(data) or () if each.is_firewall_trip]
    return f"{len(trips)}/{trips[-1].time}" if trips else None
