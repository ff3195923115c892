"""The kubelet double against a plugin on grpcio."""

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.double import KubeletDouble, NoEndpoint, is_extended_resource_name
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


Start = Callable[[str], Plugin]


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[KubeletDouble]:
    with KubeletDouble(tmp_path) as kubelet:
        yield kubelet


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A function that starts plugins, which end with the test."""
    plugins: list[Plugin] = []

    def start(endpoint: str = "one.sock") -> Plugin:
        plugins.append(Plugin(tmp_path, endpoint))
        return plugins[-1]

    yield start
    for plugin in plugins:
        plugin.stop()


@pytest.fixture
def plugin(start: Start) -> Plugin:
    return start("one.sock")


def _list(*ids: str, health: str = "Healthy") -> Any:
    return pb.ListAndWatchResponse(devices=[pb.Device(ID=name, health=health) for name in ids])


def _code(refused: pytest.ExceptionInfo[grpc.RpcError]) -> grpc.StatusCode:
    assert isinstance(refused.value, grpc.Call)
    return refused.value.code()


def _serving(kubelet: KubeletDouble, plugin: Plugin, *ids: str) -> None:
    plugin.register()
    plugin.send(_list(*ids))
    kubelet.wait_for(lambda: plugin.endpoint in [one.endpoint for one in kubelet.lists(RESOURCE)])
    assert kubelet.resources()[RESOURCE].keys() == set(ids)


def _ended(kubelet: KubeletDouble, plugin: Plugin) -> bool:
    return plugin.endpoint in [end.endpoint for end in kubelet.ends]


# The start and the end of kubelet


def test_start_keeps_directories_and_the_checkpoint(tmp_path: Path) -> None:
    for name in ("kubelet_internal_checkpoint", "foreign.txt", "kubelet.sock"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").touch()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "dead.sock"))
    with KubeletDouble(tmp_path) as kubelet:
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "folder",
            "kubelet.sock",
            "kubelet_internal_checkpoint",
        ]
        assert (tmp_path / "folder" / "inside").exists()
        assert kubelet.socket.is_socket()


def test_socket_of_a_stopped_kubelet_stays_and_refuses(kubelet: KubeletDouble) -> None:
    born = kubelet.socket.stat().st_ino
    kubelet.kill()
    assert kubelet.socket.is_socket()
    assert kubelet.socket.stat().st_ino == born
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(str(kubelet.socket))


def test_restart_drops_plugins_and_keeps_the_records(kubelet: KubeletDouble, start: Start) -> None:
    old = start("old.sock")
    _serving(kubelet, old, "a")
    kubelet.restart()
    assert kubelet.resources() == {}
    assert not (kubelet.directory / "old.sock").exists()
    assert kubelet.ends == []  # kubelet ended before the stream
    _serving(kubelet, start("new.sock"), "a", "b")
    assert [record.endpoint for record in kubelet.registrations] == ["old.sock", "new.sock"]
    assert [list(one.health) for one in kubelet.lists(RESOURCE)] == [["a"], ["a", "b"]]


def test_kubelet_ends_while_a_plugin_hangs(kubelet: KubeletDouble, plugin: Plugin) -> None:
    hanging = threading.Event()
    plugin.options = lambda: hanging.wait(10) and pb.DevicePluginOptions()
    caller = ThreadPoolExecutor(1).submit(plugin.register)
    kubelet.wait_for(lambda: plugin.asked)
    begun = time.monotonic()
    kubelet.stop()
    assert time.monotonic() - begun < 8
    assert isinstance(caller.exception(timeout=5), grpc.RpcError)
    hanging.set()


# Registering


def test_register_dials_back_and_reads_the_options(kubelet: KubeletDouble, plugin: Plugin) -> None:
    plugin.options = lambda: pb.DevicePluginOptions(get_preferred_allocation_available=True)
    before = time.monotonic()
    plugin.register()
    assert plugin.asked[0] == ("options", "localhost", True)
    (record,) = kubelet.registrations
    assert (record.resource, record.endpoint, record.version) == (RESOURCE, "one.sock", "v1beta1")
    assert record.options.get_preferred_allocation_available
    assert before < record.time < time.monotonic()


def test_register_fails_without_options_method(kubelet: KubeletDouble, plugin: Plugin) -> None:
    def unimplemented() -> Any:
        raise NotImplementedError

    plugin.options = unimplemented
    with pytest.raises(grpc.RpcError) as refused:
        plugin.register()
    assert _code(refused) is grpc.StatusCode.UNKNOWN
    assert "failed to get device plugin options" in kubelet.wait_for(lambda: kubelet.refusals)[0].details
    assert kubelet.registrations == []
    assert plugin.times_asked("list") == 0


LABEL_63 = "n" * 63
PREFIX_244 = "p" * 240 + ".com"


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        (RESOURCE, True),
        (f"amd.com/{LABEL_63}", True),
        (f"amd.com/{LABEL_63}n", False),
        (f"{PREFIX_244}/fpga", True),
        (f"p{PREFIX_244}/fpga", False),
        ("amd.com/A._-9", True),
        ("amd.com/a-", False),
        ("amd.com/-a", False),
        ("amd.com/a+b", False),
        ("amd.com/a\n", False),
        ("amd.com/", False),
        ("/fpga", False),
        ("fpga", False),
        ("amd.com/a/b", False),
        ("AMD.com/fpga", False),
        ("amd..com/fpga", False),
        ("kubernetes.io/fpga", False),
        ("x.kubernetes.io/fpga", False),
        ("requests.amd.com/fpga", False),
    ],
)
def test_resource_names(name: str, *, valid: bool) -> None:
    assert is_extended_resource_name(name) is valid


@pytest.mark.parametrize(("name", "version"), [("kubernetes.io/fpga", "v1beta1"), (RESOURCE, "v1alpha1")])
def test_bad_request_is_refused_without_a_dial_back(
    kubelet: KubeletDouble, plugin: Plugin, name: str, version: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        plugin.register(name, version)
    assert _code(refused) is grpc.StatusCode.UNKNOWN
    assert plugin.asked == []
    kubelet.wait_for(lambda: [record.resource for record in kubelet.refusals] == [name])


# Lists


def test_all_lists_are_recorded_and_the_newest_counts(kubelet: KubeletDouble, plugin: Plugin) -> None:
    plugin.register()
    plugin.send(_list("a", "b"))
    plugin.send(_list("a", "b", health="Unhealthy"))
    plugin.send(_list())
    kubelet.wait_for(lambda: len(kubelet.lists(RESOURCE)) == 3)
    healths = [one.health for one in kubelet.lists(RESOURCE)]
    assert healths == [{"a": "Healthy", "b": "Healthy"}, {"a": "Unhealthy", "b": "Unhealthy"}, {}]
    times = [one.time for one in kubelet.lists(RESOURCE)]
    assert times == sorted(times)
    assert kubelet.resources() == {RESOURCE: {}}


def test_only_healthy_is_healthy(kubelet: KubeletDouble, plugin: Plugin) -> None:
    plugin.register()
    words = {"a": "Healthy", "b": "healthy", "c": ""}
    devices = [pb.Device(ID=name, health=word) for name, word in words.items()]
    plugin.send(pb.ListAndWatchResponse(devices=devices))
    kubelet.wait_for(lambda: kubelet.capacity(RESOURCE) == 3)
    assert kubelet.allocatable(RESOURCE) == 1


def test_topology_absent_empty_and_zero_differ(kubelet: KubeletDouble, plugin: Plugin) -> None:
    zero = pb.TopologyInfo(nodes=[pb.NUMANode(ID=0)])
    devices = [
        pb.Device(ID="absent"),
        pb.Device(ID="empty", topology=pb.TopologyInfo()),
        pb.Device(ID="zero", topology=zero),
    ]
    plugin.register()
    plugin.send(pb.ListAndWatchResponse(devices=devices))
    kubelet.wait_for(lambda: kubelet.capacity(RESOURCE))
    assert kubelet.topology(RESOURCE) == {"absent": None, "empty": (), "zero": (0,)}


def test_resource_vanishes_after_the_grace_period(kubelet: KubeletDouble, plugin: Plugin) -> None:
    _serving(kubelet, plugin, "a")
    plugin.end_stream()
    kubelet.wait_for(lambda: kubelet.ends)
    assert kubelet.capacity(RESOURCE) == 1
    kubelet.grace = 0.3
    kubelet.wait_for(lambda: kubelet.resources() == {})


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (_list("x" * 5_000_000), grpc.StatusCode.RESOURCE_EXHAUSTED),  # the limit is 4 MiB
        (b"\xff", grpc.StatusCode.INTERNAL),
    ],
    ids=["too large", "no message"],
)
def test_malformed_list_ends_the_stream(
    kubelet: KubeletDouble, plugin: Plugin, message: Any, code: grpc.StatusCode
) -> None:
    _serving(kubelet, plugin, "a")
    plugin.send(message)
    kubelet.wait_for(lambda: kubelet.ends)
    assert kubelet.ends[0].code is code
    assert kubelet.allocatable(RESOURCE) == 0


# Two registrations of one name


def test_kubelet_1_36_drops_the_new_endpoint_with_the_old_stream(
    kubelet: KubeletDouble, start: Start
) -> None:
    old, new = start("old.sock"), start("new.sock")
    _serving(kubelet, old, "a")
    _serving(kubelet, new, "a", "b")
    old.end_stream()
    kubelet.wait_for(lambda: _ended(kubelet, old))
    assert kubelet.allocatable(RESOURCE) == 0
    with pytest.raises(NoEndpoint):
        kubelet.allocate(RESOURCE, ["a"])
    kubelet.wait_for(lambda: _ended(kubelet, new))  # the cancelled stream is the only sign
    assert [(end.endpoint, end.code) for end in kubelet.ends] == [
        ("old.sock", grpc.StatusCode.OK),
        ("new.sock", grpc.StatusCode.CANCELLED),
    ]


def test_kubelet_1_37_keeps_the_new_endpoint_after_the_old_stream(
    kubelet: KubeletDouble, start: Start
) -> None:
    kubelet.by_socket = True
    old, new = start("old.sock"), start("new.sock")
    _serving(kubelet, old, "a")
    _serving(kubelet, new, "a", "b")
    old.end_stream()
    kubelet.wait_for(lambda: _ended(kubelet, old))
    assert kubelet.allocatable(RESOURCE) == 2
    assert kubelet.allocate(RESOURCE, ["b"]).container_responses[0].envs["IDS"] == "b"
    new.end_stream()
    kubelet.wait_for(lambda: _ended(kubelet, new))
    assert (kubelet.capacity(RESOURCE), kubelet.allocatable(RESOURCE)) == (2, 0)


def test_kubelet_1_37_refuses_a_second_registration_of_a_socket(
    kubelet: KubeletDouble, plugin: Plugin
) -> None:
    kubelet.by_socket = True
    _serving(kubelet, plugin, "a")
    with pytest.raises(grpc.RpcError):
        plugin.register()
    assert "already connected" in kubelet.wait_for(lambda: kubelet.refusals)[0].details
    # kubelet has dropped the client of the stream, so it ignores the end of the stream.
    plugin.end_stream()
    kubelet.wait_for(lambda: kubelet.ends)
    assert kubelet.allocatable(RESOURCE) == 1


def test_last_list_of_two_streams_counts(kubelet: KubeletDouble, start: Start) -> None:
    old, new = start("old.sock"), start("new.sock")
    _serving(kubelet, old, "a")
    _serving(kubelet, new, "a", "b")
    old.send(_list())
    kubelet.wait_for(lambda: kubelet.resources() == {RESOURCE: {}})
    assert kubelet.lists(RESOURCE)[-1].endpoint == "old.sock"


# Calls


def test_calls_reach_the_plugin(kubelet: KubeletDouble, plugin: Plugin) -> None:
    plugin.options = lambda: pb.DevicePluginOptions(pre_start_required=True)
    _serving(kubelet, plugin, "a", "b")
    answer = kubelet.allocate(RESOURCE, ["b", "a"])
    assert answer.container_responses[0].envs == {"IDS": "b,a"}
    assert kubelet.allocate_raw(RESOURCE, ["b", "a"]) == answer.SerializeToString()
    preferred = kubelet.preferred(RESOURCE, ["a", "b"], ["b"], 1)
    assert list(preferred.container_responses[0].deviceIDs) == ["b"]
    assert kubelet.options(RESOURCE).pre_start_required
    assert kubelet.options_raw(RESOURCE) == b"\x08\x01"


def test_caller_gets_the_status_of_the_plugin(kubelet: KubeletDouble, plugin: Plugin) -> None:
    _serving(kubelet, plugin, "a")
    with pytest.raises(grpc.RpcError) as unknown:
        kubelet.allocate(RESOURCE, ["unknown"])
    assert _code(unknown) is grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError) as unready:
        kubelet.pre_start(RESOURCE, ["a"])
    assert _code(unready) is grpc.StatusCode.FAILED_PRECONDITION


def test_call_of_an_unregistered_resource_fails(kubelet: KubeletDouble) -> None:
    with pytest.raises(NoEndpoint):
        kubelet.allocate(RESOURCE, ["a"])
    assert kubelet.capacity(RESOURCE) == 0


# Faults


def test_register_refuses_with_the_configured_code(kubelet: KubeletDouble, plugin: Plugin) -> None:
    kubelet.faults.refuse = grpc.StatusCode.UNAVAILABLE
    with pytest.raises(grpc.RpcError) as refused:
        plugin.register()
    assert _code(refused) is grpc.StatusCode.UNAVAILABLE
    kubelet.faults.refuse = None
    _serving(kubelet, plugin, "a")


def test_stream_can_be_cut_while_kubelet_runs(kubelet: KubeletDouble, start: Start) -> None:
    plugin = start("one.sock")
    _serving(kubelet, plugin, "a")
    kubelet.cut_stream(RESOURCE)
    kubelet.wait_for(lambda: kubelet.ends)
    assert kubelet.ends[0].code is grpc.StatusCode.CANCELLED
    assert kubelet.allocatable(RESOURCE) == 0
    _serving(kubelet, start("two.sock"), "a")
    assert kubelet.allocatable(RESOURCE) == 1


def test_failed_wait_reports_the_records_of_kubelet(kubelet: KubeletDouble, plugin: Plugin) -> None:
    _serving(kubelet, plugin, "a")
    with pytest.raises(AssertionError, match=r"(?s)capacity\(RESOURCE\) == 7.*one\.sock"):
        kubelet.wait_for(lambda: kubelet.capacity(RESOURCE) == 7, timeout=0.1)
