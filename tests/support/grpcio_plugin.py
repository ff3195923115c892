"""A minimal device plugin on grpcio, for the tests of kubelet's double."""

import queue
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from tests.support.double import KubeletDouble
from tests.support.wire import pb, pb_grpc

RESOURCE = "xilinx.com/fpga-shell-1"


class Plugin:
    """A minimal device plugin. ``None`` in the queue ends its stream."""

    def __init__(self, directory: Path, endpoint: str = "one.sock") -> None:
        self.directory = directory
        self.endpoint = endpoint
        self.asked: list[tuple[str, str, bool]] = []  # method, authority, while registering
        self.options: Callable[[], Any] = pb.DevicePluginOptions
        self.end = grpc.StatusCode.OK
        self._registering = False
        self._lists: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._server = grpc.server(ThreadPoolExecutor(8))
        # Generic handlers, since the methods of a generated servicer cannot read the authority.
        handlers = {
            "GetDevicePluginOptions": grpc.unary_unary_rpc_method_handler(
                self._answer_options, pb.Empty.FromString, _encoded
            ),
            "ListAndWatch": grpc.unary_stream_rpc_method_handler(
                self._list_and_watch, pb.Empty.FromString, _encoded
            ),
            "Allocate": grpc.unary_unary_rpc_method_handler(
                self._allocate, pb.AllocateRequest.FromString, _encoded
            ),
            "GetPreferredAllocation": grpc.unary_unary_rpc_method_handler(
                self._prefer, pb.PreferredAllocationRequest.FromString, _encoded
            ),
            "PreStartContainer": grpc.unary_unary_rpc_method_handler(
                self._pre_start, pb.PreStartContainerRequest.FromString, _encoded
            ),
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("v1beta1.DevicePlugin", handlers),)
        )
        self._server.add_insecure_port(f"unix:{directory / endpoint}")
        self._server.start()

    def register(self, resource: str = RESOURCE, version: str = "v1beta1") -> None:
        self._registering = True
        with grpc.insecure_channel(f"unix:{self.directory / 'kubelet.sock'}") as channel:
            pb_grpc.RegistrationStub(channel).Register(
                pb.RegisterRequest(version=version, endpoint=self.endpoint, resource_name=resource),
                timeout=15,
            )
        self._registering = False

    def send(self, message: Any) -> None:
        self._lists.put(message)

    def end_stream(self, code: grpc.StatusCode = grpc.StatusCode.OK) -> None:
        self.end = code
        self._lists.put(None)

    def stop(self) -> None:
        self._lists.put(None)
        self._server.stop(None).wait(5)

    def times_asked(self, method: str) -> int:
        return [asked for asked, _, _ in self.asked].count(method)

    def _note(self, method: str, context: Any) -> None:
        authority = context._rpc_event.call_details.host.decode()
        self.asked.append((method, authority, self._registering))

    def _answer_options(self, _: Any, context: Any) -> Any:
        self._note("options", context)
        return self.options()

    def _list_and_watch(self, _: Any, context: Any) -> Iterator[Any]:
        self._note("list", context)
        context.add_callback(lambda: self._lists.put(None))
        while (message := self._lists.get()) is not None:
            yield message
        if self.end is not grpc.StatusCode.OK:
            context.abort(self.end, "ended by the test")

    def _allocate(self, request: Any, context: Any) -> Any:
        (container,) = request.container_requests
        if "unknown" in container.devices_ids:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such device")
        answer = pb.ContainerAllocateResponse(envs={"IDS": ",".join(container.devices_ids)})
        return pb.AllocateResponse(container_responses=[answer])

    def _prefer(self, request: Any, _: Any) -> Any:
        (asked,) = request.container_requests
        ids = [*asked.must_include_deviceIDs, *asked.available_deviceIDs][: asked.allocation_size]
        answer = pb.ContainerPreferredAllocationResponse(deviceIDs=ids)
        return pb.PreferredAllocationResponse(container_responses=[answer])

    def _pre_start(self, request: Any, context: Any) -> Any:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, ",".join(request.devices_ids))


def _encoded(message: Any) -> bytes:
    encoded: bytes = message if isinstance(message, bytes) else message.SerializeToString()
    return encoded


def device_list(*ids: str, health: str = "Healthy") -> Any:
    """Return pb.ListAndWatchResponse with devices of these ids."""
    return pb.ListAndWatchResponse(devices=[pb.Device(ID=name, health=health) for name in ids])


def serve(kubelet: KubeletDouble, plugin: Plugin, *ids: str) -> None:
    """Register, send a list of these ids and wait until kubelet has it."""
    plugin.register()
    plugin.send(device_list(*ids))
    kubelet.wait_for(lambda: plugin.endpoint in [one.endpoint for one in kubelet.lists(RESOURCE)])
    assert kubelet.resources()[RESOURCE].keys() == set(ids)
