"""From device ids to what a container gets, or to a refusal. Opens no file: what reads the node is passed in.

Allocate, PreStartContainer and ``explain`` use the same steps. `Allocator.resolve` reads the devices behind
the ids again and refuses those that can't be granted now; `Allocator.grant` makes the answer.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from xilinx_fpga_dp.model import Device, Grant, Offer
from xilinx_fpga_dp.resources.documents import cdi

Refresh = Callable[[Device], Awaitable[Device | None]]
"""Reads the state of a device again; None if it is gone."""

# Seconds for the devices that were not requested (SHARED_GRANT=all): a late one is left out as unresponsive.
_OTHERS_LIMIT = 2.0
_MIN_MOUNTS_LIMIT = 0.3  # seconds to find the host paths even if the devices took all the time

_MAX_LISTED = 8  # ids in a refusal


Code = Literal["INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "DEADLINE_EXCEEDED"]
"""A gRPC status code, by its name."""


class Refusal(Exception):  # noqa: N818 - an answer, not a fault
    """Why a container does not get the requested devices: a code, and a message for the pod's events."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


_invalid = partial(Refusal, "INVALID_ARGUMENT")
_not_found = partial(Refusal, "NOT_FOUND")
_not_now = partial(Refusal, "FAILED_PRECONDITION")


@dataclass(frozen=True, slots=True)
class Resolution:
    """What ids resolve to: all that a grant depends on, and so a key to cache it under."""

    resource: str  # the requested one
    devices: tuple[Device, ...]  # the granted ones, ordered by address
    mounts: tuple[str, ...]  # the host paths to mount that exist, beside those of the devices
    in_cdi_spec: bool  # the CDI spec has the devices


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocator:
    """Decides what a container gets for ids of an offer."""

    refresh: Refresh
    time_limit: float  # seconds that all reads of one resolution may take together
    expose_mgmt: bool = False  # grant management nodes too
    # Grant device nodes, CDI names, or both.
    strategy: Literal["device-specs", "cdi", "both"] = "device-specs"
    # Lists every device of the node, if a grant has them all (XRM); None: only those requested.
    everything: Callable[[], Sequence[Device]] | None = None
    # Finds the host paths to mount that exist, these and those of the settings, within a number of seconds;
    # None: there are none to mount.
    mounts: Callable[[float, Sequence[str]], Awaitable[tuple[str, ...]]] | None = None
    # Writes the current state of these devices into the CDI spec, False if it could not; None: there is none.
    write_cdi_spec: Callable[[tuple[Device, ...]], Awaitable[bool]] | None = None

    async def resolve(self, offer: Offer, ids: Sequence[str]) -> Resolution:
        """Resolve ids to devices as they are now.

        Raises:
            Refusal: an id is unknown or repeated, its device is gone, Unhealthy, reprogrammed or does not
                answer, or the CDI spec that alone would name it can't be written.
        """
        now = asyncio.get_running_loop().time
        deadline = now() + self.time_limit
        devices = await self.devices(offer, ids)
        if self.everything is not None:
            limit = min(_OTHERS_LIMIT, deadline - now())
            devices = await self._with_others(offer, devices, self.everything(), limit)
        in_cdi_spec = False
        if self.write_cdi_spec and self.strategy != "device-specs":
            # The spec has no device without nodes, nor does it need one.
            with_nodes = tuple(each for each in devices if nodes_of(each, expose_mgmt=self.expose_mgmt))
            in_cdi_spec = not with_nodes or await self.write_cdi_spec(with_nodes)
        if self.strategy == "cdi" and not in_cdi_spec:
            raise _not_now(
                f"the CDI spec for {_names(devices)} could not be written; "
                "DEVICE_STRATEGY both or device-specs works without"
            )
        limit = max((deadline - now()) / 2, _MIN_MOUNTS_LIMIT)
        mounts = await self.mounts(limit, _by_rule(devices)) if self.mounts else ()
        return Resolution(offer.resource, devices, mounts, in_cdi_spec)

    async def devices(self, offer: Offer, ids: Sequence[str]) -> tuple[Device, ...]:
        """Read the devices behind these ids again, ordered by address.

        Raises:
            Refusal: an id is unknown or repeated, or its device is gone, Unhealthy, reprogrammed or does not
                answer.
        """
        wanted = _requested(offer, ids)
        try:
            async with asyncio.timeout(self.time_limit):
                fresh = [await self.refresh(each) for each in wanted]
        except TimeoutError:
            raise Refusal(
                "DEADLINE_EXCEEDED",
                f"{_names(wanted)} did not answer within {self.time_limit:g} s: a read of its driver hangs",
            ) from None
        found = [checked(offer.resource, before, now) for before, now in zip(wanted, fresh, strict=True)]
        return tuple(sorted(found, key=lambda device: device.address))

    async def _with_others(
        self, offer: Offer, devices: Sequence[Device], everything: Sequence[Device], limit: float
    ) -> tuple[Device, ...]:
        """Add the other devices that can be granted now; those that can't are left out silently."""

        async def grantable(device: Device) -> Device | None:
            with suppress(TimeoutError, Refusal):
                async with asyncio.timeout(limit):
                    return checked(offer.resource, device, await self.refresh(device))
            return None

        own = {device.address for device in devices}
        others = [each for each in everything if each.address not in own and each.healthy]
        fresh = await asyncio.gather(*map(grantable, others))
        return tuple(sorted([*devices, *filter(None, fresh)], key=lambda device: device.address))

    def grant(self, resolution: Resolution) -> Grant:
        """Make the grant of a resolution. Pure: equal resolutions give equal grants."""
        devices = resolution.devices
        nodes = {each.address: nodes_of(each, expose_mgmt=self.expose_mgmt) for each in devices}
        distinct = tuple(dict.fromkeys(node for each in nodes.values() for node in each))
        return Grant(
            envs=environment_of(resolution.resource, devices, expose_mgmt=self.expose_mgmt),
            nodes=() if self.strategy == "cdi" else distinct,
            mounts=tuple(
                dict.fromkeys(
                    [path for each in devices if not each.rule for path in each.mounts] + [*resolution.mounts]
                )
            ),
            cdi_devices=tuple(cdi.qualified(each) for each in devices if nodes[each.address])
            if resolution.in_cdi_spec
            else (),
        )


