"""A test double of kubelet: the part of it that a device plugin can observe, without pods.

It uses grpcio and google.protobuf and shares no code with the plugin. It runs on threads, so it serves
synchronous tests and a service in another process; an asynchronous test with the plugin in its own loop
calls it through ``asyncio.to_thread``. One `KubeletDouble` can start and stop several times: each start is
a `_Life` with a server and the state of kubelet, and `_Seen` keeps the records of all lives.
Source files in comments are relative to pkg/kubelet/cm/devicemanager of k8s.io/kubernetes; `handler.go`,
`server.go` and `client.go` are in plugin/v1beta1 there.
"""

import inspect
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import grpc
from google.protobuf.message import DecodeError

from tests.support.waiting import wait_for
from tests.support.wire import pb

T = TypeVar("T")

_PLUGIN = "/v1beta1.DevicePlugin/"
_CHECKPOINT = "kubelet_internal_checkpoint"
_HEALTHY, _UNHEALTHY = "Healthy", "Unhealthy"
_END_LIMIT = 5.0  # seconds that a thread may take to end with kubelet

_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_QUALIFIED = re.compile(
    rf"({_LABEL}(?:\.{_LABEL})*)/([A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?)",
)


def is_extended_resource_name(name: str) -> bool:
    """Return whether kubelet accepts the name (IsExtendedResourceName in pkg/apis/core/v1/helper).

    kubelet checks the name with the prefix of quotas, so a domain has at most 253 - len("requests.") = 244
    characters.
    """
    if "kubernetes.io/" in name or name.startswith("requests."):
        return False
    parts = _QUALIFIED.fullmatch(f"requests.{name}")
    return parts is not None and len(parts[1]) <= 253 and len(parts[2]) <= 63


class NoEndpoint(Exception):  # noqa: N818 - a result of kubelet, not a fault of the double
    """kubelet has no endpoint for the call and fails it without calling a plugin."""


class _Refused(Exception):  # noqa: N818
    def __init__(self, details: str, code: grpc.StatusCode = grpc.StatusCode.UNKNOWN) -> None:
        # UNKNOWN: the code of a Go error without a status of its own.
        super().__init__(details)
        self.details = details
        self.code = code


@dataclass(frozen=True)
class Registration:
    """An accepted Register, with the plugin's response to GetDevicePluginOptions."""

    resource: str
    endpoint: str
    version: str
    options: Any  # pb.DevicePluginOptions
    time: float  # of time.monotonic, as all times here


@dataclass(frozen=True)
class Refusal:
    """A refused Register."""

    resource: str
    endpoint: str
    code: grpc.StatusCode
    details: str
    time: float


@dataclass(frozen=True)
class DeviceList:
    """One message of a ListAndWatch stream, as received."""

    resource: str
    endpoint: str
    encoded: bytes
    time: float

    @property
    def message(self) -> Any:
        """The bytes as pb.ListAndWatchResponse."""
        return pb.ListAndWatchResponse.FromString(self.encoded)

    @property
    def health(self) -> dict[str, str]:
        """The health by device id, in the order of the message."""
        return {device.ID: device.health for device in self.message.devices}


@dataclass(frozen=True)
class StreamEnd:
    """The end of a ListAndWatch stream while kubelet ran."""

    resource: str
    endpoint: str
    code: grpc.StatusCode
    details: str
    time: float

    @property
    def clean(self) -> bool:
        """Whether the plugin ended it with OK."""
        return self.code is grpc.StatusCode.OK


@dataclass
class Faults:
    """Faults of kubelet, in effect until reset. Numbers are seconds; the end of kubelet ends each delay."""

    refuse: grpc.StatusCode | None = None  # Register fails with this code
    register_hang: float = 0.0  # Register waits before it does anything
    dial_hang: float = 0.0  # Register waits after it has connected to the plugin
    list_delay: float = 0.0  # between the response to Register and ListAndWatch
    never_list: bool = False  # Register succeeds, but ListAndWatch is never called


@dataclass(frozen=True)
class _Device:
    health: str
    nodes: tuple[int, ...] | None


