"""From device ids to what a container gets, or to a refusal with a sentence.

Allocate, PreStartContainer and ``explain`` come through here. What is looked at anew on the node is
handed in as ``refresh``; nothing here opens a file.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum, auto

from xilinx_fpga_dp.model import Device, Grant, Offer, Unit

Refresh = Callable[[Device], Awaitable[Device | None]]
"""The device as it is now; None if it is gone."""


class Code(Enum):
    """The gRPC status codes that a refusal may carry, by their gRPC names."""

    INVALID_ARGUMENT = auto()
    NOT_FOUND = auto()
    FAILED_PRECONDITION = auto()
    DEADLINE_EXCEEDED = auto()


class Refusal(Exception):  # noqa: N818 - an answer, not a fault
    """Why a container does not get what it asked for: a code and a sentence for the pod's events."""

    def __init__(self, code: Code, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence


class Grants:
    """Answers what a container gets for some ids of an offer.

    Args:
        refresh: looks at a device again right before it is handed out.
        expose_mgmt: hand out management nodes too.
        time_limit: seconds all looks of one answer may take together.
    """

    def __init__(self, refresh: Refresh, *, expose_mgmt: bool, time_limit: float) -> None:
        self._refresh = refresh
        self._expose_mgmt = expose_mgmt
        self._time_limit = time_limit

    async def devices(self, offer: Offer, ids: Sequence[str]) -> tuple[Device, ...]:
        """The devices behind these ids as they are now, each fit to be handed out.

        Raises:
            Refusal: an id is unknown, twice, vanished, unhealthy or does not answer.
        """
        wanted = [device for unit in chosen(offer, ids) for device in unit.devices]
        try:
            async with asyncio.timeout(self._time_limit):
                fresh = [await self._refresh(device) for device in wanted]
        except TimeoutError:
            raise Refusal(
                Code.DEADLINE_EXCEEDED,
                f"{_names(wanted)} did not answer within {self._time_limit:g} s: a read of its driver hangs",
            ) from None
        for before, now in zip(wanted, fresh, strict=True):
            _fit(offer, before, now)
        return tuple(sorted((d for d in fresh if d), key=lambda device: device.address))

    def grant(self, resource: str, devices: tuple[Device, ...]) -> Grant:
        """What a container gets for these devices, which are ordered by address. Pure."""
        variable = "PCIDEVICE_" + re.sub(r"[^A-Z0-9]", "_", resource.upper())
        nodes = {each.address: nodes_of(each, expose_mgmt=self._expose_mgmt) for each in devices}
        info = {device.address: _info(device, nodes[device.address]) for device in devices}
        return Grant(
            envs={
                variable: ",".join(device.address for device in devices),
                f"{variable}_INFO": json.dumps(info, separators=(",", ":")),
            },
            nodes=tuple(dict.fromkeys(node for each in nodes.values() for node in each)),
        )


def nodes_of(device: Device, *, expose_mgmt: bool) -> tuple[str, ...]:
    """The device nodes a container gets for a device, as paths under /dev."""
    mgmt = device.mgmt_node if expose_mgmt else None
    return tuple(node for node in (device.render_node, device.qdma_node, mgmt) if node)


def chosen(offer: Offer, ids: Sequence[str]) -> list[Unit]:
    """The units behind these ids.

    Raises:
        Refusal: an id is unknown, there twice, or its unit Unhealthy.
    """
    if not ids:
        raise Refusal(Code.INVALID_ARGUMENT, f"no device id of {offer.resource} was asked for")
    if twice := [each for each, count in Counter(ids).items() if count > 1]:
        raise Refusal(Code.INVALID_ARGUMENT, f"device {twice[0]!r} was asked for twice")
    units = {unit.id: unit for unit in offer.units}
    if unknown := [each for each in ids if each not in units]:
        raise Refusal(
            Code.NOT_FOUND,
            f"device {unknown[0]!r} is not one of {offer.resource} ({', '.join(units) or 'which has none'})",
        )
    for each in ids:
        if reason := units[each].reason:
            raise Refusal(Code.FAILED_PRECONDITION, f"device {each} is Unhealthy: {reason}")
    return [units[each] for each in ids]


def _fit(offer: Offer, before: Device, now: Device | None) -> None:
    """Refuse a device that a fresh look shows to be another, gone or at fault."""
    if now is None:
        raise Refusal(Code.NOT_FOUND, f"device {before.address} has vanished from the node")
    if now.shell != before.shell:
        raise Refusal(
            Code.FAILED_PRECONDITION,
            f"device {now.address} was reprogrammed to {now.shell.vbnv} and is leaving {offer.resource}",
        )
    if now.reason or not now.render_node:
        raise Refusal(
            Code.FAILED_PRECONDITION,
            f"device {now.address} is Unhealthy: {now.reason or 'no-node'}"
            + (f" (device node {now.render_node})" if now.render_node else ""),
        )


def _names(devices: Sequence[Device]) -> str:
    return "device " + ", ".join(device.address for device in devices)


def _info(device: Device, nodes: tuple[str, ...]) -> dict[str, object]:
    return {
        "shell": device.shell.vbnv,
        "timestamp": device.shell.timestamp,
        "board": device.board,
        "serial": device.serial,
        "logic_uuid": device.shell.logic_uuid,
        "numa_node": device.numa_node,
        "nodes": list(nodes),
    }
