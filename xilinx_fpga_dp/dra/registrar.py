"""Registers the driver with kubelet, and again whenever that is needed.

One round: serve the driver's socket, then bind the registration socket, which kubelet finds by itself: it
asks GetInfo, connects to the driver's socket and tells whether it has registered it (pluginmanager/ in
kubelet). GetInfo is asked at registration only. The registration socket gone means unregistered at once, so
the sockets are watched and bound again; a refusal is logged and tried again. A kubelet that starts finds the
socket again and tells so once more. What waits for a registration watches ``registered``.

Each instance has sockets of its own if it has the uid of its pod, so that two can overlap in a rolling
update.
"""

import asyncio
import base64
import hashlib
import logging
import os
import random
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from grpclib.const import Handler

from xilinx_fpga_dp.aio.blocking_reader import BlockingReader
from xilinx_fpga_dp.aio.directory_watcher import DirectoryWatcher
from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.aio.race import race
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.rpc.api import pluginregistration_v1 as api
from xilinx_fpga_dp.rpc.calls import Calls
from xilinx_fpga_dp.rpc.server import Servicer, serving
from xilinx_fpga_dp.rpc.sockets import MAX_PATH, is_socket, sweep

log = logging.getLogger(__name__)

_TYPE: Final = "DRAPlugin"
_SERVICE: Final = "/pluginregistration.Registration/"
_CALL_LIMIT: Final = 5.0  # seconds
_LOOK_EVERY: Final = 2.0  # seconds between looks at the sockets that nothing woke
_LOOK_LIMIT: Final = 5.0  # seconds a look may take
_FIRST_DELAY: Final = 0.5  # seconds after a refusal, doubling
_LAST_DELAY: Final = 30.0


@dataclass(frozen=True, slots=True)
class Sockets:
    """The paths of the two sockets of an instance."""

    driver: str
    registration: str


def sockets_of(plugins_dir: str, registry_dir: str, driver: str, pod_uid: str) -> Sockets:
    """Name the sockets of an instance.

    They are those of k8s.io/dynamic-resource-allocation, kubeletplugin/draplugin.go, whose limit is one byte
    too long. Without a pod's uid the names are fixed, and only one instance can serve.
    """
    folder = f"{plugins_dir}/{driver}"
    if not pod_uid:
        return Sockets(f"{folder}/dra.sock", f"{registry_dir}/{driver}-reg.sock")
    short = _hash(pod_uid, 8)
    ends = (
        f"{driver}-{pod_uid}-reg.sock",
        f"{driver}-{short}-reg.sock",
        f"dra-{_hash(chr(0).join((driver, pod_uid)), 16)}-reg.sock",
    )
    return Sockets(
        _fitting([f"{folder}/dra-{pod_uid}.sock", f"{folder}/dra-{short}.sock"]),
        _fitting([f"{registry_dir}/{end}" for end in ends]),
    )