@dataclass(eq=False)
class _Client:
    """The client of kubelet for one registration (client.go). The lock of the double guards its fields."""

    resource: str
    endpoint: str
    socket: str
    channel: grpc.Channel | None = None
    stream: Any = None
    stopped: float | None = None  # when kubelet stopped the endpoint


class KubeletDouble:
    """A kubelet that can start several times; its records cover all of its lives.

    Args:
        directory: the device-plugins directory, made if missing.
        by_socket: identify an endpoint by resource and socket, as kubelet >= 1.37 (kubernetes#135437). False:
            by resource only; the end of an old stream after a new registration drops the new endpoint.
        dial_limit: seconds for which Register tries to connect to the plugin; 10 in kubelet.
        grace: seconds for which the devices of an ended stream stay in the capacity; 300 in kubelet.
        on_register: called with the endpoint of a Register before its processing.
        on_dial: called with the endpoint after the connection to it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        by_socket: bool = False,
        dial_limit: float = 10.0,
        grace: float = 300.0,
        on_register: Callable[[str], None] = lambda _: None,
        on_dial: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.directory = directory.absolute()
        self.by_socket = by_socket
        self.dial_limit = dial_limit
        self.grace = grace
        self.on_register = on_register
        self.on_dial = on_dial
        self.faults = Faults()
        self._life: _Life | None = None
        self._seen = _Seen()

    # Life

    def start(self) -> None:
        """Wipe the directory and serve ``kubelet.sock`` in it.

        Raises:
            RuntimeError: it is running.
        """
        if self._life is not None and not self._life.over.is_set():
            raise RuntimeError("this kubelet is running")
        self.directory.mkdir(parents=True, exist_ok=True)
        wipe(self.directory)
        self._life = _Life(self, self._seen)

    def stop(self) -> None:
        """End as after SIGTERM: every stream and call ends, the file ``kubelet.sock`` stays.

        The views keep the last state. No effect if it is not running.
        """
        if self._life is not None:
            self._life.end()

    def kill(self) -> None:
        """End as after SIGKILL. A plugin cannot observe a difference from `stop`."""
        self.stop()

    def restart(self, down: float = 0.0) -> None:
        """Kill it and start it after some seconds; it knows no plugin then."""
        self.kill()
        time.sleep(down)
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # Views

    @property
    def socket(self) -> Path:
        """The path of ``kubelet.sock``."""
        return self.directory / "kubelet.sock"

    @property
    def registrations(self) -> list[Registration]:
        """All accepted Registers, oldest first."""
        return self._seen.copy(self._seen.registrations)

    @property
    def refusals(self) -> list[Refusal]:
        """All refused Registers, oldest first."""
        return self._seen.copy(self._seen.refusals)

    @property
    def ends(self) -> list[StreamEnd]:
        """All streams that ended while kubelet ran, oldest first."""
        return self._seen.copy(self._seen.ends)

    def lists(self, resource: str) -> list[DeviceList]:
        """Return all lists of a resource from any plugin, oldest first."""
        return [one for one in self._seen.copy(self._seen.lists) if one.resource == resource]

    def resources(self) -> dict[str, dict[str, str]]:
        """Return the current health of each device id of each resource."""
        return {
            resource: {name: device.health for name, device in devices.items()}
            for resource, devices in self._devices().items()
        }

    def capacity(self, resource: str) -> int:
        """Return the capacity of the node for a resource; 0 if kubelet does not know it."""
        return len(self.resources().get(resource, {}))

    def allocatable(self, resource: str) -> int:
        """Count the devices that are exactly ``Healthy``; any other word counts as unhealthy."""
        return list(self.resources().get(resource, {}).values()).count(_HEALTHY)

    def topology(self, resource: str) -> dict[str, tuple[int, ...] | None]:
        """Return the NUMA nodes of each device; None for a device without topology."""
        devices = self._devices().get(resource, {})
        return {name: device.nodes for name, device in devices.items()}

    def wait_for(self, predicate: Callable[[], T], timeout: float = 50.0) -> T:
        """Wait until the predicate returns something true, and return that.

        Raises:
            AssertionError: it does not in time; the message contains the records of kubelet.
        """
        return wait_for(predicate, lambda: f"{_source(predicate)}\n{self._account()}", timeout)

    # Calls to the plugin

    def options(self, resource: str, timeout: float = 30.0) -> Any:
        """Call GetDevicePluginOptions; return pb.DevicePluginOptions."""
        return pb.DevicePluginOptions.FromString(self.options_raw(resource, timeout))

    def allocate(self, resource: str, ids: Iterable[str], timeout: float = 30.0) -> Any:
        """Call Allocate for one container; return pb.AllocateResponse.

        kubelet has no time limit for this call (endpoint.go): a hanging plugin blocks its sync loop.
        """
        return pb.AllocateResponse.FromString(self.allocate_raw(resource, ids, timeout))

    def preferred(
        self,
        resource: str,
        available: Iterable[str],
        must: Iterable[str],
        size: int,
        timeout: float = 30.0,
    ) -> Any:
        """Call GetPreferredAllocation for one container; return pb.PreferredAllocationResponse."""
        encoded = self.preferred_raw(resource, available, must, size, timeout)
        return pb.PreferredAllocationResponse.FromString(encoded)

    def pre_start(self, resource: str, ids: Iterable[str], timeout: float = 30.0) -> Any:
        """Call PreStartContainer with the time limit of kubelet; return pb.PreStartContainerResponse."""
        return pb.PreStartContainerResponse.FromString(self.pre_start_raw(resource, ids, timeout))

    # The same calls, which return the encoded response

    def options_raw(self, resource: str, timeout: float = 30.0) -> bytes:
        return self._call(resource, "GetDevicePluginOptions", pb.Empty(), timeout)

    def allocate_raw(self, resource: str, ids: Iterable[str], timeout: float = 30.0) -> bytes:
        container = pb.ContainerAllocateRequest(devices_ids=ids)
        request = pb.AllocateRequest(container_requests=[container])
        return self._call(resource, "Allocate", request, timeout)

    def preferred_raw(
        self,
        resource: str,
        available: Iterable[str],
        must: Iterable[str],
        size: int,
        timeout: float = 30.0,
    ) -> bytes:
        container = pb.ContainerPreferredAllocationRequest(
            available_deviceIDs=available, must_include_deviceIDs=must, allocation_size=size
        )
        request = pb.PreferredAllocationRequest(container_requests=[container])
        return self._call(resource, "GetPreferredAllocation", request, timeout)

    def pre_start_raw(self, resource: str, ids: Iterable[str], timeout: float = 30.0) -> bytes:
        request = pb.PreStartContainerRequest(devices_ids=ids)
        return self._call(resource, "PreStartContainer", request, timeout)

    def cut_stream(self, resource: str, endpoint: str | None = None) -> None:
        """Cancel a ListAndWatch stream while kubelet runs.

        It is the stream of the current endpoint, or that of the socket named ``endpoint``.
        """
        self._living().cut(resource, endpoint)

    def drop(self, resource: str) -> None:
        """Close the connection to the current endpoint with all calls on it."""
        self._living().channel(resource).close()

    def _call(self, resource: str, method: str, request: Any, timeout: float) -> bytes:
        """Call the current endpoint of a resource.

        Raises:
            NoEndpoint: there is none.
            grpc.RpcError: the call fails; carries the status of the plugin.
        """
        call = _unary(self._living().channel(resource), method)
        return call(request.SerializeToString(), timeout=timeout)

    def _living(self) -> "_Life":
        if self._life is None or self._life.over.is_set():
            raise NoEndpoint("kubelet is not running")
        return self._life

    def _devices(self) -> dict[str, dict[str, _Device]]:
        return {} if self._life is None else self._life.devices()

    def _account(self) -> str:
        """Return the records of kubelet for the message of a failed wait."""
        last = {one.resource: one for one in self._seen.copy(self._seen.lists)}
        parts = {
            "resources": self.resources(),
            "registrations": self.registrations,
            "refusals": self.refusals,
            "ends": self.ends,
            "last lists": [(one.endpoint, one.time, one.health) for one in last.values()],
            "now": time.monotonic(),
        }
        return "\n".join(f"  {name}: {part}" for name, part in parts.items())


def wipe(directory: Path) -> None:
    """Remove everything but directories and the checkpoint (manager.go CleanupPluginDirectory).

    kubelet >= 1.33 removes only sockets.
    """
    for path in directory.iterdir():
        if path.name != _CHECKPOINT and (path.is_symlink() or not path.is_dir()):
            path.unlink(missing_ok=True)  # its plugin may have removed it


@dataclass
class _Seen:
    """The records of all lives, and the only lock of the double."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    registrations: list[Registration] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    lists: list[DeviceList] = field(default_factory=list)
    ends: list[StreamEnd] = field(default_factory=list)

    def copy(self, records: list[T]) -> list[T]:
        with self.lock:
            return list(records)


