"""Several instances on one node: which is active, and what each removes."""

import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.support.directory import endpoint_sockets
from tests.support.double import KubeletDouble
from tests.support.process import Service, remove
from tests.support.refused import refused
from tests.support.resource_names import U200, U250
from tests.support.running import settings_for
from tests.support.waiting import wait_for
from xilinx_fpga_dp.hostfiles.instance_lock import lock_folder
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode


def lock_files(node: SampleNode) -> list[str]:
    """Return the names of the lock files of all instances."""
    folder = lock_folder(node.plugins_dir)
    return os.listdir(folder) if os.path.isdir(folder) else []


def test_older_instance_registers_after_newer_streams_end(cards: SampleNode, kubelet: KubeletDouble) -> None:
    """kubelet <= 1.36 drops an endpoint that registered before the end of the old stream."""
    with Service(settings_for(cards)) as older:
        older.logged(Event.DEVICE_FOUND)
        wait_for(lambda: len(lock_files(cards)) == 1, "the lock file exists")
        with Service(settings_for(cards)) as newer:
            newer.logged(Event.DEVICE_FOUND)
            kubelet.start()
            newer.logged(Event.REGISTERED, resource=U250)
            endpoint = newer.logged(Event.REGISTERED, resource=U200)["endpoint"]
            kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2)
            count = len(kubelet.registrations)
            card = cards.cards[0]
            card.hang("ready")
            calling = threading.Thread(target=refused, args=(kubelet.allocate, U200, [card.address]))
            calling.start()  # the newer instance waits briefly for this call when it ends
            time.sleep(0.1)
            assert newer.terminate() == 0
            calling.join()
            card.unhang("ready")
        kubelet.wait_for(lambda: len(kubelet.registrations) > count)
        [ended] = kubelet.wait_for(lambda: [each.time for each in kubelet.ends if each.endpoint == endpoint])
        assert kubelet.registrations[count].time > ended
        kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2)


def test_only_sockets_of_dead_instances_are_removed(cards: SampleNode, kubelet: KubeletDouble) -> None:
    kubelet.start()
    with Service(settings_for(cards)) as dead:
        kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2)
        dead.process.kill()
        dead.process.wait(30)
    left = endpoint_sockets(cards)
    assert len(left) == 2
    no_sockets = [Path(f"{cards.socket_dir}/{name}-fpga.sock") for name in ("file", "directory")]
    no_sockets[0].touch()
    no_sockets[1].mkdir()
    alive = f"{cards.socket_dir}/other-fpga.sock"
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(alive)
        live.listen()
        with Service(settings_for(cards)):
            kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2)
            wait_for(lambda: not set(left) & set(endpoint_sockets(cards)), "removed")
            assert os.path.exists(alive)
            assert all(each.exists() for each in no_sockets)


def test_newer_of_two_instances_is_active(cards: SampleNode, kubelet: KubeletDouble) -> None:
    kubelet.start()
    with Service(settings_for(cards)) as older:
        kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2)
        [first] = kubelet.lists(U200)
        with Service(settings_for(cards)) as newer:
            older.logged(Event.SUPERSEDED, resource=U200)
            kubelet.wait_for(lambda: len(kubelet.lists(U200)) == 2)
            assert kubelet.ends == [], "the older keeps its stream: kubelet would drop the newer endpoint"
            cards.cards[0].offline()
            kubelet.wait_for(lambda: kubelet.allocatable(U200) == 1)
            time.sleep(0.5)
            assert len(kubelet.lists(U200)) == 3, "the older sends no list"
            newer.process.kill()
            newer.process.wait(30)
        died = time.monotonic()
        cards.cards[0].mend()
        kubelet.wait_for(lambda: kubelet.lists(U200)[-1].time > died and kubelet.allocatable(U200) == 2)
        assert kubelet.lists(U200)[-1].endpoint not in {each.endpoint for each in kubelet.lists(U200)[:3]}
        assert first.endpoint != kubelet.lists(U200)[-1].endpoint


def test_stopped_instance_registers_after_newer_one_has_ended(
    registered: KubeletDouble, cards: SampleNode, service: Service
) -> None:
    service.process.send_signal(signal.SIGSTOP)
    with Service(settings_for(cards)) as newer:
        for name in (U200, U250):
            newer.logged(Event.REGISTERED, resource=name)
        assert newer.terminate() == 0
    registered.wait_for(lambda: registered.allocatable(U200) == 0)
    service.process.send_signal(signal.SIGCONT)
    registered.wait_for(lambda: registered.allocatable(U200) == 2 and registered.allocatable(U250) == 1)


@pytest.mark.parametrize("remade", ["moved", "removed"])
def test_older_instance_stays_inactive_in_recreated_directory(
    cards: SampleNode, kubelet: KubeletDouble, remade: str
) -> None:
    kubelet.start()
    with Service(settings_for(cards)) as older:
        kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2)
        with Service(settings_for(cards)) as newer:
            older.logged(Event.SUPERSEDED, resource=U200)
            for name in (U200, U250):
                newer.logged(Event.REGISTERED, resource=name)
            newer.process.send_signal(signal.SIGSTOP)  # the older scans the new directory first
            kubelet.kill()
            if remade == "moved":
                os.rename(cards.socket_dir, f"{cards.socket_dir}.moved")
            else:
                remove(Path(cards.socket_dir))
            count = len(kubelet.registrations)
            kubelet.start()
            time.sleep(1.0)
            assert len(kubelet.registrations) == count, "the older does not register"
            newer.process.send_signal(signal.SIGCONT)
            kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2 and kubelet.allocatable(U250) == 1)
            for name in (U200, U250):
                newer.logged(Event.REGISTERED, resource=name, count=2)
            assert len(kubelet.registrations) == count + 2, "the older still does not register"


@pytest.mark.parametrize("by_socket", [False, True])
def test_rolling_update_keeps_devices_and_leaves_no_file(cards: SampleNode, by_socket: bool) -> None:
    kubelet = KubeletDouble(Path(cards.socket_dir), by_socket=by_socket)
    with kubelet, Service(settings_for(cards)) as older:
        kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2)
        with Service(settings_for(cards)) as newer:
            kubelet.wait_for(lambda: len(kubelet.lists(U200)) == 2)
            older.logged(Event.SUPERSEDED, resource=U200)
            assert older.terminate() == 0
            kubelet.wait_for(lambda: len(kubelet.ends) >= 2)
            kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2 and kubelet.allocatable(U250) == 1)
            assert newer.terminate() == 0
    assert endpoint_sockets(cards) == []
    assert lock_files(cards) == []


def test_lock_file_survives_wipe_unless_instance_is_dead(cards: SampleNode, kubelet: KubeletDouble) -> None:
    with Service(settings_for(cards)) as dead:
        dead.logged(Event.DEVICE_FOUND)
        wait_for(lambda: lock_files(cards), "the lock file exists")
        dead.process.kill()
    with Service(settings_for(cards)):
        kubelet.start()
        kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2)
        kubelet.restart()
        kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2)
        assert len(lock_files(cards)) == 1
