"""Attacks by a pod, a file in sysfs or planted files; see docs/development/security-design.md."""

import asyncio
import errno
import json
import os
import re
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest

from tests.support.double import KubeletDouble
from tests.support.process import Service, cli
from tests.support.running import settings_for
from tests.support.waiting import wait_for
from xilinx_fpga_dp.hostfiles.instance_lock import lock_folder
from xilinx_fpga_dp.hostfiles.managed_file import ManagedFile
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode


def test_sockets_and_locks_are_accessible_to_root_only(node: SampleNode, kubelet: KubeletDouble) -> None:
    node.add_card("u200")
    os.umask(0)
    try:
        with Service(settings_for(node)) as service:
            kubelet.start()
            endpoint = service.logged(Event.REGISTERED)["endpoint"]
            assert stat.S_IMODE(os.stat(f"{node.socket_dir}/{endpoint}").st_mode) == 0o600
            folder = lock_folder(node.plugins_dir)
            assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
            assert [stat.S_IMODE(entry.stat().st_mode) for entry in os.scandir(folder)] == [0o600]
    finally:
        os.umask(0o022)


@pytest.mark.parametrize(
    "shell", ["../../../../tmp/evil", "/etc/cron.d/evil", 'a"}], "x": "', "$(reboot)", "é" * 90]
)
def test_shell_name_cannot_leave_directories_or_formats(
    node: SampleNode, kubelet: KubeletDouble, shell: str
) -> None:
    """The shell name of a card appears in names, variables, files and logs, but never as a path."""
    card = node.add_card("u200")
    card.write("rom/VBNV", shell)
    folders = {"CDI_DIR": f"{node.root}/cdi", "NFD_FEATURES_DIR": f"{node.root}/nfd"}
    before = set(os.listdir(node.root))
    with Service(settings_for(node, DEVICE_STRATEGY="both", **folders)) as service:
        kubelet.start()
        resource = service.logged(Event.REGISTERED)["resource"]
        kubelet.wait_for(lambda: kubelet.allocatable(resource) == 1)
        assert kubelet.refusals == []
        [registration] = kubelet.registrations
        assert "/" not in registration.endpoint
        [container] = kubelet.allocate(resource, [card.address]).container_responses
        assert [device.host_path for device in container.devices] == [card.render_node]
        [info] = [value for name, value in container.envs.items() if name.endswith("_INFO")]
        assert json.loads(info)[card.address]["shell"] == shell
        wait_for(lambda: os.listdir(folders["NFD_FEATURES_DIR"]) == ["xilinx-fpga-dp"], "labelled")
        assert (
            json.loads(Path(folders["CDI_DIR"], "xilinx.com-fpga.json").read_text())["kind"]
            == "xilinx.com/fpga"
        )
        assert set(os.listdir(node.root)) - before == {"cdi", "nfd"}
        assert all(line.startswith("{") for line in service.raw)


@pytest.mark.parametrize(
    ("rule", "serial", "name"),
    [
        ("..", "XFL1", r"xilinx\.com/fpga-[0-9a-f]{8}"),
        ("{serial}", "../../../../tmp/evil", r"xilinx\.com/fpga-[^/]*tmp-evil-[0-9a-f]{8}"),
        ("../../../../tmp/evil", "XFL1", r"xilinx\.com/fpga-xilinx_u200_xdma_201830_2-1561465320"),
    ],
)
def test_rename_rule_cannot_leave_directories_or_formats(
    node: SampleNode, kubelet: KubeletDouble, rule: str, serial: str, name: str
) -> None:
    """A rule names a resource, and the socket name contains the resource name; neither is a path."""
    card = node.add_card("u200", serial=serial)
    rules = Path(node.root, "rules.yaml")
    rules.write_text(json.dumps([{"match": {}, "name": rule}]))
    before = set(os.listdir(node.root))
    with Service(settings_for(node, RESOURCE_RENAMES=str(rules))) as service:
        kubelet.start()
        kubelet.wait_for(lambda: any(re.fullmatch(name, each.resource) for each in kubelet.registrations))
        assert kubelet.refusals == []
        registration = kubelet.registrations[-1]
        assert "/" not in registration.endpoint
        kubelet.wait_for(lambda: kubelet.allocatable(registration.resource) == 1)
        kubelet.allocate(registration.resource, [card.address])
        assert set(os.listdir(node.root)) == before
        assert all(line.startswith("{") for line in service.raw)


