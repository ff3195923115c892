"""The pages: probes, metrics and state of one service."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.model import Held, Offers
from xilinx_fpga_dp.observe import state
from xilinx_fpga_dp.observe.http_server import Page, Response, as_json, text
from xilinx_fpga_dp.observe.metrics import Metrics
from xilinx_fpga_dp.snapshot import Snapshot

_BEAT = 1.0  # seconds between two heartbeats
_STALE = 10.0  # seconds without a heartbeat after which timers no longer fire


class HttpRoutes:
    """The pages by path."""

    def __init__(
        self,
        metrics: Metrics,
        snapshots: Latest[Snapshot],
        registered: Callable[[], Mapping[str, bool]],  # whether each resource has a live stream
        held: Callable[[], Awaitable[Held]],  # asks which container holds which device
        *,
        errors: Callable[[], Mapping[str, str]] = dict,  # how the last attempt to register failed
        expose_mgmt: bool,  # whether pods get management nodes
    ) -> None:
        self._metrics = metrics
        self._snapshots = snapshots
        self._registered = registered
        self._errors = errors
        self._held = held
        self._expose_mgmt = expose_mgmt
        self._last_beat = asyncio.get_running_loop().time()

    def by_path(self) -> Mapping[str, Page]:
        """Return all pages."""
        return {
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/metrics": self._metrics_text,
            "/state": self._state,
        }

    async def heartbeat(self) -> None:
        """Show that timers fire. Endless."""
        while True:
            self._last_beat = asyncio.get_running_loop().time()
            await asyncio.sleep(_BEAT)

    async def _livez(self) -> Response:
        silence = asyncio.get_running_loop().time() - self._last_beat
        return text(f"timers have not fired for {silence:.0f} s", 503) if silence > _STALE else text("ok")

    async def _readyz(self) -> Response:
        snapshot = self._snapshots.value
        if reason := snapshot.not_ready:
            return text(reason, 503)
        registered, errors = self._registered(), self._errors()
        missing = [
            f"{name} ({errors[name]})" if name in errors else name
            for name in (snapshot.offers or Offers({})).by_resource
            if not registered.get(name)
        ]
        return text(f"not registered: {', '.join(missing)}", 503) if missing else text("ok")

    async def _metrics_text(self) -> Response:
        return Response(self._metrics.text(), content_type="text/plain; version=0.0.4; charset=utf-8")

    async def _state(self) -> Response:
        return as_json(
            state.document(
                self._snapshots.value.offers or Offers({}),
                expose_mgmt=self._expose_mgmt,
                registered=self._registered(),
                held=await self._held(),
            )
        )