def _by_rule(devices: Sequence[Device]) -> list[str]:
    """Return the host paths of rules, which may be missing; a driver's back-end names only what is there."""
    return [path for each in devices if each.rule for path in each.mounts]


def variable_of(resource: str) -> str:
    """Name the environment variable that lists a container's devices of a resource."""
    return "PCIDEVICE_" + re.sub(r"[^A-Z0-9]", "_", resource.upper())


def environment_of(resource: str, devices: Sequence[Device], *, expose_mgmt: bool) -> dict[str, str]:
    """Return the variables that describe a container's devices of a resource, ordered by address."""
    variable = variable_of(resource)
    info = {
        each.address: {**details_of(each), "nodes": nodes_of(each, expose_mgmt=expose_mgmt)}
        for each in devices
    }
    return {variable: ",".join(info), f"{variable}_INFO": json.dumps(info, separators=(",", ":"))}


def nodes_of(device: Device, *, expose_mgmt: bool) -> tuple[str, ...]:
    """List the device nodes a container gets for a device, as paths under /dev."""
    return (*device.nodes, device.mgmt_node) if expose_mgmt and device.mgmt_node else device.nodes


def details_of(device: Device) -> dict[str, Any]:
    """Make the part of a JSON document that describes a device."""
    return {
        "shell": device.shell.vbnv,
        "timestamp": device.shell.timestamp,
        "board": device.board,
        "serial": device.serial,
        "logic_uuid": device.shell.logic_uuid,
        "numa_node": device.numa_node,
    }


def _requested(offer: Offer, ids: Sequence[str]) -> list[Device]:
    """Find the devices behind these ids; refuse what the offer alone shows to be wrong."""
    if not ids:
        raise _invalid(f"no device id of {offer.resource} was asked for")
    if repeated := _repeated(ids):
        raise _invalid(f"device {repeated[0]!r} was asked for twice")
    units = {unit.id: unit for unit in offer.units}
    if unknown := [each for each in ids if each not in units]:
        raise _not_found(f"device {unknown[0]!r} is not one of {offer.resource} ({_some([*units])})")
    devices = [device for each in ids for device in units[each].devices]
    if shared := _repeated([device.address for device in devices]):
        raise _invalid(
            f"device {shared[0]} was asked for twice: one container gets one replica of a device at most"
        )
    for each in ids:
        if reason := units[each].reason:
            raise _not_now(f"device {each} is Unhealthy: {reason}")
    return devices


def _repeated(texts: Sequence[str]) -> list[str]:
    if len(set(texts)) == len(texts):
        return []
    return [each for each, count in Counter(texts).items() if count > 1]


def _some(ids: Sequence[str]) -> str:
    """List the first ids, and how many more there are: with replicas these can be thousands."""
    more = len(ids) - _MAX_LISTED
    return (", ".join(ids[:_MAX_LISTED]) or "which has none") + (f" and {more} more" if more > 0 else "")


def checked(resource: str, before: Device, now: Device | None, *, faulty: bool = False) -> Device:
    """Return the device as it is now; refuse it if it is gone, reprogrammed or Unhealthy.

    Args:
        resource: the resource that it was requested of.
        before: the device as the snapshot has it.
        now: the device as it is now, None if it is gone.
        faulty: accept one that is Unhealthy, as long as it has its nodes.
    """
    if now is None:
        raise _not_found(f"device {before.address} has vanished from the node")
    if now.shell != before.shell:
        raise _not_now(f"device {now.address} was reprogrammed to {now.shell.vbnv} and is leaving {resource}")
    if (now.reason and not faulty) or not (now.nodes or now.rule):
        node = f" (device node {now.nodes[0]})" if now.nodes and not now.rule else ""
        node = f" ({now.note})" if now.rule and now.note else node
        raise _not_now(f"device {now.address} is Unhealthy: {now.reason or 'no-node'}{node}")
    return now


def _names(devices: Sequence[Device]) -> str:
    return "device " + ", ".join(device.address for device in devices)
