"""From device ids to what a container gets, or to a refusal with a sentence.

Allocate, PreStartContainer and ``explain`` come through here. What is looked at anew on the node is handed
in; nothing here opens a file.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import islice
from typing import Literal

from xilinx_fpga_dp.model import Device, Grant, Offer, Unit
from xilinx_fpga_dp.resources.documents import cdi

Refresh = Callable[[Device], Awaitable[Device | None]]
"""The device as it is now; None if it is gone."""

# Seconds in which the devices that nobody asked for have to answer: a late one counts as unresponsive then.
_OTHERS = 2.0
_MOUNTS = 0.3  # seconds that host paths have to be looked up in any case

_NAMED = 8  # ids that a refusal names

Strategy = Literal["device-specs", "cdi", "both"]


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


async def _nothing(_limit: float) -> tuple[str, ...]:
    return ()


async def _no_spec(_devices: tuple[Device, ...]) -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocator:
    """Answers what a container gets for some ids of an offer.

    Attributes:
        refresh: looks at a device again right before it is handed out.
        time_limit: seconds all looks of one answer may take together.
        expose_mgmt: hand out management nodes too.
        strategy: device nodes as such, by CDI names, or both.
        everything: every device of the node, where a grant gives them all (XRM); None: only those asked for.
        mounts: the host paths to add that are there, within so many seconds.
        in_spec: see to it that the CDI spec has these devices as they are; whether it has.
    """

    refresh: Refresh
    time_limit: float
    expose_mgmt: bool = False
    strategy: Strategy = "device-specs"
    everything: Callable[[], Sequence[Device]] | None = None
    mounts: Callable[[float], Awaitable[tuple[str, ...]]] = _nothing
    in_spec: Callable[[tuple[Device, ...]], Awaitable[bool]] = _no_spec

    async def answer(self, offer: Offer, ids: Sequence[str]) -> "Answer":
        """What these ids come down to now.

        Raises:
            Refusal: an id is unknown, twice, vanished, unhealthy or does not answer.
        """
        now = asyncio.get_running_loop().time
        began = now()
        devices = await self.devices(offer, ids)
        if self.everything is not None:
            devices = await self._with_all_others(devices, min(_OTHERS, began + self.time_limit - now()))
        named = False
        if self.strategy != "device-specs":
            named = await self.in_spec(devices)
            if not named and self.strategy == "cdi":
                raise Refusal(
                    Code.FAILED_PRECONDITION,
                    f"the CDI spec for {_names(devices)} could not be written; "
                    "DEVICE_STRATEGY both or device-specs works without",
                )
        left = began + self.time_limit - now()
        mounts = await self.mounts(max(left / 2, _MOUNTS))
        return Answer(offer.resource, devices, mounts, named)

    async def devices(self, offer: Offer, ids: Sequence[str]) -> tuple[Device, ...]:
        """The devices behind these ids as they are now, each fit to be handed out, ordered by address.

        Raises:
            Refusal: as above.
        """
        wanted = [device for unit in chosen(offer, ids) for device in unit.devices]
        try:
            async with asyncio.timeout(self.time_limit):
                fresh = [await self.refresh(device) for device in wanted]
        except TimeoutError:
            raise Refusal(
                Code.DEADLINE_EXCEEDED,
                f"{_names(wanted)} did not answer within {self.time_limit:g} s: a read of its driver hangs",
            ) from None
        for before, now in zip(wanted, fresh, strict=True):
            _fit(offer, before, now)
        return tuple(sorted((d for d in fresh if d), key=lambda device: device.address))

    async def _with_all_others(self, devices: tuple[Device, ...], limit: float) -> tuple[Device, ...]:
        """Every device of the node that is fit; the others are left out without a word.

        Args:
            devices: those that were asked for.
            limit: seconds that all others may take together.
        """
        found = {device.address: device for device in devices}
        everything = self.everything() if self.everything else ()
        others = [each for each in everything if each.address not in found and each.healthy]
        looks = [asyncio.ensure_future(self.refresh(each)) for each in others]
        try:
            if looks:
                await asyncio.wait(looks, timeout=limit)
        finally:
            late = [look for look in looks if look.cancel()]
            await asyncio.gather(*late, return_exceptions=True)
        for device, look in zip(others, looks, strict=True):
            now = None if look.cancelled() else look.result()
            if now is not None and now.healthy and now.node and now.shell == device.shell:
                found[now.address] = now
        return tuple(found[address] for address in sorted(found))

    def grant(self, answer: "Answer") -> Grant:
        """What the container gets. Pure: the same answer gives the same grant."""
        variable = variable_of(answer.resource)
        nodes = {each.address: nodes_of(each, expose_mgmt=self.expose_mgmt) for each in answer.devices}
        info = {device.address: _info(device, nodes[device.address]) for device in answer.devices}
        as_specs = not (answer.named and self.strategy == "cdi")
        return Grant(
            envs={
                variable: ",".join(device.address for device in answer.devices),
                f"{variable}_INFO": json.dumps(info, separators=(",", ":")),
            },
            nodes=tuple(dict.fromkeys(node for each in nodes.values() for node in each)) if as_specs else (),
            mounts=answer.mounts,
            cdi_devices=tuple(map(cdi.qualified, answer.devices)) if answer.named else (),
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What ids came down to: enough to say what a container gets, and a key to keep that under.

    Attributes:
        resource: the resource that was asked for.
        devices: what is handed out, ordered by address.
        mounts: host paths that are there.
        named: the CDI spec has the devices.
    """

    resource: str
    devices: tuple[Device, ...]
    mounts: tuple[str, ...]
    named: bool


