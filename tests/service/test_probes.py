"""Probes and metrics over HTTP in every state of kubelet, cards and process."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import grpc
import pytest

from tests.support.double import KubeletDouble
from tests.support.podresources import PodResourcesDouble
from tests.support.probed import Probed
from tests.support.process import Service, clean_environment
from tests.support.resource_names import U200, U250
from tests.support.waiting import wait_for
from xilinx_fpga_dp.model import Reason
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode

OK = (200, "ok\n")
NOT_REGISTERED = (503, f"not registered: {U200}\n")


@pytest.fixture
def probed(node: SampleNode) -> Iterator[Probed]:
    """The pages of a service on a node with one U200."""
    node.add_card("u200", "0000:11:00", release="2023.2")
    pages = Probed(node)
    with Service(pages.settings) as service:
        service.logged(Event.SERVING_HTTP)
        service.logged(Event.DEVICE_FOUND)
        pages.pid = service.process.pid
        yield pages


def test_not_ready_before_kubelet_starts(probed: Probed) -> None:
    probed.turns("readyz", NOT_REGISTERED)
    assert probed.get("livez") == OK
    assert probed.devices() == {("Healthy", "", U200): 1}
    assert probed.registered() == {U200: 0}
    assert not [name for name in probed.series() if name.startswith("registrations")], (
        "no registration was tried"
    )


def test_not_ready_while_kubelet_is_stopped(probed: Probed, kubelet: KubeletDouble) -> None:
    kubelet.start()
    probed.turns("readyz", OK)
    assert probed.registered() == {U200: 1}
    for restart in (1, 2):
        kubelet.stop()
        wait_for(lambda: probed.get("readyz")[0] == 503, "not ready")
        assert probed.get("livez") == OK
        assert probed.registered() == {U200: 0}
        assert probed.devices() == {("Healthy", "", U200): 1}, "a missing kubelet is not a fault of the card"
        kubelet.start()
        probed.turns("readyz", OK)
        assert probed.series()["kubelet_restarts_total"] == restart
    assert probed.series()[f'registrations_total{{resource="{U200}",result="ok"}}'] == 3


def test_failed_registrations_count_after_kubelet_is_killed(probed: Probed, kubelet: KubeletDouble) -> None:
    kubelet.start()
    probed.turns("readyz", OK)
    kubelet.kill()
    wait_for(lambda: probed.get("readyz")[0] == 503, "not ready")
    wait_for(
        lambda: probed.series().get(f'registrations_total{{resource="{U200}",result="failed"}}', 0) >= 2,
        "attempts are counted",
    )
    assert probed.series()["kubelet_restarts_total"] == 0
    assert probed.get("livez") == OK
    reason = f"not registered: {U200} (Connection refused: {kubelet.socket})\n"
    wait_for(lambda: probed.get("readyz") == (503, reason), "not ready, with the reason")


def test_not_ready_while_kubelet_refuses(probed: Probed, kubelet: KubeletDouble) -> None:
    kubelet.faults.refuse = grpc.StatusCode.UNKNOWN
    kubelet.start()
    wait_for(lambda: len(kubelet.refusals) > 2, "kubelet refuses")
    status, reason = probed.get("readyz")
    assert status == 503
    assert reason.startswith(f"not registered: {U200} (kubelet refused: ")
    assert probed.registered() == {U200: 0}


def test_not_ready_without_a_live_stream(probed: Probed, kubelet: KubeletDouble) -> None:
    kubelet.faults.never_list = True
    kubelet.start()
    wait_for(lambda: kubelet.registrations, "registered")
    time.sleep(0.5)
    status, reason = probed.get("readyz")
    assert (status, reason.split()[:3]) == (503, ["not", "registered:", U200]), "no live stream"
    assert probed.registered() == {U200: 0}


def test_ready_without_cards(node: SampleNode, kubelet: KubeletDouble) -> None:
    node.add_ordinary_devices()
    pages = Probed(node)
    with Service(pages.settings) as service:
        service.logged(Event.SERVING_HTTP)
        pages.turns("readyz", OK)
        assert pages.get("livez") == OK
        assert (pages.devices(), pages.registered()) == ({}, {})


def test_not_ready_before_the_first_scan(node: SampleNode) -> None:
    node.add_card("u200")
    os.rename(f"{node.sysfs_root}/bus", f"{node.sysfs_root}/away")
    pages = Probed(node)
    with Service(pages.settings) as service:
        service.logged(Event.SERVING_HTTP)
        service.logged(Event.SCAN_FAILED)
        status, reason = pages.get("readyz")
        assert status == 503, "the number of cards is not known"
        assert "not been scanned yet" in reason
        assert "No such file" in reason
        assert pages.series()["scan_errors_total"] >= 1
        assert pages.get("livez") == OK
        os.rename(f"{node.sysfs_root}/away", f"{node.sysfs_root}/bus")
        pages.turns("readyz", NOT_REGISTERED)


def test_ready_with_an_unresponsive_card(probed: Probed, node: SampleNode, kubelet: KubeletDouble) -> None:
    kubelet.start()
    probed.turns("readyz", OK)
    [card] = node.cards
    card.hang("ready")
    wait_for(lambda: probed.devices() == {("Unhealthy", "unresponsive", U200): 1}, "unhealthy")
    assert (probed.get("livez"), probed.get("readyz")) == (OK, OK), "a restart of the service would not help"
    scans = probed.series()["scan_duration_seconds_count"]
    wait_for(lambda: probed.series()["scan_duration_seconds_count"] > scans + 1, "scans continue")
    card.unhang("ready")
    wait_for(lambda: probed.devices() == {("Healthy", "", U200): 1}, "healthy")


def test_not_ready_before_holders_are_known(
    node: SampleNode, kubelet: KubeletDouble, pods: PodResourcesDouble
) -> None:
    """No device is offered before podresources has answered; the node has cards all the same."""
    node.add_card("u200", "0000:11:00")
    pods.hangs.clear()
    pods.start()
    kubelet.start()
    pages = Probed(node, POD_RESOURCES_SOCKET=pods.path)
    with Service(pages.settings) as service:
        service.logged(Event.SERVING_HTTP)
        pages.turns("readyz", (503, "podresources has not been asked who holds 0000:11:00.1\n"))
        pages.turns("readyz", OK)
        kubelet.wait_for(lambda: kubelet.allocatable(U200) == 1)


def test_only_newer_of_two_instances_is_ready(
    probed: Probed, node: SampleNode, kubelet: KubeletDouble
) -> None:
    kubelet.start()
    probed.turns("readyz", OK)
    newer = Probed(node)
    with Service(newer.settings) as service:
        service.logged(Event.SERVING_HTTP)
        wait_for(lambda: probed.registered() == {U200: 0}, "the older instance is not registered")
        newer.turns("readyz", OK)
        assert probed.get("readyz") == NOT_REGISTERED
        assert probed.get("livez") == OK
    probed.turns("readyz", OK)


def test_stopped_process_is_not_alive(probed: Probed) -> None:
    os.kill(probed.pid, signal.SIGSTOP)
    try:
        with pytest.raises(TimeoutError):
            probed.get("livez", 1)
    finally:
        os.kill(probed.pid, signal.SIGCONT)
    probed.turns("livez", OK)


# The real program, with a signal that makes the loop hang in a call that does not return.
HANGING = """
import signal, sys, threading
from xilinx_fpga_dp.cli import main
signal.signal(signal.SIGUSR1, lambda *_: threading.Event().wait())
sys.exit(main(["run"]))
"""


def test_hanging_loop_is_not_alive(node: SampleNode) -> None:
    pages = Probed(node)
    environment = clean_environment(pages.settings)
    with subprocess.Popen(
        [sys.executable, "-c", HANGING], env=environment, stderr=subprocess.DEVNULL
    ) as process:
        try:
            wait_for(lambda: _answers(pages), "alive")
            process.send_signal(signal.SIGUSR1)
            time.sleep(0.2)
            with pytest.raises(TimeoutError):
                pages.get(
                    "livez", 2
                )  # the probe of kubelet fails, and after some failures kubelet restarts the container
        finally:
            process.kill()


def _answers(pages: Probed) -> bool:
    try:
        return pages.get("livez") == OK
    except OSError:
        return False


def test_number_of_series_is_bounded(node: SampleNode, kubelet: KubeletDouble) -> None:
    """Only existing resources have series, after any number of shells and requests of pods."""
    card = node.add_card("u200", "0000:11:00", release="2023.2")
    node.add_card("u250", "0000:21:00", release="2023.2")
    pages = Probed(node, TELEMETRY="none")  # the cards stay
    with Service(pages.settings):
        kubelet.start()
        kubelet.wait_for(lambda: kubelet.allocatable(U200) == 1 and kubelet.allocatable(U250) == 1)
        kubelet.allocate(U200, ["0000:11:00.1"])
        _refuse_all(kubelet, U200)
        before = set(pages.series())
        for number in range(6):
            card.write("rom/timestamp", str(number))
            name = U200.rpartition("-")[0] + f"-{number}"
            kubelet.wait_for(lambda name=name: kubelet.allocatable(name) == 1)  # type: ignore[misc]
            kubelet.allocate(name, ["0000:11:00.1"])
            _refuse_all(kubelet, name)
        kubelet.wait_for(lambda: kubelet.capacity(U200) == 0)
        wait_for(
            lambda: {each.replace(name, U200) for each in pages.series()} == before,
            "the series of removed resources are removed",
        )


def _refuse_all(kubelet: KubeletDouble, resource: str) -> None:
    for ids in (["0000:99:00.1"], ["0000:11:00.1"] * 2, []):
        with pytest.raises(grpc.RpcError):
            kubelet.allocate(resource, ids)


def test_reason_labels_are_members_of_reason(probed: Probed, node: SampleNode) -> None:
    [card] = node.cards
    for happens, reason in (
        (card.offline, "offline"),
        (card.bad_state, "bad-state"),
        (card.unbind, "no-driver"),
    ):
        card.mend()
        happens()
        wait_for(lambda reason=reason: ("Unhealthy", reason, U200) in probed.devices(), reason)  # type: ignore[misc]
        assert all(reason in {"", *Reason} for _, reason, _ in probed.devices())


class TestOtherClients:
    """Other clients of the port do not keep probes from an answer."""

    def connected(self, pages: Probed, sent: bytes = b"") -> socket.socket:
        host, _, port = pages.address.partition(":")
        connection = socket.create_connection((host, int(port)), timeout=5)
        connection.sendall(sent)
        return connection

    def test_silent_clients_do_not_block_probes(self, probed: Probed) -> None:
        os.kill(probed.pid, signal.SIGSTOP)  # until all connections wait
        try:
            silent = [self.connected(probed, b"GET /livez HT") for _ in range(200)]
        finally:
            os.kill(probed.pid, signal.SIGCONT)
        try:
            for _ in range(5):
                assert probed.get("livez") == OK
            files = len(os.listdir(f"/proc/{probed.pid}/fd"))
            assert files < 120, "the number of connections is bounded"
        finally:
            for connection in silent:
                connection.close()

    @pytest.mark.parametrize(
        ("sent", "answer"),
        [
            (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 404"),
            (b"GET /../../etc/passwd HTTP/1.1\r\n\r\n", b"HTTP/1.1 404"),
            (b"POST /livez HTTP/1.1\r\nContent-Length: 9\r\n\r\nwhatever!", b"HTTP/1.1 405"),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"HTTP/1.1 400"),
            (b"\x16\x03\x01\x02\x00\r\n\r\n", b"HTTP/1.1 400"),
            (b"GET /livez HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", b""),
        ],
    )
    def test_malformed_request_does_not_block_probes(
        self, probed: Probed, sent: bytes, answer: bytes
    ) -> None:
        with self.connected(probed) as connection:
            try:
                connection.sendall(sent)
                got = connection.recv(4096)
            except ConnectionError:  # closed with unread bytes
                got = b""
        assert got.startswith(answer)
        assert bool(got) == bool(answer)
        assert probed.get("livez") == OK
