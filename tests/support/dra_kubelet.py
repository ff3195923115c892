"""A double of kubelet as a DRA driver observes it, on grpcio, and claims as the scheduler makes them.

It shares no code with the driver. Source files in comments are relative to pkg/kubelet of k8s.io/kubernetes.
"""

import threading
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import grpc

from tests.support.waiting import wait_for
from tests.support.wire import (
    dra_grpc,
    dra_health_grpc,
    dra_health_pb,
    dra_old_health_grpc,
    dra_old_health_pb,
    dra_pb,
    registration_grpc,
    registration_pb,
)

DRIVER = "fpga.xilinx.com"
NODE = "n1"
SLICES = "/apis/resource.k8s.io/v1/resourceslices"
EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"
_LIMIT = 30.0  # seconds for a call


class ClaimName(NamedTuple):
    """What kubelet tells a driver of a claim."""

    namespace: str
    name: str
    uid: str

    @property
    def path(self) -> str:
        """The path of the ResourceClaim on the API server."""
        return f"/apis/resource.k8s.io/v1/namespaces/{self.namespace}/resourceclaims/{self.name}"


def claim_of(
    name: str,
    *results: Mapping[str, Any],
    namespace: str = "default",
    annotations: Mapping[str, str] | None = None,
) -> tuple[ClaimName, dict[str, Any]]:
    """Make a ResourceClaim that the scheduler has allocated these results to."""
    reference = ClaimName(namespace, name, str(uuid.uuid4()))
    metadata = {"name": name, "namespace": namespace, "uid": reference.uid}
    if annotations:
        metadata |= {"annotations": dict(annotations)}  # type: ignore[dict-item]
    status = {"allocation": {"devices": {"results": list(results)}}} if results else {}
    return reference, {"metadata": metadata, "spec": {}, "status": status}


def result(device: str, request: str = "fpga", **more: Any) -> dict[str, Any]:
    """Make the result of a request."""
    return {"request": request, "driver": DRIVER, "pool": NODE, "device": device, **more}


class DraKubelet:
    """kubelet as the client of a driver. It finds the driver in its directory of registrations.

    Attributes:
        info: what the driver has told of itself.
    """

    def __init__(self, registry: Path) -> None:
        self._registry = registry
        self.info: Any = None
        self._channel: grpc.Channel | None = None
        self._streams: list[HealthStream] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def sockets(self) -> list[str]:
        """The names of the registration sockets."""
        return sorted(path.name for path in self._registry.glob("*-reg.sock"))

    def register(self, refusal: str | None = None, socket: str | None = None) -> None:
        """Do what kubelet does for a new socket: pluginmanager/operationexecutor/operation_generator.go.

        It tries again while the socket is not served, as it does.

        Args:
            refusal: the error that the driver is told instead of success.
            socket: the name of the socket; None: the only one.
        """

        def registers() -> bool:
            try:
                for name in self.sockets:
                    if socket in (None, name):
                        self._register(name, refusal)
                        return True
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            return False

        wait_for(registers, "a registration")

    def _register(self, name: str, refusal: str | None) -> None:
        with grpc.insecure_channel(f"unix://{self._registry / name}") as channel:
            registration = registration_grpc.RegistrationStub(channel)
            self.info = registration.GetInfo(registration_pb.InfoRequest(), timeout=_LIMIT)
            if refusal is None:
                self._connect(self.info.endpoint)
            status = registration_pb.RegistrationStatus(plugin_registered=refusal is None, error=refusal)
            registration.NotifyRegistrationStatus(status, timeout=_LIMIT)

    def prepare(self, *claims: ClaimName) -> dict[str, Any]:
        """Return the answer for each claim, by its uid."""
        request = dra_pb.NodePrepareResourcesRequest(claims=_claims(claims))
        stub = dra_grpc.DRAPluginStub(self._channel)
        return dict(stub.NodePrepareResources(request, timeout=_LIMIT).claims)

    def prepared(self, claim: ClaimName) -> list[Any]:
        """Prepare a claim, which has to succeed; return its devices."""
        answer = self.prepare(claim)[claim.uid]
        assert answer.error == ""
        return list(answer.devices)

    def refusal(self, claim: ClaimName) -> str:
        """Prepare a claim, which has to fail; return the error."""
        answer = self.prepare(claim)[claim.uid]
        assert answer.error
        assert not answer.devices
        return str(answer.error)

    def cancelled_prepare(self, claim: ClaimName) -> None:
        """Begin to prepare a claim and cancel the call, as kubelet does when its time is up."""
        request = dra_pb.NodePrepareResourcesRequest(claims=_claims([claim]))
        call = dra_grpc.DRAPluginStub(self._channel).NodePrepareResources.future(request)
        with suppress(grpc.FutureTimeoutError):
            call.result(0.5)
        call.cancel()

    def unprepare(self, *claims: ClaimName) -> dict[str, str]:
        """Return the error for each claim, by its uid."""
        request = dra_pb.NodeUnprepareResourcesRequest(claims=_claims(claims))
        answer = dra_grpc.DRAPluginStub(self._channel).NodeUnprepareResources(request, timeout=_LIMIT)
        return {uid: each.error for uid, each in answer.claims.items()}

    def watch_health(self, *, old: bool = False) -> "HealthStream":
        """Watch the health of the devices; ``old``: as kubelets up to 1.36 do."""
        stream = HealthStream(self._channel, old=old)
        self._streams.append(stream)
        return stream

    def stop(self) -> None:
        """Close the connection."""
        for stream in self._streams:
            stream.stop()
        self._streams.clear()
        if self._channel:
            self._channel.close()

    def _connect(self, endpoint: str) -> None:
        self.stop()
        self._channel = grpc.insecure_channel(f"unix://{endpoint}")
        grpc.channel_ready_future(self._channel).result(_LIMIT)


class HealthStream:
    """A stream of health. ``lists`` are what has come, each a mapping from device to its health."""

    def __init__(self, channel: grpc.Channel | None, *, old: bool) -> None:
        stub, pb = (dra_old_health_grpc, dra_old_health_pb) if old else (dra_health_grpc, dra_health_pb)
        self.lists: list[dict[str, Any]] = []
        self.ended = threading.Event()
        self._call = stub.DRAResourceHealthStub(channel).NodeWatchResources(pb.NodeWatchResourcesRequest())
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def wait_for(self, **health: str) -> dict[str, Any]:
        """Wait until the last list has these messages, by device with ``_`` for ``-``; empty: HEALTHY."""
        wanted = {name.replace("_", "-"): message for name, message in health.items()}

        def found() -> dict[str, Any] | None:
            last = self.lists[-1] if self.lists else {}
            messages = {name: each.message for name, each in last.items()}
            return last if messages == wanted else None

        return wait_for(found, lambda: f"{wanted} in {self.lists[-1:]}") or {}

    def stop(self) -> None:
        self._call.cancel()
        self._thread.join(10)

    def _read(self) -> None:
        try:
            for message in self._call:
                self.lists.append({each.device.device_name: each for each in message.devices})
        except grpc.RpcError:
            pass
        finally:
            self.ended.set()


def _claims(claims: Iterable[ClaimName]) -> list[Any]:
    return [dra_pb.Claim(namespace=each.namespace, name=each.name, uid=each.uid) for each in claims]
