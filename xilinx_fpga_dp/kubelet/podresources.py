"""Client of kubelet's podresources API: which container holds which device."""

import asyncio
import logging
import re
from collections.abc import Iterable

from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from xilinx_fpga_dp.model import Held, Holder
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.resources.pool_names import address_of
from xilinx_fpga_dp.rpc.api import podresources_v1
from xilinx_fpga_dp.rpc.client import channel, connected

log = logging.getLogger(__name__)

TIME_LIMIT = 2.0  # seconds for an answer
_RETRY = 0.1  # seconds until kubelet is asked again after an error

# The address with which an id begins, of this plugin or an earlier one, under any resource name:
# `0000:65:00.1`, a replica's `0000:65:00.1::0`, plugin 1.3.0's `0000:65:00.1-0`; zocl's `axi:zyxclmm_drm`
_ADDRESS = re.compile(
    r"([0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]|[\w.:@-]{0,48}zyxclmm_drm)(?:(?:::|-)\d+)?"
)


class PodResources:
    """The podresources API at a socket.

    Args:
        path: of the socket.
        driver: the name of the DRA driver, whose devices count as held, too.
        often: keep the connection between calls.
    """

    def __init__(self, path: str, driver: str, *, often: bool = False) -> None:
        self._path = path
        self._kept = channel(path) if often else None
        self._driver = driver
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
        return _by_address(answer.pod_resources, self._driver)

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
        ids = (device for devices in answer.devices for device in devices.device_ids)
        return frozenset(match[1] for each in ids if (match := _ADDRESS.fullmatch(each)))


def _may_pass(error: Exception) -> bool:
    if isinstance(error, GRPCError):
        return error.status in (Status.RESOURCE_EXHAUSTED, Status.UNAVAILABLE)
    return isinstance(error, ConnectionError | StreamTerminatedError)


def _by_address(pods: Iterable[podresources_v1.PodResources], driver: str) -> Held:
    """Return the holders by address; by its name a device of the DRA driver that is no PCI function."""
    held: dict[str, tuple[Holder, ...]] = {}
    by_claims = (
        Holder(pod.namespace, pod.name, container.name, driver, device.device_name)
        for pod in pods
        for container in pod.containers
        for claim in container.dynamic_resources
        for device in claim.claim_resources
        if device.driver_name == driver
    )
    for holder in by_claims:
        key = address_of(holder.id) or holder.id
        held[key] = (*held.get(key, ()), holder)
    holders = (
        Holder(pod.namespace, pod.name, container.name, devices.resource_name, device)
        for pod in pods
        for container in pod.containers
        for devices in container.devices
        for device in devices.device_ids
    )
    for holder in holders:
        if match := _ADDRESS.fullmatch(holder.id):
            held[match[1]] = (*held.get(match[1], ()), holder)
    return held
