"""Changes of kubelet's socket directory and of the sockets in it."""

import os
import socket
import time
from functools import partial
from pathlib import Path

import pytest

from tests.support.directory import endpoint_sockets
from tests.support.double import KubeletDouble
from tests.support.process import Service, remove
from tests.support.resource_names import U55C, U200, U250
from tests.support.running import settings_for
from tests.support.waiting import wait_for
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode


def test_missing_socket_directory_keeps_streams_of_running_kubelet(
    registered: KubeletDouble, cards: SampleNode, service: Service
) -> None:
    os.rename(cards.socket_dir, f"{cards.socket_dir}.away")
    service.logged(Event.SOCKET_DIRECTORY_UNUSABLE, problem="No such file or directory")
    cards.cards[0].offline()
    registered.wait_for(lambda: registered.allocatable(U200) == 1)
    os.rename(f"{cards.socket_dir}.away", cards.socket_dir)
    service.logged(Event.SOCKET_DIRECTORY_USABLE)
    time.sleep(0.3)
    assert len(registered.registrations) == 2
    assert registered.ends == []


def test_directory_removed_file_by_file_keeps_streams(
    registered: KubeletDouble, cards: SampleNode, service: Service
) -> None:
    began = time.monotonic()
    for name in endpoint_sockets(cards):
        os.unlink(f"{cards.socket_dir}/{name}")
    time.sleep(0.005)  # the service scans the directory
    remove(Path(cards.socket_dir))
    if time.monotonic() - began > 0.015:
        pytest.skip("this machine is too busy to remove a directory quickly")
    service.logged(Event.SOCKET_DIRECTORY_UNUSABLE, problem="No such file or directory")
    time.sleep(0.3)
    assert registered.ends == []


def test_removed_endpoint_socket_causes_registration(registered: KubeletDouble, cards: SampleNode) -> None:
    [gone] = [name for name in endpoint_sockets(cards) if "u250" in name]
    os.unlink(f"{cards.socket_dir}/{gone}")
    registered.wait_for(
        lambda: registered.registrations[-1].resource == U250 and len(registered.lists(U250)) == 2
    )
    assert registered.registrations[-1].endpoint != gone
    assert len(registered.lists(U200)) == 1


def test_mode_or_owner_change_of_kubelet_socket_has_no_effect(
    registered: KubeletDouble, cards: SampleNode
) -> None:
    """Each changes its ctime, as a relabel does; a new registration would cost the current stream."""
    path = registered.socket
    for change in (partial(path.chmod, 0o600), partial(os.chown, path, os.getuid(), os.getgid())):
        before = path.stat().st_ctime_ns
        change()
        assert path.stat().st_ctime_ns > before
        Path(cards.socket_dir, "something").touch()  # causes a scan of the directory
        time.sleep(0.7)
    assert len(registered.registrations) == 2
    assert registered.ends == []


def test_replaced_endpoint_socket_causes_registration(registered: KubeletDouble, cards: SampleNode) -> None:
    [name] = [name for name in endpoint_sockets(cards) if "u250" in name]
    path = f"{cards.socket_dir}/{name}"
    os.unlink(path)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        registered.wait_for(lambda: len(registered.lists(U250)) == 2)


def test_recreated_socket_directory_is_used(registered: KubeletDouble, cards: SampleNode) -> None:
    registered.kill()
    moved = f"{cards.socket_dir}.moved"
    os.rename(cards.socket_dir, moved)
    registered.start()  # makes the directory
    registered.wait_for(lambda: registered.allocatable(U200) == 2 and registered.allocatable(U250) == 1)
    assert len(endpoint_sockets(cards)) == 2


def test_socket_directory_created_after_start_is_used(cards: SampleNode, kubelet: KubeletDouble) -> None:
    os.rmdir(cards.socket_dir)
    with Service(settings_for(cards)) as service:
        service.logged(Event.SOCKET_DIRECTORY_UNUSABLE, problem="No such file or directory")
        hint = service.logged(Event.NO_KUBELET)  # fmt: skip
        assert hint["problem"] == "No such file or directory"
        kubelet.start()
        kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2)
        service.logged(Event.SOCKET_DIRECTORY_USABLE)


def test_longest_socket_directory_is_usable(node: SampleNode) -> None:
    node.add_card("u55c", "0000:41:00")
    long = Path(node.root) / ("x" * (107 - len(node.root) - 1 - len("/0123456789ab-fpga.sock")))
    long.mkdir()
    kubelet = KubeletDouble(long)
    with kubelet, Service(settings_for(node, SOCKET_DIR=str(long))):
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1)


@pytest.mark.parametrize("there", [True, False])
def test_read_only_directory_is_reported_and_retried(
    cards: SampleNode, kubelet: KubeletDouble, *, there: bool
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount")
    if there:
        kubelet.start()
    here = cards.socket_dir
    if os.system(f"mount --bind {here} {here} && mount -o remount,ro,bind {here}") != 0:  # noqa: S605
        pytest.skip("cannot mount")
    try:
        with Service(settings_for(cards)) as service:
            assert (
                service.logged(Event.SOCKET_DIRECTORY_UNUSABLE, path=here)["problem"]
                == "Read-only file system"
            )
            if there:
                assert service.logged(Event.NOT_REGISTERED)["error"] == f"Read-only file system: {here}"
            wait_for(lambda: os.system(f"umount {here}") == 0, "a scan keeps it busy")  # noqa: S605
            if not there:
                kubelet.start()
            kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2)
    finally:
        os.system(f"umount {here} 2>/dev/null")  # noqa: S605
