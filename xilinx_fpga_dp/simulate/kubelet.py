"""An embedded kubelet: the part of kubelet's device manager that a device plugin can observe.

At start it removes every socket in its directory and loads the allocations from a checkpoint; then it serves
Register on kubelet.sock. Inside Register it dials the plugin and reads its options; after that it follows
ListAndWatch of the plugin and never dials again. Several plugins may list one resource: the last list
counts, and the plugin that registered last gets the calls, as in kubelet >= 1.37. When the last stream of a
resource ends, its devices stay in the capacity for a grace period, but none is allocatable. Its podresources
API tells which pod holds which device. `Kubelet.stop` ends every stream and leaves the socket file. Each
restart is a new `Kubelet` on the same directory.
Source files in comments are relative to pkg/kubelet/cm/devicemanager of k8s.io/kubernetes.
"""

import asyncio
import base64
import json
import os
import time
from collections import Counter
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
from xilinx_fpga_dp.rpc.api import podresources_v1

CHECKPOINT = "kubelet_internal_checkpoint"
_DIAL_LIMIT = 10.0  # seconds: plugin/v1beta1/client.go
_GRACE = (
    300.0  # seconds that a resource without plugin keeps its capacity: endpoint.go endpointStopGracePeriod
)


class AdmissionError(Exception):
    """The rejection of a pod, with the message that its status would carry."""


@dataclass(slots=True, eq=False)
class RegisteredPlugin:
    """A device plugin whose ListAndWatch stream is open."""

    channel: Channel
    options: v1beta1.DevicePluginOptions

    @property
    def stub(self) -> v1beta1.DevicePluginStub:
        return v1beta1.DevicePluginStub(self.channel)


@dataclass(slots=True)
class ResourceState:
    """The devices and plugins of a resource.

    Attributes:
        devices: the last list of any plugin, by device id.
        plugins: in the order of registration; the last one gets the calls.
        stopped: time.monotonic() when the last stream ended; None while a stream is open.
    """

    devices: dict[str, v1beta1.Device] = field(default_factory=dict)
    plugins: list[RegisteredPlugin] = field(default_factory=list)
    stopped: float | None = None

    def healthy(self) -> set[str]:
        """Return the ids that a pod may get; none after the last stream has ended."""
        if not self.plugins:
            return set()
        return {each.id for each in self.devices.values() if each.health == HEALTHY}


@dataclass(frozen=True, slots=True)
class Allocation:
    """The devices of a container and the plugin's response; both survive restarts of kubelet."""

    ids: tuple[str, ...]
    response: v1beta1.ContainerAllocateResponse


