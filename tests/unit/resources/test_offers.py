"""Offers and grants, without files and sockets."""

import dataclasses
import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.factories import NAMING, PLAIN, device, offer, unchanged
from xilinx_fpga_dp.model import (
    Device,
    History,
    Holder,
    Inventory,
    LeftOut,
    Offer,
    Offers,
    Reason,
    Shell,
    Unit,
)
from xilinx_fpga_dp.resources.allocator import Allocator, Code, Refusal
from xilinx_fpga_dp.resources.card_pairing import CardAssignment
from xilinx_fpga_dp.resources.naming import Naming
from xilinx_fpga_dp.resources.offers import (
    claim_names,
    held_elsewhere,
    mixed_builds_warning,
    names_of,
    offers_of,
    representatives,
    same_variables,
    with_devices,
)
from xilinx_fpga_dp.resources.placement import preferred
from xilinx_fpga_dp.resources.pool_names import device_name


def test_device_held_as_it_is_offered_is_not_held_elsewhere() -> None:
    """Plugin 1.3.0 with ``index`` in its names has a resource for each replica."""
    own = device()
    one, two = (Offer(f"amd.com/u200-{n}", (Unit(f"{own.address}-{n}", (own,), ()),)) for n in (0, 1))
    offers = Offers({one.resource: one, two.resource: two})

    def held(resource: str, unit_id: str) -> bool:
        return bool(
            held_elsewhere(offers, {own.address: (Holder("", "", "", resource, unit_id),)}, names_of(offers))
        )

    assert not held(one.resource, one.units[0].id)
    assert not held(two.resource, two.units[0].id)
    assert held(one.resource, two.units[0].id)
    assert held("amd.com/u200", one.units[0].id)


@pytest.mark.parametrize(
    ("missing", "singles", "held"),
    [
        (True, (), True),  # removed before a restart
        (True, ["0000:65:00.1"], False),  # known as a separate card
        (False, (), False),  # present, with another shell
        (True, None, False),
    ],
)
def test_second_device_of_a_u30_may_be_held(missing: bool, singles: list[str] | None, held: bool) -> None:
    other = device("0000:65:00.1", board="u30", shell=Shell("other", "1", None))
    alone, plain = device("0000:66:00.1", board="u30"), device("0000:67:00.1")
    devices = (alone, plain) if missing else (other, alone, plain)
    offers = offers_of(Inventory(devices), NAMING)
    name = offer(alone).resource
    driver = "fpga.xilinx.com"
    known = names_of(offers) | claim_names(offers, driver)
    for holder in (
        Holder("", "", "", name, other.address),
        Holder("", "", "", driver, device_name(other.address)),  # a claim's
    ):
        elsewhere = held_elsewhere(offers, {other.address: (holder,)}, known, singles, driver)
        assert (alone.address in elsewhere) is held
        assert plain.address not in elsewhere


def test_claim_of_another_device_holds_no_half_of_a_u30() -> None:
    offers = offers_of(Inventory((device("accel0"), device("0000:66:00.1", board="u30"))), NAMING)
    driver, name = "fpga.xilinx.com", device_name("accel0")
    held = {name: (Holder("", "", "", driver, name),)}
    assert not held_elsewhere(offers, held, claim_names(offers, driver), (), driver)


def test_one_resource_per_shell() -> None:
    other = Shell("xilinx_u250_xdma_201830_2", "1", None)
    offers = offers_of(
        Inventory((device("0000:01:00.1"), device("0000:02:00.1"), device("0000:03:00.1", shell=other))),
        NAMING,
    )
    assert {name: [u.id for u in each.units] for name, each in offers.by_resource.items()} == {
        "xilinx.com/fpga-xilinx_u200_xdma_201830_2-1561465320": ["0000:01:00.1", "0000:02:00.1"],
        "xilinx.com/fpga-xilinx_u250_xdma_201830_2-1": ["0000:03:00.1"],
    }


