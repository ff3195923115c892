"""The kubelet double against a minimal plugin on grpcio."""

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
from tests.support.grpcio_plugin import RESOURCE, Plugin, device_list, serve
from tests.support.wire import pb

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


def _code(refused: pytest.ExceptionInfo[grpc.RpcError]) -> grpc.StatusCode:
    assert isinstance(refused.value, grpc.Call)
    return refused.value.code()


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
    serve(kubelet, old, "a")
    kubelet.restart()
    assert kubelet.resources() == {}
    assert not (kubelet.directory / "old.sock").exists()
    assert kubelet.ends == []  # kubelet ended before the stream
    serve(kubelet, start("new.sock"), "a", "b")
    assert [record.endpoint for record in kubelet.registrations] == ["old.sock", "new.sock"]
    assert [list(one.health) for one in kubelet.lists(RESOURCE)] == [["a"], ["a", "b"]]


def test_kubelet_ends_while_a_plugin_hangs(kubelet: KubeletDouble, plugin: Plugin) -> None:
    hanging = threading.Event()
    plugin.options = lambda: hanging.wait(90) and pb.DevicePluginOptions()
    caller = ThreadPoolExecutor(1).submit(plugin.register)
    kubelet.wait_for(lambda: plugin.asked)
    begun = time.monotonic()
    kubelet.stop()
    assert time.monotonic() - begun < 45
    assert isinstance(caller.exception(timeout=30), grpc.RpcError)
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
    plugin.send(device_list("a", "b"))
    plugin.send(device_list("a", "b", health="Unhealthy"))
    plugin.send(device_list())
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
    serve(kubelet, plugin, "a")
    plugin.end_stream()
    kubelet.wait_for(lambda: kubelet.ends)
    assert kubelet.capacity(RESOURCE) == 1
    kubelet.grace = 0.3
    kubelet.wait_for(lambda: kubelet.resources() == {})


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (device_list("x" * 5_000_000), grpc.StatusCode.RESOURCE_EXHAUSTED),  # the limit is 4 MiB
        (b"\xff", grpc.StatusCode.INTERNAL),
    ],
    ids=["too large", "no message"],
)
def test_malformed_list_ends_the_stream(
    kubelet: KubeletDouble, plugin: Plugin, message: Any, code: grpc.StatusCode
) -> None:
    serve(kubelet, plugin, "a")
    plugin.send(message)
    kubelet.wait_for(lambda: kubelet.ends)
    assert kubelet.ends[0].code is code
    assert kubelet.allocatable(RESOURCE) == 0


# Two registrations of one name


def test_kubelet_1_36_drops_the_new_endpoint_with_the_old_stream(
    kubelet: KubeletDouble, start: Start
) -> None:
    old, new = start("old.sock"), start("new.sock")
    serve(kubelet, old, "a")
    serve(kubelet, new, "a", "b")
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
    serve(kubelet, old, "a")
    serve(kubelet, new, "a", "b")
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
    serve(kubelet, plugin, "a")
    with pytest.raises(grpc.RpcError):
        plugin.register()
    assert "already connected" in kubelet.wait_for(lambda: kubelet.refusals)[0].details
    # kubelet has dropped the client of the stream, so it ignores the end of the stream.
    plugin.end_stream()
    kubelet.wait_for(lambda: kubelet.ends)
    assert kubelet.allocatable(RESOURCE) == 1


def test_last_list_of_two_streams_counts(kubelet: KubeletDouble, start: Start) -> None:
    old, new = start("old.sock"), start("new.sock")
    serve(kubelet, old, "a")
    serve(kubelet, new, "a", "b")
    old.send(device_list())
    kubelet.wait_for(lambda: kubelet.resources() == {RESOURCE: {}})
    assert kubelet.lists(RESOURCE)[-1].endpoint == "old.sock"


# Calls


def test_calls_reach_the_plugin(kubelet: KubeletDouble, plugin: Plugin) -> None:
    plugin.options = lambda: pb.DevicePluginOptions(pre_start_required=True)
    serve(kubelet, plugin, "a", "b")
    answer = kubelet.allocate(RESOURCE, ["b", "a"])
    assert answer.container_responses[0].envs == {"IDS": "b,a"}
    assert kubelet.allocate_raw(RESOURCE, ["b", "a"]) == answer.SerializeToString()
    preferred = kubelet.preferred(RESOURCE, ["a", "b"], ["b"], 1)
    assert list(preferred.container_responses[0].deviceIDs) == ["b"]
    assert kubelet.options(RESOURCE).pre_start_required
    assert kubelet.options_raw(RESOURCE) == b"\x08\x01"


def test_caller_gets_the_status_of_the_plugin(kubelet: KubeletDouble, plugin: Plugin) -> None:
    serve(kubelet, plugin, "a")
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
    serve(kubelet, plugin, "a")


def test_stream_can_be_cut_while_kubelet_runs(kubelet: KubeletDouble, start: Start) -> None:
    plugin = start("one.sock")
    serve(kubelet, plugin, "a")
    kubelet.cut_stream(RESOURCE)
    kubelet.wait_for(lambda: kubelet.ends)
    assert kubelet.ends[0].code is grpc.StatusCode.CANCELLED
    assert kubelet.allocatable(RESOURCE) == 0
    serve(kubelet, start("two.sock"), "a")
    assert kubelet.allocatable(RESOURCE) == 1


def test_failed_wait_reports_the_records_of_kubelet(kubelet: KubeletDouble, plugin: Plugin) -> None:
    serve(kubelet, plugin, "a")
    with pytest.raises(AssertionError, match=r"(?s)capacity\(RESOURCE\) == 7.*one\.sock"):
        kubelet.wait_for(lambda: kubelet.capacity(RESOURCE) == 7, timeout=0.1)
