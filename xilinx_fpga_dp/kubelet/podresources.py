"""Client of kubelet's podresources API: which container holds which device."""

import asyncio
import logging
from collections.abc import Iterable, Iterator

from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from xilinx_fpga_dp.model import Held, Holder
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.resources.holders import key_of_id, key_of_name
from xilinx_fpga_dp.rpc.api import podresources_v1
from xilinx_fpga_dp.rpc.client import channel, connected

log = logging.getLogger(__name__)

TIME_LIMIT = 2.0  # seconds for an answer
_RETRY = 0.1  # seconds until kubelet is asked again after an error


class PodResources:
    """The podresources API at a socket.

    Args:
        path: of the socket.
        prefix: that of our resources, whose devices may have any id.
        often: keep the connection between calls.
    """

    def __init__(self, path: str, prefix: str, *, often: bool = False) -> None:
        self._path = path
        self._kept = channel(path) if often else None
        self._prefix = prefix
        self._failing = False  # the last call has failed

    async def held(self, *, insist: bool = False) -> Held | None:
        """Return the holders now; None if kubelet has not answered within the limit.

        ``insist`` retries until the limit after an error that may pass: kubelet has just started, or it is
        asked more than 100 times a second, by all clients together.
        """
        now = asyncio.get_running_loop().time
        deadline = now() + TIME_LIMIT
        while True:
            try:
                async with connected(self._path, deadline - now(), self._kept) as connection:
                    stub = podresources_v1.PodResourcesListerStub(connection)
                    answer = await stub.list(podresources_v1.ListPodResourcesRequest())
                break
            except Exception as error:  # the server at that socket may send anything
                if not insist or not _may_pass(error) or now() + _RETRY >= deadline:
                    if not self._failing:
                        extra = {"path": self._path, "error": str(error) or repr(error)}
                        log.warning(Event.PODRESOURCES_UNAVAILABLE, extra=extra)
                    self._failing = True
                    return None
            await asyncio.sleep(_RETRY)
        if self._failing:
            log.info(Event.PODRESOURCES_AVAILABLE, extra={"path": self._path})
        self._failing = False
        held: dict[str, tuple[Holder, ...]] = {}
        for key, holder in _holders(answer.pod_resources, self._prefix):
            held[key] = (*held.get(key, ()), holder)
        return held

    async def offered(self) -> frozenset[str] | None:
        """Return the addresses of devices that kubelet can allocate from device plugins, Healthy ones only.

        None if kubelet does not answer within the limit; a kubelet without that call offers none.
        """
        try:
            async with connected(self._path, TIME_LIMIT) as connection:
                stub = podresources_v1.PodResourcesListerStub(connection)
                answer = await stub.get_allocatable_resources(podresources_v1.AllocatableResourcesRequest())
        except GRPCError as error:
            return frozenset() if error.status is Status.UNIMPLEMENTED else None
        except Exception:  # the server at that socket may send anything
            return None
        keys = (
            key_of_id(devices.resource_name, device, self._prefix)
            for devices in answer.devices
            for device in devices.device_ids
        )
        return frozenset(key for key in keys if key is not None)


def _may_pass(error: Exception) -> bool:
    if isinstance(error, GRPCError):
        return error.status in (Status.RESOURCE_EXHAUSTED, Status.UNAVAILABLE)
    return isinstance(error, ConnectionError | StreamTerminatedError)


def _holders(pods: Iterable[podresources_v1.PodResources], prefix: str) -> Iterator[tuple[str, Holder]]:
    """Yield each holder with its key in `Held`, those by claims first."""
    containers = [(pod, container) for pod in pods for container in pod.containers]
    for pod, container in containers:
        for claim in container.dynamic_resources:
            for device in claim.claim_resources:
                yield (
                    key_of_name(device.device_name),
                    Holder(
                        pod.namespace,
                        pod.name,
                        container.name,
                        device.driver_name,
                        device.device_name,
                        claim.claim_name,
                    ),
                )
    for pod, container in containers:
        for devices in container.devices:
            for device_id in devices.device_ids:
                key = key_of_id(devices.resource_name, device_id, prefix)
                if key is not None:
                    yield (
                        key,
                        Holder(pod.namespace, pod.name, container.name, devices.resource_name, device_id),
                    )