def test_device_without_a_name_is_left_out_alone() -> None:
    naming = Naming("xilinx.com/", "{serial}")
    assignment = CardAssignment(serials={"0000:65:00.1": "XFL1"})
    offers = offers_of(Inventory((device(), device("0000:66:00.1"))), naming, 1, assignment)
    assert list(offers.by_resource) == ["xilinx.com/XFL1"]
    assert [entry.function for entry in offers.left_out] == ["0000:66:00.1"]


PAIR = (device("0000:21:00.1"), device("0000:22:00.1", serial="XFL1"))
ONE_CARD = CardAssignment(
    cards=dict.fromkeys(("0000:21:00.1", "0000:22:00.1"), ("0000:22:00.1", "0000:21:00.1")),
    serials={"0000:22:00.1": "XFL1"},
)


def test_devices_of_a_card_are_named_as_one_device() -> None:
    other = device("0000:31:00.1")
    assert representatives((*PAIR, other), ONE_CARD) == [PAIR[1], other]
    naming = Naming("xilinx.com/", "{address}-{serial}")
    offers = offers_of(Inventory((*PAIR, other)), naming, 1, ONE_CARD)
    assert {name: [unit.devices for unit in each.units] for name, each in offers.by_resource.items()} == {
        naming.resource_name(PAIR[1]): [PAIR[::-1]],
        naming.resource_name(other): [(other,)],
    }


def test_held_device_changes_its_units_alone() -> None:
    before = Inventory((device("0000:01:00.1"), device("0000:02:00.1")))
    offers = offers_of(before, NAMING, 2)
    held = dataclasses.replace(before.devices[0], reason=Reason.HELD)
    histories = {held.address: History(1.0, 1, Reason.HELD)}
    after = with_devices(offers, Inventory((held, before.devices[1]), histories=histories))
    [name] = offers.by_resource
    assert [(unit.id, unit.reason) for unit in after.by_resource[name].units] == [
        ("0000:01:00.1::0", Reason.HELD),
        ("0000:01:00.1::1", Reason.HELD),
        ("0000:02:00.1::0", None),
        ("0000:02:00.1::1", None),
    ]
    assert after.histories == histories
    assert with_devices(after, before) == offers


def test_function_left_out_by_the_scan_stays_left_out() -> None:
    entry = LeftOut("0000:01:00.0", "golden image")
    assert offers_of(Inventory((), (entry,)), NAMING).left_out == (entry,)


def test_warning_of_mixed_builds_lists_different_logic_uuids() -> None:
    shells = [Shell("xilinx_u30_gen3x4_base_1", "0", uuid * 32) for uuid in "ab"]
    mixed = offer(device("0000:01:00.1", shell=shells[0]), device("0000:02:00.1", shell=shells[1]))
    assert f"(logic uuids {'a' * 32}, {'b' * 32})" in (mixed_builds_warning(mixed) or "")
    assert mixed_builds_warning(offer(device())) is None


@pytest.mark.parametrize(
    ("nodes", "online", "offered"),
    [
        ([None, None], (0, 1), [(), ()]),  # all unknown: no topology
        ([0, 1], (0, 1), [(0,), (1,)]),
        ([1, None], (0, 1), [(1,), (0, 1)]),  # beside a known node: near to all nodes
        ([1, None], (), [(1,), (1,)]),
        (
            [1, None],
            (0,),
            [(), ()],
        ),  # the firmware names an offline node, for which kubelet would refuse a pod
        ([1, 0], (0,), [(0,), (0,)]),
    ],
)
def test_numa_nodes(nodes: list[int | None], online: tuple[int, ...], offered: list[tuple[int, ...]]) -> None:
    devices = tuple(device(f"0000:0{i}:00.1", numa_node=node) for i, node in enumerate(nodes))
    [only] = offers_of(Inventory(devices, numa_nodes=online), NAMING).by_resource.values()
    assert [unit.numa_nodes for unit in only.units] == offered


def test_two_resources_with_one_variable_are_a_warning() -> None:
    names = ("xilinx.com/u30-a", "xilinx.com/u30_A", "xilinx.com/u30-b")
    offers = Offers({name: Offer(name, ()) for name in names})
    [warning] = same_variables(offers)
    assert warning.startswith(
        "xilinx.com/u30-a and xilinx.com/u30_A have one environment variable, PCIDEVICE_"
    )


