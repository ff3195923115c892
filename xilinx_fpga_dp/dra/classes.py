"""DeviceClasses: one for all devices of the driver, one for each resource name of the plugin. Pure.

The class of a resource has the name of the resource as its extended resource name, so a pod that was written
for the device plugin gets a device of the driver unchanged (KEP-5004).
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

_MAX_NAME: Final = 63
_HASH_DIGITS: Final = 8
_SUBDOMAIN: Final = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")


def device_classes(resources: Iterable[str], driver: str) -> list[dict[str, Any]]:
    """Make the classes for these resource names and the one for all, ordered by resource name."""
    ordered = sorted(set(resources))
    plain = {resource: _plain(resource) for resource in ordered}
    alike = Counter(plain.values())
    names = {
        resource: name
        if len(name) <= _MAX_NAME and alike[name] == 1 and _SUBDOMAIN.fullmatch(name) and name != driver
        else _with_hash(name, resource)
        for resource, name in plain.items()
    }
    return [
        _class(driver, {"selectors": [_cel(f"device.driver == {_quoted(driver)}")]}),
        *(
            _class(
                names[resource],
                {"selectors": [_cel(_selects(resource, driver))], "extendedResourceName": resource},
            )
            for resource in ordered
        ),
    ]


def _class(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceClass",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "xilinx-fpga-dp"}},
        "spec": spec,
    }


def _cel(expression: str) -> dict[str, Any]:
    return {"cel": {"expression": expression}}


def _selects(resource: str, driver: str) -> str:
    prefix, _, name = resource.partition("/")
    own = f"device.attributes[{_quoted(driver)}]"
    # A device without an attribute is none of the class; without orValue the expression would be an error.
    return (
        f"device.driver == {_quoted(driver)} && "
        f'{own}.?resourceName.orValue("") == {_quoted(name)} && '
        f'{own}.?resourcePrefix.orValue("") == {_quoted(prefix)}'
    )


def _quoted(text: str) -> str:
    return json.dumps(text)  # a literal of CEL, too


def _plain(resource: str) -> str:
    return resource.partition("/")[2].lower().replace("_", "-")


def _with_hash(name: str, resource: str) -> str:
    digest = hashlib.sha256(resource.encode()).hexdigest()[:_HASH_DIGITS]
    kept = re.sub(r"[^a-z0-9]+", "-", name).strip("-")[: _MAX_NAME - _HASH_DIGITS - 1].rstrip("-")
    return f"{kept}-{digest}" if kept else digest
