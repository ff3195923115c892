"""The documents of a prepared claim: CDI spec, metadata of its devices (KEP-5304). Texts, not files.

A container gets what the device plugin would give it. Its device nodes and mounts come with the devices, its
environment with the requests: several devices of one request are one list. Everything is computed from the
checkpoint's entry and the devices as they are now. A device's id never stands for another content: the names
carry the claim's uid, since runtimes cache. The names of metadata files are those of
k8s.io/dynamic-resource-allocation v0.37.2, kubeletplugin.
"""

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from xilinx_fpga_dp.dra.allocation import checked_label, checked_name, checked_request, checked_uid
from xilinx_fpga_dp.dra.devices import Attribute, PoolDevice, attributes
from xilinx_fpga_dp.model import Device
from xilinx_fpga_dp.resources.allocator import environment_of, nodes_of

_CDI_VERSION: Final = "0.6.0"
_METADATA_GROUP: Final = "metadata.resource.k8s.io"
_METADATA_VERSIONS: Final = ("v1beta1", "v1alpha1")  # the newest first: a reader takes the first it knows
_IN_CONTAINER: Final = "/var/run/kubernetes.io/dra-device-attributes"
_MAX_FILE_NAME: Final = 255
ENTRY: Final = "claim"
"""The annotation, after the driver's name, with the entry from which a lost checkpoint is restored."""


@dataclass(frozen=True, slots=True)
class PreparedResult:
    """One device that a claim has."""

    request: str  # ``request`` or ``request/subrequest``
    pool: str
    device: str
    address: str  # of the device, by which it is found; of a card with two, of its first
    resource: str  # its name when it was prepared, which the variables have
    share_id: str | None = None
    admin_access: bool = False
    addresses: tuple[str, ...] = ()  # of all that it has; empty: an older version prepared it

    @property
    def holds(self) -> tuple[str, ...]:
        """The addresses of all devices that are known to be its own."""
        return self.addresses or (self.address,)

    @property
    def base_request(self) -> str:
        """The request without its subrequest."""
        return self.request.partition("/")[0]


@dataclass(frozen=True, slots=True)
class PreparedClaim:
    """A claim that is prepared: the entry of the checkpoint."""

    uid: str
    namespace: str
    name: str
    pod_claim_name: str | None
    results: tuple[PreparedResult, ...]
    pods: tuple[
        str, ...
    ] = ()  # the uids of those that it was reserved for; empty: an older version prepared it


def shares_of(claims: Iterable[PreparedClaim]) -> Mapping[str, list[str | None]]:
    """Return the shares that the claims have of each device, by address; None stands for the whole device."""
    shares: dict[str, list[str | None]] = {}
    for each in (result for claim in claims for result in claim.results if not result.admin_access):
        for address in each.holds:
            shares.setdefault(address, []).append(each.share_id)
    return shares


@dataclass(frozen=True, slots=True)
class Granted:
    """A device as a container gets it now."""

    devices: tuple[Device, ...]
    mounts: tuple[str, ...]  # host paths that exist
    attributes: Mapping[str, Attribute]  # those of its slice

    def of(self, result: PreparedResult) -> "Granted":
        """Return the part that is a claim's: the other device of its card may be another one's by now."""
        if not result.addresses:
            return self
        return replace(self, devices=tuple(each for each in self.devices if each.address in result.addresses))


