"""The services on the driver's socket: what kubelet calls to prepare claims and to watch health.

It turns messages into calls of `Claims` and back, for the life of one socket. kubelet does not wait for the
lines of the log: they follow the answer.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Protocol

from grpclib.const import Cardinality, Handler
from grpclib.server import Stream

from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.dra.allocation import ClaimRefused
from xilinx_fpga_dp.dra.claims import ClaimReference, Claims
from xilinx_fpga_dp.dra.health import HealthReport
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.rpc.api import dra_health_v1, dra_health_v1alpha1, dra_v1
from xilinx_fpga_dp.rpc.calls import Calls, current_call, received

log = logging.getLogger(__name__)

SERVICES: Final = ("v1.DRAPlugin", "v1.DRAResourceHealth", "v1alpha1.DRAResourceHealth")
"""What the socket serves, as GetInfo names it. kubelets up to 1.36 know only v1alpha1 of health."""

_PLUGIN: Final = "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/"
_CALL_LIMIT: Final = 30.0  # seconds; each claim has a limit of its own


class DriverMetrics(Protocol):
    """Receives each event once. No method may block or raise."""

    def claim(self, method: str, result: str, seconds: float) -> None:
        """Count a claim that was prepared or unprepared, ``ok`` or ``refused``, in so many seconds."""

    def follow(
        self,
        prepared: Callable[[], float | None],
        generation: Callable[[], float | None],
        age: Callable[[], float | None],
    ) -> None:
        """Show prepared claims, the pool's generation, the seconds since the slices were right."""


class DriverService:
    """All services of one socket."""

    def __init__(self, claims: Claims, health: HealthReport, metrics: DriverMetrics) -> None:
        self._claims = claims
        self._health = health
        self._metrics = metrics
        self.calls = Calls(
            _PLUGIN,
            {
                "NodePrepareResources": (self._prepare, dra_v1.NodePrepareResourcesRequest),
                "NodeUnprepareResources": (self._unprepare, dra_v1.NodeUnprepareResourcesRequest),
            },
            _CALL_LIMIT,
        )
        self._ending = Latest(False)

    def __mapping__(self) -> dict[str, Handler]:
        watches = {
            "/v1.DRAResourceHealth/NodeWatchResources": dra_health_v1.NodeWatchResourcesRequest,
            "/v1alpha1.DRAResourceHealth/NodeWatchResources": dra_health_v1alpha1.NodeWatchResourcesRequest,
        }
        return {
            path: Handler(self._watch, Cardinality.UNARY_STREAM, request, bytes)
            for path, request in watches.items()
        }

    def end_streams(self) -> None:
        self._ending.close()

    def disconnected(self) -> None:
        """Kubelet connects again, or a new one registers."""

    async def _watch(self, stream: Stream[Any, Any]) -> None:
        await received("NodeWatchResources", stream.recv_message())
        async for message in self._health.lists(self._ending):
            await stream.send_message(message)

    async def _prepare(
        self, request: dra_v1.NodePrepareResourcesRequest
    ) -> dra_v1.NodePrepareResourcesResponse:
        call = current_call()

        async def answer(claim: ClaimReference) -> dra_v1.NodePrepareResourceResponse:
            devices = await self._claims.prepare(claim)
            fields = {"claim": _shown(claim), "devices": ",".join(each.device for each in devices)}
            extra = {"uid": claim.uid, **fields}
            call.add_done_callback(lambda _: log.info(Event.CLAIM_PREPARED, extra=extra))
            return dra_v1.NodePrepareResourceResponse(
                devices=[
                    dra_v1.Device(
                        request_names=[each.request],
                        pool_name=each.pool,
                        device_name=each.device,
                        cdi_device_ids=list(each.cdi_ids),
                        share_id=each.share_id,
                    )
                    for each in devices
                ]
            )

        refused = lambda sentence: dra_v1.NodePrepareResourceResponse(error=sentence)  # noqa: E731
        return dra_v1.NodePrepareResourcesResponse(
            claims=await self._each("prepare", request.claims, answer, refused)
        )

    async def _unprepare(
        self, request: dra_v1.NodeUnprepareResourcesRequest
    ) -> dra_v1.NodeUnprepareResourcesResponse:
        call = current_call()

        async def answer(claim: ClaimReference) -> dra_v1.NodeUnprepareResourceResponse:
            await self._claims.unprepare(claim)
            extra = {"claim": _shown(claim), "uid": claim.uid}
            call.add_done_callback(lambda _: log.info(Event.CLAIM_UNPREPARED, extra=extra))
            return dra_v1.NodeUnprepareResourceResponse()

        refused = lambda sentence: dra_v1.NodeUnprepareResourceResponse(error=sentence)  # noqa: E731
        return dra_v1.NodeUnprepareResourcesResponse(
            claims=await self._each("unprepare", request.claims, answer, refused)
        )

    async def _each(
        self,
        method: str,
        claims: Iterable[dra_v1.Claim],
        answer: Callable[[ClaimReference], Awaitable[Any]],
        refused: Callable[[str], Any],
    ) -> dict[str, Any]:
        """Answer for every claim: kubelet takes one without an answer for a fault of the driver."""

        async def one(claim: ClaimReference) -> Any:
            began = time.perf_counter()
            result = "refused"
            try:
                given = await answer(claim)
            except ClaimRefused as error:
                fields = {"claim": _shown(claim), "uid": claim.uid, "method": method, "why": str(error)}
                log.warning(Event.CLAIM_REFUSED, extra=fields)
                return refused(str(error))
            else:
                result = "ok"
                return given
            finally:
                self._metrics.claim(method, result, time.perf_counter() - began)

        references = {each.uid: ClaimReference(each.namespace, each.name, each.uid) for each in claims}
        answers = await asyncio.gather(*map(one, references.values()))
        return dict(zip(references, answers, strict=True))


def _shown(claim: ClaimReference) -> str:
    return f"{claim.namespace}/{claim.name}"
