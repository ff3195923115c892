"""What ``list`` and ``/state`` show of each unit as a device of the DRA driver's pool. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from xilinx_fpga_dp.dra.devices import pool_devices, taint_key
from xilinx_fpga_dp.dra.documents import PreparedClaim
from xilinx_fpga_dp.model import Offers


def unit_states(
    offers: Offers, driver: str, claims: Iterable[PreparedClaim]
) -> Mapping[str, Mapping[str, Any]]:
    """Return name, taint and claims of each unit, by the address of its first device."""
    by_address: dict[str, list[dict[str, str]]] = {}
    for claim in claims:
        for address in dict.fromkeys(own for each in claim.results for own in each.holds):
            shown = {"namespace": claim.namespace, "name": claim.name, "uid": claim.uid}
            by_address.setdefault(address, []).append(shown)
    return {
        each.address: {
            "name": each.name,
            "taint": taint_key(driver, each.reason) if each.reason else None,
            "claims": by_address.get(each.address, []),
        }
        for each in pool_devices(offers)
    }
