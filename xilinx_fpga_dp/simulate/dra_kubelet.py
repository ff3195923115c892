"""An embedded kubelet: the part of its plugin manager and of its DRA manager that a driver can observe.

It finds a driver by the socket in its directory of registrations: asks GetInfo, connects to the driver, says
that it is registered, and follows the health of its devices. A socket that goes away is a driver that goes
away. At a start it removes the ResourceSlices of the node, which drivers publish again. What is prepared for
pods outlives a restart. Its podresources API tells which pod has which device by a claim. Each restart is a
new `DraKubelet` on the same directory.

Not simulated: the 30 s after which kubelet removes the slices of a driver that stays away, and those after
which it takes the health of a device for unknown.
Source files in comments are relative to pkg/kubelet of k8s.io/kubernetes v1.37.2.
"""

import asyncio
import json
import os
import stat
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TypeVar

import aiofiles
from grpclib.client import Channel
from grpclib.exceptions import GRPCError, StreamTerminatedError
from grpclib.server import Server

from xilinx_fpga_dp.aio.directory_watcher import DirectoryWatcher
from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.rpc.api import dra_health_v1, dra_v1, pluginregistration_v1, podresources_v1
from xilinx_fpga_dp.simulate.api_server import ApiServer

T = TypeVar("T")

SLICES = "/apis/resource.k8s.io/v1/resourceslices"
CLAIMS = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims"
HEALTHY = "Healthy"

_STATE = "dra_manager_state"  # cm/dra/manager.go
_TYPE = "DRAPlugin"
_VERSION = "v1.DRAPlugin"
_HEALTH = "v1.DRAResourceHealth"
_INFO_LIMIT = 1.0  # seconds: pluginmanager/operationexecutor/operation_generator.go
_FIRST_DELAY = 0.5  # seconds after a failed registration, doubling to
_LAST_DELAY = 120.0
_LOOK_EVERY = 1.0  # seconds between looks at the directory that nothing woke
_CALL_LIMIT = 45.0  # seconds: cm/dra/plugin/dra_plugin.go


class NotAdmitted(Exception):  # noqa: N818 - an outcome
    """Why the containers of a pod do not start."""


@dataclass(frozen=True, slots=True)
class PreparedDevice:
    """A device that a driver has prepared."""

    request: str
    driver: str
    pool: str
    device: str
    cdi_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PreparedClaim:
    """A claim of a pod."""

    name: str
    uid: str
    devices: tuple[PreparedDevice, ...]


@dataclass(slots=True, eq=False)
class _Driver:
    """A registered driver, and the health of its devices as (health, message)."""

    channel: Channel
    health: dict[str, tuple[str, str]] = field(default_factory=dict)


