"""``list``: every device with its resource and health, and every function left out with the reason."""

import argparse
import asyncio
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from xilinx_fpga_dp.cli.command import FROM_OPTION, SCAN_SETTINGS, Command, output_option, print_result
from xilinx_fpga_dp.model import Offers
from xilinx_fpga_dp.observe import logs, state
from xilinx_fpga_dp.observe.table import columns, printable
from xilinx_fpga_dp.resources.offers import warnings_of
from xilinx_fpga_dp.settings import Settings


def run(settings: Settings, options: argparse.Namespace) -> int:
    if options.archive is None:
        return _list(settings, options)
    from xilinx_fpga_dp.simulate.captured_node import unpacked

    with unpacked(options.archive) as node:
        no_kubelet = {"pod_resources_socket": f"{node.root}/pod-resources.sock"}
        return _list(settings.model_copy(update=node.settings() | no_kubelet), options)


def _list(settings: Settings, options: argparse.Namespace) -> int:
    from xilinx_fpga_dp.discovery.scanner import ScanFailed
    from xilinx_fpga_dp.wiring import build_scanner, scan_once

    logs.set_up("error", settings.log_format)
    try:
        offers, held = asyncio.run(scan_once(settings, build_scanner(settings)))
    except ScanFailed as error:
        print(f"nothing found: {error}", file=sys.stderr)
        offers, held = Offers({}), {}
    document = state.document(offers, expose_mgmt=settings.expose_mgmt, held=held)
    print_result(options, document, table(document, warnings_of(offers)))
    return 0


def table(document: Mapping[str, Any], warnings: Sequence[str]) -> str:
    """Render the JSON document as text for a terminal: devices, functions left out, warnings."""
    rows = [
        (
            row["id"],
            f"{row['board']} (experimental)" if "experimental" in row else row["board"],
            f"{row['health']} ({row['reason']})" if row["reason"] else row["health"],
            "-" if row["numa_node"] is None else str(row["numa_node"]),
            row["serial"] or "-",
            " ".join(row["nodes"]) or "-",
            row["resource"],
        )
        for row in document["devices"]
    ]
    head = ("DEVICE", "BOARD", "HEALTH", "NUMA", "SERIAL", "NODES", "RESOURCE")
    lines = columns(head, rows) if rows else ["no device to offer"]
    if document["left_out"]:
        lines += ["", "left out:"]
        lines += [f"  {entry['function']}  {printable(entry['reason'])}" for entry in document["left_out"]]
    if warnings:
        lines += ["", *(f"warning: {warning}" for warning in warnings)]
    return "\n".join(lines)


COMMAND = Command(run, settings=SCAN_SETTINGS, options=output_option("table", "json") | FROM_OPTION)