@dataclass(frozen=True, slots=True)
class Documents:
    """The texts by the path of their file, and the CDI names of each result."""

    metadata: Mapping[str, str]
    specs: Mapping[str, str]
    cdi_ids: tuple[tuple[str, ...], ...]  # in the order of the results


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the documents go."""

    driver: str
    cdi_dir: str
    data_dir: str  # of the driver, ``<PLUGINS_DIR>/<driver>``
    expose_mgmt: bool
    metadata: bool

    @property
    def kind(self) -> str:
        return f"k8s.{self.driver}/claim"

    def spec_path(self, uid: str) -> str:
        """Return the path of a claim's CDI spec."""
        return f"{self.cdi_dir}/{self.spec_prefix}{uid}.json"

    @property
    def spec_prefix(self) -> str:
        return f"k8s.{self.driver}-claim_"

    @property
    def metadata_spec_prefix(self) -> str:
        return f"{self.driver}_metadata_"

    def metadata_folder(self, claim: PreparedClaim) -> str:
        """Return the folder of a claim's metadata files."""
        name = f"{claim.namespace}_{claim.name}"
        if len(name) > _MAX_FILE_NAME:
            name = f"{claim.namespace}__{claim.uid}"  # no claim's name has a ``_``
        return f"{self.data_dir}/dra-device-metadata/{name}"

    def paths(self, claim: PreparedClaim) -> tuple[list[str], list[str]]:
        """Return all paths that a claim may have: its CDI specs, its metadata files."""
        requests = dict.fromkeys(result.base_request for result in claim.results)
        folder = self.metadata_folder(claim)
        specs = [f"{self.cdi_dir}/{self.metadata_spec_prefix}{claim.uid}_{each}.json" for each in requests]
        return [self.spec_path(claim.uid), *specs], [f"{folder}/{each}/metadata.json" for each in requests]

    def documents(self, claim: PreparedClaim, granted: Sequence[Granted]) -> Documents:
        """Make the documents of a claim.

        Args:
            claim: the claim.
            granted: what each of its results stands for now, in their order.
        """
        pairs = [(result, each.of(result)) for result, each in zip(claim.results, granted, strict=True)]
        seen: set[str] = set()
        edits: dict[str, dict[str, Any]] = {}
        ids: list[tuple[str, ...]] = []
        metadata: dict[str, str] = {}
        specs: dict[str, str] = {}
        for result, grant in pairs:
            own = []
            if device_edits := self._device_edits(grant):
                name = "-".join(filter(None, (claim.uid, result.device, result.share_id)))
                edits[name] = device_edits
                own.append(f"{self.kind}={name}")
            request = result.base_request
            if request not in seen:  # its first device, with which the variables come
                seen.add(request)
                of_request = [pair for pair in pairs if pair[0].base_request == request]
                name = f"{claim.uid}-request-{request}"
                edits[name] = {"env": self._environment(of_request)}
                own.append(f"{self.kind}={name}")
                if self.metadata:
                    path, text, spec_path, spec = self._metadata(claim, request, of_request)
                    metadata[path], specs[spec_path] = text, spec
                    own.append(f"{self.driver}/metadata={claim.uid}_{request}")
            ids.append(tuple(own))
        if edits:
            specs[self.spec_path(claim.uid)] = _text(
                {
                    "cdiVersion": _CDI_VERSION,
                    "kind": self.kind,
                    "annotations": {f"{self.driver}/{ENTRY}": json.dumps({claim.uid: as_entry(claim)})},
                    "devices": [{"name": name, "containerEdits": each} for name, each in edits.items()],
                }
            )
        return Documents(metadata, specs, tuple(ids))

    def _device_edits(self, grant: Granted) -> dict[str, Any]:
        nodes = [node for each in grant.devices for node in nodes_of(each, expose_mgmt=self.expose_mgmt)]
        return {
            **({"deviceNodes": [{"path": node, "permissions": "rw"} for node in nodes]} if nodes else {}),
            **({"mounts": [_mount(path, path) for path in grant.mounts]} if grant.mounts else {}),
        }

    def _environment(self, pairs: Sequence[tuple[PreparedResult, Granted]]) -> list[str]:
        """Return the variables of a request, for each resource those that the device plugin sets."""
        found: dict[str, str] = {}
        for resource in dict.fromkeys(result.resource for result, _ in pairs):
            devices = {
                each.address: each
                for result, grant in pairs
                if result.resource == resource
                for each in grant.devices
            }
            ordered = tuple(devices[address] for address in sorted(devices))
            found |= environment_of(resource, ordered, expose_mgmt=self.expose_mgmt)
        return [f"{name}={value}" for name, value in sorted(found.items())]

    def _metadata(
        self, claim: PreparedClaim, request: str, pairs: Sequence[tuple[PreparedResult, Granted]]
    ) -> tuple[str, str, str, str]:
        """Return path and text of a request's metadata file, then those of the CDI spec that mounts it."""
        by_request: dict[str, list[dict[str, Any]]] = {}
        for result, grant in pairs:
            nodes = [node for each in grant.devices for node in nodes_of(each, expose_mgmt=self.expose_mgmt)]
            entry = {
                "driver": self.driver,
                "pool": result.pool,
                "name": result.device,
                "attributes": {**grant.attributes, **({"devNode": {"string": nodes[0]}} if nodes else {})},
            }
            by_request.setdefault(result.request, []).append(entry)
        content = {
            "metadata": {
                "name": claim.name,
                "namespace": claim.namespace,
                "uid": claim.uid,
                "generation": 1,
            },
            **({"podClaimName": claim.pod_claim_name} if claim.pod_claim_name else {}),
            "requests": [{"name": name, "devices": entries} for name, entries in by_request.items()],
        }
        objects = (
            {"kind": "DeviceMetadata", "apiVersion": f"{_METADATA_GROUP}/{version}", **content}
            for version in _METADATA_VERSIONS
        )
        path = f"{self.metadata_folder(claim)}/{request}/metadata.json"
        kind, name = (
            ("resourceclaimtemplates", claim.pod_claim_name)
            if claim.pod_claim_name
            else ("resourceclaims", claim.name)
        )
        inside = f"{_IN_CONTAINER}/{kind}/{name}/{request}/{self.driver}-metadata.json"
        spec = {
            "cdiVersion": _CDI_VERSION,
            "kind": f"{self.driver}/metadata",
            "devices": [
                {"name": f"{claim.uid}_{request}", "containerEdits": {"mounts": [_mount(path, inside)]}}
            ],
        }
        spec_path = f"{self.cdi_dir}/{self.metadata_spec_prefix}{claim.uid}_{request}.json"
        return path, "".join(json.dumps(each) + "\n" for each in objects), spec_path, _text(spec)


