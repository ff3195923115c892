"""A stand-in for the scheduler: it allocates the devices of claims, as its plugin DynamicResources does.

It knows one node. A request is ``exactly`` with a class, selectors, tolerations and a count. Of CEL it
understands comparisons by ``==`` of the driver or an attribute with a literal, joined by ``&&``, as the
DeviceClasses of ``classes`` have them; any other expression is an error. Sources in comments are relative to
k8s.io/dynamic-resource-allocation v0.37.2.
"""

import json
import re
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from xilinx_fpga_dp.simulate.api_server import ApiServer, Json
from xilinx_fpga_dp.simulate.dra_kubelet import CLAIMS, SLICES

CLASSES = "/apis/resource.k8s.io/v1/deviceclasses"

_TERM = re.compile(
    r'device\.(?:driver|attributes\["(?P<domain>[^"]+)"\]\.\??(?P<name>\w+)(?:\.orValue\(""\))?)'
    r' == (?P<literal>"(?:[^"\\]|\\.)*"|-?\d+|true|false)'
)
_REPELLING = ("NoSchedule", "NoExecute")


class Unschedulable(Exception):  # noqa: N818 - an outcome
    """Why a pod stays Pending."""


class Scheduler:
    """Allocates claims of the namespace ``default``."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api

    def allocate(self, claim: str, pod: str) -> None:
        """Allocate a claim to a pod.

        Raises:
            Unschedulable: too few devices fit.
            ValueError: a selector is not understood.
        """
        found = self._api.get(f"{CLAIMS}/{claim}")
        if found is None:
            raise Unschedulable(f'resourceclaim "{claim}" not found')
        taken = self._taken()
        results: list[Json] = []
        for request in found["spec"]["devices"]["requests"]:
            wanted = request["exactly"]
            fitting = [each for each in self._devices() if self._fits(wanted, *each) and _free(taken, *each)][
                : wanted.get("count", 1)
            ]
            if len(fitting) < wanted.get("count", 1):
                raise Unschedulable("0/1 nodes are available: 1 cannot allocate all claims.")
            for slice_spec, device in fitting:
                taken[_key(slice_spec, device)] += 1
                results.append(_result(request["name"], wanted, slice_spec, device))
        status = {
            "allocation": {"devices": {"results": results}},
            "reservedFor": [{"resource": "pods", "name": pod, "uid": str(uuid.uuid4())}],
        }
        self._api.put(f"{CLAIMS}/{claim}", {**found, "status": status})

    def _devices(self) -> Iterator[tuple[Json, Json]]:
        """Yield the devices of complete pools, each with the spec of its slice (structured/internal)."""
        specs = [each["spec"] for each in self._api.all(SLICES)]
        newest: dict[tuple[str, str], int] = {}
        for spec in specs:
            key = spec["driver"], spec["pool"]["name"]
            newest[key] = max(newest.get(key, 0), spec["pool"]["generation"])
        for spec in specs:
            pool = spec["pool"]
            alike = [
                each
                for each in specs
                if (each["driver"], each["pool"]["name"]) == (spec["driver"], pool["name"])
                and each["pool"]["generation"] == newest[spec["driver"], pool["name"]]
            ]
            if spec in alike and len(alike) == pool["resourceSliceCount"]:
                yield from ((spec, device) for device in spec.get("devices") or ())

    def _fits(self, wanted: Mapping[str, Any], slice_spec: Json, device: Json) -> bool:
        found = self._api.get(f"{CLASSES}/{wanted['deviceClassName']}")
        if found is None:
            return False
        selectors = [*(found["spec"].get("selectors") or ()), *(wanted.get("selectors") or ())]
        return all(
            _matches(each["cel"]["expression"], slice_spec["driver"], device) for each in selectors
        ) and all(_tolerated(taint, wanted.get("tolerations") or ()) for taint in device.get("taints") or ())

    def _taken(self) -> Counter[tuple[str, str, str]]:
        return Counter(
            (each["driver"], each["pool"], each["device"])
            for claim in self._api.all(CLAIMS)
            for each in ((claim.get("status") or {}).get("allocation") or {})
            .get("devices", {})
            .get("results", ())
        )


def _key(slice_spec: Json, device: Json) -> tuple[str, str, str]:
    return slice_spec["driver"], slice_spec["pool"]["name"], device["name"]


def _free(taken: Counter[tuple[str, str, str]], slice_spec: Json, device: Json) -> bool:
    slots = 1
    if device.get("allowMultipleAllocations"):
        slots = int(device["capacity"]["slots"]["value"])
    return taken[_key(slice_spec, device)] < slots


def _result(request: str, wanted: Mapping[str, Any], slice_spec: Json, device: Json) -> Json:
    driver, pool, name = _key(slice_spec, device)
    shared = {}
    if device.get("allowMultipleAllocations"):
        shared = {"shareID": str(uuid.uuid4()), "consumedCapacity": {"slots": "1"}}
    tolerations = wanted.get("tolerations")
    return {
        "request": request,
        "driver": driver,
        "pool": pool,
        "device": name,
        **({"tolerations": tolerations} if tolerations else {}),
        **shared,
    }


def _matches(expression: str, driver: str, device: Json) -> bool:
    for term in expression.split(" && "):
        match = _TERM.fullmatch(term)
        if match is None:
            raise ValueError(f"the stand-in for the scheduler does not understand {term!r}")
        value: object = driver
        if match["name"]:
            attributes = device.get("attributes") or {}
            qualified = attributes.get(f"{match['domain']}/{match['name']}")
            own = attributes.get(match["name"]) if match["domain"] == driver else None
            value = next(iter((qualified or own or {"string": ""}).values()))
        if value != json.loads(match["literal"]):
            return False
    return True


def _tolerated(taint: Json, tolerations: Any) -> bool:
    """k8s.io/api resource/v1: DeviceToleration.ToleratesTaint."""
    return taint["effect"] not in _REPELLING or any(
        each.get("key", "") in ("", taint["key"])
        and each.get("effect", "") in ("", taint["effect"])
        and (each.get("operator") == "Exists" or each.get("value", "") == taint.get("value", ""))
        for each in tolerations
    )
