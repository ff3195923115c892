"""An embedded kubelet: as much of kubelet's device manager as a plugin can see, for machines without one.

It does what the real one does at the socket (paths below pkg/kubelet/cm/devicemanager of k8s.io/kubernetes):
wipes its directory at start, dials back inside Register, never re-dials, keeps grants in a checkpoint.
"""

import asyncio
import base64
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import aiofiles
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError
from grpclib.server import Server

from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.deviceplugin.messages import API_VERSION, HEALTHY
from xilinx_fpga_dp.resources.naming import name_problem
from xilinx_fpga_dp.rpc.api import deviceplugin_v1beta1 as v1beta1

CHECKPOINT = "kubelet_internal_checkpoint"
_DIAL_LIMIT = 10.0  # seconds: plugin/v1beta1/client.go
_GRACE = 300.0  # seconds a resource without endpoint keeps its capacity: endpoint.go endpointStopGracePeriod


class AdmissionError(Exception):
    """A pod that kubelet rejects, as its status would say it."""


@dataclass(slots=True, eq=False)
class RegisteredPlugin:
    """A plugin as kubelet knows it, as long as it lists."""

    channel: Channel
    options: v1beta1.DevicePluginOptions

    @property
    def stub(self) -> v1beta1.DevicePluginStub:
        return v1beta1.DevicePluginStub(self.channel)


@dataclass(slots=True)
class ResourceState:
    """What kubelet knows of a resource, whoever told it: the last list counts.

    Attributes:
        endpoints: the plugins that list it, in the order in which they registered; the last one is asked.
        stopped: time.monotonic() when the last stream ended.
    """

    devices: dict[str, v1beta1.Device] = field(default_factory=dict)
    endpoints: list[RegisteredPlugin] = field(default_factory=list)
    stopped: float | None = None

    def healthy(self) -> set[str]:
        """The ids a pod may get: none once the last stream has ended."""
        if not self.endpoints:
            return set()
        return {each.id for each in self.devices.values() if each.health == HEALTHY}


@dataclass(frozen=True, slots=True)
class Allocation:
    """What a container holds of one resource: kept over restarts and given again as it was."""

    ids: tuple[str, ...]
    answer: v1beta1.ContainerAllocateResponse