def as_granted(
    devices: Sequence[PoolDevice],
    existing: Container[str],
    extra_mounts: Sequence[str],
    versions: Mapping[str, str],
) -> list[Granted]:
    """Return what a container gets of each device.

    Args:
        devices: the devices of the pool.
        existing: the host paths that exist, of those that rules and EXTRA_MOUNTS name.
        extra_mounts: EXTRA_MOUNTS.
        versions: those of the kernel drivers.
    """

    def mounts(device: PoolDevice) -> tuple[str, ...]:
        own = [(each, path) for each in device.devices for path in each.mounts]
        paths = [path for each, path in own if not each.rule or path in existing]
        return tuple(dict.fromkeys([*paths, *(path for path in extra_mounts if path in existing)]))

    return [
        Granted(each.devices, mounts(each), attributes(each, versions, shared=each.shared))
        for each in devices
    ]


def mounts_by_rule(devices: Iterable[PoolDevice]) -> list[str]:
    """Return the host paths that rules name for these devices."""
    return [path for each in devices for own in each.devices if own.rule for path in own.mounts]


def as_entry(claim: PreparedClaim) -> dict[str, Any]:
    """Return the checkpoint's entry of a claim."""
    return {
        "namespace": claim.namespace,
        "name": claim.name,
        **({"podClaimName": claim.pod_claim_name} if claim.pod_claim_name else {}),
        "results": [
            {
                "request": each.request,
                "pool": each.pool,
                "device": each.device,
                **({"shareID": each.share_id} if each.share_id else {}),
                **({"adminAccess": True} if each.admin_access else {}),
                "address": each.address,
                "resource": each.resource,
                **({"addresses": list(each.addresses)} if each.addresses else {}),
            }
            for each in claim.results
        ],
        **({"pods": list(claim.pods)} if claim.pods else {}),
    }


def of_entry(uid: str, entry: Mapping[str, Any]) -> PreparedClaim:
    """Return the claim of an entry.

    Raises:
        ClaimRefused: a name can't be part of a path.
        KeyError, TypeError, AttributeError: it is no entry.
    """
    results = tuple(
        PreparedResult(
            checked_request(each["request"]),
            str(each["pool"]),
            checked_label(each["device"], "device"),
            str(each["address"]),
            str(each["resource"]),
            checked_uid(each["shareID"]) if each.get("shareID") else None,
            bool(each.get("adminAccess")),
            tuple(map(str, each.get("addresses") or ())),
        )
        for each in entry["results"]
    )
    pod_claim_name = entry.get("podClaimName")
    return PreparedClaim(
        checked_uid(uid),
        checked_label(entry["namespace"], "namespace"),
        checked_name(entry["name"]),
        checked_label(pod_claim_name, "claim in a pod") if pod_claim_name else None,
        results,
        tuple(map(checked_uid, entry.get("pods") or ())),
    )


def _mount(host: str, inside: str) -> dict[str, Any]:
    return {"hostPath": host, "containerPath": inside, "options": ["ro", "rbind", "rprivate"]}


def _text(document: object) -> str:
    return json.dumps(document) + "\n"
