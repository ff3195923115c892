"""One resource's endpoint: bind, serve, register, list live, until something ends it; then round again."""

import asyncio
import errno
import logging
import random
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeVar

from grpclib.exceptions import GRPCError, StreamTerminatedError

from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.aio.rate_limit import RateLimit
from xilinx_fpga_dp.deviceplugin import sockets
from xilinx_fpga_dp.deviceplugin.plugin import Plugin, PluginConfig
from xilinx_fpga_dp.deviceplugin.plugin_metrics import PluginMetrics
from xilinx_fpga_dp.deviceplugin.registration import register
from xilinx_fpga_dp.deviceplugin.socket_directory import (
    KUBELET_SOCKET,
    Identity,
    SocketDirectory,
    Watch,
    identity_of,
)
from xilinx_fpga_dp.model import Offer

log = logging.getLogger(__name__)

# Seconds kubelet may take from its answer to Register until it asks for the list.
_STREAM_LIMIT = 10.0
# Seconds between attempts while kubelet's socket is there: doubling from the first to the last.
_FIRST_PAUSE = 0.02
_LAST_PAUSE = 0.5
# Seconds from the first file to the last when a directory is removed.
_REMOVAL = 0.02
# Seconds; a stream that lives no longer was no success.
_SHORT_LIFE = 1.0
_LOST = "kubelet's stream ended"
# A device that flaps may make its resource send so many lists in a row, then one every so many seconds.
_BURST = 5
_INTERVAL = 1.0

T = TypeVar("T")


class _NotReached(Exception):  # noqa: N818 - a reason, not a fault
    """Kubelet could not be reached this round; says why."""