class _Life:
    """kubelet from its start to its end. The constructor starts the server."""

    def __init__(self, double: KubeletDouble, seen: _Seen) -> None:
        self.over = threading.Event()
        self._double = double
        self._seen = seen
        # The lock `_seen.lock` guards these:
        self._clients: dict[tuple[str, ...], _Client] = {}  # server.go: the clients whose streams are read
        self._endpoints: dict[str, _Client] = {}  # manager.go: the current endpoint by resource
        self._store: dict[str, dict[str, _Client]] = {}  # manager.go endpointStore, from 1.37 on
        self._devices: dict[str, dict[str, _Device]] = {}
        self._met: list[_Client] = []  # all connected clients: kubelet leaves some open
        self._streams: list[threading.Thread] = []

        self._pool = ThreadPoolExecutor(32, thread_name_prefix="kubelet-register")
        self._way = tempfile.TemporaryDirectory(prefix="kubelet-")
        self._link = Path(self._way.name, "d")
        self._link.symlink_to(double.directory)
        self._server = self._serve()

    def _serve(self) -> grpc.Server:
        register = grpc.unary_unary_rpc_method_handler(
            self._register,
            request_deserializer=pb.RegisterRequest.FromString,
            response_serializer=pb.Empty.SerializeToString,
        )
        server = grpc.server(self._pool)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("v1beta1.Registration", {"Register": register}),)
        )
        # grpcio unlinks its socket by the bound path when it stops; kubelet does not unlink it. So the bound
        # path goes through a symbolic link that is removed before the stop. The link also keeps the path
        # short. The rename makes the socket visible only after listen: a connect before that would fail.
        aside = self._double.directory / ".kubelet.sock"
        server.add_insecure_port(_target(self._link / aside.name))
        server.start()
        aside.rename(self._double.socket)
        return server

    def end(self) -> None:
        if self.over.is_set():
            return
        with self._seen.lock:
            self.over.set()  # no more records and no new connections
            channels = [client.channel for client in self._met if client.channel]
            streams = list(self._streams)
        self._link.unlink()
        stopped = self._server.stop(None)
        for channel in channels:
            channel.close()
        for stream in streams:
            stream.join(_END_LIMIT)
        stopped.wait(_END_LIMIT)
        self._pool.shutdown()
        self._way.cleanup()

    def devices(self) -> dict[str, dict[str, _Device]]:
        """Return the devices for GetCapacity; drop resources whose grace period is over (manager.go)."""
        with self._seen.lock:
            oldest = time.monotonic() - self._double.grace
            for resource, client in list(self._endpoints.items()):
                if client.stopped is not None and client.stopped < oldest:
                    del self._endpoints[resource]
                    self._devices.pop(resource, None)
            return {name: dict(self._devices.get(name, {})) for name in self._endpoints}

    def channel(self, resource: str) -> grpc.Channel:
        """Return the connection to the current endpoint of a resource (endpoint.go).

        Raises:
            NoEndpoint: none is registered, or it has been stopped.
        """
        with self._seen.lock:
            client = self._endpoints.get(resource)
            if client is None or client.channel is None:
                raise NoEndpoint(f"no endpoint is registered for {resource}")
            if client.stopped is not None:
                raise NoEndpoint(f"endpoint {client.socket} has been stopped")
            return client.channel

    def cut(self, resource: str, endpoint: str | None) -> None:
        with self._seen.lock:
            asked = self._endpoints.get(resource)
            name = asked.endpoint if endpoint is None and asked else endpoint
            streams = [
                client.stream
                for client in self._met
                if (client.resource, client.endpoint) == (resource, name) and client.stream
            ]
        if not streams:
            raise NoEndpoint(f"no stream of {resource} from {name} to cut")
        for stream in streams:
            stream.cancel()

    # Registrations, as in server.go and handler.go

    def _register(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._double.on_register(request.endpoint)
        try:
            self._check(request)
            client = _Client(
                request.resource_name,
                request.endpoint,
                f"{self._double.directory}/{request.endpoint}",
            )
            self._connect(client, request.version)
        except _Refused as refused:
            with self._seen.lock:
                if not self.over.is_set():
                    self._seen.refusals.append(
                        Refusal(
                            request.resource_name,
                            request.endpoint,
                            refused.code,
                            refused.details,
                            time.monotonic(),
                        )
                    )
            context.abort(refused.code, refused.details)
        return pb.Empty()

    def _check(self, request: Any) -> None:
        faults = self._double.faults
        self._pause(faults.register_hang)
        if faults.refuse is not None:
            raise _Refused("refused by the test", faults.refuse)
        if request.version != "v1beta1":
            raise _Refused(
                f'requested API version "{request.version}" is not supported by kubelet. '
                'Supported version is ["v1beta1"]'
            )
        if not is_extended_resource_name(request.resource_name):
            raise _Refused(f'the ResourceName "{request.resource_name}" is invalid')

    def _connect(self, client: _Client, version: str) -> None:
        key = self._key(client)
        with self._seen.lock:  # before the dial: the client owns the name from here on
            if self._double.by_socket:
                self._clients.setdefault(key, client)
            else:
                self._clients[key] = client
        try:
            self._dial(client)
            self._double.on_dial(client.endpoint)
            self._pause(self._double.faults.dial_hang)
            options = self._ask_options(client)
            self._connected(client)
        except _Refused:
            with self._seen.lock:  # this also drops an earlier client of the name
                self._clients.pop(key, None)
            raise
        stream = threading.Thread(
            target=self._follow, args=(client,), name=f"kubelet-list {client.endpoint}", daemon=True
        )
        with self._seen.lock:
            self._check_living()
            self._seen.registrations.append(
                Registration(client.resource, client.endpoint, version, options, time.monotonic())
            )
            self._streams.append(stream)
            stream.start()  # as in kubelet, it may start before the plugin has the response

    def _dial(self, client: _Client) -> None:
        """Connect, blocking (client.go dial)."""
        channel = grpc.insecure_channel(
            _target(Path(client.socket)),
            options=(
                ("grpc.default_authority", "localhost"),
                # grpcio channels share a connection by default; grpc-go has one for each.
                ("grpc.use_local_subchannel_pool", 1),
            ),
        )
        ready = grpc.channel_ready_future(channel)
        deadline = time.monotonic() + self._double.dial_limit
        while not self.over.is_set() and time.monotonic() < deadline:
            try:
                ready.result(timeout=0.05)
            except grpc.FutureTimeoutError:
                continue
            with self._seen.lock:
                self._check_living()
                client.channel = channel
                self._met.append(client)
                return
        ready.cancel()
        time.sleep(0.3)  # grpcio polls every 0.2 s in a thread, which raises on a closed channel
        channel.close()
        raise _Refused("failed to dial device plugin: context deadline exceeded")

    def _ask_options(self, client: _Client) -> Any:
        """Call GetDevicePluginOptions without time limit (manager.go PluginConnected)."""
        assert client.channel is not None
        try:
            encoded = _unary(client.channel, "GetDevicePluginOptions")(b"")
            return pb.DevicePluginOptions.FromString(encoded)
        except (grpc.RpcError, DecodeError, ValueError) as error:  # ValueError: channel closed
            raise _Refused(f"failed to get device plugin options: {_text(error)}") from error

    def _connected(self, client: _Client) -> None:
        """Make the client the current endpoint of its resource (manager.go PluginConnected)."""
        with self._seen.lock:
            if self._double.by_socket:
                sockets = self._store.setdefault(client.resource, {})
                if client.socket in sockets:
                    raise _Refused(f"device plugin already connected: {client.socket}")
                sockets[client.socket] = client
            self._endpoints[client.resource] = client

    def _key(self, client: _Client) -> tuple[str, ...]:
        if self._double.by_socket:
            return client.resource, client.socket
        return (client.resource,)

    def _pause(self, seconds: float) -> None:
        self.over.wait(seconds)
        self._check_living()

    def _check_living(self) -> None:
        if self.over.is_set():
            raise _Refused("kubelet ends", grpc.StatusCode.UNAVAILABLE)

    # ListAndWatch

    def _follow(self, client: _Client) -> None:
        """Read one stream to its end, without retry (handler.go runClient)."""
        if self.over.wait(self._double.faults.list_delay) or self._double.faults.never_list:
            return
        code, details = self._read(client)
        with self._seen.lock:
            if self.over.is_set():
                return
            # Without the socket in the key, this may be a newer client than that of the ended stream: the
            # overlap race. kubelet then closes the new connection and leaves the old one open.
            gone = self._clients.pop(self._key(client), None)
            if gone is not None:
                self._disconnected(gone)
            self._seen.ends.append(
                StreamEnd(client.resource, client.endpoint, code, details, time.monotonic())
            )
        if gone is not None and gone.channel is not None:
            gone.channel.close()

    def _read(self, client: _Client) -> tuple[grpc.StatusCode, str]:
        assert client.channel is not None
        try:
            client.stream = _listing(client.channel)(b"")
            for encoded in client.stream:
                self._receive(client, encoded)
        except grpc.RpcError:
            return client.stream.code(), client.stream.details()
        except DecodeError as error:
            client.stream.cancel()
            return grpc.StatusCode.INTERNAL, str(error)
        except ValueError as error:  # the channel was closed before the call
            return grpc.StatusCode.CANCELLED, str(error)
        return grpc.StatusCode.OK, client.stream.details()

    def _receive(self, client: _Client, encoded: bytes) -> None:
        """Store a list; the newest list of a resource counts, from any plugin (manager.go)."""
        devices = {
            device.ID: _Device(
                device.health,
                tuple(node.ID for node in device.topology.nodes) if device.HasField("topology") else None,
            )
            for device in pb.ListAndWatchResponse.FromString(encoded).devices
        }
        with self._seen.lock:
            if self.over.is_set():
                return
            self._seen.lists.append(DeviceList(client.resource, client.endpoint, encoded, time.monotonic()))
            self._devices[client.resource] = devices

    def _disconnected(self, client: _Client) -> None:
        """Stop an endpoint (manager.go PluginDisconnected). The caller holds the lock."""
        if self._double.by_socket:
            sockets = self._store.get(client.resource, {})
            if sockets.pop(client.socket, None) is None:
                return
            client.stopped = time.monotonic()
            if sockets:  # another instance becomes the endpoint, and the devices stay
                self._endpoints[client.resource] = next(iter(sockets.values()))
                return
        elif client.resource in self._endpoints:
            self._endpoints[client.resource].stopped = time.monotonic()
        else:
            return
        devices = self._devices.setdefault(client.resource, {})
        for name, device in devices.items():
            devices[name] = replace(device, health=_UNHEALTHY)


def _target(socket: Path) -> str:
    """Return the address for gRPC, with the path quoted as a part of a URI."""
    return f"unix:{quote(str(socket))}"


def _unary(channel: grpc.Channel, method: str) -> "grpc.UnaryUnaryMultiCallable[bytes, bytes]":
    """Return a call that takes and returns bytes: grpcio does so without serializers."""
    return channel.unary_unary(_PLUGIN + method)


def _listing(channel: grpc.Channel) -> "grpc.UnaryStreamMultiCallable[bytes, bytes]":
    return channel.unary_stream(_PLUGIN + "ListAndWatch")


def _text(error: Exception) -> str:
    if isinstance(error, grpc.Call):
        return f"rpc error: code = {error.code().name} desc = {error.details()}"
    return str(error)


def _source(predicate: Callable[[], object]) -> str:
    """Return the source of a predicate."""
    try:
        return inspect.getsource(predicate).strip()
    except (OSError, TypeError):
        return repr(predicate)
