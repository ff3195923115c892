"""What the HTTP pages say."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from xilinx_fpga_dp.model import Held, Offers
from xilinx_fpga_dp.observe import state
from xilinx_fpga_dp.observe.http_server import Answer, Page, as_json, text
from xilinx_fpga_dp.observe.metrics import Metrics

_BEAT = 1.0  # seconds between the beats of the heart
_STALE = 10.0  # seconds without a beat: timers do not fire


class HttpRoutes:
    """Probes, metrics and state of one service.

    Args:
        metrics: all counters.
        offers: what is offered now; None: not known yet.
        registered: whether kubelet knows each resource and reads its list.
        waits: why not all that is on the node is offered yet; None: it is.
        held: asks who holds what.
        complaints: how the last attempt to register failed, of the resources whose did.
        expose_mgmt: whether pods get management nodes.
    """

    def __init__(
        self,
        metrics: Metrics,
        offers: Callable[[], Offers | None],
        registered: Callable[[], Mapping[str, bool]],
        waits: Callable[[], str | None],
        held: Callable[[], Awaitable[Held]],
        *,
        complaints: Callable[[], Mapping[str, str]] = dict,
        expose_mgmt: bool,
    ) -> None:
        self._metrics = metrics
        self._offers = offers
        self._registered = registered
        self._complaints = complaints
        self._waits = waits
        self._held = held
        self._expose_mgmt = expose_mgmt
        self._beat = asyncio.get_running_loop().time()

    def by_path(self) -> Mapping[str, Page]:
        """All pages."""
        return {
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/metrics": self._text,
            "/state": self._state,
        }

    async def heart(self) -> None:
        """Beat, for ever: the sign that timers fire."""
        while True:
            self._beat = asyncio.get_running_loop().time()
            await asyncio.sleep(_BEAT)

    async def _livez(self) -> Answer:
        silent = asyncio.get_running_loop().time() - self._beat
        return text(f"timers have not fired for {silent:.0f} s", 503) if silent > _STALE else text("ok")

    async def _readyz(self) -> Answer:
        offers, registered = self._offers() or Offers({}), self._registered()
        if why := self._waits():
            return text(why, 503)
        complaints = self._complaints()
        missing = [
            f"{name} ({complaints[name]})" if name in complaints else name
            for name in offers.by_resource
            if not registered.get(name)
        ]
        return text(f"not registered: {', '.join(missing)}", 503) if missing else text("ok")

    async def _text(self) -> Answer:
        return Answer(self._metrics.text(), kind="text/plain; version=0.0.4; charset=utf-8")

    async def _state(self) -> Answer:
        return as_json(
            state.document(
                self._offers() or Offers({}),
                expose_mgmt=self._expose_mgmt,
                registered=self._registered(),
                held=await self._held(),
            )
        )
