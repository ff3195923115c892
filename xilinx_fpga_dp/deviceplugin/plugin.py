"""The DevicePlugin service of one resource on one socket: what kubelet calls.

It answers from values it is given; it knows no sysfs, no socket and no registration. Two streams of events
leave it: ``stream`` shows whether kubelet reads the list, and the metrics count lists and answers.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache, partial
from typing import Any

import grpclib.const
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError, StreamTerminatedError
from grpclib.server import Stream

from xilinx_fpga_dp.aio.latest import Closed, Latest
from xilinx_fpga_dp.deviceplugin import messages
from xilinx_fpga_dp.deviceplugin.plugin_metrics import PluginMetrics
from xilinx_fpga_dp.model import Offer
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.resources.allocator import Allocator, Refusal, Resolution
from xilinx_fpga_dp.resources.placement import preferred
from xilinx_fpga_dp.rpc.api import deviceplugin_v1beta1 as v1beta1

log = logging.getLogger(__name__)

_SERVICE = "/v1beta1.DevicePlugin/"
# Answers kept encoded. A node has a few dozen devices, and pods ask for the same ones again and again.
_KEPT_ANSWERS = 64


@dataclass(frozen=True, slots=True)
class PluginConfig:
    """How kubelet is answered, the same for all resources.

    Attributes:
        grants: decides what a container gets.
        time_limit: seconds any unary call may take. kubelet itself sets no deadline, and its whole sync loop
            waits while it allocates.
        policy: which of the free devices kubelet should prefer; ``none`` if kubelet shall not ask.
        pre_start: whether kubelet shall ask before each container start.
    """

    grants: Allocator
    time_limit: float
    policy: str = "numa"
    pre_start: bool = False

    @property
    def options(self) -> v1beta1.DevicePluginOptions:
        """Which optional calls kubelet shall make."""
        return messages.options(preferred=self.policy != "none", pre_start=self.pre_start)


class ListStream(Enum):
    """kubelet's ListAndWatch stream: the first one, since only kubelet learns the socket's name at first."""

    AWAITED = "awaited"
    DISCONNECTED = (
        "disconnected"  # a client that called has closed its connection and has not asked for the list
    )
    OPEN = "open"
    ENDED = "ended"


class Plugin:
    """One resource's service, for the life of one socket.

    Args:
        resource: its name.
        offer: returns what the resource advertises now; None if it is gone.
        config: how calls are answered.
        metrics: counts lists and answers.
    """

    def __init__(
        self,
        resource: str,
        offer: Callable[[], Offer | None],
        config: PluginConfig,
        metrics: PluginMetrics,
    ) -> None:
        self._resource = resource
        self._offer = offer
        self._config = config
        self._grants = config.grants
        self._time_limit = config.time_limit
        self._metrics = metrics
        self._encoded_offer = offer()  # and its list:
        self._encoded = messages.device_list(self._encoded_offer)
        self._lists = Latest(self._encoded)
        self._answer = lru_cache(_KEPT_ANSWERS)(self._encoded_answer)
        self.stream = Latest(ListStream.AWAITED)  # set here only
        self._calls: set[asyncio.Task[Any]] = set()  # unary calls under way
        self._refusing = False

    @property
    def up_to_date(self) -> bool:
        """Whether the list published last matches the offer."""
        return self._lists.value == self._encoded_list()

    def publish(self) -> None:
        """Send the device list to every stream, if it changed."""
        self._lists.set(self._encoded_list())

    def _encoded_list(self) -> bytes:
        """Return the current list; encoding one of many replicas takes a while, so each offer's is kept."""
        if self._offer() is not self._encoded_offer:
            self._encoded_offer = self._offer()
            self._encoded = messages.device_list(self._encoded_offer)
        return self._encoded

    # What the server needs

    def __mapping__(self) -> dict[str, grpclib.const.Handler]:
        """Return grpclib's table of methods, whose names are those of protos/deviceplugin_v1beta1.proto."""
        return {
            f"{_SERVICE}ListAndWatch": grpclib.const.Handler(
                self._list_and_watch,
                Cardinality.UNARY_STREAM,
                v1beta1.Empty,
                v1beta1.ListAndWatchResponse,
            ),
            **self._unary("GetDevicePluginOptions", self._options, v1beta1.Empty),
            **self._unary("GetPreferredAllocation", self._preferred, v1beta1.PreferredAllocationRequest),
            **self._unary("Allocate", self._allocate, v1beta1.AllocateRequest),
            **self._unary("PreStartContainer", self._pre_start, v1beta1.PreStartContainerRequest),
        }

    @property
    def busy(self) -> bool:
        """Whether a unary call is under way."""
        return bool(self._calls)

    def refuse_new(self) -> None:
        """Refuse the unary calls that are under way, and all that come later: the plugin ends."""
        self._refusing = True
        for call in self._calls:
            call.cancel()

    def end_streams(self) -> None:
        """Let every stream send the last list published, then end: kubelet sees a clean end."""
        self._lists.close()

    def disconnected(self) -> None:
        """Note that no connection is left of those that have carried calls."""
        if self.stream.value is ListStream.AWAITED:
            self.stream.set(ListStream.DISCONNECTED)

    # The calls

    def _unary(
        self, method: str, answer: Callable[[Any], Awaitable[bytes]], request_type: type
    ) -> dict[str, grpclib.const.Handler]:
        async def handle(stream: Stream[Any, Any]) -> None:
            began = time.perf_counter()
            try:
                encoded = await self._bounded(method, stream, answer)
            except GRPCError as error:
                self._metrics.answered(self._resource, method, error.status.name, time.perf_counter() - began)
                raise
            took = time.perf_counter() - began
            _after_call(lambda: self._metrics.answered(self._resource, method, Status.OK.name, took))
            await stream.send_message(encoded)

        return {
            _SERVICE + method: grpclib.const.Handler(handle, Cardinality.UNARY_UNARY, request_type, bytes)
        }

    async def _bounded(
        self, method: str, stream: Stream[Any, Any], answer: Callable[[Any], Awaitable[bytes]]
    ) -> bytes:
        """Turn every outcome into an answer or a status: without either, kubelet would wait for ever."""
        call = asyncio.current_task()
        assert call is not None  # noqa: S101 - grpclib makes a task of each call
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        ending = GRPCError(Status.UNAVAILABLE, f"{method} of {self._resource}: the plugin is ending")
        if self._refusing:
            raise ending
        try:
            async with asyncio.timeout(self._time_limit):
                return await answer(await _received(method, stream))
        except (GRPCError, StreamTerminatedError):
            raise
        except Refusal as refusal:
            log.warning(
                Event.REFUSED, extra={"resource": self._resource, "method": method, "why": refusal.message}
            )
            raise GRPCError(Status[refusal.code.name], refusal.message) from None
        except TimeoutError:
            raise GRPCError(
                Status.DEADLINE_EXCEEDED,
                f"{method} of {self._resource} took more than {self._time_limit:g} s",
            ) from None
        except asyncio.CancelledError:
            if self._refusing:
                call.uncancel()
                raise ending from None
            if call.cancelling():
                raise  # the stream or the connection ends
            raise GRPCError(Status.INTERNAL, f"{method} of {self._resource} was interrupted") from None
        except Exception as error:
            log.exception(Event.CALL_FAILED, extra={"resource": self._resource, "method": method})
            raise GRPCError(Status.INTERNAL, f"{method} of {self._resource} failed: {error!r}") from None

    async def _list_and_watch(self, stream: Stream[v1beta1.Empty, Any]) -> None:
        await _received("ListAndWatch", stream)
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
        offer = self._current()
        return messages.preference(
            [
                preferred(offer, *wanted, self._config.policy)
                for wanted in messages.preferences_requested(request)
            ]
        )

    async def _allocate(self, request: v1beta1.AllocateRequest) -> bytes:
        offer = self._current()
        if not request.container_requests:
            raise GRPCError(Status.INVALID_ARGUMENT, f"Allocate of {self._resource} for no container")
        containers = request.container_requests
        answer = self._answer(
            tuple([await self._grants.resolve(offer, each.devices_ids) for each in containers])
        )
        for each in containers:
            extra = {"resource": self._resource, "devices": ",".join(each.devices_ids)}
            _after_call(partial(log.info, Event.ALLOCATED, extra=extra))
        return answer

    def _encoded_answer(self, answers: tuple[Resolution, ...]) -> bytes:
        return messages.allocation([self._grants.grant(answer) for answer in answers])

    async def _pre_start(self, request: v1beta1.PreStartContainerRequest) -> bytes:
        if self._config.pre_start:
            await self._grants.devices(self._current(), request.devices_ids)
        return bytes(v1beta1.PreStartContainerResponse())

    def _current(self) -> Offer:
        return self._offer() or Offer(self._resource, ())


def _after_call(act: Callable[[], object]) -> None:
    """Run ``act`` when the answer of the call under way has been sent: kubelet need not wait for it."""
    call = asyncio.current_task()
    assert call is not None  # noqa: S101 - grpclib makes a task of each call
    call.add_done_callback(lambda call: None if call.cancelled() or call.exception() else act())


async def _received(method: str, stream: Stream[Any, Any]) -> Any:
    """Return the request of a call.

    Raises:
        GRPCError: it is missing, too long, or can't be parsed; betterproto2 raises errors of many kinds.
    """
    try:
        request = await stream.recv_message()
    except (GRPCError, StreamTerminatedError, TimeoutError):
        raise
    except Exception as error:
        raise GRPCError(Status.INVALID_ARGUMENT, f"{method}: no such request: {error}") from None
    if request is None:
        raise GRPCError(Status.INVALID_ARGUMENT, f"{method}: the request is missing")
    return request
