"""The ResourceSlices of the node as the API server has them, beside what this scan would publish."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xilinx_fpga_dp.aio.blocking_reader import run_blocking
from xilinx_fpga_dp.model import Offers
from xilinx_fpga_dp.settings import Settings

Json = Mapping[str, Any]

_SLICES = "/apis/resource.k8s.io/v1/resourceslices"
_TIME_LIMIT = 3.0  # seconds to read the checkpoint


@dataclass(frozen=True, slots=True)
class Slices:
    """What was found."""

    problem: str | None = None  # why the API server has no answer
    published: int = 0  # devices
    differences: tuple[str, ...] = ()  # from what this scan would publish, each a sentence
    dropped: tuple[str, ...] = ()  # the optional fields that the server does not store


async def ask(settings: Settings, offers: Offers, versions: Mapping[str, str]) -> Slices | None:
    """Compare, and find out by a dry run what the server drops; None without a DRA driver."""
    if settings.mode != "dra":
        return None
    from xilinx_fpga_dp.apiserver import access
    from xilinx_fpga_dp.apiserver.client import ApiServer
    from xilinx_fpga_dp.apiserver.errors import ApiServerError
    from xilinx_fpga_dp.dra.front_end import example
    from xilinx_fpga_dp.dra.pool import Pool, lacking

    driver, node = settings.dra_driver_name, settings.node_name
    shares = await _shares(f"{settings.plugins_dir}/{driver}")
    async with ApiServer(access.find(os.environ)) as api:
        try:
            pool = Pool(driver, node, await api.node_uid(node))
            listing = await api.list(_SLICES, fields=f"spec.driver={driver},spec.nodeName={node}")
            sent = pool.dry_run(example(driver))
            dropped = lacking(await api.create(_SLICES, sent, dry_run=True), sent)
        except ApiServerError as error:
            return Slices(str(error))
    found = {each["name"]: each for one in listing.objects for each in one["spec"].get("devices") or ()}
    wanted = _wanted(driver, offers, versions, shares, sharing="allowMultipleAllocations" not in dropped)
    if "taints" in dropped:  # an Unhealthy device is left out on purpose
        wanted = {name: each for name, each in wanted.items() if name in found or "taints" not in each}
    owners = owner_differences(listing.objects, f"Node {node} {pool.node_uid}")
    differences = sorted((*owners, *device_differences(found, wanted)))
    return Slices(published=len(found), differences=tuple(differences), dropped=tuple(sorted(dropped)))


async def _shares(directory: str) -> Mapping[str, list[str | None]]:
    """Return the shares that claims have of each device; none if the checkpoint can't be read."""
    from xilinx_fpga_dp.dra.checkpoint import prepared_claims
    from xilinx_fpga_dp.dra.documents import shares_of

    try:
        claims = await run_blocking(lambda: prepared_claims(directory), _TIME_LIMIT)
    except (OSError, TimeoutError):
        return {}
    return shares_of(claims.values())


def _wanted(
    driver: str,
    offers: Offers,
    versions: Mapping[str, str],
    shares: Mapping[str, Sequence[str | None]],
    *,
    sharing: bool,
) -> dict[str, Json]:
    """Return the entry of each device in a slice, by its name."""
    from xilinx_fpga_dp.dra.devices import Stored, as_claimed, pool_devices, published
    from xilinx_fpga_dp.dra.evictions import NO_SCHEDULE

    claimed = (as_claimed(each, shares.get(each.address, ())) for each in pool_devices(offers))
    entries = (
        published(each, driver, versions, lambda *_: NO_SCHEDULE, Stored(sharing=sharing)) for each in claimed
    )
    return {each["name"]: each for each in entries if each}


def owner_differences(slices: Sequence[Json], wanted: str) -> Iterator[str]:
    for each in slices:
        metadata = each["metadata"]
        references = metadata.get("ownerReferences") or ()
        owners = [f"{one.get('kind')} {one.get('name')} {one.get('uid')}" for one in references]
        if owners != [wanted]:
            owner = ", ".join(owners) or "no owner"
            yield f"the slice {metadata['name']} belongs to {owner}, and has to belong to {wanted}"


def device_differences(found: Mapping[str, Json], wanted: Mapping[str, Json]) -> Iterator[str]:
    """Yield a sentence for each device that differs, which names the first difference."""
    for name in found.keys() - wanted.keys():
        yield f"{name} is published and is not on this node"
    for name, device in wanted.items():
        if name not in found:
            yield f"{name} is not published"
            continue
        ours, theirs = _fields(device), _fields(found[name])
        differ = (each for each in (*ours, *theirs) if ours.get(each) != theirs.get(each))
        if field := next(differ, None):
            there, here = (_shown(each.get(field)) for each in (theirs, ours))
            yield f"{field} of {name} is {there}, and this scan finds {here}"


def _fields(device: Json) -> Json:
    """Return what is compared: of a taint not its effect and time, which depend on when a fault began."""
    return {
        "taints": sorted(each["key"] for each in device.get("taints") or ()) or None,
        **{f"attributes.{name}": each for name, each in (device.get("attributes") or {}).items()},
        **{f"capacity.{name}": each for name, each in (device.get("capacity") or {}).items()},
        "allowMultipleAllocations": device.get("allowMultipleAllocations") or None,
    }


def _shown(value: object) -> str:
    return "none" if value is None else json.dumps(value)
