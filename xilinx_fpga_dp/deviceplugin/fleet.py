"""All endpoints of the node: one for each resource there is, none for any other."""

import asyncio
import logging
from functools import partial

from xilinx_fpga_dp.aio.blocking_reader import BlockingReader
from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.deviceplugin.endpoint import Endpoint
from xilinx_fpga_dp.deviceplugin.plugin import PluginConfig
from xilinx_fpga_dp.deviceplugin.plugin_metrics import PluginMetrics
from xilinx_fpga_dp.deviceplugin.socket_directory import Watch
from xilinx_fpga_dp.deviceplugin.sockets import sweep
from xilinx_fpga_dp.model import Offers
from xilinx_fpga_dp.snapshot import Snapshot

log = logging.getLogger(__name__)

_SWEEP_EVERY = 30.0  # seconds
_SWEEP_AGAIN = 0.5  # seconds until what could not be removed is tried again
_SWEEP_LIMIT = 5.0  # seconds


class Fleet:
    """Keeps the endpoints in step with what the node offers.

    Args:
        watch: of kubelet's socket directory.
        terms: on what terms kubelet is answered.
        meter: hears of what happens.
    """

    def __init__(self, watch: Watch, terms: PluginConfig, meter: PluginMetrics) -> None:
        self._watch = watch
        self._terms = terms
        self._meter = meter
        self._endpoints: dict[str, Endpoint] = {}  # touched on the loop only

    async def run(self, snapshots: Latest[Snapshot]) -> None:
        """Follow the offers, for ever; when cancelled, end all streams cleanly and leave no socket.

        Args:
            snapshots: what is offered; nothing before the first scan.
        """
        try:
            async with asyncio.TaskGroup() as group:
                async for offers in snapshots.changes(lambda snapshot: snapshot.offers):
                    self._reconcile(offers, group)
        finally:
            self._endpoints.clear()

    def register_again(self) -> None:
        """Let every endpoint register again now."""
        for endpoint in self._endpoints.values():
            endpoint.register_again()

    def registered(self) -> dict[str, bool]:
        """Whether kubelet knows each resource and reads its list."""
        return {name: endpoint.registered for name, endpoint in self._endpoints.items()}

    def complaints(self) -> dict[str, str]:
        """How the last attempt to register failed, of the resources whose did."""
        return {name: each.complaint for name, each in self._endpoints.items() if each.complaint}

    def _reconcile(self, offers: Offers, group: asyncio.TaskGroup) -> None:
        for name in offers.by_resource.keys() - self._endpoints.keys():
            endpoint = Endpoint(name, self._watch, self._terms, self._meter)
            endpoint.offer.set(offers.by_resource[name])
            self._endpoints[name] = endpoint
            group.create_task(self._live(endpoint), name=f"endpoint {name}")
        for name, endpoint in self._endpoints.items():
            endpoint.offer.set(offers.by_resource.get(name))

    async def _live(self, endpoint: Endpoint) -> None:
        # A shell that is back before its endpoint has left waits for that: kubelets up to 1.36 drop the new
        # endpoint when the old one's stream ends after it has registered.
        while endpoint.offer.value is not None:
            await endpoint.run()
        self._endpoints.pop(endpoint.resource, None)
        self._meter.resource_gone(endpoint.resource)

    async def sweep(self) -> None:
        """Remove the sockets that dead instances left, when there is a new one and now and then, for ever."""
        reads: BlockingReader[dict[str, bool]] = BlockingReader()
        seen = None
        pause = _SWEEP_EVERY
        while True:
            try:
                async with asyncio.timeout(pause):
                    seen = await self._watch.directory.other_than(seen)
            except TimeoutError:
                seen = self._watch.directory.value
            pause = _SWEEP_EVERY
            if strangers := self._watch.others:
                work = {"": partial(sweep, self._watch.path, strangers)}
                swept = (await reads.read_many(work, _SWEEP_LIMIT))[""]
                removed = swept if isinstance(swept, dict) else dict.fromkeys(strangers, False)
                if not all(removed.values()):  # it is read-only, or does not answer
                    pause = _SWEEP_AGAIN
                for name in filter(removed.get, removed):
                    log.info("swept up a dead instance's socket", extra={"socket": name})
