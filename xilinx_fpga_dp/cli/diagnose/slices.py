"""The ResourceSlices of the node as the API server has them, beside what this scan would publish."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xilinx_fpga_dp.model import Offers
from xilinx_fpga_dp.settings import Settings

if TYPE_CHECKING:
    from xilinx_fpga_dp.dra.devices import Stored

_SLICES = "/apis/resource.k8s.io/v1/resourceslices"


@dataclass(frozen=True, slots=True)
class Slices:
    """What was found."""

    problem: str | None = None  # why the API server has no answer
    published: int = 0  # devices
    differences: tuple[str, ...] = ()  # from what this scan would publish, each a sentence
    dropped: tuple[str, ...] = ()  # the optional fields that the server does not store


async def ask(settings: Settings, offers: Offers) -> Slices | None:
    """Compare, and find out by a dry run what the server drops; None without a DRA driver."""
    if settings.mode != "dra":
        return None
    from xilinx_fpga_dp.apiserver import access
    from xilinx_fpga_dp.apiserver.client import ApiServer
    from xilinx_fpga_dp.apiserver.errors import ApiServerError
    from xilinx_fpga_dp.dra.devices import Stored

    driver, node = settings.dra_driver_name, settings.node_name
    async with ApiServer(access.find(os.environ)) as api:
        try:
            listing = await api.list(_SLICES, fields=f"spec.driver={driver},spec.nodeName={node}")
            found = {
                device["name"]: device
                for each in listing.objects
                for device in each["spec"].get("devices") or ()
            }
            dropped = await _dropped(api, settings, listing.objects)
            stored = Stored(taints="taints" not in dropped)
            differences = tuple(_differences(offers, driver, found, stored))
            return Slices(published=len(found), differences=differences, dropped=dropped)
        except ApiServerError as error:
            return Slices(str(error))


async def _dropped(api: Any, settings: Settings, found: Iterable[dict[str, Any]]) -> tuple[str, ...]:
    """Return what the server does not store; nothing where no slice tells the uid of the Node."""
    from xilinx_fpga_dp.dra.front_end import example
    from xilinx_fpga_dp.dra.pool import Pool, lacking

    uids = [owner["uid"] for each in found for owner in each["metadata"].get("ownerReferences") or ()]
    if not uids:
        return ()
    pool = Pool(settings.dra_driver_name, settings.node_name, uids[0])
    sent = pool.dry_run(example(settings.dra_driver_name))
    return tuple(sorted(lacking(await api.create(_SLICES, sent, dry_run=True), sent)))


def _differences(
    offers: Offers, driver: str, found: Mapping[str, Mapping[str, Any]], stored: "Stored"
) -> list[str]:
    from xilinx_fpga_dp.dra.devices import pool_devices, taint_key

    wanted = {each.name: each for each in pool_devices(offers)}
    sentences = [f"{name} is published and is not on this node" for name in found.keys() - wanted.keys()]
    for name, device in wanted.items():
        if name not in found:
            if stored.taints or not device.reason:  # else it is left out on purpose
                sentences.append(f"{name} is not published")
            continue
        keys = {each["key"] for each in found[name].get("taints") or ()}
        own = {taint_key(driver, device.reason)} if device.reason else set()
        if keys != own:
            sentences.append(f"{name} has {_taints(keys)}, and this scan gives it {_taints(own)}")
    return sorted(sentences)


def _taints(keys: set[str]) -> str:
    return f"the taint {', '.join(sorted(keys))}" if keys else "no taint"
