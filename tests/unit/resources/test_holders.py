"""The keys of holders: ids of device plugins and names in the pool of a DRA driver."""

import pytest

from xilinx_fpga_dp.model import Held, Holder
from xilinx_fpga_dp.resources.holders import holders_of, key_of_id, key_of_name
from xilinx_fpga_dp.resources.pool_names import device_names

PREFIX = "xilinx.com/fpga-"
OWN, OTHER = PREFIX + "x", "example.com/x"
ZOCL = "axi:zyxclmm_drm"


@pytest.mark.parametrize(
    ("resource", "device_id", "key"),
    [
        (OTHER, "0000:65:00.1", "0000:65:00.1"),
        (OTHER, "0000:65:00.1::12", "0000:65:00.1"),
        (OTHER, "0000:65:00.1-3", "0000:65:00.1"),
        (OTHER, f"{ZOCL}::0", ZOCL),
        (OWN, "accel0", "accel0"),
        (OWN, "accel0::1", "accel0"),
        (OWN, "coyote_fpga_0_v1", "coyote_fpga_0_v1"),
        (OTHER, "accel0", None),
        (OTHER, "GPU-1", None),
    ],
)
def test_id_begins_with_the_address(resource: str, device_id: str, key: str | None) -> None:
    assert key_of_id(resource, device_id, PREFIX) == key


@pytest.mark.parametrize("address", ["0000:65:00.1", ZOCL, "accel0", "coyote_fpga_0_v1", "x" * 80])
def test_device_is_found_by_its_address_and_by_each_name(address: str) -> None:
    plain = key_of_id(OWN, f"{address}::0", PREFIX) or ""
    for key in (plain, *map(key_of_name, device_names(address))):
        holder = Holder("ns", "pod", "main", "", key)
        held: Held = {key: (holder,), "dev-other": (Holder("ns", "other", "main", "", ""),)}
        assert holders_of(held, address) == (holder,)


def test_holders_by_id_and_by_claim_are_all_found() -> None:
    one, two = (Holder("ns", name, "main", "", "") for name in ("one", "two"))
    assert holders_of({"accel0": (one,), "dev-accel0": (two,)}, "accel0") == (one, two)