class Kubelet(v1beta1.RegistrationBase):
    """A kubelet's device manager on a socket directory.

    Args:
        directory: for the sockets of plugins and its own.
        pod_resources: the socket of the podresources API; None: there is none.

    Attributes:
        changes: the number of changes to resources, to wait on.
    """

    def __init__(self, directory: str, pod_resources: str | None = None) -> None:
        self.directory = directory
        self._pod_resources = pod_resources
        self._lister: Server | None = None
        self.changes = Latest(0)
        self._resources: dict[str, ResourceState] = {}
        self._allocations: dict[tuple[str, str], Allocation] = {}  # by pod and resource
        self._streams: set[asyncio.Task[None]] = set()
        self._server: Server | None = None

    async def start(self) -> None:
        """Start as kubelet does: remove the sockets of all plugins first (manager.go)."""
        for entry in os.scandir(self.directory):
            if entry.name != CHECKPOINT and not entry.is_dir(follow_symlinks=False):
                with suppress(FileNotFoundError):  # its plugin has removed it
                    os.unlink(entry.path)
        await self._load()
        self._server = Server([self])
        await self._server.start(path=os.path.join(self.directory, "kubelet.sock"))
        if self._pod_resources:
            os.makedirs(os.path.dirname(self._pod_resources), exist_ok=True)
            self._lister = Server([_Lister(self)])
            await self._lister.start(path=self._pod_resources)

    async def stop(self) -> None:
        """Stop as kubelet does: end every stream and leave the file kubelet.sock."""
        if self._server is None:
            return
        path = os.path.join(self.directory, "kubelet.sock")
        kept = f"{path}.kept"
        os.link(path, kept)  # asyncio unlinks it from Python 3.13 on
        for task in self._streams:
            task.cancel()
        for resource in self._resources.values():
            for plugin in resource.plugins:
                plugin.channel.close()
        self._resources.clear()
        self._server.close()
        self._server = None
        if self._lister:
            self._lister.close()
            self._lister = None
        await asyncio.gather(*self._streams, return_exceptions=True)
        os.replace(kept, path)

    async def register(self, message: v1beta1.RegisterRequest) -> v1beta1.Empty:
        """Register a plugin: dial its socket and read its options before the response."""
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
        # From kubelet 1.37 on, an older plugin of the same resource keeps its stream.
        plugin = RegisteredPlugin(channel, options)
        resource = self._resources.setdefault(message.resource_name, ResourceState())
        resource.plugins.append(plugin)
        resource.stopped = None
        task = asyncio.create_task(self._follow(resource, plugin))
        self._streams.add(task)
        task.add_done_callback(self._streams.discard)
        return v1beta1.Empty()

    def capacity(self) -> dict[str, int]:
        """Return the number of devices by resource, as in the status of a node."""
        return {name: len(resource.devices) for name, resource in self._alive().items()}

    def allocatable(self) -> dict[str, int]:
        """Return the number of healthy devices by resource, as in the status of a node."""
        return {name: len(resource.healthy()) for name, resource in self._alive().items()}

    def health(self, resource: str) -> dict[str, str]:
        """Return the last listed health of each device of a resource, by id."""
        known = self._resources.get(resource)
        return {each.id: each.health for each in known.devices.values()} if known else {}

    def allocated(self) -> dict[str, int]:
        """Return the number of devices that pods hold, by resource."""
        counts: Counter[str] = Counter()
        for (_, resource), allocation in self._allocations.items():
            counts[resource] += len(allocation.ids)
        return counts

    def holdings(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """Return the ids that each pod holds, by resource."""
        found: dict[str, dict[str, tuple[str, ...]]] = {}
        for (pod, resource), allocation in self._allocations.items():
            found.setdefault(pod, {})[resource] = allocation.ids
        return found

    async def admit(self, pod: str, requests: Mapping[str, int]) -> dict[str, Allocation]:
        """Allocate devices to the only container of a pod; a known pod keeps its allocations.

        Raises:
            AdmissionError: too few healthy devices are free, or the plugin refuses.
        """
        new: dict[tuple[str, str], Allocation] = {}
        for resource, count in requests.items():
            if (pod, resource) not in self._allocations:
                new[pod, resource] = await self._allocate(resource, count)
        self._allocations.update(new)  # a pod that is rejected for one resource gets none
        await self._save()
        return {resource: self._allocations[pod, resource] for resource in requests}

    def remove(self, pod: str) -> None:
        """Remove a pod and free its devices. kubelet does not notify plugins of it."""
        for key in [key for key in self._allocations if key[0] == pod]:
            del self._allocations[key]

    async def _allocate(self, resource: str, count: int) -> Allocation:
        known = self._resources.get(resource, ResourceState())
        taken = {
            device_id
            for (_, name), allocation in self._allocations.items()
            if name == resource
            for device_id in allocation.ids
        }
        free = sorted(known.healthy() - taken)
        if len(free) < count:
            raise AdmissionError(
                "UnexpectedAdmissionError: Allocate failed due to requested number of devices unavailable "
                f"for {resource}. Requested: {count}, Available: {len(free)}, which is unexpected"
            )
        plugin = known.plugins[-1]
        try:
            ids = await self._preferred(plugin, free, count)
            response = await plugin.stub.allocate(
                v1beta1.AllocateRequest(
                    container_requests=[v1beta1.ContainerAllocateRequest(devices_ids=list(ids))]
                )
            )
            if plugin.options.pre_start_required:
                await plugin.stub.pre_start_container(v1beta1.PreStartContainerRequest(devices_ids=list(ids)))
        except (GRPCError, OSError, StreamTerminatedError) as error:
            raise AdmissionError(
                f"UnexpectedAdmissionError: Allocate failed due to {_as_go(error)}, which is unexpected"
            ) from error
        return Allocation(ids, response.container_responses[0])

    async def _preferred(self, plugin: RegisteredPlugin, free: list[str], count: int) -> tuple[str, ...]:
        if not plugin.options.get_preferred_allocation_available:
            return tuple(free[:count])
        request = v1beta1.ContainerPreferredAllocationRequest(available_deviceIDs=free, allocation_size=count)
        response = await plugin.stub.get_preferred_allocation(
            v1beta1.PreferredAllocationRequest(container_requests=[request])
        )
        chosen = [each for each in response.container_responses[0].device_i_ds if each in free]
        # kubelet adds free devices to a preference that is too short (manager.go devicesToAllocate).
        return tuple((chosen + [each for each in free if each not in chosen])[:count])

    async def _follow(self, resource: ResourceState, plugin: RegisteredPlugin) -> None:
        """Read the lists of a plugin until its stream ends; the plugin must register again then."""
        try:
            async for message in plugin.stub.list_and_watch():
                resource.devices = {device.id: device for device in message.devices}
                self._changed()
        except (GRPCError, OSError, StreamTerminatedError):
            pass
        finally:
            resource.plugins.remove(plugin)
            if not resource.plugins:
                resource.stopped = time.monotonic()
            plugin.channel.close()
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
        allocations = [
            {
                "pod": pod,
                "resource": resource,
                "ids": allocation.ids,
                "response": base64.b64encode(bytes(allocation.response)).decode(),
            }
            for (pod, resource), allocation in self._allocations.items()
        ]
        entries = {"allocations": allocations, "registered": sorted(self._alive())}
        path = os.path.join(self.directory, CHECKPOINT)
        async with aiofiles.open(f"{path}.new", "w") as file:
            await file.write(json.dumps(entries))
        os.replace(f"{path}.new", path)

    async def _load(self) -> None:
        with suppress(FileNotFoundError):
            async with aiofiles.open(os.path.join(self.directory, CHECKPOINT)) as file:
                entries = json.loads(await file.read())
            self._allocations = {
                (entry["pod"], entry["resource"]): Allocation(
                    tuple(entry["ids"]),
                    v1beta1.ContainerAllocateResponse.parse(base64.b64decode(entry["response"])),
                )
                for entry in entries["allocations"]
            }
            # A registered resource has capacity 0 until its plugin lists again (manager.go).
            self._resources = {
                name: ResourceState(stopped=time.monotonic()) for name in entries["registered"]
            }


class _Lister(podresources_v1.PodResourcesListerBase):
    """The podresources API: pods in the namespace `default`, each with a container of its name."""

    def __init__(self, kubelet: Kubelet) -> None:
        self._kubelet = kubelet

    async def list(
        self, message: podresources_v1.ListPodResourcesRequest
    ) -> podresources_v1.ListPodResourcesResponse:
        del message
        pods = [
            podresources_v1.PodResources(
                name=pod, namespace="default", containers=[_container(pod, resources)]
            )
            for pod, resources in self._kubelet.holdings().items()
        ]
        return podresources_v1.ListPodResourcesResponse(pod_resources=pods)


def _container(pod: str, resources: Mapping[str, tuple[str, ...]]) -> podresources_v1.ContainerResources:
    devices = [
        podresources_v1.ContainerDevices(resource_name=resource, device_ids=list(ids))
        for resource, ids in resources.items()
    ]
    return podresources_v1.ContainerResources(name=pod, devices=devices)


def _as_go(error: Exception) -> str:
    """Return the message of a failed call as grpc-go words it in the status of a pod."""
    if not isinstance(error, GRPCError):
        return f"rpc error: code = Unavailable desc = {error}"
    code = error.status.name.title().replace("_", "")
    return f"rpc error: code = {code} desc = {error.message or ''}"


async def _dial(channel: Channel) -> None:
    """Connect as grpc.WithBlock does: retry until the time limit."""
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
