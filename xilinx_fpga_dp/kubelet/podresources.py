"""Who holds which device: asked of kubelet's podresources API.

kubelet counts by resource name and id, so it takes a device that reappears under another name for free. What
is held under any name or id is found by the address that our ids, and those of plugins before us, begin with.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Iterable

from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from xilinx_fpga_dp.aio.coalesced import Coalesced
from xilinx_fpga_dp.model import Held, Holder
from xilinx_fpga_dp.rpc.api import podresources_v1 as v1
from xilinx_fpga_dp.rpc.codec import Codec

log = logging.getLogger(__name__)

TIME_LIMIT = 2.0  # seconds for an answer
_PAUSE = 0.1  # seconds until kubelet is asked again after an error
# Seconds between questions while something is held, or nobody has answered.
_EVERY = 3.0
_SOON = 1.0  # the same as long as devices may be given under other names, too
_SHOWN = 0.5  # seconds for which an answer is good enough to be shown

Names = frozenset[tuple[str, str]]
"""Pairs of resource name and device id."""

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


class Holders:
    """Asks who holds what whenever a device is new under its name, and as long as it matters.

    A device that is free when it gets a new name may be given under the old one in that moment, or later
    while another instance, of other settings, has its endpoint. So it is asked once more, and again for as
    long as there is one.

    Args:
        api: whom to ask.
        wake: called when an answer brought something new.
        others: whether another instance has an endpoint.
    """

    def __init__(self, api: PodResources, wake: Callable[[], None], others: Callable[[], bool]) -> None:
        self._api = api
        self._wake = wake
        self._others = others
        self.held: Held = {}  # the last answer
        self.matters = False  # set by who knows: a device is held elsewhere
        self._answered = True
        self._again = False  # what was answered last may have changed since
        self.vetted: Names = frozenset()  # of these it was asked who holds them
        self._new: Names = frozenset()
        self._wanted = asyncio.Event()
        self._asked = asyncio.Event()
        self._showing = Coalesced(self._show)
        self._shown: tuple[Held, float] | None = None  # and when it was asked

    async def vet(self, names: Names, patience: float) -> Names:
        """Which of these names may be offered: it was asked who holds their devices, answered or not.

        Args:
            names: all there are; those that are gone count as new when they come back.
            patience: seconds to wait for an answer about new ones.
        """
        self.vetted &= names
        self._new = names - self.vetted
        if self._new:
            self._asked.clear()
            self._wanted.set()
            try:
                async with asyncio.timeout(patience):
                    await self._asked.wait()
            except TimeoutError:
                pass
        return self.vetted & names

    async def ask(self) -> Held:
        """Who holds what, to be shown; without an answer, what was known last.

        However often a page is asked for, kubelet is not: it would refuse the questions that matter.
        """
        return await self._showing.run()

    async def _show(self) -> Held:
        now = asyncio.get_running_loop().time
        if self._shown is None or now() - self._shown[1] >= _SHOWN:
            held = await self._api.held()
            self._shown = (self.held if held is None else held), now()
        return self._shown[0]

    async def run(self) -> None:
        """Ask whenever it is wanted, for ever."""
        while True:
            try:
                async with asyncio.timeout(_SOON if self._again else _EVERY):
                    await self._wanted.wait()
            except TimeoutError:
                if self._answered and not self.matters and not self._again:
                    continue
            self._wanted.clear()
            new, self._new = self._new, frozenset()
            self._again = bool(new) or self._others()
            held = await self._api.held(insist=bool(new))
            self._answered = held is not None
            news = bool(new) or (held is not None and held != self.held)
            if held is not None:  # without an answer nothing held is freed
                self.held = held
            self.vetted |= new
            self._asked.set()
            if news:
                self._wake()
