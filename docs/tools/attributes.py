"""Generate docs/reference/attributes.md from the table of the attributes that are read.

``python docs/tools/attributes.py write`` writes the page, ``check`` fails if it differs.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from xilinx_fpga_dp.discovery.attributes import (
    NEVER,
    RULES,
    TABLE,
    TELEMETRY,
    UNREAD,
    Attribute,
    Base,
)
from xilinx_fpga_dp.discovery.schedules import Schedule

PAGE = Path(__file__).parents[1] / "reference" / "attributes.md"

_HEAD = f"""\
# Attributes

Every file below `/sys` that the plugin reads of a driver: what answers, and how often it is read.
Made by `make docs` from the table that the plugin itself follows; a test fails if a scan reads
another one.

No read costs a line in the kernel's log each second. What may wait for the management function or
for firmware is read on a thread of its own that no scan waits for, one read of a card at a time.

| answered by | meaning |
| --- | --- |
| memory | the driver or the kernel prints a value that it keeps |
| driver lock | the same, after the driver's other work under that lock |
| card | the card's registers or config space, microseconds |
| mailbox | the management function: up to 20 s, and lines in the kernel's log on both sides |
| command | the card's firmware |

*each check* is every `HEALTH_INTERVAL`, at wake-ups and before a grant; *each scan* every
`SCAN_INTERVAL`, at wake-ups, and at checks of a device that has a fault.

Never read: {", ".join(f"`{name}`" for name in NEVER)}. Nothing is ever written.

| driver | attribute | answered by | read | source |
| --- | --- | --- | --- | --- |
"""
_RULES = """
With `DEVICE_RULES` also, of the devices that [rules](rules.md) take:

| driver | attribute | answered by | read | source |
| --- | --- | --- | --- | --- |
"""
_TELEMETRY = """
## Telemetry

What `TELEMETRY` reads of a card for [its metrics](metrics.md#cards), on a thread of its own that
neither scans, nor health checks, nor scrapes wait for. `safe` reads the rows of its level, `all`
reads every row, `none` reads nothing. A test fails if another file is opened.

Nothing is read of a card that is offline, in a reset or does not answer, but `xocl_errors` of one
that is offline. `all` costs something: applications wait while the driver answers, the host's
kernel log gets lines, and a V80's sensor is dangerous at its critical value. *each sample* is
every `TELEMETRY_INTERVAL`.

| level | driver | attribute | answered by | read | source |
| --- | --- | --- | --- | --- | --- |
"""
_UNREAD = """
Read at no level:

| driver | source | why |
| --- | --- | --- |
"""
_PLACES = {Base.FUNCTION: "", Base.RENDER: "render node: ", Base.MISC: "misc device: ", Base.SYSFS: "/sys: "}


def page() -> str:
    """Return the whole page."""
    unread = "".join(f"| `{driver}` | {_names(names)} | {why} |\n" for driver, names, why in UNREAD)
    return _HEAD + _rows(TABLE) + _RULES + _rows(RULES) + _TELEMETRY + _rows(TELEMETRY) + _UNREAD + unread


def _names(names: str) -> str:
    """Mark attributes as code, and leave words as they are."""
    return ", ".join(name if " " in name else f"`{name}`" for name in names.split(", "))


def _rows(table: Iterable[Attribute]) -> str:
    return "".join(f"{_row(each)}\n" for each in table)


def _row(attribute: Attribute) -> str:
    when = attribute.when
    cells = (
        *([f"`{attribute.level}`"] if attribute.level else ()),
        f"`{attribute.driver}`{_versions(attribute)}",
        f"{_PLACES[attribute.base]}`{attribute.pattern}`",
        str(attribute.source),
        when.text if isinstance(when, Schedule) else str(when),
        attribute.why,
    )
    return f"| {' | '.join(cells)} |"


def _versions(attribute: Attribute) -> str:
    since = f" from {attribute.since[0]}.{attribute.since[1]}" if attribute.since else ""
    before = f" before {attribute.before[0]}.{attribute.before[1]}" if attribute.before else ""
    return since + before


def main(verb: str) -> int:
    """Write the page, or check that it is up to date; return the exit code."""
    if verb == "write":
        PAGE.write_text(page())
    elif not PAGE.exists() or PAGE.read_text() != page():
        print(f"{PAGE.name} differs from the table of attributes: make docs")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
