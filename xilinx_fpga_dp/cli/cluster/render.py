"""Renders what was found in the cluster: as a table, as JSON, as CSV."""

import csv
import io
import json
import re
from typing import Final

from xilinx_fpga_dp.cli.cluster.states import Device, Found
from xilinx_fpga_dp.observe.table import columns, printable

_HEAD: Final = ("NODE", "DEVICE", "BOARD", "SHELL", "SERIAL", "HEALTH", "SINCE", "HELD BY")
_WIDE: Final = ("NUMA", "DRIVER", "NODES", "RESOURCE")
_CSV: Final = (
    *("node", "device", "board", "shell", "timestamp", "serial", "health", "reason", "since", "held_by"),
    *("changes", "last_reason", "numa_node", "driver", "nodes", "resource", "pod"),
)
# A spreadsheet takes a cell that begins so for a formula, and where it separates cells by semicolons also
# what follows one (owasp.org/www-community/attacks/CSV_Injection).
_FORMULA: Final = re.compile(r"(^|;)(?=\s*[=+\-@\uff1d\uff0b\uff0d\uff20])")


def as_table(found: Found, *, wide: bool) -> str:
    """Return a table of all devices; below it the functions left out, and warnings."""
    rows: list[tuple[str, ...]] = []
    left_out = []
    for answer in found.answers:
        if not answer.state:
            rows.append((answer.node, f"no answer: {answer.error}"))
            continue
        for each in answer.state.devices:
            more = (
                _shown(each.numa_node),
                each.driver or "-",
                " ".join(each.nodes) or "-",
                each.resource or "-",
            )
            rows.append(
                (
                    *(answer.node, each.id, each.board or "-", each.shell or "-", each.serial or "-"),
                    f"{each.health} ({each.reason})" if each.reason else each.health,
                    each.since or "-",
                    _holders(each) or "-",
                    *(more if wide else ()),
                )
            )
        left_out += [(answer.node, each.function, each.reason) for each in answer.state.left_out]
    lines = columns(_HEAD + (_WIDE if wide else ()), rows) if rows else ["no device to show"]
    if left_out:
        lines += ["", "left out:", *(f"  {line}" for line in columns(("", "", ""), left_out)[1:])]
    if found.warnings:
        lines += ["", *(f"warning: {printable(warning)}" for warning in found.warnings)]
    return "\n".join(lines)


def as_json(found: Found) -> str:
    """Return the documents of all nodes; characters beyond ASCII are escaped."""
    document = {
        "nodes": {each.node: each.document for each in found.answers if each.state},
        "errors": {each.node: each.error for each in found.answers if not each.state},
    }
    return json.dumps(document, indent=2)


def as_csv(found: Found) -> str:
    """Return CSV (RFC 4180) without its last line end.

    A row is a device, a function left out, or a node without an answer.
    """
    rows = []
    for answer in found.answers:
        known = {"node": answer.node, "pod": answer.pod}
        if not answer.state:
            rows.append(known | {"health": "no answer", "reason": answer.error})
            continue
        rows += [
            known
            | each.model_dump(include={*_CSV})
            | {"device": each.id, "held_by": _holders(each), "nodes": " ".join(each.nodes)}
            for each in answer.state.devices
        ]
        rows += [
            known | {"device": each.function, "health": "left out", "reason": each.reason}
            for each in answer.state.left_out
        ]
    text = io.StringIO()
    writer = csv.DictWriter(text, _CSV)
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue().removesuffix("\r\n")


def _holders(device: Device) -> str:
    """Return the containers that hold a device, each once."""
    return " ".join(dict.fromkeys(f"{each.namespace}/{each.pod}/{each.container}" for each in device.held_by))


def _shown(number: int | None) -> str:
    return "-" if number is None else str(number)


def _cell(value: object) -> str:
    return "" if value is None else _FORMULA.sub(r"\1'", printable(str(value)))
