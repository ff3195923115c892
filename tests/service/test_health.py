"""Health of cards as kubelet receives it: faults, resets, flapping; and the service beside other faults."""

import asyncio
import itertools
import json
import os
import re
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.double import KubeletDouble
from tests.support.ports import reserved
from tests.support.process import Service
from tests.support.resource_names import U55C, U200, U250
from tests.support.running import settings_for
from tests.support.waiting import wait_for
from xilinx_fpga_dp.discovery import sysfs
from xilinx_fpga_dp.discovery.health import HealthRules
from xilinx_fpga_dp.discovery.scanner import Scanner
from xilinx_fpga_dp.model import Reason
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode, XrtCard
from xilinx_fpga_dp.simulate.sysfs.xrt_releases import DRIVER_VERSIONS

_HALF = 5  # steps of a reset, after which it waits for the management function


def _trips(card: XrtCard) -> Iterator[str]:
    """Yield after each step: two trips that only the firewall's status shows, then a reset."""
    for status in ("2", "3"):
        card.write("firewall/status", status)
        yield status
        card.mend()
        yield "mended"
    card.write("firewall/status", "3")
    yield from itertools.chain(card.resetting(), card.returning(suffix=1))


def _one_by_one(card: XrtCard) -> Iterator[str]:
    """Yield after each step: faults that show in one file only."""
    for attribute in ("rom/VBNV", "driver"):
        card.corrupt(attribute, "missing")
        yield attribute
        card.unbind()
        card.bind()
        yield "bound again"


def _broken_and_mended(name: str) -> Callable[[XrtCard], Iterator[str]]:
    def steps(card: XrtCard) -> Iterator[str]:
        for change in FAULTS[name][:2]:
            change(card)
            yield name

    return steps


def _back_from_vfio(card: XrtCard) -> None:
    card.unbind()
    card.bind()


FAULTS: dict[str, tuple[Callable[[XrtCard], None], Callable[[XrtCard], None], Reason]] = {
    "shutdown": (XrtCard.shutdown, XrtCard.online, Reason.SHUTDOWN),
    "offline": (XrtCard.offline, XrtCard.mend, Reason.OFFLINE),
    "not-ready": (XrtCard.not_ready, XrtCard.mend, Reason.NOT_READY),
    "bad-state": (XrtCard.bad_state, XrtCard.mend, Reason.BAD_STATE),
    "resetting": (XrtCard.reset_begin, XrtCard.reset_end, Reason.RESETTING),
    "shell-unknown": (XrtCard.shell_unknown, XrtCard.mend, Reason.SHELL_UNKNOWN),
    "no-driver": (XrtCard.unbind, XrtCard.bind, Reason.NO_DRIVER),
    "no-driver (vfio)": (XrtCard.vfio, _back_from_vfio, Reason.NO_DRIVER),
    "no management driver": (XrtCard.unbind_mgmt, XrtCard.bind_mgmt, Reason.NOT_READY),
    "unresponsive": (
        lambda card: card.hang("ready"),
        lambda card: card.unhang("ready"),
        Reason.UNRESPONSIVE,
    ),
    "no-node": (
        lambda card: card.node.remove_node(str(card.render_node)),
        lambda card: card.node.add_node(str(card.render_node)),
        Reason.NO_NODE,
    ),
}  # fmt: skip


CHANGES: dict[str, Callable[[XrtCard], Iterator[str]]] = {
    **{name: _broken_and_mended(name) for name in FAULTS if name != "unresponsive"},
    "reset": lambda card: itertools.chain(card.resetting(), card.returning(suffix=1)),
    "trips": _trips,
    "one by one": _one_by_one,
}
# The first release with the change. Earlier, trips are read outside scans and rarely.
SINCE = {"shutdown": "2020.1", "trips": "2022.2"}


@pytest.fixture
def pair(node: SampleNode) -> tuple[XrtCard, XrtCard]:
    return node.add_card("u55c", "0000:11:00", release="2023.2"), node.add_card("u55c", "0000:21:00")


