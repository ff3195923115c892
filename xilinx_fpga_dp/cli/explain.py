"""``explain``: what a container would get on this node of these devices, or why it would be refused them."""

import argparse
import asyncio
from collections.abc import Sequence
from typing import Any

from xilinx_fpga_dp.cli.command import SCAN_SETTINGS, BadUse, Command, output_option, print_result
from xilinx_fpga_dp.model import Device, Grant, Offer, Offers
from xilinx_fpga_dp.observe import logs
from xilinx_fpga_dp.resources.allocator import Refusal, Resolution
from xilinx_fpga_dp.resources.offers import without_management
from xilinx_fpga_dp.settings import Settings


def run(settings: Settings, options: argparse.Namespace) -> int:
    if not options.ids:
        raise BadUse("explain: which device ids? `list` shows them")
    logs.set_up("warning", settings.log_format)
    try:
        document, text = asyncio.run(_answer(settings, options.ids))
    except Refusal as refusal:
        document = {"refused": {"code": refusal.code, "message": refusal.message}}
        print_result(options, document, f"refused, {refusal.code}: {refusal.message}")
        return 1
    print_result(options, document, text)
    return 0


async def _answer(settings: Settings, ids: Sequence[str]) -> tuple[dict[str, Any], str]:
    if settings.mode == "dra":
        from xilinx_fpga_dp.cli import claim_answer

        return await claim_answer.answer(settings, ids)
    answer, grant = await _allocate(settings, ids)
    return _as_document(grant), _as_text(answer, grant, expose_mgmt=settings.expose_mgmt)


async def _allocate(settings: Settings, ids: Sequence[str]) -> tuple[Resolution, Grant]:
    """Do what Allocate does, on the resource that offers the first id; refuse if the scan failed, too."""
    from xilinx_fpga_dp.discovery.scanner import ScanFailed
    from xilinx_fpga_dp.wiring import build_allocator, build_scanner, scan_once

    async def in_spec(_devices: tuple[Device, ...]) -> bool:
        return True  # the service would write the spec

    scanner = build_scanner(settings)
    try:
        offers, _ = await scan_once(settings, scanner)
    except ScanFailed as error:
        raise Refusal("NOT_FOUND", str(error)) from None
    allocator = build_allocator(settings, scanner, lambda: offers.devices, in_spec)
    answer = await allocator.resolve(_offer_with(offers, ids[0]), ids)
    return answer, allocator.grant(answer)


def _offer_with(offers: Offers, device_id: str) -> Offer:
    by_id = {unit.id: offer for offer in offers.by_resource.values() for unit in offer.units}
    if device_id in by_id:
        return by_id[device_id]
    for entry in offers.left_out:
        if entry.function == device_id:
            raise Refusal("NOT_FOUND", f"{device_id} is not offered: {entry.reason}")
    which = ", ".join(by_id) or "which has none"
    raise Refusal("NOT_FOUND", f"device {device_id!r} is not offered on this node ({which})")


def _as_document(grant: Grant) -> dict[str, Any]:
    """Render the answer with the field names of kubelet's API."""
    mounts = [{"container_path": path, "host_path": path, "read_only": True} for path in grant.mounts]
    devices = [{"container_path": node, "host_path": node, "permissions": "rw"} for node in grant.nodes]
    names = [{"name": name} for name in grant.cdi_devices]
    answer = {"envs": dict(grant.envs), "mounts": mounts, "devices": devices, "cdi_devices": names}
    return {"answer": answer}


def _as_text(answer: Resolution, grant: Grant, *, expose_mgmt: bool) -> str:
    lines = [f"A container that asks for this gets, as {answer.resource}:"]
    for device in answer.devices:
        serial = f", serial {device.serial}" if device.serial else ""
        lines.append(f"  {device.address}: {device.board} with {device.shell.vbnv}{serial}, Healthy")
        if device.note:
            lines.append(f"    note: {device.note}")
    lines += [f"  device {node} (rw)" for node in grant.nodes]
    lines += [f"  CDI device {name}" for name in grant.cdi_devices]
    lines += [f"  mount {path} (read-only)" for path in grant.mounts]
    lines += [f"  {name}={value}" for name, value in sorted(grant.envs.items())]
    if expose_mgmt:
        lines += [f"  warning: {warning}" for warning in without_management(answer.devices)]
    return "\n".join(lines)


COMMAND = Command(
    run,
    SCAN_SETTINGS
    | {"device_strategy", "extra_mounts", "host_root", "shared_grant", "request_timeout"}
    | {"plugins_dir", "cdi_dir", "dra_metadata"},
    options={
        **output_option("text", "json"),
        "ids": {
            "nargs": "*",
            "metavar": "ID",
            "help": "a device id, as `list` shows it; MODE=dra: or a claim's uid",
        },
    },
)
