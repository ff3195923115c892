"""Scans of a sample node."""

import asyncio
import json
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

from tests.support.process import cli
from tests.support.running import settings_for
from xilinx_fpga_dp.discovery.health import HealthRules
from xilinx_fpga_dp.discovery.scanner import Scanner
from xilinx_fpga_dp.model import Device, Inventory
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode, XrtCard

RULES = HealthRules(recovery_checks=1, reset_grace=900)


def scanner_for(node: SampleNode) -> Scanner:
    return Scanner(node.sysfs_root, node.dev_root, RULES)


def impatient() -> AbstractContextManager[object]:
    """Let scans wait for a read that hangs as briefly as those of the service."""
    return mock.patch("xilinx_fpga_dp.discovery.scanner._PATIENCE", 0.25)


async def settled(scanner: Scanner, limit: float = 60) -> Inventory:
    """Scan until all reads have ended."""
    found = await scanner.scan()
    async with asyncio.timeout(limit):
        while not scanner.complete:
            await asyncio.sleep(0.01)
            found = await scanner.scan()
    return found


async def only_device(node: SampleNode) -> Device:
    found = await settled(scanner_for(node))
    assert found.left_out == ()
    [device] = found.devices
    return device


async def only_reason(node: SampleNode) -> str:
    found = await settled(scanner_for(node))
    assert found.devices == ()
    [entry] = found.left_out
    return entry.reason


def listed(node: SampleNode, **more: str) -> dict[str, Any]:
    done = cli("list", "--output", "json", settings=settings_for(node, **more))
    assert done.returncode == 0
    document: dict[str, Any] = json.loads(done.stdout)
    return document


async def scanned_card(node: SampleNode) -> tuple[XrtCard, Scanner, Device]:
    """Return a new card, a scanner that has scanned it, and its device."""
    card = node.add_card("u200")
    scanner = scanner_for(node)
    return card, scanner, (await settled(scanner)).devices[0]