@pytest.fixture
def watched(
    node: SampleNode, pair: tuple[XrtCard, XrtCard], kubelet: KubeletDouble, service: Service
) -> KubeletDouble:
    kubelet.start()
    kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 2)
    return kubelet


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_sets_and_clears_its_reason(
    watched: KubeletDouble, pair: tuple[XrtCard, XrtCard], service: Service, name: str
) -> None:
    breaks, mends, reason = FAULTS[name]
    breaks(pair[0])
    watched.wait_for(lambda: watched.resources()[U55C][pair[0].address] == "Unhealthy")
    service.logged(Event.DEVICE_UNHEALTHY, device=pair[0].address, reason=str(reason))
    assert watched.capacity(U55C) == 2
    assert watched.resources()[U55C][pair[1].address] == "Healthy"
    mends(pair[0])
    watched.wait_for(lambda: watched.allocatable(U55C) == 2)
    assert watched.ends == []


@pytest.mark.parametrize("release", ["2022.1", "2022.2"])
def test_tripped_firewall_needs_reset(
    node: SampleNode, kubelet: KubeletDouble, service: Service, release: str
) -> None:
    card = node.add_card("u55c", release=release)
    kubelet.start()
    kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1)
    card.firewall_trip()
    kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 0)
    if release == "2022.2":
        service.logged(Event.DEVICE_UNHEALTHY, device=card.address, reason="firewall")
    card.reset_begin()
    service.logged(Event.DEVICE_UNHEALTHY, device=card.address, reason="resetting")
    card.reset_end()
    kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1)


def test_base_without_shell_is_left_out(node: SampleNode, kubelet: KubeletDouble, service: Service) -> None:
    card = node.add_card("u250-base")
    card.write("mgmt/rp_program", "1")
    node.add_card("u55c")
    kubelet.start()
    kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1)
    service.logged(Event.LEFT_OUT, function=card.address)
    assert list(kubelet.resources()) == [U55C]
    card.reprogram("u250-2rp")
    kubelet.wait_for(lambda: len(kubelet.resources()) == 2)


@pytest.mark.parametrize("release", ["2019.1", "2019.2", "2020.1", "2022.2", "2023.2"])
def test_reset_keeps_capacity_at_each_step(
    node: SampleNode, kubelet: KubeletDouble, service: Service, release: str
) -> None:
    card = node.add_card("u200", release=release)
    other = node.add_card("u200", release=release)
    kubelet.start()
    kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2)
    before = len(kubelet.lists(U200))  # a scan may have run between the two cards
    for going, steps in ((True, card.resetting()), (False, card.returning())):
        for _ in steps:
            if going:
                kubelet.wait_for(lambda: kubelet.allocatable(U200) == 1)
            time.sleep(0.25)
            assert kubelet.capacity(U200) == 2
            assert kubelet.resources()[U200][other.address] == "Healthy"
    kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2)
    assert all(len(each.health) == 2 for each in kubelet.lists(U200)[before:])
    assert kubelet.ends == []


def test_reset_of_all_cards_keeps_capacity(watched: KubeletDouble, pair: tuple[XrtCard, XrtCard]) -> None:
    for card in pair:
        card.reset_begin()
    watched.wait_for(lambda: watched.allocatable(U55C) == 0)
    assert watched.capacity(U55C) == 2
    pair[0].reset_end(render=200, suffix=9)
    pair[1].reset_end()
    watched.wait_for(lambda: watched.allocatable(U55C) == 2)
    assert len(watched.registrations) == 1
    [container] = watched.allocate(U55C, [pair[0].address]).container_responses
    assert container.devices[0].host_path == "/dev/dri/renderD200"


def test_card_off_the_bus_in_reset_stays_in_the_list(
    watched: KubeletDouble, pair: tuple[XrtCard, XrtCard]
) -> None:
    pair[0].offline()
    watched.wait_for(lambda: watched.allocatable(U55C) == 1)
    pair[0].remove()
    time.sleep(1)
    assert watched.capacity(U55C) == 2
    pair[0].plug()
    watched.wait_for(lambda: watched.allocatable(U55C) == 2)


def test_card_leaves_the_list_after_reset_grace(node: SampleNode, kubelet: KubeletDouble) -> None:
    card = node.add_card("u55c")
    with Service(settings_for(node, RESET_GRACE="1")) as service:
        kubelet.start()
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1)
        card.reset_begin()
        kubelet.wait_for(lambda: kubelet.capacity(U55C) == 0)
        assert (
            "resetting for more than 1 s" in service.logged(Event.LEFT_OUT, function=card.address)["reason"]
        )
        card.reset_end()
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1)


