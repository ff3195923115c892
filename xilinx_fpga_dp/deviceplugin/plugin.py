"""The DevicePlugin service of one resource on one socket: what kubelet calls.

It answers from values; it knows no sysfs, no socket and no registration. ``stream`` shows whether kubelet
reads the list.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache, partial
from typing import Any, Protocol

from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.server import Stream

from xilinx_fpga_dp.aio.latest import Closed, Latest
from xilinx_fpga_dp.deviceplugin import messages
from xilinx_fpga_dp.model import Offer
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.resources.allocator import Allocator, Refusal, Resolution
from xilinx_fpga_dp.resources.placement import preferred
from xilinx_fpga_dp.rpc.api import deviceplugin_v1beta1 as v1beta1
from xilinx_fpga_dp.rpc.calls import Answer, Calls, current_call, received

log = logging.getLogger(__name__)

_SERVICE = "/v1beta1.DevicePlugin/"
_KEPT_ANSWERS = 64  # encoded; pods request the same few dozen devices again and again


@dataclass(frozen=True, slots=True)
class PluginConfig:
    """How kubelet is answered, the same for all resources."""

    allocator: Allocator
    # Seconds any unary call may take. kubelet sets no deadline, and its sync loop waits while it allocates.
    time_limit: float
    policy: str = "numa"  # which of the free devices kubelet should prefer; ``none`` if it shall not ask
    pre_start: bool = False  # whether kubelet shall ask before each container start

    @property
    def options(self) -> v1beta1.DevicePluginOptions:
        """Which optional calls kubelet shall make."""
        return v1beta1.DevicePluginOptions(
            get_preferred_allocation_available=self.policy != "none", pre_start_required=self.pre_start
        )


class PluginMetrics(Protocol):
    """Receives each event once. No method may block or raise."""

    def registration(self, resource: str, result: str) -> None:
        """Count an attempt to register that ended ``ok`` or ``failed``."""

    def list_update(self, resource: str) -> None:
        """Count a device list that was sent to kubelet."""

    def answered(self, resource: str, method: str, code: str, seconds: float) -> None:
        """Count a unary call that was answered with this gRPC status code after so many seconds."""

    def resource_gone(self, resource: str) -> None:
        """Forget a resource that is no longer registered."""


class ListStream(Enum):
    """kubelet's ListAndWatch stream: the first one, since only kubelet learns the socket's name at first."""

    AWAITED = "awaited"
    DISCONNECTED = "disconnected"  # a client has made a call and closed its connection without listing
    OPEN = "open"
    ENDED = "ended"


class Plugin:
    """One resource's service, for the life of one socket. The offer is None when the resource is gone."""

    def __init__(
        self, resource: str, offer: Latest[Offer | None], config: PluginConfig, metrics: PluginMetrics
    ) -> None:
        self._resource = resource
        self._offer = offer
        self._config = config
        self._metrics = metrics
        self._encoded = (offer.value, messages.device_list(offer.value))
        self._lists = Latest(self._encoded[1])
        self._answer = lru_cache(_KEPT_ANSWERS)(self._encoded_answer)
        self.stream = Latest(ListStream.AWAITED)  # set here only
        self.calls = self._unary_calls()

    @property
    def up_to_date(self) -> bool:
        """Whether the list published last matches the offer."""
        return self._lists.value == self._encoded_list()

    def publish(self) -> None:
        """Send the device list to every stream, if it changed."""
        self._lists.set(self._encoded_list())

    def _encoded_list(self) -> bytes:
        """Return the current list; encoding one of many replicas takes a while, so each offer's is kept."""
        if (offer := self._offer.value) is not self._encoded[0]:
            self._encoded = (offer, messages.device_list(offer))
        return self._encoded[1]

    # What the server needs

    def _unary_calls(self) -> Calls:
        unary: dict[str, tuple[Answer, type]] = {
            "GetDevicePluginOptions": (self._options, v1beta1.Empty),
            "GetPreferredAllocation": (self._preferred, v1beta1.PreferredAllocationRequest),
            "Allocate": (self._allocate, v1beta1.AllocateRequest),
            "PreStartContainer": (self._pre_start, v1beta1.PreStartContainerRequest),
        }
        return Calls(
            _SERVICE,
            {
                name: (partial(self._refusing, name, answer), request)
                for name, (answer, request) in unary.items()
            },
            self._config.time_limit,
            of=self._resource,
            extra={"resource": self._resource},
            ended=partial(self._metrics.answered, self._resource),
        )

    def __mapping__(self) -> dict[str, Handler]:
        watch = Handler(self._list_and_watch, Cardinality.UNARY_STREAM, v1beta1.Empty, bytes)
        return {f"{_SERVICE}ListAndWatch": watch}

    def end_streams(self) -> None:
        """Let every stream send the last list published, then end: kubelet sees a clean end."""
        self._lists.close()

    def disconnected(self) -> None:
        if self.stream.value is ListStream.AWAITED:
            self.stream.set(ListStream.DISCONNECTED)

    # The calls

    async def _refusing(self, method: str, answer: Answer, request: Any) -> Any:
        try:
            return await answer(request)
        except Refusal as refusal:
            extra = {"resource": self._resource, "method": method, "why": refusal.message}
            log.warning(Event.REFUSED, extra=extra)
            raise GRPCError(Status[refusal.code], refusal.message) from None

    async def _list_and_watch(self, stream: Stream[v1beta1.Empty, Any]) -> None:
        await received("ListAndWatch", stream.recv_message())
        is_kubelets = self.stream.value in (ListStream.AWAITED, ListStream.DISCONNECTED)
        if is_kubelets:
            self.stream.set(ListStream.OPEN)
        try:
            sent = None
            while True:
                sent = await self._lists.other_than(sent)
                await stream.send_message(sent)
                if is_kubelets:
                    self._metrics.list_update(self._resource)
        except Closed:
            return
        finally:
            if is_kubelets:
                self.stream.set(ListStream.ENDED)

    async def _options(self, _request: v1beta1.Empty) -> bytes:
        if self.stream.value is ListStream.DISCONNECTED:
            # kubelet asks this within Register, and lists on the same connection; another client has gone.
            self.stream.set(ListStream.AWAITED)
        return bytes(self._config.options)

    async def _preferred(self, request: v1beta1.PreferredAllocationRequest) -> bytes:
        choose = partial(preferred, self._current(), policy=self._config.policy)
        return messages.preference(request, choose)

    async def _allocate(self, request: v1beta1.AllocateRequest) -> bytes:
        if not request.container_requests:
            raise GRPCError(Status.INVALID_ARGUMENT, f"Allocate of {self._resource} for no container")
        offer, resolve = self._current(), self._config.allocator.resolve
        ids = [container.devices_ids for container in request.container_requests]
        answer = self._answer(tuple([await resolve(offer, each) for each in ids]))
        for each in ids:
            extra = {"resource": self._resource, "devices": ",".join(each)}
            _after_call(partial(log.info, Event.ALLOCATED, extra=extra))
        return answer

    def _encoded_answer(self, resolutions: tuple[Resolution, ...]) -> bytes:
        return messages.allocation([self._config.allocator.grant(each) for each in resolutions])

    async def _pre_start(self, request: v1beta1.PreStartContainerRequest) -> bytes:
        if self._config.pre_start:
            await self._config.allocator.devices(self._current(), request.devices_ids)
        return bytes(v1beta1.PreStartContainerResponse())

    def _current(self) -> Offer:
        return self._offer.value or Offer(self._resource, ())


def _after_call(act: Callable[[], object]) -> None:
    """Run ``act`` when the answer of the call under way has been sent: kubelet need not wait for it."""
    current_call().add_done_callback(lambda call: None if call.cancelled() or call.exception() else act())