async def test_refusal_lists_eight_of_many_ids() -> None:
    many = offer(*(device(f"0000:{bus:02x}:00.1") for bus in range(100)))
    with pytest.raises(Refusal, match=r"0000:00:00\.1, .*, 0000:07:00\.1 and 92 more\)$"):
        await PLAIN.devices(many, ["x"])


async def test_grant() -> None:
    card = device(serial="XFL1", shell=Shell("xilinx_u55c_gen3x16_xdma_base_3", "0", "9" * 32))
    held = offer(card)
    grant = PLAIN.grant(await PLAIN.resolve(held, [card.address]))
    variable = "PCIDEVICE_XILINX_COM_FPGA_XILINX_U55C_GEN3X16_XDMA_BASE_3_0"
    assert grant.nodes == ("/dev/dri/renderD128",)
    assert grant.envs.keys() == {variable, variable + "_INFO"}
    assert grant.envs[variable] == card.address
    assert json.loads(grant.envs[variable + "_INFO"]) == {
        card.address: {
            "shell": "xilinx_u55c_gen3x16_xdma_base_3",
            "timestamp": "0",
            "board": "u200",
            "serial": "XFL1",
            "logic_uuid": "9" * 32,
            "numa_node": 0,
            "nodes": ["/dev/dri/renderD128"],
        }
    }


async def test_granted_devices_are_ordered_by_address() -> None:
    held = offer(*(device(f"0000:0{i}:00.1", nodes=(f"/dev/dri/renderD{140 - i}",)) for i in range(3)))
    ids = ["0000:02:00.1", "0000:00:00.1", "0000:01:00.1"]
    grant = PLAIN.grant(await PLAIN.resolve(held, ids))
    assert next(iter(grant.envs.values())) == "0000:00:00.1,0000:01:00.1,0000:02:00.1"
    assert grant.nodes == ("/dev/dri/renderD140", "/dev/dri/renderD139", "/dev/dri/renderD138")


@pytest.mark.parametrize("strategy", ["device-specs", "cdi", "both"])
async def test_mounts_of_devices_come_once_and_before_others(strategy: str) -> None:
    async def extra(_limit: float, _more: Sequence[str]) -> tuple[str, ...]:
        return ("/opt/xilinx/xrt", "/dev/dri/by-path")

    async def written(_devices: tuple[Device, ...]) -> bool:
        return True

    boards = (device("axi:a", mounts=("/dev/dri/by-path",)), device("axi:b", mounts=("/dev/dri/by-path",)))
    allocator = Allocator(
        refresh=unchanged,
        time_limit=1,
        mounts=extra,
        strategy=strategy,  # type: ignore[arg-type]
        write_cdi_spec=written,
    )
    grant = allocator.grant(await allocator.resolve(offer(*boards), ["axi:a", "axi:b"]))
    assert grant.mounts == ("/dev/dri/by-path", "/opt/xilinx/xrt")


async def test_device_without_nodes_needs_no_cdi_device() -> None:
    asked: list[tuple[Device, ...]] = []

    async def written(devices: tuple[Device, ...]) -> bool:
        asked.append(devices)
        return True

    counted = device(nodes=(), rule="f2-slot")
    allocator = Allocator(refresh=unchanged, time_limit=1, strategy="cdi", write_cdi_spec=written)
    grant = allocator.grant(await allocator.resolve(offer(counted), [counted.address]))
    assert (grant.cdi_devices, grant.nodes, asked) == ((), (), [])
    assert counted.address in grant.envs.values()


async def test_device_without_nodes_is_refused_unless_a_rule_counts_it() -> None:
    with pytest.raises(Refusal):
        await PLAIN.resolve(offer(device(nodes=())), ["0000:65:00.1"])


async def test_management_node_needs_expose_mgmt() -> None:
    held = offer(
        device(nodes=("/dev/dri/renderD128", "/dev/xfpga/dma.qdma.u25857.0"), mgmt_node="/dev/xclmgmt25856")
    )
    exposing = Allocator(refresh=unchanged, expose_mgmt=True, time_limit=1)
    answer = await PLAIN.resolve(held, ["0000:65:00.1"])
    assert PLAIN.grant(answer).nodes == ("/dev/dri/renderD128", "/dev/xfpga/dma.qdma.u25857.0")
    assert "/dev/xclmgmt25856" in exposing.grant(answer).nodes


