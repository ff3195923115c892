"""All endpoints of the node: one for each offered resource, and no other."""

import asyncio
from contextlib import suppress
from functools import partial

from xilinx_fpga_dp.aio.blocking_reader import BlockingReader
from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.deviceplugin.endpoint import Endpoint
from xilinx_fpga_dp.deviceplugin.plugin import PluginConfig, PluginMetrics
from xilinx_fpga_dp.deviceplugin.socket_directory import SocketDirectory
from xilinx_fpga_dp.model import Offers
from xilinx_fpga_dp.rpc.sockets import sweep
from xilinx_fpga_dp.snapshot import Snapshot

_SWEEP_EVERY = 30.0  # seconds
_SWEEP_AGAIN = 0.5  # seconds until a removal that failed is tried again
_SWEEP_LIMIT = 5.0  # seconds


class Fleet:
    """Keeps the endpoints in step with what the node offers."""

    def __init__(self, directory: SocketDirectory, config: PluginConfig, metrics: PluginMetrics) -> None:
        self._directory = directory
        self._config = config
        self._metrics = metrics
        self._endpoints: dict[str, Endpoint] = {}  # touched on the loop only

    async def run(self, snapshots: Latest[Snapshot]) -> None:
        """Follow the offers, for ever; when cancelled, end all streams cleanly and leave no socket."""
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
        """Return whether kubelet knows each resource and reads its list."""
        return {name: each.listed for name, each in self._endpoints.items()}

    def last_errors(self) -> dict[str, str]:
        """Return why the last attempt to register failed, for the resources whose did."""
        return {name: each.last_error for name, each in self._endpoints.items() if each.last_error}

    def _reconcile(self, offers: Offers, group: asyncio.TaskGroup) -> None:
        for name in offers.by_resource.keys() - self._endpoints.keys():
            endpoint = self._endpoints[name] = Endpoint(name, self._directory, self._config, self._metrics)
            group.create_task(self._live(endpoint), name=f"endpoint {name}")
        for name, endpoint in self._endpoints.items():
            endpoint.offer.set(offers.by_resource.get(name))

    async def _live(self, endpoint: Endpoint) -> None:
        # A shell that is back before its endpoint has left waits for that: kubelets <= 1.36 drop the new
        # endpoint when the old one's stream ends after it has registered.
        while endpoint.offer.value is not None:
            await endpoint.run()
        self._endpoints.pop(endpoint.resource, None)
        self._metrics.resource_gone(endpoint.resource)

    async def sweep(self) -> None:
        """Remove the sockets of dead instances, for ever: when the directory changes, and at intervals."""
        reads: BlockingReader[bool] = BlockingReader()
        seen = None
        pause = _SWEEP_EVERY
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._directory.state.other_than(seen)
            seen = self._directory.state.value
            call = partial(sweep, self._directory.path, self._directory.others)
            swept = await reads.read_fresh("", call, _SWEEP_LIMIT)
            # If not, the directory is read-only or does not answer.
            pause = _SWEEP_EVERY if swept is True else _SWEEP_AGAIN
