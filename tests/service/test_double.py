"""The kubelet double against a plugin on grpcio, in real time."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from tests.support.double import KubeletDouble, NoEndpoint
from tests.support.grpcio_plugin import RESOURCE, Plugin, serve


def _code(refused: pytest.ExceptionInfo[grpc.RpcError]) -> grpc.StatusCode:
    assert isinstance(refused.value, grpc.Call)
    return refused.value.code()


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[KubeletDouble]:
    with KubeletDouble(tmp_path) as kubelet:
        yield kubelet


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Plugin]:
    plugin = Plugin(tmp_path)
    yield plugin
    plugin.stop()


@pytest.mark.parametrize("code", [grpc.StatusCode.OK, grpc.StatusCode.ABORTED])
def test_end_of_stream_makes_devices_unhealthy_without_redial(
    kubelet: KubeletDouble, plugin: Plugin, code: grpc.StatusCode
) -> None:
    serve(kubelet, plugin, "a", "b")
    plugin.end_stream(code)
    kubelet.wait_for(lambda: kubelet.ends)
    assert kubelet.resources() == {RESOURCE: {"a": "Unhealthy", "b": "Unhealthy"}}
    assert (kubelet.capacity(RESOURCE), kubelet.allocatable(RESOURCE)) == (2, 0)
    (end,) = kubelet.ends
    assert (end.code, end.clean) == (code, code is grpc.StatusCode.OK)
    with pytest.raises(NoEndpoint):
        kubelet.allocate(RESOURCE, ["a"])
    time.sleep(0.3)
    assert [asked for asked, _, _ in plugin.asked] == ["options", "list"]


@pytest.mark.parametrize("fault", ["register_hang", "dial_hang"])
def test_hanging_register_ends_with_kubelet(kubelet: KubeletDouble, plugin: Plugin, fault: str) -> None:
    setattr(kubelet.faults, fault, 60)
    caller = ThreadPoolExecutor(1).submit(plugin.register)
    time.sleep(0.3)
    assert not caller.done()
    assert plugin.asked == []
    kubelet.stop()
    assert isinstance(caller.exception(timeout=30), grpc.RpcError)
    assert kubelet.registrations == []


@pytest.mark.parametrize(("fault", "setting"), [("never_list", True), ("list_delay", 60)])
def test_never_list_opens_no_stream(
    kubelet: KubeletDouble, plugin: Plugin, fault: str, setting: float
) -> None:
    setattr(kubelet.faults, fault, setting)
    plugin.register()
    time.sleep(0.2)
    assert plugin.times_asked("list") == 0
    assert kubelet.allocate(RESOURCE, ["a"]).container_responses


def test_register_fails_without_a_server_at_the_endpoint(kubelet: KubeletDouble, plugin: Plugin) -> None:
    plugin.endpoint = "absent.sock"
    kubelet.dial_limit = 0.5
    begun = time.monotonic()
    with pytest.raises(grpc.RpcError) as refused:
        plugin.register()
    assert time.monotonic() - begun >= kubelet.dial_limit
    assert _code(refused) is grpc.StatusCode.UNKNOWN
    assert "failed to dial" in kubelet.wait_for(lambda: kubelet.refusals)[0].details
