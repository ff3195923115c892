"""The ResourceSlices of the node's pool: what they have to be, and what is to be written. Pure.

Nothing but the names tells the slices of a pool apart, so they are fixed: ``00000-<driver>-<node>``, the next
one ``00001-...``. The scheduler sorts slices by name. It ignores a pool of which it does not see all slices
of one generation, so the generation is raised in all of them where several change.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

Json = dict[str, Any]

API: Final = "resource.k8s.io/v1"
MAX_DEVICES: Final = (
    64  # of a slice whose devices may have taints: ResourceSliceMaxDevicesWithTaintsOrConsumesCounters
)
_MAX_NAME: Final = 253
_HASH_DIGITS: Final = 8


@dataclass(frozen=True, slots=True)
class Pool:
    """The pool of a node."""

    driver: str
    node: str
    node_uid: str

    def name(self, index: int, end: str = "") -> str:
        """Return the name of a slice."""
        start = f"{index:05}-{self.driver}-"
        room = _MAX_NAME - len(start) - len(end)
        if len(self.node) <= room:
            return start + self.node + end
        digest = hashlib.sha256(self.node.encode()).hexdigest()[:_HASH_DIGITS]
        return f"{start}{self.node[: room - _HASH_DIGITS - 1].rstrip('-.')}-{digest}{end}"

    def dry_run(self, device: Json) -> Json:
        """Return a slice for a dry run: its name is that of no slice of the pool."""
        [made] = self.slices([device])
        made["metadata"]["name"] = self.name(0, "-dry-run")
        return made

    def slices(self, devices: Sequence[Json], generation: int = 1) -> list[Json]:
        """Return the slices for these devices; one without a device if there is none."""
        parts = [devices[at : at + MAX_DEVICES] for at in range(0, len(devices), MAX_DEVICES)] or [[]]
        return [
            {
                "apiVersion": API,
                "kind": "ResourceSlice",
                "metadata": {
                    "name": self.name(index),
                    "ownerReferences": [
                        {
                            "apiVersion": "v1",
                            "kind": "Node",
                            "name": self.node,
                            "uid": self.node_uid,
                            "controller": True,
                        }
                    ],
                },
                "spec": {
                    "driver": self.driver,
                    "nodeName": self.node,
                    "pool": {"name": self.node, "generation": generation, "resourceSliceCount": len(parts)},
                    "devices": list(part),
                },
            }
            for index, part in enumerate(parts)
        ]


@dataclass(frozen=True, slots=True)
class Writes:
    """What is to be written, in this order."""

    delete: tuple[Json, ...] = ()
    replace: tuple[Json, ...] = ()
    create: tuple[Json, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.delete or self.replace or self.create)


def writes(pool: Pool, devices: Sequence[Json], found: Iterable[Json]) -> Writes:
    """Return what makes the slices of the server what they have to be.

    Args:
        pool: the pool.
        devices: the entries of all devices, in their order.
        found: the slices of the driver on the node, as the server has them.
    """
    by_name = {each["metadata"]["name"]: each for each in found}
    generations = [int(each["spec"]["pool"].get("generation", 0)) for each in by_name.values()]
    highest = max(generations, default=1)
    for generation in (highest, highest + 1):
        wanted = {each["metadata"]["name"]: each for each in pool.slices(devices, generation)}
        obsolete = tuple(each for name, each in by_name.items() if name not in wanted)
        replace = tuple(
            _over(by_name[name], each)
            for name, each in wanted.items()
            if name in by_name and not alike(by_name[name], each)
        )
        create = tuple(each for name, each in wanted.items() if name not in by_name)
        if len(obsolete) + len(replace) + len(create) <= 1 or not by_name:
            break
    return Writes(obsolete, replace, create)


def alike(found: Json, wanted: Json) -> bool:
    """Whether a slice is as it has to be, whenever its taints were added and whatever the server added."""
    return _essence(found) == _essence(wanted)


def lacking(answer: Json, wanted: Json) -> frozenset[str]:
    """Return which optional fields of devices the server has dropped from what was sent."""
    stored = {each["name"]: each for each in answer.get("spec", {}).get("devices") or ()}
    return frozenset(
        field
        for each in wanted["spec"]["devices"]
        for field in ("taints", "allowMultipleAllocations")
        if each.get(field) and not stored.get(each["name"], {}).get(field)
    )


def blamed(fields: Iterable[str], sent: Json) -> list[str]:
    """Return the names of the devices of a slice that the server names as the cause of a refusal.

    Args:
        fields: the fields that it names, such as ``spec.devices[1].attributes[x].string``.
        sent: the slice.
    """
    found = (re.match(r"spec\.devices\[(\d+)\]", each) for each in fields)
    numbers = {int(each[1]) for each in found if each}
    return [each["name"] for number, each in enumerate(sent["spec"]["devices"]) if number in numbers]


def _over(found: Json, wanted: Json) -> Json:
    """Return a slice to replace the found one with; its taints keep the time when they were added."""
    before = {each["name"]: each for each in found["spec"].get("devices") or ()}
    devices = [_with_times(each, before.get(each["name"], {})) for each in wanted["spec"]["devices"]]
    return {
        **wanted,
        "metadata": {**wanted["metadata"], "resourceVersion": found["metadata"]["resourceVersion"]},
        "spec": {**wanted["spec"], "devices": devices},
    }


def _with_times(device: Json, before: Json) -> Json:
    """Send back the time of each taint that stays: without it the server would set it to now."""
    times = {
        (each["key"], each["effect"]): each["timeAdded"]
        for each in before.get("taints") or ()
        if "timeAdded" in each
    }
    if not device.get("taints"):
        return device
    taints = [
        {**each, "timeAdded": times[each["key"], each["effect"]]}
        if (each["key"], each["effect"]) in times
        else each
        for each in device["taints"]
    ]
    return {**device, "taints": taints}


def _essence(item: Json) -> tuple[Any, ...]:
    spec = item["spec"]
    owners = [
        (each.get("kind"), each.get("name"), each.get("uid"))
        for each in item["metadata"].get("ownerReferences") or ()
    ]
    devices = [_without_times(each) for each in spec.get("devices") or ()]
    pool = spec.get("pool") or {}
    return (
        owners,
        spec.get("driver"),
        spec.get("nodeName"),
        bool(spec.get("allNodes") or spec.get("nodeSelector")),
        pool.get("name"),
        pool.get("generation"),
        pool.get("resourceSliceCount"),
        devices,
    )


def _without_times(device: Mapping[str, Any]) -> Json:
    taints = [
        {name: value for name, value in each.items() if name != "timeAdded" and value != ""}
        for each in device.get("taints") or ()
    ]
    rest = {name: value for name, value in device.items() if name != "taints" and value not in (None, {}, [])}
    return {**rest, **({"taints": taints} if taints else {})}