def test_other_shell_after_reset_moves_card_in_one_step(
    watched: KubeletDouble, pair: tuple[XrtCard, XrtCard]
) -> None:
    pair[0].reset_begin()
    watched.wait_for(lambda: watched.allocatable(U55C) == 1)
    for _ in pair[0].returning(board="u250"):
        time.sleep(0.15)
        both = [name for name, devices in watched.resources().items() if pair[0].address in devices]
        assert len(both) <= 1, "never in both lists"  # in none while the other resource registers
    watched.wait_for(lambda: watched.allocatable(U250) == 1 and watched.capacity(U55C) == 1)


def test_hanging_read_is_reported_in_time_and_blocks_one_thread(
    watched: KubeletDouble, pair: tuple[XrtCard, XrtCard], service: Service
) -> None:
    threads = len(os.listdir(f"/proc/{service.process.pid}/task"))
    pair[0].hang("dev_offline")
    watched.wait_for(lambda: watched.allocatable(U55C) == 1)
    pair[1].offline()
    watched.wait_for(lambda: watched.allocatable(U55C) == 0)
    time.sleep(1)
    assert len(os.listdir(f"/proc/{service.process.pid}/task")) - threads <= 5  # other reads may be running
    pair[0].unhang("dev_offline")


def test_flapping_is_bounded_and_ends_with_newest_state(node: SampleNode, kubelet: KubeletDouble) -> None:
    card = node.add_card("u55c")
    with Service(settings_for(node, HEALTH_INTERVAL="0.05", RECOVERY_CHECKS="1")):
        kubelet.start()
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1)
        began, changes = time.monotonic(), 0
        while changes < 57 or len(kubelet.lists(U55C)) < 6:
            (card.mend if changes % 2 else card.offline)()
            changes += 1
            time.sleep(0.07)
        card.offline()
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 0)
        time.sleep(1.5)
        kubelet.wait_for(lambda: kubelet.lists(U55C)[-1].health == {card.address: "Unhealthy"})
        assert len(kubelet.lists(U55C)) <= 6 + 1.5 * (time.monotonic() - began), "of 57 changes"


def _get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture
def port() -> Iterator[int]:
    with reserved() as held:
        yield held.getsockname()[1]


def test_state_shows_time_and_count_of_changes(node: SampleNode, kubelet: KubeletDouble, port: int) -> None:
    card = node.add_card("u55c", release="2023.2")
    with Service(settings_for(node, HTTP_ADDRESS=f"127.0.0.1:{port}")) as service:
        service.logged(Event.SERVING_HTTP)
        kubelet.start()
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1)
        card.bad_state()
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 0)
        card.mend()
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1)
        status, body = _get(port, "/state")
        document = json.loads(body)
        [device] = document["devices"]
        assert status == 200
        assert (device["health"], device["changes"], device["last_reason"]) == ("Healthy", 2, "bad-state")
        assert device["since"].endswith("Z")
        assert document["resources"][U55C] == {"devices": 1, "healthy": 1, "registered": True}


def test_kernel_event_starts_a_scan(node: SampleNode, kubelet: KubeletDouble) -> None:
    """Root can make the kernel send an event; no timer would find the card soon."""
    devices = "/sys/bus/pci/devices"
    if os.geteuid() != 0 or not os.path.isdir(devices) or not os.listdir(devices):
        pytest.skip("needs root and a PCI device")
    event = os.path.join(devices, min(os.listdir(devices)), "uevent")
    with Service(settings_for(node, SCAN_INTERVAL="3600", HEALTH_INTERVAL="3600")) as service:
        kubelet.start()
        time.sleep(1.5)
        if any(each["event"].startswith("kernel events unavailable") for each in service.events):
            pytest.skip("needs netlink")
        node.add_card("u55c")
        done = subprocess.run(["sh", "-c", f"echo add > {event}"], check=False, capture_output=True)
        if done.returncode:
            pytest.skip("the kernel refuses synthetic events")
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1)


