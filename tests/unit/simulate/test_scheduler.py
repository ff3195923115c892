"""The stand-in for the scheduler."""

from typing import Any

import pytest

from xilinx_fpga_dp.simulate.api_server import ApiServer
from xilinx_fpga_dp.simulate.dra_kubelet import CLAIMS, SLICES
from xilinx_fpga_dp.simulate.scheduler import CLASSES, Scheduler, Unschedulable

DRIVER = "fpga.xilinx.com"
TAINT = {"key": f"{DRIVER}/offline", "effect": "NoSchedule"}


def _server(*devices: dict[str, Any], count: int = 1) -> ApiServer:
    api = ApiServer()
    pool = {"name": "n1", "generation": 1, "resourceSliceCount": count}
    api.put(f"{SLICES}/s", {"spec": {"driver": DRIVER, "pool": pool, "devices": list(devices)}})
    expression = f'device.driver == "{DRIVER}" && device.attributes["{DRIVER}"].board == "u50"'
    api.put(f"{CLASSES}/u50", {"spec": {"selectors": [{"cel": {"expression": expression}}]}})
    return api


def _device(name: str, board: str = "u50", **more: Any) -> dict[str, Any]:
    return {"name": name, "attributes": {"board": {"string": board}}, **more}


def _allocated(api: ApiServer, claim: str, **request: Any) -> list[str]:
    wanted = {"name": "r", "exactly": {"deviceClassName": "u50", **request}}
    api.put(f"{CLAIMS}/{claim}", {"spec": {"devices": {"requests": [wanted]}}})
    Scheduler(api).allocate(claim, "pod")
    found = api.get(f"{CLAIMS}/{claim}") or {}
    return [each["device"] for each in found["status"]["allocation"]["devices"]["results"]]


def test_each_claim_gets_a_free_device_that_matches() -> None:
    api = _server(_device("a", "u200"), _device("b"), _device("c"))
    assert _allocated(api, "first") == ["b"]
    assert _allocated(api, "second") == ["c"]
    with pytest.raises(Unschedulable):
        _allocated(api, "third")


def test_tainted_device_needs_a_toleration() -> None:
    api = _server(_device("a", taints=[TAINT]))
    with pytest.raises(Unschedulable):
        _allocated(api, "first")
    assert _allocated(api, "second", tolerations=[{"key": TAINT["key"], "operator": "Exists"}]) == ["a"]


def test_shared_device_is_allocated_once_a_slot() -> None:
    api = _server(_device("a", allowMultipleAllocations=True, capacity={"slots": {"value": "2"}}))
    assert _allocated(api, "first") == _allocated(api, "second") == ["a"]
    with pytest.raises(Unschedulable):
        _allocated(api, "third")


def test_pool_with_a_missing_slice_is_not_used() -> None:
    with pytest.raises(Unschedulable):
        _allocated(_server(_device("a"), count=2), "first")


def test_other_expressions_are_an_error() -> None:
    with pytest.raises(ValueError, match="does not understand"):
        _allocated(
            _server(_device("a")), "first", selectors=[{"cel": {"expression": "device.driver != 'x'"}}]
        )