class Registrar:
    """Keeps the driver registered.

    Args:
        sockets: of this instance.
        driver: the name of the driver.
        services: what the driver's socket serves, as kubelet knows it.
        service: makes what serves on the driver's socket.
    """

    def __init__(
        self, sockets: Sockets, driver: str, services: tuple[str, ...], service: Callable[[], Servicer]
    ) -> None:
        self._sockets = sockets
        self._driver = driver
        self._services = services
        self._service = service
        self._reads: BlockingReader[Any] = BlockingReader()
        self.registered: Latest[int] = Latest(0)  # 0: not; else how often kubelet has said so
        self.last_error: str | None = None  # why it is not registered, as kubelet or the kernel says

    async def run(self) -> None:
        """Serve and register, for ever. When cancelled, leave no socket behind."""
        delay = _FIRST_DELAY
        while True:
            try:
                await self._prepare_paths()
                async with serving(self._service(), self._sockets.driver):
                    await self._rounds()
            except (OSError, TimeoutError) as error:
                self._failed(f"{self._sockets.driver}: {getattr(error, 'strerror', None) or error!r}")
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
                delay = min(2 * delay, _LAST_DELAY)
            else:
                delay = _FIRST_DELAY

    async def _rounds(self) -> None:
        """Bind the registration socket again and again, until the driver's socket is gone."""
        delay = _FIRST_DELAY
        while True:
            outcome: Latest[tuple[int, str] | None] = Latest(None)
            try:
                async with serving(Registration(self._info, outcome), self._sockets.registration):
                    gone = await race(self._watch(), self._refused(outcome))
            finally:
                self.registered.set(0)
            if gone == self._sockets.driver:
                return
            if gone:
                continue
            await asyncio.sleep(delay)
            delay = min(2 * delay, _LAST_DELAY)

    async def _refused(self, outcome: Latest[tuple[int, str] | None]) -> str:
        """Follow what kubelet says of the registration, until it refuses."""
        seen = None
        while True:
            seen = await outcome.other_than(seen)
            if seen is None:
                continue
            count, error = seen
            if error:
                self._failed(f"kubelet refused: {error}")
                return ""
            self.last_error = None
            self.registered.set(count)
            extra = {"resource": self._driver, "endpoint": os.path.basename(self._sockets.registration)}
            log.info(Event.REGISTERED, extra=extra)

    async def _watch(self) -> str:
        """Wait until a socket is gone or replaced; return its path."""
        paths = (self._sockets.driver, self._sockets.registration)
        look = partial(lambda: [_identity(path) for path in paths])
        own = await self._reads.read(look, _LOOK_LIMIT)
        sockets = set(
            map(os.path.basename, paths)
        ).__contains__  # every prepared claim changes the checkpoint
        with DirectoryWatcher(*map(os.path.dirname, paths), fold=0, wakes=sockets) as watcher:
            while True:
                await watcher.arm()
                with suppress(TimeoutError, OSError):
                    now = await self._reads.read(look, _LOOK_LIMIT)
                    for path, before, found in zip(paths, own, now, strict=True):
                        if before is None or before != found:
                            log.info(
                                Event.LEAVING_ENDPOINT,
                                extra={"resource": self._driver, "why": f"{path} is gone"},
                            )
                            return path
                await watcher.wait(_LOOK_EVERY)

    async def _prepare_paths(self) -> None:
        """Make the directories, and remove the sockets of dead instances, of our naming only."""
        await self._reads.read(self._make_and_sweep, _LOOK_LIMIT)

    def _make_and_sweep(self) -> None:
        folder, registry = map(os.path.dirname, (self._sockets.driver, self._sockets.registration))
        os.makedirs(folder, mode=0o750, exist_ok=True)
        os.makedirs(registry, mode=0o750, exist_ok=True)
        uid = r"(?:-[0-9A-Za-z_-]+)?"
        for directory, pattern in (
            (folder, rf"dra{uid}\.sock"),
            (registry, rf"{re.escape(self._driver)}{uid}-reg\.sock"),
        ):
            names = [name for name in os.listdir(directory) if re.fullmatch(pattern, name)]
            sweep(directory, [name for name in names if is_socket(f"{directory}/{name}")])

    def _info(self) -> api.PluginInfo:
        return api.PluginInfo(
            type=_TYPE,
            name=self._driver,
            endpoint=self._sockets.driver,
            supported_versions=list(self._services),
        )

    def _failed(self, error: str) -> None:
        if error != self.last_error:
            log.warning(Event.NOT_REGISTERED, extra={"resource": self._driver, "error": error})
        self.last_error = error


class Registration:
    """The service on the registration socket. ``outcome`` counts what kubelet says, with its error."""

    def __init__(self, info: Callable[[], api.PluginInfo], outcome: Latest[tuple[int, str] | None]) -> None:
        self._info = info
        self._outcome = outcome
        self.calls = Calls(
            _SERVICE,
            {
                "GetInfo": (self._get_info, api.InfoRequest),
                "NotifyRegistrationStatus": (self._notify, api.RegistrationStatus),
            },
            _CALL_LIMIT,
        )

    def __mapping__(self) -> dict[str, Handler]:
        return {}

    def end_streams(self) -> None:
        """There are none."""

    def disconnected(self) -> None:
        """Kubelet connects for each call."""

    async def _get_info(self, _request: api.InfoRequest) -> api.PluginInfo:
        return self._info()

    async def _notify(self, request: api.RegistrationStatus) -> api.RegistrationStatusResponse:
        count = (self._outcome.value or (0, ""))[0] + 1
        error = "" if request.plugin_registered else request.error or "it gives no reason"
        self._outcome.set((count, error))
        return api.RegistrationStatusResponse()


def _identity(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _hash(text: str, size: int) -> str:
    digest = hashlib.sha256(text.encode()).digest()[:size]
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _fitting(paths: list[str]) -> str:
    return next((path for path in paths if len(os.fsencode(path)) <= MAX_PATH), paths[-1])