class DraKubelet:
    """A kubelet as a DRA driver sees it. Pods are in the namespace ``default``.

    Args:
        directory: for its state.
        registry: where drivers put their registration sockets.
        pod_resources: the socket of the podresources API.
        node: the name of the node.
        api: the API server.

    Attributes:
        drivers: the names of the registered drivers, to wait on.
    """

    def __init__(self, directory: str, registry: str, pod_resources: str, node: str, api: ApiServer) -> None:
        self.registry = registry
        self.drivers: Latest[frozenset[str]] = Latest(frozenset())
        self._state = f"{directory}/{_STATE}"
        self._pod_resources = pod_resources
        self._node = node
        self._api = api
        self._registered: dict[str, _Driver] = {}
        self._pods: dict[str, list[PreparedClaim]] = {}
        self._tasks: dict[tuple[str, int], asyncio.Task[None]] = {}  # by socket
        self._following: asyncio.Task[None] | None = None
        self._lister: Server | None = None

    async def start(self) -> None:
        """Remove the slices of the node, then look for drivers: cm/dra/plugin/dra_plugin_manager.go."""
        await self._load()
        for each in self._api.all(SLICES):
            if each["spec"].get("nodeName") == self._node:
                self._api.remove(f"{SLICES}/{each['metadata']['name']}")
        for directory in (self.registry, os.path.dirname(self._pod_resources)):
            os.makedirs(directory, exist_ok=True)
        self._lister = Server([_Lister(self)])
        await self._lister.start(path=self._pod_resources)
        self._following = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Stop: end every connection."""
        tasks = [*([self._following] if self._following else []), *self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()
        if self._lister:
            self._lister.close()
            self._lister = None

    def health(self, driver: str, device: str) -> tuple[str, str]:
        """Return the health of a device and the message, as the status of a pod has them."""
        known = self._registered.get(driver)
        return known.health.get(device, ("Unknown", "")) if known else ("Unknown", "")

    def claims(self) -> Mapping[str, Sequence[PreparedClaim]]:
        """Return the prepared claims of each pod."""
        return self._pods

    async def admit(self, pod: str, claim: str) -> PreparedClaim:
        """Prepare a claim for a pod; a pod that has it keeps it.

        Raises:
            NotAdmitted: the claim is not the pod's, or the driver refuses.
        """
        if known := next((each for each in self._pods.get(pod, ()) if each.name == claim), None):
            return known
        found = self._api.get(f"{CLAIMS}/{claim}")
        if found is None:
            raise NotAdmitted(f'resourceclaim "{claim}" not found')
        status = found.get("status") or {}
        if pod not in [each["name"] for each in status.get("reservedFor") or ()]:
            raise NotAdmitted(f'resourceclaim "{claim}" is not reserved for the pod')
        uid = found["metadata"]["uid"]
        drivers = dict.fromkeys(each["driver"] for each in status["allocation"]["devices"]["results"])
        devices: list[PreparedDevice] = []
        for driver in drivers:
            devices += await self._prepare(driver, dra_v1.Claim(namespace="default", name=claim, uid=uid))
        prepared = PreparedClaim(claim, uid, tuple(devices))
        self._pods.setdefault(pod, []).append(prepared)
        await self._save()
        return prepared

    async def remove(self, pod: str) -> None:
        """Remove a pod: unprepare its claims.

        Raises:
            NotAdmitted: a driver refuses.
        """
        for claim in list(self._pods.get(pod, ())):
            wanted = dra_v1.Claim(namespace="default", name=claim.name, uid=claim.uid)
            for driver in dict.fromkeys(each.driver for each in claim.devices):
                await self._unprepare(driver, wanted)
            self._pods[pod].remove(claim)
        self._pods.pop(pod, None)
        await self._save()

    async def _unprepare(self, driver: str, claim: dra_v1.Claim) -> None:
        request = dra_v1.NodeUnprepareResourcesRequest(claims=[claim])
        answer = await self._call(
            driver, "NodeUnprepareResources", lambda stub: stub.node_unprepare_resources(request)
        )
        own = answer.claims.get(claim.uid)
        if own is None or own.error:
            why = own.error if own else "it is left out"
            raise NotAdmitted(f"NodeUnprepareResources failed for ResourceClaim {claim.name}: {why}")

    async def _prepare(self, driver: str, claim: dra_v1.Claim) -> list[PreparedDevice]:
        request = dra_v1.NodePrepareResourcesRequest(claims=[claim])
        answer = await self._call(
            driver, "NodePrepareResources", lambda stub: stub.node_prepare_resources(request)
        )
        own = answer.claims.get(claim.uid)
        if own is None:
            raise NotAdmitted(f"NodePrepareResources left out ResourceClaim {claim.name}")
        if own.error:
            raise NotAdmitted(f"NodePrepareResources failed for ResourceClaim {claim.name}: {own.error}")
        return [
            PreparedDevice(
                ",".join(each.request_names),
                driver,
                each.pool_name,
                each.device_name,
                tuple(each.cdi_device_ids),
            )
            for each in own.devices
        ]

    async def _call(
        self, driver: str, method: str, call: Callable[[dra_v1.DraPluginStub], Awaitable[T]]
    ) -> T:
        known = self._registered.get(driver)
        if known is None:
            raise NotAdmitted(f"DRA driver {driver} is not registered")
        try:
            async with asyncio.timeout(_CALL_LIMIT):
                return await call(dra_v1.DraPluginStub(known.channel))
        except (GRPCError, OSError, StreamTerminatedError) as error:  # OSError: also a timeout
            raise NotAdmitted(f"{method} failed: {error}") from error

    # Registration

    async def _follow(self) -> None:
        """Register each new socket; forget each one that is gone or replaced."""
        with DirectoryWatcher(self.registry, fold=0) as watcher:
            while True:
                await watcher.arm()
                there = set(_sockets(self.registry))
                for key in self._tasks.keys() - there:
                    self._tasks.pop(key).cancel()
                for key in there - self._tasks.keys():
                    self._tasks[key] = asyncio.create_task(self._keep_registered(key[0]))
                await watcher.wait(_LOOK_EVERY)

    async def _keep_registered(self, path: str) -> None:
        delay = _FIRST_DELAY
        while True:
            with suppress(GRPCError, OSError, StreamTerminatedError, TimeoutError):
                await self._register(path)
                delay = _FIRST_DELAY
            await asyncio.sleep(delay)
            delay = min(2 * delay, _LAST_DELAY)

    async def _register(self, path: str) -> None:
        """Register the driver of a socket, and follow it until its connection ends."""
        registration = Channel(path=path)
        try:
            stub = pluginregistration_v1.RegistrationStub(registration)
            info = await stub.get_info(timeout=_INFO_LIMIT)
            problem = _problem(info)
            if problem is None:
                channel = Channel(path=info.endpoint)
                try:
                    await channel.__connect__()
                    self._enter(info.name, _Driver(channel))
                    await stub.notify_registration_status(
                        pluginregistration_v1.RegistrationStatus(plugin_registered=True), timeout=_INFO_LIMIT
                    )
                    registration.close()
                    await self._follow_health(info)
                finally:
                    self._leave(info.name, channel)
                    channel.close()
            else:
                status = pluginregistration_v1.RegistrationStatus(plugin_registered=False, error=problem)
                await stub.notify_registration_status(status, timeout=_INFO_LIMIT)
        finally:
            registration.close()

    async def _follow_health(self, info: pluginregistration_v1.PluginInfo) -> None:
        driver = self._registered[info.name]
        if _HEALTH not in info.supported_versions:
            await asyncio.Event().wait()
        async for message in dra_health_v1.DraResourceHealthStub(driver.channel).node_watch_resources():
            driver.health = {
                each.device.device_name: (
                    str(each.health.name or "").title() or "Unknown",
                    each.message,
                )
                for each in message.devices
                if each.device
            }

    def _enter(self, name: str, driver: _Driver) -> None:
        self._registered[name] = driver
        self.drivers.set(frozenset(self._registered))

    def _leave(self, name: str, channel: Channel) -> None:
        if (known := self._registered.get(name)) and known.channel is channel:
            del self._registered[name]
            self.drivers.set(frozenset(self._registered))

    # State

    async def _save(self) -> None:
        entries = {pod: [asdict(each) for each in claims] for pod, claims in self._pods.items()}
        async with aiofiles.open(f"{self._state}.new", "w") as file:
            await file.write(json.dumps(entries))
        os.replace(f"{self._state}.new", self._state)

    async def _load(self) -> None:
        with suppress(FileNotFoundError):
            async with aiofiles.open(self._state) as file:
                entries = json.loads(await file.read())
            self._pods = {
                pod: [
                    PreparedClaim(
                        each["name"],
                        each["uid"],
                        tuple(
                            PreparedDevice(**{**device, "cdi_ids": tuple(device["cdi_ids"])})
                            for device in each["devices"]
                        ),
                    )
                    for each in claims
                ]
                for pod, claims in entries.items()
            }


class _Lister(podresources_v1.PodResourcesListerBase):
    """The podresources API: each pod with a container of its name."""

    def __init__(self, kubelet: DraKubelet) -> None:
        self._kubelet = kubelet

    async def list(
        self, message: podresources_v1.ListPodResourcesRequest
    ) -> podresources_v1.ListPodResourcesResponse:
        del message
        pods = [
            podresources_v1.PodResources(
                name=pod,
                namespace="default",
                containers=[
                    podresources_v1.ContainerResources(
                        name=pod, dynamic_resources=[_dynamic(each) for each in claims]
                    )
                ],
            )
            for pod, claims in self._kubelet.claims().items()
        ]
        return podresources_v1.ListPodResourcesResponse(pod_resources=pods)


def _dynamic(claim: PreparedClaim) -> podresources_v1.DynamicResource:
    return podresources_v1.DynamicResource(
        claim_name=claim.name,
        claim_namespace="default",
        claim_resources=[
            podresources_v1.ClaimResource(
                cdi_devices=[podresources_v1.CdiDevice(name=name) for name in each.cdi_ids],
                driver_name=each.driver,
                pool_name=each.pool,
                device_name=each.device,
            )
            for each in claim.devices
        ],
    )


def _problem(info: pluginregistration_v1.PluginInfo) -> str | None:
    """Return why a plugin is not registered; None if it is."""
    if info.type != _TYPE:
        return f"no handler registered for plugin type: {info.type}"
    if _VERSION not in info.supported_versions:
        return f"{info.name} supports none of the versions of kubelet: {_VERSION}"
    return None


def _sockets(registry: str) -> list[tuple[str, int]]:
    """Return the sockets in a directory, with their inodes."""
    found = []
    with suppress(FileNotFoundError):
        for entry in os.scandir(registry):
            with suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISSOCK(status.st_mode):
                    found.append((entry.path, status.st_ino))
    return found
