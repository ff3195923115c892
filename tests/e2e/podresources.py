"""A client of the podresources API of kubelet: allocated and allocatable devices."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.json_format import MessageToDict, ParseDict
from grpc_tools import protoc  # type: ignore[import-untyped]

from .namespace import NodeError, SilentError

_PROTO = Path(__file__).parents[2] / "protos" / "podresources_v1.proto"
_SERVICE = "/v1.PodResourcesLister/"


@dataclass(frozen=True)
class ContainerDevices:
    """The devices of one resource that one container holds."""

    namespace: str
    pod: str
    container: str
    resource: str
    ids: frozenset[str]


# The allocatable devices of a node: resource -> device id -> NUMA nodes.
Allocatable = dict[str, dict[str, frozenset[int]]]


class PodResources:
    """A client with a new connection for each request, since kubelet restarts in these tests."""

    def __init__(self, socket: Path, limit: float = 5.0) -> None:
        self._socket = socket
        self._limit = limit

    def allocatable(self) -> Allocatable:
        """Return the healthy devices, including allocated ones (devicemanager GetAllocatableDevices)."""
        answer = self._ask("GetAllocatableResources", "AllocatableResources")
        found: Allocatable = {}
        for devices in answer.get("devices", ()):
            for device in devices.get("device_ids", ()):
                nodes = frozenset(
                    int(node.get("ID", 0)) for node in devices.get("topology", {}).get("nodes", ())
                )
                resource = found.setdefault(devices["resource_name"], {})
                resource[device] = resource.get(device, frozenset()) | nodes
        return found

    def held(self) -> list[ContainerDevices]:
        """Return the devices that the containers of all pods hold."""
        answer = self._ask("List", "ListPodResources")
        return [held for pod in answer.get("pod_resources", ()) for held in _held(pod)]

    def held_by(self, pod: str, namespace: str = "default") -> list[ContainerDevices]:
        """Return the devices of the containers of a pod (Get, with the gate KubeletPodResourcesGet)."""
        question = {"pod_name": pod, "pod_namespace": namespace}
        return list(_held(self._ask("Get", "GetPodResources", question)["pod_resources"]))

    def _ask(self, method: str, kind: str, question: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Call a method; raises SilentError if kubelet does not respond in time or responds with an error."""
        messages = _messages()
        request = ParseDict(dict(question or {}), messages[f"{kind}Request"]())
        response = messages[f"{kind}Response"]
        with grpc.insecure_channel(f"unix:{self._socket}") as channel:
            call: Callable[..., Any] = channel.unary_unary(
                _SERVICE + method,
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=response.FromString,
            )
            try:
                answer = call(request, timeout=self._limit)
            except grpc.RpcError as error:
                raise SilentError(f"podresources {method}: {_reason(error)}") from error
        return MessageToDict(answer, preserving_proto_field_name=True)


def _reason(error: grpc.RpcError) -> str:
    """Return the reason of a failed call. Its RpcError is also a Call, which the type does not show."""
    return f"{error.code().name}: {error.details()}" if isinstance(error, grpc.Call) else str(error)


def _held(pod: Mapping[str, Any]) -> list[ContainerDevices]:
    found: dict[tuple[str, str], set[str]] = {}
    for container in pod.get("containers", ()):
        for devices in container.get("devices", ()):
            key = (container["name"], devices["resource_name"])
            found.setdefault(key, set()).update(devices.get("device_ids", ()))
    return [
        ContainerDevices(pod["namespace"], pod["name"], container, resource, frozenset(ids))
        for (container, resource), ids in found.items()
    ]


@cache
def _messages() -> dict[str, Any]:
    """Return the message classes, in a separate pool: the service may have classes of the same names."""
    with tempfile.NamedTemporaryFile() as compiled:
        options = [f"-I{_PROTO.parent}", f"--descriptor_set_out={compiled.name}", _PROTO.name]
        if protoc.main(["protoc", *options]) != 0:
            raise NodeError(f"{_PROTO} can't be compiled")
        files = descriptor_pb2.FileDescriptorSet.FromString(compiled.read())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.AddSerializedFile(file.SerializeToString())
    described = pool.FindFileByName(_PROTO.name).message_types_by_name
    return {name: message_factory.GetMessageClass(each) for name, each in described.items()}
