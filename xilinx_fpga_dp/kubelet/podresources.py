"""Who holds which device: asked of kubelet's podresources API.

kubelet counts by resource name and id, so it takes a device that reappears under another name for free. What
is held under any name or id is found by the address that our ids, and those of plugins before us, begin with.
"""

import asyncio
import logging
import re
from collections.abc import Iterable

from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from xilinx_fpga_dp.model import Held, Holder
from xilinx_fpga_dp.rpc.api import podresources_v1 as v1
from xilinx_fpga_dp.rpc.codec import Codec

log = logging.getLogger(__name__)

TIME_LIMIT = 2.0  # seconds for an answer
_PAUSE = 0.1  # seconds until kubelet is asked again after an error
# `0000:65:00.1`, a replica's `0000:65:00.1::0`, plugin 1.3.0's `0000:65:00.1-0`; zocl's `axi:zyxclmm_drm`
_ADDRESS = re.compile(
    r"([0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]|[\w.:@-]{0,48}zyxclmm_drm)(?:(?:::|-)\d+)?"
)


class PodResources:
    """The podresources socket.

    Args:
        path: where it is.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._answered: bool | None = None  # None: never asked

    async def held(self, *, insist: bool = False) -> Held | None:
        """Who holds what now; None: nobody answered within the limit, so nothing is known.

        Args:
            insist: ask again until then where the error may pass: kubelet has just begun, or is asked more
                often than it answers (100 times a second, whoever asks).
        """
        now = asyncio.get_running_loop().time
        deadline = now() + TIME_LIMIT
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    answer = await self._ask()
            except Exception as error:  # whatever stands behind that path, it does not tell
                if insist and _may_pass(error) and now() + _PAUSE < deadline:
                    await asyncio.sleep(_PAUSE)
                    continue
                self._tell(error)
                return None
            self._tell(None)
            return _by_address(answer.pod_resources)

    async def _ask(self) -> v1.ListPodResourcesResponse:
        channel = Channel(path=self._path, codec=Codec())
        try:
            return await v1.PodResourcesListerStub(channel).list(v1.ListPodResourcesRequest())
        finally:
            channel.close()

    def _tell(self, error: Exception | None) -> None:
        if error is None:
            if self._answered is False:
                log.info("podresources answers again", extra={"path": self._path})
        elif self._answered is not False:
            log.warning(
                "podresources does not answer: a device that a pod holds under another name can't be told",
                extra={"path": self._path, "error": str(error) or repr(error)},
            )
        self._answered = error is None


def _may_pass(error: Exception) -> bool:
    if isinstance(error, GRPCError):
        return error.status in (Status.RESOURCE_EXHAUSTED, Status.UNAVAILABLE)
    return isinstance(error, ConnectionError | StreamTerminatedError)


def _by_address(pods: Iterable[v1.PodResources]) -> Held:
    held: dict[str, tuple[Holder, ...]] = {}
    for pod in pods:
        for container in pod.containers:
            for devices in container.devices:
                for device in devices.device_ids:
                    if match := _ADDRESS.fullmatch(device):
                        holder = Holder(
                            pod.namespace, pod.name, container.name, devices.resource_name, device
                        )
                        held[match[1]] = (*held.get(match[1], ()), holder)
    return held