def test_metrics_and_probes_follow_registration(node: SampleNode, kubelet: KubeletDouble, port: int) -> None:
    card = node.add_card("u55c")
    with Service(settings_for(node, HTTP_ADDRESS=f"127.0.0.1:{port}")) as service:
        service.logged(Event.SERVING_HTTP)
        wait_for(lambda: _get(port, "/livez")[0] == 200, "alive")
        wait_for(lambda: _get(port, "/readyz") == (503, f"not registered: {U55C}\n"), "not ready")
        kubelet.start()
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1)
        wait_for(lambda: _get(port, "/readyz")[0] == 200, "ready")
        kubelet.allocate(U55C, [card.address])
        _, text = _get(port, "/metrics")
        for line in (
            f'xilinx_fpga_dp_devices{{health="Healthy",reason="",resource="{U55C}"}} 1.0',
            f'xilinx_fpga_dp_registered{{resource="{U55C}"}} 1.0',
            f'xilinx_fpga_dp_registrations_total{{resource="{U55C}",result="ok"}} 1.0',
            f'xilinx_fpga_dp_list_updates_total{{resource="{U55C}"}} 1.0',
            f'xilinx_fpga_dp_allocations_total{{code="OK",resource="{U55C}"}} 1.0',
            "xilinx_fpga_dp_kubelet_restarts_total 0.0",
            "xilinx_fpga_dp_scan_errors_total 0.0",
        ):
            assert line in text
        for name in ("build_info", "allocate_duration_seconds_bucket", "scan_duration_seconds_bucket"):
            assert f"xilinx_fpga_dp_{name}" in text
        kubelet.restart()
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1)
        assert "xilinx_fpga_dp_kubelet_restarts_total 1.0" in _get(port, "/metrics")[1]
        assert _get(port, "/nowhere")[0] == 404
        card.remove()
        kubelet.wait_for(lambda: kubelet.capacity(U55C) == 0)
        wait_for(lambda: U55C not in _get(port, "/metrics")[1], "its series are removed")
        assert _get(port, "/readyz") == (200, "ok\n"), "a node without cards is ready"


def _closes(peer: socket.socket) -> None:
    peer.close()


def _closes_after_a_request(peer: socket.socket) -> None:
    peer.recv(4096)
    peer.close()


def _greets(peer: socket.socket) -> None:
    peer.sendall(b"SSH-2.0-x\r\n")


def _sends_zeros(peer: socket.socket) -> None:
    peer.sendall(bytes(64))


def _is_silent(peer: socket.socket) -> None:
    """Send nothing."""


@contextmanager
def _no_kubelet(path: Path, answer: Callable[[socket.socket], None]) -> Iterator[list[socket.socket]]:
    """Serve kubelet's socket without gRPC, and yield the connections."""
    peers: list[socket.socket] = []

    def serve() -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                peers.append(listener.accept()[0])
                with suppress(OSError):
                    answer(peers[-1])

    with socket.socket(socket.AF_UNIX) as listener:
        aside = path.with_name("aside")
        listener.bind(str(aside))
        listener.listen(100)
        aside.rename(path)  # no client is refused
        server = threading.Thread(target=serve, daemon=True)
        server.start()
        try:
            yield peers
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            server.join(10)
            for peer in peers:
                peer.close()


@pytest.mark.parametrize("answer", [_closes, _closes_after_a_request, _sends_zeros, _greets, _is_silent])
def test_kubelet_socket_of_program_without_grpc_is_reported(
    node: SampleNode, kubelet: KubeletDouble, port: int, answer: Callable[[socket.socket], None]
) -> None:
    node.add_card("u55c")
    failed = re.compile(
        rf'^xilinx_fpga_dp_registrations_total{{resource="{U55C}",result="failed"}} (\S+)$', re.MULTILINE
    )

    def failures() -> float:
        found = failed.search(_get(port, "/metrics")[1])
        return float(found[1]) if found else 0

    with Service(settings_for(node, HTTP_ADDRESS=f"127.0.0.1:{port}")) as service:
        service.logged(Event.SERVING_HTTP)
        with _no_kubelet(kubelet.socket, answer) as peers:
            # On a connection that stays open the service waits as long as kubelet may take.
            least = 1 if answer in (_greets, _is_silent) else 10
            wait_for(lambda: failures() >= least, "each attempt counts", 90)
            assert failures() <= len(peers)
            status, why = _get(port, "/readyz")
            assert status == 503
            assert why.startswith(f"not registered: {U55C} (")
            assert service.process.poll() is None
        kubelet.start()
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1)
        wait_for(lambda: _get(port, "/readyz")[0] == 200, "ready")
        service.logged(Event.NOT_REGISTERED, resource=U55C)
        assert not [each for each in service.events if "exception" in each or each["level"] == "error"]
        assert not [line for line in service.raw if not line.startswith("{")]