def variable_of(resource: str) -> str:
    """The name of the environment variable that lists a container's devices of a resource."""
    return "PCIDEVICE_" + re.sub(r"[^A-Z0-9]", "_", resource.upper())


def nodes_of(device: Device, *, expose_mgmt: bool) -> tuple[str, ...]:
    """The device nodes a container gets for a device, as paths under /dev."""
    mgmt = device.mgmt_node if expose_mgmt else None
    return tuple(node for node in (device.node, device.qdma_node, mgmt) if node)


def chosen(offer: Offer, ids: Sequence[str]) -> list[Unit]:
    """The units behind these ids.

    Raises:
        Refusal: an id is unknown, there twice, or its unit Unhealthy, or two are replicas of one device.
    """
    if not ids:
        raise Refusal(Code.INVALID_ARGUMENT, f"no device id of {offer.resource} was asked for")
    if twice := [each for each, count in Counter(ids).items() if count > 1]:
        raise Refusal(Code.INVALID_ARGUMENT, f"device {twice[0]!r} was asked for twice")
    units = {unit.id: unit for unit in offer.units}
    if unknown := [each for each in ids if each not in units]:
        raise Refusal(
            Code.NOT_FOUND,
            f"device {unknown[0]!r} is not one of {offer.resource} ({_some(units)})",
        )
    picked = [units[each] for each in ids]
    devices = Counter(device.address for unit in picked for device in unit.devices)
    if shared := [address for address, count in devices.items() if count > 1]:
        raise Refusal(
            Code.INVALID_ARGUMENT,
            f"device {shared[0]} was asked for twice: one container gets one replica of a device at most",
        )
    for unit in picked:
        if unit.reason:
            raise Refusal(Code.FAILED_PRECONDITION, f"device {unit.id} is Unhealthy: {unit.reason}")
    return picked


def _some(units: Mapping[str, Unit]) -> str:
    """The first ids, and how many more there are: with replicas that can be thousands."""
    more = len(units) - _NAMED
    return (", ".join(islice(units, _NAMED)) or "which has none") + (f" and {more} more" if more > 0 else "")


def _fit(offer: Offer, before: Device, now: Device | None) -> None:
    """Refuse a device that a fresh look shows to be another, gone or at fault."""
    if now is None:
        raise Refusal(Code.NOT_FOUND, f"device {before.address} has vanished from the node")
    if now.shell != before.shell:
        raise Refusal(
            Code.FAILED_PRECONDITION,
            f"device {now.address} was reprogrammed to {now.shell.vbnv} and is leaving {offer.resource}",
        )
    if now.reason or not now.node:
        raise Refusal(
            Code.FAILED_PRECONDITION,
            f"device {now.address} is Unhealthy: {now.reason or 'no-node'}"
            + (f" (device node {now.node})" if now.node else ""),
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