@pytest.mark.parametrize(
    ("ids", "code", "message"),
    [
        (["0000:99:00.1"], "NOT_FOUND", "0000:99:00.1"),
        (["../../dev/sda"], "NOT_FOUND", "../../dev/sda"),
        (["0000:65:00.1", "0000:65:00.1"], "INVALID_ARGUMENT", "twice"),
        ([], "INVALID_ARGUMENT", "no device id"),
        (["0000:66:00.1"], "FAILED_PRECONDITION", "Unhealthy: offline"),
    ],
)
async def test_refusals(ids: list[str], code: Code, message: str) -> None:
    held = offer(device(), device("0000:66:00.1", reason=Reason.OFFLINE))
    with pytest.raises(Refusal) as refusal:
        await PLAIN.devices(held, ids)
    assert refusal.value.code is code
    assert message in refusal.value.message


@pytest.mark.parametrize(
    ("now", "code", "message"),
    [
        (None, "NOT_FOUND", "vanished"),
        (device(reason=Reason.NO_NODE), "FAILED_PRECONDITION", "no-node"),
        (device(nodes=()), "FAILED_PRECONDITION", "no-node"),
        (device(shell=Shell("other", "1", None)), "FAILED_PRECONDITION", "reprogrammed"),
    ],
)
async def test_refreshed_device_may_be_refused(now: Device | None, code: Code, message: str) -> None:
    async def refresh(_: Device) -> Device | None:
        return now

    with pytest.raises(Refusal) as refusal:
        await Allocator(refresh=refresh, time_limit=1).devices(offer(device()), ["0000:65:00.1"])
    assert refusal.value.code is code
    assert message in refusal.value.message


async def test_refreshed_device_may_have_another_render_node() -> None:
    async def refresh(_: Device) -> Device:
        return device(nodes=("/dev/dri/renderD131",))

    grants = Allocator(refresh=refresh, time_limit=1)
    answer = await grants.resolve(offer(device()), ["0000:65:00.1"])
    assert grants.grant(answer).nodes == ("/dev/dri/renderD131",)


units = st.lists(
    st.tuples(st.integers(0, 12), st.lists(st.integers(0, 3), max_size=2)), unique_by=lambda each: each[0]
)


@given(units, st.data())
def test_preferred_has_the_requested_size_and_ids(
    each: list[tuple[int, list[int]]], data: st.DataObject
) -> None:
    held = Offer("a/b", tuple(Unit(str(i), (), tuple(sorted(set(nodes)))) for i, nodes in each))
    ids = [unit.id for unit in held.units]
    available = data.draw(st.lists(st.sampled_from(ids), unique=True)) if ids else []
    must = data.draw(st.lists(st.sampled_from(available), unique=True)) if available else []
    size = data.draw(st.integers(len(must), len(available)))
    picked = preferred(held, available, must, size)
    assert len(picked) == size == len(set(picked))
    assert set(must) <= set(picked) <= set(available)


def test_preferred_stays_on_one_numa_node() -> None:
    held = Offer("a/b", tuple(Unit(str(i), (), (i % 2,)) for i in range(6)))
    assert preferred(held, ["0", "1", "3", "4", "5"], [], 3) == ["1", "3", "5"]
    assert preferred(held, ["0", "1", "2", "3", "4", "5"], ["2"], 3) == ["2", "0", "4"]


async def test_both_devices_of_a_card_are_granted() -> None:
    pair = (device("0000:65:00.1"), device("0000:66:00.1", nodes=("/dev/dri/renderD129",)))
    held = Offer("xilinx.com/u30", (Unit("0000:65:00.1", pair),))
    grant = PLAIN.grant(await PLAIN.resolve(held, ["0000:65:00.1"]))
    assert grant.envs["PCIDEVICE_XILINX_COM_U30"] == "0000:65:00.1,0000:66:00.1"
    assert grant.nodes == ("/dev/dri/renderD128", "/dev/dri/renderD129")
