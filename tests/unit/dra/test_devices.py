"""Devices of the pool: names, attributes, taints, order."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.factories import NAMING, device, offer
from xilinx_fpga_dp.dra.devices import PoolDevice, Stored, as_claimed, attributes, pool_devices, published
from xilinx_fpga_dp.model import Inventory, Offers, Reason, Shell
from xilinx_fpga_dp.resources.offers import offers_of
from xilinx_fpga_dp.resources.pool_names import address_of, device_name

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
# https://semver.org, the expression that it suggests, without its groups
SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(-((0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*))?"
    r"(\+([0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*))?",
    re.ASCII,
)
DRIVER = "fpga.xilinx.com"


def _offers(*addresses: str, replicas: int = 1, **other: object) -> Offers:
    return offers_of(Inventory(tuple(device(each, **other) for each in addresses)), NAMING, replicas)


def _no_schedule(_device: PoolDevice, _reason: Reason) -> str:
    return "NoSchedule"


@given(st.from_regex(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]", fullmatch=True))
def test_name_of_a_pci_address_can_be_read_back(address: str) -> None:
    name = device_name(address)
    assert LABEL.fullmatch(name)
    assert address_of(name) == address


@given(st.text(min_size=1, max_size=300))
def test_every_address_has_a_name_that_is_a_label(address: str) -> None:
    assert LABEL.fullmatch(device_name(address))


@given(st.lists(st.text("aB:-._@", min_size=1, max_size=70), unique=True, max_size=8))
def test_no_two_devices_have_one_name(addresses: list[str]) -> None:
    pool = pool_devices(_offers(*addresses))
    assert len({each.name for each in pool}) == len(addresses)
    assert all(LABEL.fullmatch(each.name) for each in pool)


@given(st.text(max_size=80), st.text(max_size=200), st.text(max_size=90))
def test_attributes_are_within_the_limits_of_the_api(version: str, serial: str, vbnv: str) -> None:
    one = device(serial=serial, shell=Shell(vbnv or "x", "9" * 30, None), driver="xocl")
    found = attributes(PoolDevice("a", "xilinx.com/fpga-a", (one,)), {"xocl": version}, shared=False)
    assert len(found) <= 18
    for value in found.values():
        [(kind, content)] = value.items()
        if kind in ("string", "version"):
            assert 0 < len(str(content).encode()) <= 64
        if kind == "version":
            assert SEMVER.fullmatch(str(content))
        if kind == "int":
            assert isinstance(content, int)
            assert abs(content) < 1 << 63


@pytest.mark.parametrize(
    ("text", "version"), [("2.16.204,f2524a2f", "2.16.204"), ("2.16", None), ("02.16.1", None), ("", None)]
)
def test_only_a_semantic_version_is_one(text: str, version: str | None) -> None:
    found = attributes(PoolDevice("a", "x.com/a", (device(),)), {"xocl": text}, shared=False)
    assert found.get("driverVersion") == (version and {"version": version})
    assert found.get("driverBuild") == ({"string": text} if text else None)


def test_attributes_of_a_device() -> None:
    one = device(
        device_id="5001", serial="XFL1", pcie_path=("pci0000:64", "0000:64:00.0"), experimental=False
    )
    [only] = pool_devices(Offers({"xilinx.com/fpga-a": offer(one)}))
    assert attributes(only, {"xocl": "2.16.204"}, shared=False) == {
        "type": {"string": "fpga"},
        "resourceName": {"string": "fpga-xilinx_u200_xdma_201830_2-1561465320"},
        "resourcePrefix": {"string": "xilinx.com"},
        "board": {"string": "u200"},
        "shell": {"string": "xilinx_u200_xdma_201830_2"},
        "serial": {"string": "XFL1"},
        "deviceID": {"string": "0x5001"},
        "driver": {"string": "xocl"},
        "timestamp": {"int": 1561465320},
        "driverVersion": {"version": "2.16.204"},
        "driverBuild": {"string": "2.16.204"},
        "card": {"string": "XFL1"},
        "devices": {"int": 1},
        "shared": {"bool": False},
        "experimental": {"bool": False},
        "resource.kubernetes.io/pciBusID": {"string": "0000:65:00.1"},
        "resource.kubernetes.io/pcieRoot": {"string": "pci0000:64"},
        "resource.kubernetes.io/numaNode": {"int": 0},
    }


def test_unknown_values_are_left_out() -> None:
    one = device("accel0", numa_node=None, driver="", shell=Shell("x", None, None))
    found = attributes(PoolDevice("a", "x.com/a", (one,)), {}, shared=False)
    assert found.keys() == {
        *("type", "resourceName", "resourcePrefix", "board", "shell", "devices", "shared", "experimental")
    }


def test_devices_are_ordered_by_numa_node_then_root_then_address() -> None:
    cards = (
        device("0000:11:00.1", numa_node=None),
        device("0000:21:00.1", numa_node=1, pcie_path=("pci0000:20", "0000:20:00.0")),
        device("0000:31:00.1", numa_node=1, pcie_path=("pci0000:10", "0000:10:00.0")),
        device("0000:41:00.1", numa_node=0),
    )
    pool = pool_devices(offers_of(Inventory(cards), NAMING))
    assert [each.address for each in pool] == ["0000:41:00.1", "0000:31:00.1", "0000:21:00.1", "0000:11:00.1"]


def test_fault_is_a_taint_and_without_taints_leaves_the_device_out() -> None:
    [broken] = pool_devices(_offers("0000:65:00.1", reason=Reason.FIREWALL))
    entry = published(broken, DRIVER, {}, _no_schedule)
    assert entry is not None
    assert entry["taints"] == [{"key": f"{DRIVER}/firewall", "effect": "NoSchedule"}]
    assert published(broken, DRIVER, {}, _no_schedule, Stored(taints=False)) is None


def test_shared_device_has_slots_or_is_exclusive_where_they_are_dropped() -> None:
    [shared] = pool_devices(_offers("0000:65:00.1", replicas=4, board="u55c"))
    entry = published(shared, DRIVER, {}, _no_schedule)
    assert entry is not None
    assert entry["allowMultipleAllocations"] is True
    assert entry["capacity"]["slots"]["value"] == "4"
    assert entry["capacity"]["memory"] == {
        "value": "16Gi",
        "requestPolicy": {"default": "0", "validRange": {"min": "0"}},
    }
    exclusive = published(shared, DRIVER, {}, _no_schedule, Stored(sharing=False))
    assert exclusive is not None
    assert exclusive["capacity"] == {"memory": {"value": "16Gi"}}
    assert "allowMultipleAllocations" not in exclusive


def test_sharing_waits_for_the_claims_of_before() -> None:
    [shared] = pool_devices(_offers("0000:65:00.1", replicas=4))
    [exclusive] = pool_devices(_offers("0000:65:00.1"))
    assert (as_claimed(shared, ()), as_claimed(exclusive, ())) == (shared, exclusive)
    assert (as_claimed(shared, ("s",)), as_claimed(exclusive, (None,))) == (shared, exclusive)
    assert not as_claimed(shared, (None,)).shared
    for shares in (("s",), ("s", "t")):
        entry = published(as_claimed(exclusive, shares), DRIVER, {}, _no_schedule)
        assert entry is not None
        assert entry["allowMultipleAllocations"] is True
        assert entry["capacity"]["slots"]["value"] == str(len(shares)), "none is free"
