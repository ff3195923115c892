"""The slices of a pool, and what is written."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xilinx_fpga_dp.dra.pool import Pool, alike, blamed, lacking, writes

POOL = Pool("fpga.xilinx.com", "n1", "node-uid")
TAINT = {"key": "fpga.xilinx.com/offline", "effect": "NoSchedule"}


def _devices(count: int) -> list[dict[str, Any]]:
    return [{"name": f"d{number}", "attributes": {"type": {"string": "fpga"}}} for number in range(count)]


def _stored(devices: list[dict[str, Any]], generation: int = 1) -> list[dict[str, Any]]:
    """Return the slices as a server stores them."""
    found = copy.deepcopy(POOL.slices(devices, generation))
    for each in found:
        each["metadata"] |= {"resourceVersion": "7", "uid": "1", "managedFields": [{"manager": "x"}]}
        for device in each["spec"]["devices"]:
            for taint in device.get("taints", ()):
                taint["timeAdded"] = "2026-11-29T00:00:00Z"
    return found


@given(st.integers(0, 300))
def test_devices_are_spread_over_slices_of_64_and_none_is_a_slice_too(count: int) -> None:
    slices = POOL.slices(_devices(count))
    assert len(slices) == max(1, -(-count // 64))
    assert [each["name"] for one in slices for each in one["spec"]["devices"]] == [
        each["name"] for each in _devices(count)
    ]
    assert {one["spec"]["pool"]["resourceSliceCount"] for one in slices} == {len(slices)}
    assert [one["metadata"]["name"][:6] for one in slices] == [f"{index:05}-" for index in range(len(slices))]


@given(st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]{1,60}){0,3}", fullmatch=True))
def test_name_of_a_slice_fits_every_node(node: str) -> None:
    name = Pool("a.b", node[:253].rstrip("-."), "uid").name(0)
    assert len(name) <= 253
    assert name.startswith("00000-a.b-")


def test_long_names_of_nodes_do_not_become_one() -> None:
    names = {Pool("fpga.xilinx.com", "a" * 250 + end, "uid").name(0) for end in "abc"}
    assert len(names) == 3
    assert {len(name) for name in names} == {253}


def test_nothing_is_written_where_all_is_as_wanted() -> None:
    wish = [{**each, "taints": [TAINT]} for each in _devices(3)]
    assert not writes(POOL, wish, _stored(wish, generation=5))


def test_changed_device_replaces_its_slice_in_the_same_generation() -> None:
    found = _stored(_devices(3), generation=4)
    wish = _devices(3)
    wish[1]["taints"] = [TAINT]
    todo = writes(POOL, wish, found)
    assert (todo.delete, todo.create) == ((), ())
    [sent] = todo.replace
    assert sent["metadata"]["resourceVersion"] == "7"
    assert sent["spec"]["pool"]["generation"] == 4


def test_time_of_a_taint_is_sent_back() -> None:
    found = _stored([{**each, "taints": [TAINT]} for each in _devices(2)])
    wish = [{**each, "taints": [TAINT]} for each in _devices(2)]
    wish[0]["taints"] = [{**TAINT, "effect": "NoExecute"}]
    [sent] = writes(POOL, wish, found).replace
    first, second = sent["spec"]["devices"]
    assert "timeAdded" not in first["taints"][0]
    assert second["taints"] == [{**TAINT, "timeAdded": "2026-11-29T00:00:00Z"}]


def test_several_changes_raise_the_generation_of_all() -> None:
    todo = writes(POOL, _devices(130), _stored(_devices(64), generation=2))
    assert [len(each) for each in (todo.delete, todo.replace, todo.create)] == [0, 1, 2]
    assert {each["spec"]["pool"]["generation"] for each in (*todo.replace, *todo.create)} == {3}
    fewer = writes(POOL, _devices(3), _stored(_devices(130), generation=3))
    assert [len(each) for each in (fewer.delete, fewer.replace, fewer.create)] == [2, 1, 0]


def test_slices_of_another_naming_are_obsolete() -> None:
    [found] = _stored(_devices(1))
    found["metadata"]["name"] = "made-by-hand"
    todo = writes(POOL, _devices(1), [found])
    assert [each["metadata"]["name"] for each in todo.delete] == ["made-by-hand"]
    assert len(todo.create) == 1


@pytest.mark.parametrize(
    ("part", "value"), [("nodeName", "n2"), ("driver", "other"), ("allNodes", True), ("devices", [])]
)
def test_slice_that_others_changed_is_not_alike(part: str, value: object) -> None:
    [found] = _stored(_devices(1))
    found["spec"][part] = value
    assert not alike(found, POOL.slices(_devices(1))[0])


def test_slice_of_another_node_object_is_not_alike() -> None:
    [found] = _stored(_devices(1))
    found["metadata"]["ownerReferences"][0]["uid"] = "older"
    assert not alike(found, POOL.slices(_devices(1))[0])


def test_dropped_fields_are_seen_in_the_answer() -> None:
    wish = [{**_devices(1)[0], "taints": [TAINT], "allowMultipleAllocations": True}]
    [answer] = _stored(wish)
    [sent] = POOL.slices(wish)
    assert lacking(answer, sent) == frozenset()
    del answer["spec"]["devices"][0]["taints"]
    assert lacking(answer, sent) == {"taints"}
    del answer["spec"]["devices"][0]["allowMultipleAllocations"]
    assert lacking(answer, sent) == {"taints", "allowMultipleAllocations"}


def test_server_blames_the_devices_that_it_names() -> None:
    [sent] = POOL.slices(_devices(12))
    fields = ["spec.devices[11].name", "spec.devices[1].attributes[x].string", "spec.pool.name", "x"]
    assert blamed(fields, sent) == ["d1", "d11"]
    assert blamed(["spec.devices", "spec.devices[12].name", "metadata.spec.devices[1]"], sent) == []
