"""The pages: probes, metrics and state of one service."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.model import Held, Offers
from xilinx_fpga_dp.observe import state
from xilinx_fpga_dp.observe.http_server import Page, Response, as_json, text
from xilinx_fpga_dp.observe.metrics import Metrics
from xilinx_fpga_dp.snapshot import Snapshot

_BEAT = 1.0  # seconds between two heartbeats
_STALE = 10.0  # seconds without a heartbeat after which timers no longer fire


@dataclass(slots=True)
class HttpRoutes:
    """The pages by path."""

    metrics: Metrics
    snapshots: Latest[Snapshot]
    registered: Callable[[], Mapping[str, bool]]  # whether each resource has a live stream
    held: Callable[[], Awaitable[Held]]  # asks which container holds which device
    expose_mgmt: bool  # whether pods get management nodes
    errors: Callable[[], Mapping[str, str]] = dict  # how the last attempt to register failed
    not_ready: Callable[[], str | None] = lambda: None  # why no resource at all can be allocated
    unit_states: Callable[[Offers], Mapping[str, Mapping[str, Any]] | None] = lambda _offers: (
        None
    )  # of the driver
    card_metrics: Callable[[], Sequence[bytes | bytearray]] = tuple  # the series of the cards, in pieces
    _last_beat: float = field(init=False, default_factory=lambda: asyncio.get_running_loop().time())

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
        snapshot = self.snapshots.value
        if reason := snapshot.not_ready or self.not_ready():
            return text(reason, 503)
        registered, errors = self.registered(), self.errors()
        missing = [
            f"{name} ({errors[name]})" if name in errors else name
            for name in (snapshot.offers or Offers({})).by_resource
            if not registered.get(name)
        ]
        return text(f"not registered: {', '.join(missing)}", 503) if missing else text("ok")

    async def _metrics_text(self) -> Response:
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return Response(self.metrics.text(), content_type=kind, more=self.card_metrics())

    async def _state(self) -> Response:
        offers = self.snapshots.value.offers or Offers({})
        return as_json(
            state.document(
                offers,
                expose_mgmt=self.expose_mgmt,
                registered=self.registered(),
                held=await self.held(),
                dra=self.unit_states(offers),
            )
        )
