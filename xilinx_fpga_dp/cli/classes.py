"""``classes``: the DeviceClasses for the devices of this node, for ``kubectl apply``."""

import argparse
import asyncio
import json
import sys

from xilinx_fpga_dp.cli.command import SCAN_SETTINGS, Command, output_option
from xilinx_fpga_dp.observe import logs
from xilinx_fpga_dp.settings import Settings


def run(settings: Settings, options: argparse.Namespace) -> int:
    logs.set_up("warning", settings.log_format)
    from xilinx_fpga_dp.discovery.scanner import ScanFailed
    from xilinx_fpga_dp.dra.classes import device_classes
    from xilinx_fpga_dp.wiring import build_scanner, scan_once

    try:
        offers, _ = asyncio.run(scan_once(settings, build_scanner(settings)))
    except ScanFailed as error:
        print(f"nothing found: {error}", file=sys.stderr)
        return 1
    classes = device_classes(offers.by_resource, settings.dra_driver_name)
    if options.output == "json":
        print(json.dumps({"apiVersion": "v1", "kind": "List", "items": classes}, indent=2))
    else:
        import yaml

        print(yaml.safe_dump_all(classes, sort_keys=False, width=1000), end="")
    return 0


COMMAND = Command(run, SCAN_SETTINGS, options=output_option("yaml", "json"))