class Kubelet(v1beta1.RegistrationBase):
    """A kubelet's device manager on a socket directory.

    Attributes:
        changes: counts what happened to any resource, to wait on.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.changes = Latest(0)
        self._resources: dict[str, ResourceState] = {}
        self._held: dict[tuple[str, str], Allocation] = {}  # by pod and resource
        self._streams: set[asyncio.Task[None]] = set()
        self._server: Server | None = None

    async def start(self) -> None:
        """Start as kubelet does: first remove every socket there is, ours and others' (manager.go)."""
        for entry in os.scandir(self.directory):
            if entry.name != CHECKPOINT and not entry.is_dir(follow_symlinks=False):
                with suppress(FileNotFoundError):  # its plugin was quicker
                    os.unlink(entry.path)
        await self._load()
        self._server = Server([self])
        await self._server.start(path=os.path.join(self.directory, "kubelet.sock"))

    async def stop(self) -> None:
        """Stop as kubelet does: every stream dies and its socket's file stays behind."""
        if self._server is None:
            return
        path = os.path.join(self.directory, "kubelet.sock")
        kept = f"{path}.kept"
        os.link(path, kept)  # asyncio unlinks it from Python 3.13 on
        for task in self._streams:
            task.cancel()
        for resource in self._resources.values():
            for endpoint in resource.endpoints:
                endpoint.channel.close()
        self._resources.clear()
        self._server.close()
        self._server = None
        await asyncio.gather(*self._streams, return_exceptions=True)
        os.replace(kept, path)

    async def register(self, message: v1beta1.RegisterRequest) -> v1beta1.Empty:
        """Take a plugin in: its socket is dialled and asked for its options before this returns."""
        if message.version != API_VERSION:
            raise GRPCError(Status.UNKNOWN, f"requested API version {message.version!r} is not supported")
        if problem := name_problem(message.resource_name):
            raise GRPCError(
                Status.UNKNOWN, f"the ResourceName {message.resource_name!r} is invalid: {problem}"
            )
        channel = Channel(path=os.path.join(self.directory, message.endpoint))
        try:
            await _dial(channel)
            options = await v1beta1.DevicePluginStub(channel).get_device_plugin_options()
        except BaseException:
            channel.close()
            raise
        # An older plugin of that name goes on listing beside it, as at kubelets from 1.37 on.
        endpoint = RegisteredPlugin(channel, options)
        resource = self._resources.setdefault(message.resource_name, ResourceState())
        resource.endpoints.append(endpoint)
        resource.stopped = None
        task = asyncio.create_task(self._follow(resource, endpoint))
        self._streams.add(task)
        task.add_done_callback(self._streams.discard)
        return v1beta1.Empty()

    def capacity(self) -> dict[str, int]:
        """Devices by resource, healthy or not, as in a node's status."""
        return {name: len(resource.devices) for name, resource in self._alive().items()}

    def allocatable(self) -> dict[str, int]:
        """Healthy devices by resource, as in a node's status."""
        return {name: len(resource.healthy()) for name, resource in self._alive().items()}

    def health(self, resource: str) -> dict[str, str]:
        """The last word on each device of a resource, by id."""
        known = self._resources.get(resource)
        return {each.id: each.health for each in known.devices.values()} if known else {}

    def held(self) -> dict[str, int]:
        """Devices that pods hold, by resource."""
        counts: dict[str, int] = {}
        for (_, resource), held in self._held.items():
            counts[resource] = counts.get(resource, 0) + len(held.ids)
        return counts

    async def admit(self, pod: str, requests: Mapping[str, int]) -> dict[str, Allocation]:
        """Give a pod's only container what it asks for; a pod that is known gets what it had.

        Raises:
            AdmissionError: there are not enough healthy free devices, or the plugin refused.
        """
        given: dict[tuple[str, str], Allocation] = {}
        for resource, count in requests.items():
            if (pod, resource) not in self._held:
                given[pod, resource] = await self._allocate(resource, count)
        self._held.update(given)  # a pod that is rejected for one resource keeps none
        await self._save()
        return {resource: self._held[pod, resource] for resource in requests}

    def remove(self, pod: str) -> None:
        """Let a pod be gone: what it held is free. No plugin is told."""
        for key in [key for key in self._held if key[0] == pod]:
            del self._held[key]

    async def _allocate(self, resource: str, count: int) -> Allocation:
        known = self._resources.get(resource, ResourceState())
        taken = {each for (_, name), held in self._held.items() if name == resource for each in held.ids}
        free = sorted(known.healthy() - taken)
        if len(free) < count:
            raise AdmissionError(
                "UnexpectedAdmissionError: Allocate failed due to requested number of devices unavailable "
                f"for {resource}. Requested: {count}, Available: {len(free)}, which is unexpected"
            )
        endpoint = known.endpoints[-1]
        try:
            ids = await self._preferred(endpoint, free, count)
            answer = await endpoint.stub.allocate(
                v1beta1.AllocateRequest(
                    container_requests=[v1beta1.ContainerAllocateRequest(devices_ids=list(ids))]
                )
            )
            if endpoint.options.pre_start_required:
                await endpoint.stub.pre_start_container(
                    v1beta1.PreStartContainerRequest(devices_ids=list(ids))
                )
        except (GRPCError, OSError, StreamTerminatedError) as error:
            raise AdmissionError(
                f"UnexpectedAdmissionError: Allocate failed due to {_as_go(error)}, which is unexpected"
            ) from error
        return Allocation(ids, answer.container_responses[0])

    async def _preferred(self, endpoint: RegisteredPlugin, free: list[str], count: int) -> tuple[str, ...]:
        if not endpoint.options.get_preferred_allocation_available:
            return tuple(free[:count])
        request = v1beta1.ContainerPreferredAllocationRequest(available_deviceIDs=free, allocation_size=count)
        answer = await endpoint.stub.get_preferred_allocation(
            v1beta1.PreferredAllocationRequest(container_requests=[request])
        )
        chosen = [each for each in answer.container_responses[0].device_i_ds if each in free]
        # A plugin's preference is a wish: what is missing is filled up (manager.go devicesToAllocate).
        return tuple((chosen + [each for each in free if each not in chosen])[:count])

    async def _follow(self, resource: ResourceState, endpoint: RegisteredPlugin) -> None:
        """Read one plugin's lists until its stream ends; then it has to register again."""
        try:
            async for message in endpoint.stub.list_and_watch():
                resource.devices = {device.id: device for device in message.devices}
                self._changed()
        except (GRPCError, OSError, StreamTerminatedError):
            pass
        finally:
            resource.endpoints.remove(endpoint)
            if not resource.endpoints:
                resource.stopped = time.monotonic()
            endpoint.channel.close()
            self._changed()

    def _alive(self) -> dict[str, ResourceState]:
        now = time.monotonic()
        return {
            name: resource
            for name, resource in sorted(self._resources.items())
            if resource.stopped is None or now - resource.stopped < _GRACE
        }

    def _changed(self) -> None:
        self.changes.set(self.changes.value + 1)

    async def _save(self) -> None:
        grants = [
            {
                "pod": pod,
                "resource": resource,
                "ids": held.ids,
                "answer": base64.b64encode(bytes(held.answer)).decode(),
            }
            for (pod, resource), held in self._held.items()
        ]
        entries = {"grants": grants, "registered": sorted(self._alive())}
        path = os.path.join(self.directory, CHECKPOINT)
        async with aiofiles.open(f"{path}.new", "w") as file:
            await file.write(json.dumps(entries))
        os.replace(f"{path}.new", path)

    async def _load(self) -> None:
        with suppress(FileNotFoundError):
            async with aiofiles.open(os.path.join(self.directory, CHECKPOINT)) as file:
                entries = json.loads(await file.read())
            self._held = {
                (entry["pod"], entry["resource"]): Allocation(
                    tuple(entry["ids"]),
                    v1beta1.ContainerAllocateResponse.parse(base64.b64decode(entry["answer"])),
                )
                for entry in entries["grants"]
            }
            # A resource that was registered has capacity 0 until its plugin is back (manager.go).
            self._resources = {
                name: ResourceState(stopped=time.monotonic()) for name in entries["registered"]
            }


def _as_go(error: Exception) -> str:
    """A failed call as grpc-go words it, and so a pod's status."""
    if not isinstance(error, GRPCError):
        return f"rpc error: code = Unavailable desc = {error}"
    code = error.status.name.title().replace("_", "")
    return f"rpc error: code = {code} desc = {error.message or ''}"


async def _dial(channel: Channel) -> None:
    """Connect as grpc.WithBlock does: again and again until the limit."""
    try:
        async with asyncio.timeout(_DIAL_LIMIT):
            while True:
                try:
                    await channel.__connect__()
                except OSError:
                    await asyncio.sleep(0.1)
                else:
                    return
    except TimeoutError:
        raise GRPCError(Status.UNKNOWN, "failed to dial device plugin: context deadline exceeded") from None
