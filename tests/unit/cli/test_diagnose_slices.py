"""The comparison of ``diagnose``: slices as the API server has them and as a scan would publish them."""

from typing import Any

import pytest

from xilinx_fpga_dp.cli.diagnose.slices import device_differences, owner_differences

DEVICE: dict[str, Any] = {
    "name": "a",
    "attributes": {"board": {"string": "u200"}, "shared": {"bool": True}},
    "capacity": {"memory": {"value": "64Gi"}},
    "allowMultipleAllocations": True,
    "taints": [{"key": "d/offline", "effect": "NoSchedule"}],
}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"taints": [{"key": "d/offline", "effect": "NoExecute", "timeAdded": "now"}]}, None),
        ({"taints": []}, 'taints of a is none, and this scan finds ["d/offline"]'),
        (
            {"attributes": {"board": {"string": "u200"}, "shared": {"bool": False}}},
            'attributes.shared of a is {"bool": false}, and this scan finds {"bool": true}',
        ),
        (
            {"attributes": {**DEVICE["attributes"], "serial": {"string": "1"}}},
            'attributes.serial of a is {"string": "1"}, and this scan finds none',
        ),
        (
            {"capacity": None},
            'capacity.memory of a is none, and this scan finds {"value": "64Gi"}',
        ),
        (
            {"allowMultipleAllocations": None},
            "allowMultipleAllocations of a is none, and this scan finds true",
        ),
        (
            {"capacity": None, "attributes": None},
            'attributes.board of a is none, and this scan finds {"string": "u200"}',
        ),
    ],
)
def test_first_difference_of_a_device_is_named(changes: dict[str, Any], sentence: str | None) -> None:
    found = list(device_differences({"a": DEVICE | changes}, {"a": DEVICE}))
    assert found == ([sentence] if sentence else [])


@pytest.mark.parametrize(
    ("references", "owner"),
    [
        ([{"kind": "Node", "name": "n1", "uid": "u"}], None),
        ([{"kind": "Node", "name": "n1", "uid": "v"}], "Node n1 v"),
        (None, "no owner"),
    ],
)
def test_owner_of_a_slice_is_compared(references: list[dict[str, str]] | None, owner: str | None) -> None:
    slices = [{"metadata": {"name": "s", "ownerReferences": references}}]
    sentence = f"the slice s belongs to {owner}, and has to belong to Node n1 u"
    assert list(owner_differences(slices, "Node n1 u")) == ([sentence] if owner else [])
