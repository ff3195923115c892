"""``rules``: which devices of this node each rule of a file takes, with their nodes, and what is wrong."""

import argparse
import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any

from xilinx_fpga_dp.cli.command import SCAN_SETTINGS, BadUse, Command, output_option, print_result
from xilinx_fpga_dp.model import Device, Reason
from xilinx_fpga_dp.observe import logs
from xilinx_fpga_dp.observe.table import printable
from xilinx_fpga_dp.settings import Settings, variable


def run(settings: Settings, options: argparse.Namespace) -> int:
    path = os.path.abspath(options.file) if options.file else settings.device_rules
    if not path:
        raise BadUse(f"rules: which file? name one, or set {variable('device_rules')}")
    logs.set_up("error", settings.log_format)
    document = asyncio.run(_check(settings.model_copy(update={"device_rules": path}), path))
    print_result(options, document, _as_text(document))
    return 1 if document["problems"] else 0


async def _check(settings: Settings, path: str) -> dict[str, Any]:
    from xilinx_fpga_dp.discovery.scanner import ScanFailed
    from xilinx_fpga_dp.snapshot import SnapshotBuilder
    from xilinx_fpga_dp.wiring import build_scanner, scan_once

    builder = SnapshotBuilder(settings, patient=False)
    found: Sequence[Device] = ()
    failed = []
    try:
        offers, _ = await scan_once(settings, build_scanner(settings), builder=builder)
        found = [device for device in offers.devices if device.rule is not None]
        names = {device.address: name for name, each in offers.by_resource.items() for device in each.devices}
    except ScanFailed as error:
        failed = [f"the node can't be scanned, so no rule takes a device: {error}"]
    problems = [*builder.device_rule_problems, *failed]
    problems += [f"{each.address}: {each.note}" for each in found if each.reason is Reason.NO_NODE]
    rules = builder.device_rules.rules if builder.device_rules else ()
    return {
        "file": path,
        "problems": problems,
        "rules": [
            {
                "rule": rule.name,
                "number": rule.number,
                "devices": [
                    _device(device, names[device.address])
                    for device in found
                    if (device.rule, device.rule_number) == (rule.name, rule.number)
                ],
            }
            for rule in rules
        ],
    }


def _device(device: Device, resource: str) -> dict[str, Any]:
    return {
        "id": device.address,
        "resource": resource,
        "driver": device.driver or None,
        "health": "Healthy" if device.healthy else "Unhealthy",
        "reason": device.reason,
        "note": device.note,
        "nodes": list(device.nodes),
        "mounts": list(device.mounts),
    }


def _as_text(document: Mapping[str, Any]) -> str:
    lines = []
    for rule in document["rules"]:
        lines.append(f"rule {rule['number']} ({rule['rule']})" + ("" if rule["devices"] else ": no device"))
        for device in rule["devices"]:
            health = f"{device['health']} ({device['reason']})" if device["reason"] else device["health"]
            nodes = " ".join(device["nodes"]) or "no node"
            driver = f"driver {device['driver']}" if device["driver"] else "no driver"
            lines.append(f"  {device['id']}  {driver}  {health}  {nodes}  as {device['resource']}")
            lines += [f"    mount {path}" for path in device["mounts"]]
            lines += [f"    {device['note']}"] if device["note"] else []
    lines += [f"problem: {problem}" for problem in document["problems"]]
    return "\n".join(map(printable, [f"{document['file']}:", *(lines or ["no rule"])]))


COMMAND = Command(
    run,
    SCAN_SETTINGS,
    options={
        **output_option("text", "json"),
        "file": {"nargs": "?", "metavar": "FILE", "help": "the file; default: DEVICE_RULES"},
    },
)