@pytest.mark.parametrize("board", ["u200", "v80", "ma35d"])
@pytest.mark.parametrize(
    ("serial", "taken"),
    [
        ("S" * 64, True),
        ("../../etc/passwd", True),  # valid: no path contains the serial number
        ("S" * 65, False),
        ("S" * 4097, False),
        ("S" * (1 << 20), False),
        ("S\x1b[2J", False),
        ("S\nT", False),
    ],
)
def test_invalid_serial_number_is_ignored(node: SampleNode, board: str, serial: str, taken: bool) -> None:
    card = node.add_card(board)
    file, before = {
        "u200": ("xmc/serial_num", ""),
        "v80": ("board_serial", ""),
        "ma35d": ("device_info", "Product serial number = "),
    }[board]
    card.write(file, (before + serial).encode())
    found = cli("list", "--output", "json", settings=settings_for(node))
    [device] = json.loads(found.stdout)["devices"]
    # The second line of device_info is another field, so the serial number ends before it.
    assert device["serial"] == (serial if taken else "S" if (board, serial) == ("ma35d", "S\nT") else None)
    assert device["health"] == "Healthy"


@pytest.mark.parametrize("name", ["renderD128x", "renderD", "renderD12345678", "card0", "..renderD1"])
def test_only_render_nodes_are_granted(node: SampleNode, name: str) -> None:
    card = node.add_card("u200")
    os.rename(card.path("drm"), card.path("aside"))
    os.mkdir(card.path("drm"))
    os.mkdir(f"{card.path('drm')}/{name}")
    [device] = json.loads(cli("list", "--output", "json", settings=settings_for(node)).stdout)["devices"]
    assert (device["reason"], device["nodes"]) == ("no-node", [])


@pytest.mark.parametrize("file", ["module/xocl/version", "fs/selinux/enforce"])
def test_pipe_in_sysfs_blocks_no_command(node: SampleNode, file: str) -> None:
    node.add_card("u200")
    path = f"{node.sysfs_root}/{file}"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.exists(path):
        os.unlink(path)
    os.mkfifo(path)
    assert "ok    sysfs" in cli("diagnose", settings=settings_for(node)).stdout
    folder = f"{node.root}/nfd"
    with Service(settings_for(node, NFD_FEATURES_DIR=folder)) as service:
        wait_for(lambda: os.path.exists(f"{folder}/xilinx-fpga-dp"), "labelled")
        assert service.terminate() == 0


def test_planted_link_is_used_neither_as_lock_folder_nor_socket(
    node: SampleNode, kubelet: KubeletDouble
) -> None:
    """A link in place of the lock folder is removed; the target of a link named as a socket stays."""
    node.add_card("u200")
    victims = Path(node.root, "victims")
    victims.mkdir()
    (victims / "0000000001-00000000").touch()  # the name of a lock file, without a lock
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(victims / "dead.sock"))
    sockets = Path(node.socket_dir)
    kubelet.start()  # before the links, which kubelet removes at its start
    locks = Path(lock_folder(node.plugins_dir))
    locks.parent.mkdir()
    locks.symlink_to(victims)
    (sockets / f"fpga-x-{'0' * 12}-fpga.sock").symlink_to(victims / "dead.sock")
    with Service(settings_for(node)) as service:
        resource = service.logged(Event.REGISTERED)["resource"]
        kubelet.wait_for(lambda: kubelet.allocatable(resource) == 1)
        assert stat.S_ISDIR(locks.lstat().st_mode)
        assert service.terminate() == 0
    assert sorted(os.listdir(victims)) == ["0000000001-00000000", "dead.sock"]


async def test_failed_write_is_retried_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without a free descriptor the directory does not change, so no event wakes the task.
    monkeypatch.setattr("xilinx_fpga_dp.hostfiles.managed_file._CHECK_EVERY", 600.0)
    path = tmp_path / "file"
    kept = ManagedFile(str(path))
    keeping = asyncio.create_task(kept.run())
    assert await kept.set("one")
    await asyncio.sleep(0.2)  # the task checks after the write, then waits
    none_left = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    with mock.patch("xilinx_fpga_dp.hostfiles.managed_file.open", side_effect=none_left, create=True):
        assert not await kept.set("two")
    async with asyncio.timeout(30):
        while path.read_text() != "two":
            await asyncio.sleep(0.01)
    keeping.cancel()
    await asyncio.wait([keeping])
    assert await kept.set("two")  # waits for a running check, which would leave the file open


async def test_content_may_change_during_a_write(tmp_path: Path) -> None:
    kept = ManagedFile(str(tmp_path / "file"))

    def slow(_: str) -> list[str]:
        time.sleep(0.2)
        return []

    with mock.patch("xilinx_fpga_dp.hostfiles.managed_file.os.listdir", slow):
        writing = asyncio.create_task(kept.set("one"))
        await asyncio.sleep(0.1)
        removing = asyncio.create_task(kept.set(None))
        assert await writing
        assert await removing
    assert os.listdir(tmp_path) == []


def test_targets_accept_their_seeds() -> None:
    """`make fuzz` runs the targets with other input."""
    script = (
        "from tests.fuzz.seeds import SEEDS; from tests.fuzz.targets import TARGETS\n"
        "for name, seeds in SEEDS.items():\n"
        "    for seed in [b'', *seeds]: TARGETS[name](seed)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=180)
