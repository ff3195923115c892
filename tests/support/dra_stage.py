"""What a DRA driver on a sample node has published and written."""

import json
from pathlib import Path
from typing import Any

from tests.support.api_server import RunningApiServer
from tests.support.dra_kubelet import DRIVER, NODE, SLICES, ClaimName, claim_of, result
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode

SLICE = f"{SLICES}/00000-{DRIVER}-{NODE}"


def registry(node: SampleNode) -> Path:
    """Return the directory in which kubelet looks for registration sockets."""
    return Path(node.root) / "registry"


def data(node: SampleNode) -> Path:
    """Return the driver's directory."""
    return Path(node.plugins_dir) / DRIVER


def cdi(node: SampleNode) -> Path:
    """Return the directory of the CDI specs."""
    return Path(node.root) / "cdi"


def store_claim(api: RunningApiServer, name: str, *devices: str, **more: Any) -> ClaimName:
    """Store a claim that the scheduler has allocated these devices to."""
    reference, stored = claim_of(name, *(result(each, **more) for each in devices))
    api.put(reference.path, stored)
    return reference


def published(api: RunningApiServer) -> dict[str, dict[str, Any]]:
    """Return the devices of the slice by name; none if there is no slice."""
    found = api.do(lambda: api.api.get(SLICE))
    return {each["name"]: each for each in found["spec"]["devices"]} if found else {}


def taints(api: RunningApiServer, device: str) -> list[str]:
    """Return the keys of the taints of a device."""
    return [each["key"] for each in published(api).get(device, {}).get("taints", [])]


def writes(api: RunningApiServer) -> int:
    """Count the writes that the server was asked for."""
    return api.do(lambda: sum(each.writes for each in api.api.requests))


def spec_path(node: SampleNode, claim: ClaimName) -> Path:
    """Return the path of the CDI spec of a claim."""
    return cdi(node) / f"k8s.{DRIVER}-claim_{claim.uid}.json"


def checkpoint(node: SampleNode) -> dict[str, Any]:
    """Return the entries of the checkpoint, by the uid of the claim."""
    claims: dict[str, Any] = json.loads((data(node) / "checkpoint.json").read_text())["claims"]
    return claims
