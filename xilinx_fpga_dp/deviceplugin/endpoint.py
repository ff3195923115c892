"""One resource's endpoint at kubelet.

One task a resource goes round this loop, a round for each socket:

    wait for kubelet -> bind -> serve -> register -> list live -> (round again, or the offer is gone)

A failure waits, with back-off, and goes round again. Cancelling leaves no file. kubelet dials the endpoint
inside Register (plugin/v1beta1/client.go), so the socket is served before; it never dials again by itself, so
a lost stream needs a new Register. Kubelets <= 1.36 keep the endpoint that registered last, and drop the new
one if the old one's stream ends during or after that Register (plugin/v1beta1/handler.go). Kubelets >= 1.37
key endpoints by socket (kubernetes#135437). So each round has a new socket name, and begins when the last
one's stream has ended. kubelet takes the list that came last, from any instance.
"""

import asyncio
import errno
import logging
import random
from collections.abc import Awaitable
from contextlib import suppress
from functools import partial

from grpclib.exceptions import GRPCError, StreamTerminatedError

from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.aio.race import race
from xilinx_fpga_dp.aio.rate_limit import RateLimit
from xilinx_fpga_dp.deviceplugin.plugin import ListStream, Plugin, PluginConfig, PluginMetrics
from xilinx_fpga_dp.deviceplugin.registration import register
from xilinx_fpga_dp.deviceplugin.socket_directory import DirectoryState, Identity, Socket, SocketDirectory
from xilinx_fpga_dp.model import Offer
from xilinx_fpga_dp.observe.events import Event

log = logging.getLogger(__name__)

_STREAM_LIMIT = 10.0  # seconds kubelet may take from its answer to Register until it asks for the list
# Seconds between attempts while kubelet's socket is there: doubling from the first to the last.
_FIRST_DELAY = 0.02
_LAST_DELAY = 0.5
_REMOVAL = 0.02  # seconds from the first file to the last when a directory is removed
_SHORT_LIFE = 1.0  # seconds; a stream that lives no longer counts as a failure
# A device that flaps may make its resource send so many lists in a row, then one every so many seconds.
_BURST = 5
_INTERVAL = 1.0

_STREAM_ENDED = "kubelet's stream ended"
_SOCKET_GONE = "its socket is gone"


class _NotRegistered(Exception):  # noqa: N818 - a reason, not a fault
    """This round ended before kubelet listed; says why."""


