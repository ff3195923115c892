"""What the containers of a claim get on this node, for ``explain`` with MODE=dra."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from xilinx_fpga_dp.aio.blocking_reader import run_blocking
from xilinx_fpga_dp.discovery.scanner import ScanFailed
from xilinx_fpga_dp.dra.checkpoint import prepared_claims
from xilinx_fpga_dp.dra.devices import PoolDevice, pool_devices
from xilinx_fpga_dp.dra.documents import (
    Documents,
    Layout,
    PreparedClaim,
    PreparedResult,
    as_granted,
    mounts_by_rule,
)
from xilinx_fpga_dp.hostfiles.host_paths import HostPaths
from xilinx_fpga_dp.resources.allocator import Refusal
from xilinx_fpga_dp.settings import Settings
from xilinx_fpga_dp.wiring import build_scanner, scan_once

_READ_LIMIT: Final = 3.0  # seconds
_REQUEST: Final = "fpga"  # of a claim that there is not
_UID: Final = "CLAIM-UID"


async def answer(settings: Settings, ids: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Return the answer as a document and as text.

    Args:
        settings: the settings.
        ids: the uid of a prepared claim; or addresses, or names in the pool, of devices of one request.

    Raises:
        Refusal: there is no such claim or device, or the driver would refuse it.
    """
    try:
        offers, _ = await scan_once(settings, build_scanner(settings))
    except ScanFailed as error:
        raise Refusal("NOT_FOUND", str(error)) from None
    pool = {each.address: each for each in pool_devices(offers)}
    directory = f"{settings.plugins_dir}/{settings.dra_driver_name}"
    try:
        claims = await run_blocking(lambda: prepared_claims(directory), _READ_LIMIT)
    except OSError as error:
        raise Refusal("FAILED_PRECONDITION", f"the claims are not known: {error}") from None
    if found := claims.get(ids[0]):
        if len(ids) > 1:
            raise Refusal("INVALID_ARGUMENT", "a claim stands alone: its devices are known")
        claim, head = found, f"The containers of the ResourceClaim {found.namespace}/{found.name} get:"
    else:
        claim = _claim_for([_found(pool, each) for each in ids], claims, settings)
        head = "A container with a claim that is allocated this gets:"
    devices = [_present(pool, each.address) for each in claim.results]
    layout = Layout(
        settings.dra_driver_name,
        settings.cdi_dir,
        directory,
        expose_mgmt=settings.expose_mgmt,
        metadata=settings.dra_metadata,
    )
    existing = await HostPaths(settings.host_root, settings.extra_mounts).existing(
        _READ_LIMIT, mounts_by_rule(devices)
    )
    documents = layout.documents(claim, as_granted(devices, existing, settings.extra_mounts, {}))
    edits = _edits(documents)
    return {"answer": edits}, "\n".join([head, *_lines(claim, devices, edits)])


def _found(pool: Mapping[str, PoolDevice], given: str) -> PoolDevice:
    """Return the device of an address or a name, or refuse it."""
    if device := pool.get(given) or next((each for each in pool.values() if each.name == given), None):
        return device
    which = ", ".join(pool) or "which has none"
    raise Refusal("NOT_FOUND", f"{given!r} is neither a prepared claim nor a device of this node ({which})")


def _present(pool: Mapping[str, PoolDevice], address: str) -> PoolDevice:
    if device := pool.get(address):
        return device
    raise Refusal(
        "NOT_FOUND", f"device {address} of the claim is gone; a container that restarts gets it as before"
    )


def _claim_for(
    devices: Sequence[PoolDevice], claims: Mapping[str, PreparedClaim], settings: Settings
) -> PreparedClaim:
    """Return a claim of these devices, or refuse what the driver would refuse."""
    if len({each.address for each in devices}) < len(devices):
        raise Refusal("INVALID_ARGUMENT", "a device is given twice")
    for device in devices:
        own = {each.address for each in device.devices}
        if device.reason:
            raise Refusal("FAILED_PRECONDITION", f"device {device.address} is Unhealthy: {device.reason}")
        for claim in () if device.shared else claims.values():
            if any(not (each.admin_access or own.isdisjoint(each.holds)) for each in claim.results):
                raise Refusal(
                    "FAILED_PRECONDITION",
                    f"device {device.address} is prepared for the ResourceClaim "
                    f"{claim.namespace}/{claim.name} ({claim.uid})",
                )
    results = (
        PreparedResult(_REQUEST, settings.node_name, each.name, each.address, each.resource)
        for each in devices
    )
    return PreparedClaim(_UID, "NAMESPACE", "CLAIM", None, tuple(results))


def _edits(documents: Documents) -> dict[str, Any]:
    """Gather what the CDI specs of a claim add to a container, with the field names of kubelet's API."""
    devices = [each for spec in documents.specs.values() for each in json.loads(spec)["devices"]]
    edits = [each["containerEdits"] for each in devices]
    nodes = dict.fromkeys(node["path"] for each in edits for node in each.get("deviceNodes", ()))
    mounts = {each["containerPath"]: each["hostPath"] for one in edits for each in one.get("mounts", ())}
    return {
        "envs": dict(text.split("=", 1) for each in edits for text in each.get("env", ())),
        "mounts": [
            {"container_path": inside, "host_path": host, "read_only": True}
            for inside, host in mounts.items()
        ],
        "devices": [{"container_path": node, "host_path": node, "permissions": "rw"} for node in nodes],
        "cdi_devices": [{"name": name} for names in documents.cdi_ids for name in names],
    }


def _lines(claim: PreparedClaim, devices: Sequence[PoolDevice], edits: Mapping[str, Any]) -> list[str]:
    shown = []
    for result, device in zip(claim.results, devices, strict=True):
        first = device.devices[0]
        shown.append(
            f"  {device.address}: {first.board} with {first.shell.vbnv}, {device.reason or 'Healthy'}, "
            f"as {device.name} for the request {result.request}"
        )
    return [
        *shown,
        *(f"  device {each['host_path']} (rw)" for each in edits["devices"]),
        *(f"  CDI device {each['name']}" for each in edits["cdi_devices"]),
        *(f"  mount {each['container_path']} (read-only)" for each in edits["mounts"]),
        *(f"  {name}={value}" for name, value in sorted(edits["envs"].items())),
    ]