class Endpoint:
    """The life of one resource at kubelet.

    Args:
        resource: its name.
        watch: of kubelet's socket directory.
        terms: on what terms kubelet is answered.
        meter: hears of what happens.
    """

    def __init__(self, resource: str, watch: Watch, terms: PluginConfig, meter: PluginMetrics) -> None:
        self.resource = resource
        self.offer: Latest[Offer | None] = Latest(None)  # set by the fleet; None: the shell is gone
        self.registered = False  # kubelet knows it and reads its list
        self._connected: Identity | None = None  # the kubelet that this round has reached
        self._again = asyncio.Event()
        self._pace = RateLimit(_BURST, _INTERVAL)
        self._watch = watch
        self._terms = terms
        self._meter = meter
        self._failures = 0  # attempts in a row
        self.complaint: str | None = None  # how the last attempt failed; None: it did not

    def register_again(self) -> None:
        """Leave what is and go round again now, unless nobody is there or another speaks."""
        seen = self._watch.directory.value
        if seen.kubelet is not None and not seen.newer:
            self._again.set()

    async def run(self) -> None:
        """Live until the offer is gone; then kubelet has been sent an empty list. Never raises."""
        before = None
        while (kubelet := await first(self._gone(), self._kubelet())) is not None:
            self._again.clear()
            if kubelet != before:  # who is new has refused nothing, and cut off nobody
                self._failures = 0
            before = kubelet
            try:
                await self._round(kubelet)
            except (OSError, GRPCError, StreamTerminatedError, _NotReached) as error:
                self._complain(error)  # a TimeoutError is an OSError
            except Exception as error:
                log.exception("endpoint failed", extra={"resource": self.resource})
                self._complain(error)
            finally:
                self.registered = False
            if self._failures:
                await self._pause(kubelet)

    async def _round(self, kubelet: Identity) -> None:
        """Serve and register once, then list until there is a reason to go round again."""
        plugin = Plugin(self.resource, lambda: self.offer.value, self._terms, self._meter)
        newest = self._watch.directory.value.newest
        self._connected = None
        async with sockets.serving(plugin, self.resource, self._watch) as socket:
            moved = self._moved(socket, kubelet)
            outdone = self._outdone(newest)  # of two Registers kubelet believes the one it has answered last
            if why := await first(self._gone(), outdone, self._register(plugin, socket), moved):
                raise _NotReached(why)
            if self.offer.value is None:
                self._send(plugin)  # kubelet may read the list before it answers
                return
            lived_from = self._registered(socket)
            why = await first(
                self._moved(socket, kubelet),
                _event(plugin.lost, _LOST),
                _event(self._again, "asked to"),
                self._silent(newest),
                self._publish(plugin),
            )
            self.registered = False  # at once: ending what is served may take a moment
            # What loses its stream again and again must not spin.
            lived = asyncio.get_running_loop().time() - lived_from
            self._failures = self._failures + 1 if why == _LOST and lived < _SHORT_LIFE else 0
            log.info("leaving endpoint", extra={"resource": self.resource, "why": why})

    async def _kubelet(self) -> Identity | None:
        """Kubelet's socket, as soon as there is one and it is for us to speak with it."""
        seen = await self._watch.directory.until(lambda seen: bool(seen.kubelet) and not seen.newer)
        return seen.kubelet

    async def _gone(self) -> None:
        """Wait until the offer is gone."""
        await self.offer.until(lambda offer: offer is None)

    async def _register(self, plugin: Plugin, socket: sockets.Bound) -> None:
        path = f"{self._watch.path}/{KUBELET_SOCKET}"
        while True:
            try:
                note = partial(self._note, path, identity_of(path))
                await register(path, socket.name, self.resource, self._terms.options, note)
                break
            except (ConnectionRefusedError, ConnectionAbortedError, FileNotFoundError) as error:
                # Nobody listens (kubelet is dead, or between its bind and its listen), or who does can't be
                # told. He has not heard of this socket, so the socket is as good as new.
                self._complain(error)
                if isinstance(error, FileNotFoundError):  # the path leads elsewhere: an unmount wakes nobody
                    await self._watch.look()
                await asyncio.sleep(self._delay())
        # Kubelets up to 1.36 close the new connection where the one before it ends just now.
        async with asyncio.timeout(_STREAM_LIMIT):
            await first(plugin.watched.wait(), plugin.dropped.wait())
        if not plugin.watched.is_set():
            raise _NotReached("kubelet closed its connection and has not asked for the list")

    def _note(self, path: str, before: Identity | None) -> None:
        """Note whom this round has reached; give up where that can't be told, or it is not for us to speak.

        It may be a new kubelet before the directory was looked at again. Taken for another one then, it would
        be told once more.

        Raises:
            ConnectionAbortedError: it may be one of two kubelets, or a newer instance speaks.
        """
        if before != identity_of(path):  # another one came while this one was connected to
            raise ConnectionAbortedError(errno.ECONNABORTED, "kubelet starts", path)
        # Kubelets up to 1.36 believe whoever they answered last, and who was held up since his last look
        # would take the resource from a newer instance, which would not hear of it.
        if self._watch.outdone():
            raise ConnectionAbortedError(errno.ECONNABORTED, "a newer instance speaks", path)
        self._connected = before

    async def _moved(self, socket: sockets.Bound, kubelet: Identity | None) -> str:
        """Wait until the directory shows that kubelet can't reach this socket, or is another one.

        Where kubelet's own socket is not to be seen nobody could be told of another one of ours. So a
        directory that is away, or can't be read, takes nothing from a kubelet that lives.
        """

        def new(seen: SocketDirectory) -> bool:
            return seen.kubelet not in (None, kubelet, self._connected)

        def gone(seen: SocketDirectory) -> bool:
            return seen.kubelet is not None and not socket.seen_in(seen)

        await socket.settle()  # while kubelet is told of it already
        while not new(await self._watch.directory.until(lambda seen: new(seen) or gone(seen))):
            try:  # whoever removes the whole directory comes to kubelet's socket in a moment
                async with asyncio.timeout(_REMOVAL):
                    await self._watch.directory.until(lambda seen: new(seen) or not gone(seen))
            except TimeoutError:
                if gone(await self._watch.look()):  # what was seen last may be of before
                    break
        return "kubelet is new" if new(self._watch.directory.value) else "its socket is gone"

    async def _outdone(self, newest: str) -> str:
        """Wait until there is, or was, a newer instance than those so far."""
        await self._watch.directory.until(lambda seen: seen.newer or seen.newest != newest)
        return "a newer instance speaks"  # or has just spoken

    async def _silent(self, newest: str) -> str:
        """Wait until a newer instance than those so far has come and gone.

        Meanwhile no list is sent: kubelet takes whatever list came last, whoever sent it. But the stream
        stays open and calls are answered: its end would make kubelets up to 1.36 drop the newer instance's
        endpoint, and later ones promote ours when the newer one goes. To speak again takes a new round.
        """
        why = await self._outdone(newest)
        self.registered = False
        log.info(why, extra={"resource": self.resource})
        await self._watch.directory.until(lambda seen: not seen.newer)
        return "the newer instance is gone"

    async def _publish(self, plugin: Plugin) -> str:
        """Pass every new offer on to the streams, until it is gone."""
        offer = self.offer.value
        self._send(plugin)
        now = asyncio.get_running_loop().time
        while offer is not None:
            offer = await self.offer.other_than(offer)
            if plugin.up_to_date or self._watch.directory.value.newer:
                continue
            await asyncio.sleep(self._pace.delay(now()))
            self._pace.done(now())
            offer = self.offer.value  # what came meanwhile replaces what was to be sent
            self._send(plugin)
        return "its shell is gone from the node"

    def _send(self, plugin: Plugin) -> None:
        """Let kubelet know the offer, but for a newer instance: it takes the list that came last."""
        if not self._watch.directory.value.newer:
            plugin.publish()

    async def _pause(self, kubelet: Identity | None) -> None:
        """Back off after a failed attempt, but not from a kubelet that is new."""
        try:
            async with asyncio.timeout(self._delay()):
                await self._watch.directory.until(lambda seen: seen.kubelet not in (None, kubelet))
        except TimeoutError:
            return

    def _delay(self) -> float:
        # Jitter, so that the endpoints of a node do not all come at the same moment.
        delay = min(_LAST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self._failures, 10))
        return delay * random.uniform(0.5, 1.0)  # noqa: S311 - no secret

    def _registered(self, socket: sockets.Bound) -> float:
        self.registered = True
        self.complaint = None
        self._meter.registration(self.resource, "ok")
        log.info("registered", extra={"resource": self.resource, "endpoint": socket.name})
        return asyncio.get_running_loop().time()

    def _complain(self, error: Exception) -> None:
        self._failures += 1
        self._meter.registration(self.resource, "failed")
        complaint = _sentence(error)
        expected = isinstance(error, _NotReached) or complaint == self.complaint
        level = logging.DEBUG if expected else logging.WARNING
        log.log(level, "not registered yet", extra={"resource": self.resource, "error": complaint})
        self.complaint = complaint


def _sentence(error: Exception) -> str:
    if isinstance(error, GRPCError):
        return f"kubelet refused: {error.message or error.status.name}"
    if isinstance(error, StreamTerminatedError):
        return "kubelet ended the call"
    if isinstance(error, TimeoutError):
        return "kubelet did not answer in time"
    if isinstance(error, OSError):
        return f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
    return str(error) if isinstance(error, _NotReached) else repr(error)


async def _event(event: asyncio.Event, why: str) -> str:
    await event.wait()
    return why


async def first(*waits: Coroutine[Any, Any, T]) -> T:
    """What the first of several waits to end returned or raised; the others are cancelled.

    Of several that end at once it is the one named first.
    """
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task.done()).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