class Endpoint:
    """The life of one resource at kubelet."""

    def __init__(
        self, resource: str, directory: SocketDirectory, config: PluginConfig, metrics: PluginMetrics
    ) -> None:
        self.resource = resource
        self.offer: Latest[Offer | None] = Latest(None)  # set by the fleet; None: the shell is gone
        # Set here only
        self.listed = False  # registered, kubelet reads the list, and no newer instance is active
        self.failures = 0  # attempts in a row that failed
        self.last_error: str | None = None  # why the last attempt failed; None if it did not
        self._directory = directory
        self._config = config
        self._metrics = metrics
        self._again = asyncio.Event()
        self._limit = RateLimit(_BURST, _INTERVAL)

    def register_again(self) -> None:
        """Begin another round now, unless kubelet is away or a newer instance is active."""
        state = self._directory.state.value
        if state.kubelet is not None and not state.standby:
            self._again.set()

    async def run(self) -> None:
        """Live until the offer is gone; then kubelet has been sent an empty list. Never raises."""
        previous = None
        while (kubelet := await race(self._gone(), self._kubelet_available())) is not None:
            self._again.clear()
            if kubelet != previous:  # a new kubelet has refused nothing and ended no stream
                self.failures = 0
            previous = kubelet
            try:
                await self._round(kubelet)
            except Exception as error:
                if not isinstance(error, OSError | GRPCError | StreamTerminatedError | _NotRegistered):
                    log.exception(Event.ENDPOINT_FAILED, extra={"resource": self.resource})
                self._failed(error)
            finally:
                self.listed = False
            if self.failures:
                await self._back_off(kubelet)

    async def _round(self, kubelet: Identity) -> None:
        """Serve and register once, then list until there is a reason for another round."""
        plugin = Plugin(self.resource, self.offer, self._config, self._metrics)
        newest = self._directory.state.value.newest_instance
        reached: set[Identity | None] = {kubelet}  # kubelets that this round's Register may have reached
        async with self._directory.serving(plugin, self.resource) as socket:
            why = await race(
                self._gone(),
                _then(self._superseded(newest), Event.SUPERSEDED),
                self._register(plugin, socket, reached),
                self._unreachable(socket, reached),
            )
            if why:
                raise _NotRegistered(why)
            if self.offer.value is None:
                self._send_list(plugin)  # kubelet may read the list before it answers Register
                return
            self.listed, self.last_error = True, None
            self._metrics.registration(self.resource, "ok")
            log.info(Event.REGISTERED, extra={"resource": self.resource, "endpoint": socket.name})
            listed_at = asyncio.get_running_loop().time()
            why = await race(
                self._unreachable(socket, reached),
                _then(plugin.stream.until(lambda stream: stream is ListStream.ENDED), _STREAM_ENDED),
                _then(self._again.wait(), "asked to register again"),
                self._stand_by(newest),
                self._list(plugin),
            )
            # A stream that ends again and again must not spin.
            lived = asyncio.get_running_loop().time() - listed_at
            short = why == _STREAM_ENDED and lived < _SHORT_LIFE
            self.failures = self.failures + 1 if short else 0
            self.listed = False  # at once: the end of serving takes a moment
            log.info(Event.LEAVING_ENDPOINT, extra={"resource": self.resource, "why": why})

    async def _register(self, plugin: Plugin, socket: Socket, reached: set[Identity | None]) -> None:
        """Register until kubelet answers, then wait until it asks for the list."""
        path = self._directory.kubelet_socket
        while True:
            try:
                permit = partial(self._permit, reached, self._directory.kubelet())
                await register(path, socket.name, self.resource, self._config.options, permit)
                break
            except (ConnectionRefusedError, ConnectionAbortedError, FileNotFoundError) as error:
                # No server (kubelet is dead, or between its bind and its listen), or not the right one.
                # Nothing was sent, so this socket's name is still unknown.
                self._failed(error)
                if isinstance(error, FileNotFoundError):  # the path leads elsewhere: an unmount is no event
                    await self._directory.refresh()
                await asyncio.sleep(self._delay())
        # Kubelets <= 1.36 close the new connection where the stream of the one before it ends just now.
        async with asyncio.timeout(_STREAM_LIMIT):
            stream = await plugin.stream.until(lambda stream: stream is not ListStream.AWAITED)
        if stream is ListStream.DISCONNECTED:
            raise _NotRegistered("kubelet closed its connection and has not asked for the list")

    def _permit(self, reached: set[Identity | None], before: Identity | None) -> None:
        """Note which kubelet this round's Register reaches, or raise ConnectionAbortedError to prevent it.

        It may be a new one that no scan has shown yet. Taken for another one later, it would be registered
        with twice.
        """
        path = self._directory.kubelet_socket
        if before != self._directory.kubelet():  # replaced during the connect
            raise ConnectionAbortedError(errno.ECONNABORTED, "kubelet starts", path)
        # Kubelets <= 1.36 keep the endpoint that registered last. An older instance that stalled since its
        # last scan would take the resource from a newer one, which would not notice.
        if self._directory.lock.superseded():
            raise ConnectionAbortedError(errno.ECONNABORTED, Event.SUPERSEDED, path)
        reached.add(before)

    async def _list(self, plugin: Plugin) -> str:
        """Send every new offer to kubelet, at a bounded rate, until the offer is gone."""
        self._send_list(plugin)
        while self.offer.value is not None:
            await self.offer.other_than(self.offer.value)
            if not plugin.up_to_date and not self._directory.state.value.standby:
                await self._limit.wait()
                self._send_list(plugin)  # an offer that came meanwhile replaces the one to send
        return "its shell is gone from the node"

    def _send_list(self, plugin: Plugin) -> None:
        """Send the offer to kubelet, unless a newer instance is active: the last list counts."""
        if not self._directory.state.value.standby:
            plugin.publish()

    async def _kubelet_available(self) -> Identity | None:
        """Wait for kubelet's socket while no newer instance lives."""
        state = await self._directory.state.until(lambda state: bool(state.kubelet) and not state.standby)
        return state.kubelet

    async def _gone(self) -> None:
        """Wait until the offer is gone."""
        await self.offer.until(lambda offer: offer is None)

    async def _unreachable(self, socket: Socket, reached: set[Identity | None]) -> str:
        """Wait until the directory shows a kubelet that is new, or that can't reach this socket.

        A directory that is away or can't be read shows no kubelet; nothing is taken from one that lives.
        """

        def reason(state: DirectoryState) -> str | None:
            if state.kubelet is None:
                return None
            if state.kubelet not in reached:
                return "kubelet is new"
            return None if socket in state.sockets else _SOCKET_GONE

        await self._directory.refresh()  # shows the socket, while kubelet is being registered with
        while True:
            state = await self._directory.state.until(lambda state: reason(state) is not None)
            if reason(state) == _SOCKET_GONE:
                with suppress(TimeoutError):  # a removal of the whole directory reaches kubelet's socket soon
                    async with asyncio.timeout(_REMOVAL):
                        await self._directory.state.until(lambda state: reason(state) != _SOCKET_GONE)
                state = await self._directory.refresh()
            if why := reason(state):
                return why

    async def _superseded(self, newest: str) -> None:
        """Wait until a newer instance than ``newest`` lives or has lived."""
        await self._directory.state.until(lambda state: state.standby or state.newest_instance != newest)

    async def _stand_by(self, newest: str) -> str:
        """Wait until a newer instance than ``newest`` has come and gone.

        Meanwhile no list is sent, but the stream stays open and calls are answered: its end would make
        kubelets <= 1.36 drop the newer instance's endpoint, and later ones promote ours when the newer one
        goes. To become active again takes a new round.
        """
        await self._superseded(newest)
        self.listed = False
        log.info(Event.SUPERSEDED, extra={"resource": self.resource})
        await self._directory.state.until(lambda state: not state.standby)
        return "the newer instance is gone"

    async def _back_off(self, kubelet: Identity) -> None:
        """Wait after a failed attempt; a new kubelet ends the wait."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._delay()):
                await self._directory.state.until(lambda state: state.kubelet not in (None, kubelet))

    def _delay(self) -> float:
        # Jitter, so that the endpoints of a node do not all come at the same moment.
        delay = min(_LAST_DELAY, _FIRST_DELAY * 2.0 ** min(self.failures, 10))
        return delay * random.uniform(0.5, 1.0)  # noqa: S311 - no secret

    def _failed(self, error: Exception) -> None:
        self._metrics.registration(self.resource, "failed")
        text = _sentence(error)
        expected = isinstance(error, _NotRegistered) or text == self.last_error
        level = logging.DEBUG if expected else logging.WARNING
        log.log(level, Event.NOT_REGISTERED, extra={"resource": self.resource, "error": text})
        self.failures += 1
        self.last_error = text


async def _then(wait: Awaitable[object], why: str) -> str:
    await wait
    return why


def _sentence(error: Exception) -> str:
    if isinstance(error, GRPCError):
        return f"kubelet refused: {error.message or error.status.name}"
    if isinstance(error, StreamTerminatedError):
        return "kubelet ended the call"
    if isinstance(error, TimeoutError):
        return "kubelet did not answer in time"
    if isinstance(error, OSError):
        return f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
    return str(error) if isinstance(error, _NotRegistered) else repr(error)