def test_hanging_name_server_does_not_block_registration(
    node: SampleNode, kubelet: KubeletDouble, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import socket, time\nsocket.getaddrinfo = lambda *given, **more: time.sleep(60)\n"
    )
    node.add_card("u55c")
    kubelet.start()
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    with Service(settings_for(node, HTTP_ADDRESS="metrics.example:80"), environment=environment) as service:
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1)
        logged = service.logged(Event.HTTP_ADDRESS_UNAVAILABLE)
        assert (logged["address"], logged["error"]) == (
            "metrics.example:80",
            "no answer from the name server",
        )
        assert service.terminate() == 0


def test_address_in_use_does_not_block_registration(node: SampleNode, kubelet: KubeletDouble) -> None:
    node.add_card("u55c")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with Service(settings_for(node, HTTP_ADDRESS=address)) as service:
            service.logged(Event.HTTP_ADDRESS_UNAVAILABLE)
            kubelet.start()
            kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1)


@settings(max_examples=20, deadline=None)
@given(
    release=st.sampled_from(tuple(DRIVER_VERSIONS)),
    names=st.lists(st.sampled_from(sorted(CHANGES)), min_size=1, max_size=3),
)
@example(release="2023.2", names=["trips", "one by one"])
def test_check_finds_the_same_as_a_scan(release: str, names: list[str]) -> None:
    async def compare(node: SampleNode) -> None:
        card = node.add_card("u55c", release=release)
        rules = HealthRules(recovery_checks=2, reset_grace=100)
        checks, scans = (Scanner(node.sysfs_root, node.dev_root, rules) for _ in range(2))
        await checks.scan()
        await scans.scan()
        for name in names:
            for done in CHANGES[name](card) if release >= SINCE.get(name, "") else ():
                for _ in range(3):
                    checked, scanned = await checks.check(), await scans.scan(check=True)
                    found, expected = (
                        [(d.reason, d.nodes) for d in each.devices] for each in (checked, scanned)
                    )
                    assert found == expected, (name, done)

    with tempfile.TemporaryDirectory(prefix="fpga-") as root:
        asyncio.run(compare(SampleNode(root)))


class TestAResetInTheMiddleOfAScan:
    """A scan reads one file after the other; a reset goes on meanwhile, and no later scan may fall into it.

    A trip stays on record from 2022.2 on. One that was over, or is with this reset, must not count again.
    """

    @pytest.mark.parametrize("tripped", ["before this reset", "and reset before", "before the service began"])
    @settings(max_examples=30, deadline=None)
    @given(listed=st.integers(2, 8), more=st.integers(1, 8), read=st.integers(0, 14))
    def test_its_trip_is_over(self, tripped: str, listed: int, more: int, read: int) -> None:
        with tempfile.TemporaryDirectory(prefix="fpga-") as root:
            asyncio.run(self._scanned(SampleNode(root), tripped, listed, more, read))

    async def _scanned(self, node: SampleNode, tripped: str, listed: int, more: int, read: int) -> None:
        """Scan a card when so many steps of a reset are done; after so many reads some more are."""
        card = node.add_card("u55c", release="2022.2")
        scanner = Scanner(node.sysfs_root, node.dev_root, HealthRules(recovery_checks=1, reset_grace=100))
        if tripped != "before the service began":
            await self._reasons(scanner)
        card.firewall_trip()
        if tripped == "before this reset":
            assert await self._reasons(scanner) == [Reason.FIREWALL]
        elif tripped == "and reset before":
            card.reset_begin()
            assert await self._reasons(scanner) == [Reason.RESETTING]
            card.reset_end()
            assert await self._reasons(scanner) == [None]
        steps = itertools.chain(card.resetting(), card.returning())
        done = list(itertools.islice(steps, listed))
        if listed + more > _HALF:  # a reset takes seconds: another scan was before
            await self._reasons(scanner)
        reads = itertools.count()
        real = sysfs.read_attribute

        def meanwhile(path: str) -> str | None:
            if threading.current_thread().name == "worker" and next(reads) == read:  # the scan's, no slow one
                done.extend(itertools.islice(steps, more))
            return real(path)

        with mock.patch.object(sysfs, "read_attribute", meanwhile):
            await scanner.scan(check=True)
        done.extend(steps)
        await self._reasons(scanner)
        assert await self._reasons(scanner) == [None]

    async def _reasons(self, scanner: Scanner) -> list[Reason | None]:
        return [each.reason for each in (await scanner.scan(check=True)).devices]
