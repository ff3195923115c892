"""``diagnose``: the command on sample nodes."""

import json
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import grpc
import pytest

from tests.support.double import KubeletDouble
from tests.support.podresources import Hold, PodResourcesDouble
from tests.support.probed import Probed
from tests.support.process import COMMAND, Service, clean_environment, cli
from tests.support.resource_names import U200
from tests.support.running import settings_for
from tests.support.waiting import wait_for
from xilinx_fpga_dp.hostfiles.instance_lock import lock_folder
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.simulate.sysfs.bus import Ids
from xilinx_fpga_dp.simulate.sysfs.sample_node import DAMAGES, Damage, SampleNode

VERSION_JSON = (
    '{"BUILD_VERSION" : "2.11.634", "BUILD_BRANCH" : "2021.1"}'  # XRT: CMake/config/version.json.in
)
SECURE_BOOT = "firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"  # Linux efivarfs
REMEDY = ("; ", "?", " (")  # precede or end a remedy
LINE = re.compile(r"(ok  |warn|fail)  [^ ].*: .+")


def diagnose(node: SampleNode, **settings: str) -> tuple[int, list[str]]:
    """Run the command; return the exit code and the lines."""
    merged = settings_for(node, POD_RESOURCES_SOCKET=f"{node.root}/pods.sock", HOST_ROOT=node.root) | settings
    done = cli("diagnose", settings=merged)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert all(LINE.fullmatch(line) for line in lines), lines
    for line in lines:
        assert line.startswith("ok") or any(mark in line for mark in REMEDY), f"no remedy: {line}"
    assert (done.returncode == 1) == any(line.startswith("fail") for line in lines)
    return done.returncode, lines


def line_with(lines: list[str], *words: str) -> str:
    """Return the only line with all these words."""
    found = [line for line in lines if all(word in line for word in words)]
    assert len(found) == 1, (words, lines)
    return found[0]


@pytest.fixture
def pods(pods: PodResourcesDouble) -> PodResourcesDouble:
    """A podresources double of the node, running."""
    pods.start()
    return pods


def test_node_without_problems_has_only_ok_lines(
    node: SampleNode, kubelet: KubeletDouble, pods: PodResourcesDouble
) -> None:
    node.add_ordinary_devices()
    node.add_card("u200", "0000:11:00", release="2023.2")
    kubelet.start()
    code, lines = diagnose(node)
    assert code == 0
    assert {line.split()[0] for line in lines} == {"ok"}
    line_with(lines, "ok    sysfs: ", "PCI functions")
    line_with(lines, "ok    drivers: xocl 2.16.0")
    line_with(lines, "ok    0000:11:00.1: u200 with xilinx_u200_xdma_201830_2, Healthy")
    line_with(lines, "ok    /dev/dri/renderD129: ")
    line_with(lines, f"ok    {U200}: 1 to allocate, 1 Healthy")
    line_with(lines, "ok    kubelet: it answers")
    line_with(lines, "ok    podresources: ")
    line_with(lines, "ok    service: it does not run")
    assert kubelet.registrations == []
    assert kubelet.refusals == []
    assert os.listdir(node.socket_dir) == ["kubelet.sock"], "the command leaves no file"


def test_service_that_cannot_be_counted_is_not_said_to_be_away(node: SampleNode) -> None:
    Path(node.root, "file").touch()
    _, lines = diagnose(node, PLUGINS_DIR=f"{node.root}/file")
    line_with(lines, "warn  service: it is not known whether it runs: Not a directory", "run as root")


def test_json_output_has_level_check_and_message(node: SampleNode) -> None:
    node.add_card("u200", "0000:11:00", image="golden")
    done = cli("diagnose", "--output", "json", settings=settings_for(node))
    document = json.loads(done.stdout)
    assert done.returncode == 1
    assert document["result"] == "fail"
    assert {"level": "ok", "check": "sysfs", "message": "2 PCI functions"} in document["lines"]
    assert {line["level"] for line in document["lines"]} == {"ok", "warn", "fail"}
    assert all(line.keys() == {"level", "check", "message"} for line in document["lines"])


def test_running_service_is_not_disturbed(node: SampleNode, kubelet: KubeletDouble) -> None:
    node.add_card("u200")
    kubelet.start()
    with Service(settings_for(node)) as service:
        kubelet.wait_for(lambda: kubelet.allocatable(U200) == 1)
        before = os.listdir(node.socket_dir), os.listdir(lock_folder(node.plugins_dir))
        _, lines = diagnose(node)
        line_with(lines, "ok    service: it runs on this node")
        with Service(settings_for(node)) as second:
            second.logged(Event.REGISTERED)
            _, lines = diagnose(node)
            line_with(lines, "warn  service: 2 instances", "delete one DaemonSet")
        wait_for(lambda: kubelet.allocatable(U200) == 1, "the older instance serves again")
        assert (service.process.poll(), len(before[1])) == (None, 1)


def test_service_refused_by_kubelet_is_reported(node: SampleNode, kubelet: KubeletDouble) -> None:
    node.add_card("u200")
    pages = Probed(node)
    with Service(pages.settings) as service:
        service.logged(Event.SERVING_HTTP)
        _, lines = diagnose(node, HTTP_ADDRESS=pages.address)
        line_with(lines, f"fail  service: it runs and is not ready: not registered: {U200}; ", "its log")
        kubelet.faults.refuse = grpc.StatusCode.UNKNOWN
        kubelet.start()
        service.logged(Event.NOT_REGISTERED)
        code, lines = diagnose(node, HTTP_ADDRESS=pages.address)
        assert code == 1
        line_with(
            lines, "fail  service: ", f"not registered: {U200} (kubelet refused: ", "journalctl -u kubelet"
        )
        kubelet.faults.refuse = None
        pages.turns("readyz", (200, "ok\n"))
        _, lines = diagnose(node, HTTP_ADDRESS=pages.address)
        line_with(lines, "ok    service: it runs")


def test_difference_to_the_running_service_is_named(node: SampleNode, kubelet: KubeletDouble) -> None:
    card = node.add_card("u200", "0000:11:00")
    kubelet.start()
    pages = Probed(node, SCAN_INTERVAL="3600", HEALTH_INTERVAL="3600")
    with Service(pages.settings) as service:
        service.logged(Event.SERVING_HTTP)
        pages.turns("readyz", (200, "ok\n"))
        same = diagnose(node, HTTP_ADDRESS=pages.address)[1]
        assert not [line for line in same if "it says that" in line]
        card.write("dev_offline", "1")
        lines = diagnose(node, HTTP_ADDRESS=pages.address)[1]
        line_with(
            lines, "warn  service: it says that 0000:11:00.1 is Healthy as", "this scan offline as", U200
        )
        card.write("dev_offline", "0")
        node.add_card("u200", "0000:12:00")
        lines = diagnose(node, HTTP_ADDRESS=pages.address)[1]
        line_with(lines, "it says that 0000:12:00.1 is not offered, this scan Healthy as")
        assert service.process.poll() is None


def test_other_program_at_the_address_is_not_taken_for_the_service(node: SampleNode) -> None:
    """The address of a pod is not reachable from the host, where another program may use it."""
    node.add_card("u200")

    class OtherProgram(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_error(503)

        def log_message(self, *_: object) -> None: ...

    paths: list[str] = []
    with HTTPServer(("127.0.0.1", 0), OtherProgram) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Service(settings_for(node, HTTP_ADDRESS="")) as service:
            service.logged(Event.DEVICE_FOUND)
            _, lines = diagnose(node, HTTP_ADDRESS=f"127.0.0.1:{server.server_port}")
            line_with(lines, "ok    service: it runs")
        server.shutdown()
    assert paths == ["/readyz"]


def another_xrt(node: SampleNode) -> None:
    node.add_card("u200", "0000:31:00", release="2023.2")
    node.files.put(f"{node.root}/opt", {"xilinx": {"xrt": {"version.json": VERSION_JSON}}})


def management_unbound(node: SampleNode) -> None:
    card = node.add_card("u280", "0000:31:00")
    card.shell_unknown()
    card.unbind_mgmt()


def offline_without_node(node: SampleNode) -> None:
    card = node.add_card("u200", "0000:31:00")
    card.offline()
    node.remove_node(card.render_node or "")


def corrupted(attribute: str, damage: Damage) -> Callable[[SampleNode], None]:
    return lambda node: node.add_card("u200", "0000:31:00").corrupt(attribute, damage)


# Problems that users of such cards have reported: the change of the node, and words of the line.
PROBLEMS: dict[str, tuple[Callable[[SampleNode], object], tuple[str, ...]]] = {
    "golden image": (
        lambda node: node.add_card("u200", "0000:31:00", image="golden"),
        ("warn  0000:31:00.0: ", "golden image", "program a shell"),
    ),
    "recovery image": (
        lambda node: node.add_card("u55c", "0000:31:00", image="recovery"),
        ("warn  0000:31:00.1: ", "no user_pf", "program a shell"),
    ),
    "no driver": (
        lambda node: node.add_card("u200", "0000:31:00").unbind(),
        ("warn  0000:31:00.1: ", "no driver", "xocl is loaded and did not take it"),
    ),
    "vfio": (
        lambda node: node.add_card("u200", "0000:31:00").vfio(),
        ("warn  0000:31:00.1: ", "vfio-pci", "bind it to xocl"),
    ),
    "shell not loaded, F1 without MPD": (
        lambda node: node.add_card("u55c", "0000:31:00").shell_unknown(),
        ("warn  0000:31:00.1: ", "shell not loaded yet", "mpd"),
    ),
    "not ready": (
        lambda node: node.add_card("u200", "0000:31:00").not_ready(),
        ("warn  0000:31:00.1: ", "not-ready", "is xclmgmt", "mpd"),
    ),
    "offline": (
        lambda node: node.add_card("u200", "0000:31:00").offline(),
        ("warn  0000:31:00.1: ", "offline", "xbutil reset"),
    ),
    "in reset": (
        lambda node: node.add_card("u200", "0000:31:00").reset_begin(),
        ("warn  0000:31:00.1: ", "rom.u", "being reset"),
    ),
    "node missing": (
        lambda node: node.remove_node(node.add_card("u200", "0000:31:00").render_node or ""),
        ("fail  0000:31:00.1: ", "no-node", "/dev/dri/renderD", "DEV_ROOT", "udev"),
    ),
    "node missing beside another fault": (
        offline_without_node,
        ("fail  /dev/dri/renderD128: ", "No such file", "DEV_ROOT", "udev"),
    ),
    "node for root only": (
        lambda node: os.chmod(node.node_path(node.add_card("u200", "0000:31:00").render_node or ""), 0o660),
        ("warn  /dev/dri/renderD128: ", "mode 0660", "supplementalGroups [0]", "0666"),
    ),
    **{
        f"{attribute} {damage}": (corrupted(attribute, damage), ("warn  0000:31:00.1: not offered: ",))
        for attribute in ("rom/VBNV", "rom/timestamp")
        for damage in DAMAGES
    },
    "AWS F2's second function": (
        lambda node: node.plug("f2"),
        ("warn  0000:34:00.1: ", "second function", "nothing to do"),
    ),
    "driver hangs": (
        lambda node: node.add_card("u200", "0000:31:00").hang("ready"),
        ("warn  0000:31:00.1: ", "not answer"),
    ),
    "two releases": (
        lambda node: (
            node.add_card("u200", "0000:31:00", release="2023.2"),
            Path(node.sysfs_root, "module/xclmgmt/version").write_text("2.14.384,aa\n"),
        ),
        ("warn  drivers: ", "xocl 2.16.0 and xclmgmt 2.14.384,aa", "install one release"),
    ),
    "another XRT on the host": (
        another_xrt,
        ("warn  drivers: XRT on the host is 2.11.634", "xocl 2.16.0", "install one release"),
    ),
    "management function without its driver": (
        management_unbound,
        ("warn  0000:31:00.1: ", "its management function 0000:31:00.0 is bound to no driver"),
    ),
    "no card": (lambda _: None, ("warn  cards: no FPGA card", "lspci")),
    "no card but a network card": (
        lambda node: node.add_function("0000:31:00.0", Ids("10ee", "0100", "020000"), driver="sfc_ef100"),
        ("warn  cards: no card to offer; the bus has 0000:31:00.0, ", "lspci"),
    ),
    "factory image beside loaded drivers": (
        lambda node: (
            node.add_card("u250"),
            node.add_function("0000:31:00.0", Ids("10ee", "903f", "070001")),
        ),
        ("warn  0000:31:00.0: ", "10ee:903f is no id of XRT's"),
    ),
    "a bus that can't be read": (
        lambda node: os.rename(f"{node.sysfs_root}/bus", f"{node.sysfs_root}/away"),
        ("fail  sysfs: ", "No such file or directory", "SYSFS_ROOT"),
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_each_problem_has_its_line(node: SampleNode, name: str) -> None:
    change, words = PROBLEMS[name]
    change(node)
    _, lines = diagnose(node)
    assert line_with(lines, *words).startswith(words[0])


def test_missing_drivers_are_reported(node: SampleNode) -> None:
    card = node.add_card("u200", "0000:31:00")
    card.unbind()
    card.unbind_mgmt()
    node.files.drop(f"{node.sysfs_root}/module")
    _, lines = diagnose(node)
    line_with(lines, "warn  drivers: none is loaded")


@pytest.mark.parametrize(
    ("value", "unbound", "shown"), [(0, True, False), (1, True, True), (1, False, False)]
)
def test_secure_boot_is_reported_beside_a_missing_driver(
    node: SampleNode, value: int, unbound: bool, shown: bool
) -> None:
    node.add_card("u200", "0000:31:00")
    card = node.add_card("v80", "0000:41:00")
    if unbound:
        card.unbind()
        node.files.drop(f"{node.sysfs_root}/module/ami")
    variable = Path(node.sysfs_root, SECURE_BOOT)
    variable.parent.mkdir(parents=True)
    variable.write_bytes(bytes([6, 0, 0, 0, value]))
    _, lines = diagnose(node)
    found = [line for line in lines if line.startswith("warn  drivers: Secure Boot is on")]
    assert ["mokutil --sb-state" in line for line in found] == [True] * shown


CONTAINERD = "etc/containerd/config.toml"
CRI = '[plugins."io.containerd.grpc.v1.cri"]\n'


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        (CONTAINERD, f"version = 2\n{CRI}enable_cdi = false\n", ("warn", "is false", "set it to true")),
        (CONTAINERD, "version = 2\n", ("warn", "containerd 1.7", "set it to true")),
        (CONTAINERD, f"version = 2\n{CRI}enable_cdi = true\n", ("ok", "CDI is on")),
        (
            CONTAINERD,
            f'version = 2\n{CRI}enable_cdi = true\ncdi_spec_dirs = ["/etc/cdi"]\n',
            ("warn", "CDI_DIR", "/etc/cdi"),
        ),
        (
            "var/lib/rancher/k3s/agent/etc/containerd/config.toml",
            "version = 3\n[plugins.'io.containerd.cri.v1.runtime']\nenable_cdi = false\n",
            ("warn", "k3s", "is false"),
        ),
    ],
)
def test_runtime_without_cdi_is_reported(
    node: SampleNode, path: str, text: str, words: tuple[str, ...]
) -> None:
    node.add_card("u200")
    file = Path(node.root, path)
    file.parent.mkdir(parents=True)
    file.write_text(text)
    _, lines = diagnose(node)
    assert not [line for line in lines if "containerd" in line], "only CDI needs it"
    _, lines = diagnose(node, DEVICE_STRATEGY="cdi", CDI_DIR="/var/run/cdi")
    assert line_with(lines, "containerd: ", *words[1:]).startswith(words[0])


def test_configuration_that_blocks_or_is_broken_has_no_line(node: SampleNode) -> None:
    file = Path(node.root, CONTAINERD)
    file.parent.mkdir(parents=True)
    os.mkfifo(file)
    for change in (lambda: None, file.unlink, lambda: file.write_bytes(b"\xff = ["), file.unlink, file.mkdir):
        change()
        _, lines = diagnose(node, DEVICE_STRATEGY="cdi", CDI_DIR="/var/run/cdi")
        assert not [line for line in lines if "containerd" in line]


@pytest.mark.parametrize(("pages", "level"), [("4192", "ok"), ("4191", "warn"), ("0", "warn"), ("?", None)])
def test_too_few_hugepages_for_ma35d_are_reported(node: SampleNode, pages: str, level: str | None) -> None:
    for slot in ("0000:31:00", "0000:41:00"):
        node.add_card("ma35d", slot)
    _, lines = diagnose(node)
    assert not [line for line in lines if "hugepages" in line]
    folder = Path(node.sysfs_root, "kernel/mm/hugepages/hugepages-2048kB")
    folder.mkdir(parents=True)
    (folder / "nr_hugepages").write_text(f"{pages}\n")
    _, lines = diagnose(node)
    found = [line for line in lines if "hugepages" in line]
    assert [line.split()[0] for line in found] == ([level] if level else [])
    if level == "warn":
        line_with(lines, f"{pages} of 2 MB", "4192", "vm.nr_hugepages=4192")


def test_board_without_a_link_by_path_is_reported(node: SampleNode) -> None:
    card = node.add_card("kv260")
    _, lines = diagnose(node)
    assert not [line for line in lines if "by-path" in line and line.startswith("warn")]
    link = node.node_path(f"/dev/dri/by-path/platform-{card.address}-render")
    os.unlink(link)
    os.symlink("../renderD999", link)
    for _ in range(2):
        _, lines = diagnose(node)
        line_with(lines, f"warn  {card.address}: ", "/dev/dri/by-path", "udevadm trigger")
        shutil.rmtree(os.path.dirname(link), ignore_errors=True)


def test_switches_of_selinux_that_deny_nodes_are_reported(node: SampleNode) -> None:
    node.add_card("u200", "0000:11:00")
    node.add_card("ma35d", "0000:31:00")
    for dri, every, words in (
        ("1 1", "0 0", ("container_use_devices on", "/dev/ama_transcoder0")),
        ("0 0", "0 0", ("container_use_devices on", "/dev/dri/renderD")),
        (None, "0 0", ("container_use_devices on", "/dev/dri/renderD")),
        ("0 0", "1 1", ()),
    ):
        switches = {"container_use_devices": every} | ({"container_use_dri_devices": dri} if dri else {})
        node.files.put(f"{node.sysfs_root}/fs", {"selinux": {"enforce": "1", "booleans": switches}})
        _, lines = diagnose(node)
        assert [line for line in lines if "setsebool" in line] == (
            [line_with(lines, *words)] if words else []
        )
    node.files.put(f"{node.sysfs_root}/fs", {"selinux": {"enforce": "1"}})
    _, lines = diagnose(node)
    assert not [line for line in lines if "setsebool" in line]


def test_different_builds_under_one_name_have_a_line(node: SampleNode) -> None:
    for slot, uuid in (("0000:31:00", "a" * 32), ("0000:41:00", "b" * 32)):
        node.add_card("u55c", slot).write("logic_uuids", uuid)
    _, lines = diagnose(node)
    line_with(lines, "warn  xilinx.com/fpga-xilinx_u55c", "different builds", "{uuid}")


def test_too_long_name_is_reported(node: SampleNode) -> None:
    node.add_card("u200").write("rom/VBNV", "xilinx_" + "u" * 80)
    _, lines = diagnose(node)
    line_with(lines, "warn  xilinx.com/fpga-xilinx_uuu", "too long", "RESOURCE_NAME_TEMPLATE")


def test_missing_kubelet_is_reported(node: SampleNode) -> None:
    code, lines = diagnose(node)
    assert code == 1
    line = line_with(
        lines,
        f"fail  kubelet: no kubelet.sock in {node.socket_dir}",
        "systemctl status kubelet",
        "SOCKET_DIR",
    )
    # A pod with the wrong directory sees no other directory, so the line lists those of all distributions.
    for distribution in ("k3s", "/opt/rke/", "/var/snap/microk8s/"):
        assert distribution in line
    assert "RKE2" not in line, "its kubelet uses /var/lib/kubelet"
    line_with(lines, "warn  podresources: ", "No such file", "POD_RESOURCES_SOCKET")


@pytest.mark.parametrize(
    "root",
    [
        "/var/lib/kubelet",
        "/var/lib/rancher/k3s/agent/kubelet",
        "/opt/rke/var/lib/kubelet",
        "/var/snap/microk8s/common/var/lib/kubelet",
        "/var/lib/k0s/kubelet",
    ],
)
def test_kubelet_with_another_directory_is_reported(node: SampleNode, root: str) -> None:
    directory = f"{root}/device-plugins"
    os.makedirs(f"{node.root}{directory}")
    Path(f"{node.root}{directory}/kubelet.sock").touch()
    _, lines = diagnose(node)
    line_with(lines, "fail  kubelet: ", f"there is one in {directory} (as ", "set SOCKET_DIR")
    os.rmdir(node.socket_dir)
    _, lines = diagnose(node)
    line_with(lines, "fail  socket directory: No such file", f"there is one in {directory} (as ")


def test_dead_kubelet_is_reported(node: SampleNode, kubelet: KubeletDouble) -> None:
    kubelet.start()
    kubelet.kill()
    _, lines = diagnose(node)
    line_with(lines, "fail  kubelet: ", "refused", "start kubelet")
    os.makedirs(f"{node.root}/var/lib/k0s/kubelet/device-plugins")
    Path(f"{node.root}/var/lib/k0s/kubelet/device-plugins/kubelet.sock").touch()
    _, lines = diagnose(node)
    line_with(lines, "fail  kubelet: ", "refused", "(as k0s has it)")


@contextmanager
def listening(path: str, answer: bytes | None) -> Iterator[None]:
    """Listen on a socket and send this answer to each client; None sends nothing and keeps the client."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                if answer is None:
                    over.wait(20)
                else:
                    connection.sendall(answer)

    over = threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


@pytest.mark.parametrize(
    ("answer", "message"),
    [(None, "kubelet hangs: restart it"), (b"SSH-2.0-x\r\n", "does not speak gRPC; set SOCKET_DIR")],
)
def test_listener_that_is_not_kubelet_is_reported(
    node: SampleNode, answer: bytes | None, message: str
) -> None:
    node.add_card("u200")
    with listening(f"{node.socket_dir}/kubelet.sock", answer):
        _, lines = diagnose(node)
        line_with(lines, "fail  kubelet: ", message)
        line_with(lines, "ok    ", U200)


def test_hanging_podresources_is_reported(
    node: SampleNode, kubelet: KubeletDouble, pods: PodResourcesDouble
) -> None:
    pods.hangs.clear()
    kubelet.start()
    code, lines = diagnose(node)
    assert code == 0
    line_with(lines, "warn  podresources: ", "does not answer", "drain the node")


def test_card_held_under_another_name_is_reported(node: SampleNode, pods: PodResourcesDouble) -> None:
    node.add_card("u200", "0000:11:00")
    pods.holds = [Hold("amd.com/other", "0000:11:00.1")]
    _, lines = diagnose(node)
    line_with(lines, "warn  0000:11:00.1: ", "held", "delete or drain the pod")


def test_other_plugin_for_the_same_cards_is_reported(node: SampleNode) -> None:
    with listening(f"{node.socket_dir}/xilinx_u200_xdma_201830_2-1561465320-fpga.sock", b""):
        Path(f"{node.socket_dir}/dead-fpga.sock").touch()
        _, lines = diagnose(node)
        line_with(
            lines, "warn  service: another plugin", "xilinx_u200_xdma_201830_2-1561465320-fpga.sock", "delete"
        )


def test_unwritable_directories_are_reported(node: SampleNode) -> None:
    Path(f"{node.root}/file").touch()
    node.add_card("u200")
    _, lines = diagnose(
        node,
        DEVICE_STRATEGY="cdi",
        CDI_DIR=f"{node.root}/file",
        NFD_FEATURES_DIR=f"{node.root}/made/when/needed",
        EXTRA_MOUNTS="/dev,/opt/xilinx/xrt",
        NOT_A_SETTING="1",
    )
    line_with(lines, "fail  CDI_DIR: Not a directory", "mount it writable")
    line_with(lines, "ok    NFD_FEATURES_DIR: ")
    line_with(lines, "warn  EXTRA_MOUNTS: No such file or directory: /opt/xilinx/xrt; install it")
    line_with(lines, "warn  settings: XILINX_FPGA_DP_NOT_A_SETTING is no setting")
    assert not os.path.exists(f"{node.root}/made")


def test_read_only_directory_is_reported(node: SampleNode) -> None:
    here = node.socket_dir
    if os.geteuid() != 0 or subprocess.run(["mount", "--bind", here, here], check=False).returncode:
        pytest.skip("needs root to mount")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", here], check=True)
        _, lines = diagnose(node)
        line_with(lines, "fail  socket directory: Read-only file system", "mount it writable")
    finally:
        subprocess.run(["umount", here], check=True)


def test_full_directory_is_reported(node: SampleNode) -> None:
    here = node.socket_dir
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", here]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
        pytest.skip("needs root to mount")
    try:
        Path(here, "filler").write_bytes(b"x" * 4096)
        _, lines = diagnose(node)
        line_with(lines, "fail  socket directory: No space left on device", "with room")
    finally:
        subprocess.run(["umount", here], check=True)


@pytest.mark.parametrize("readable", [True, False])
def test_selinux_denials_are_reported(node: SampleNode, kubelet: KubeletDouble, readable: bool) -> None:
    """Run as root without capabilities, as in the DaemonSet: files of other owners are refused.

    If SELinux enforces, a container cannot read its state.
    """
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs root and setpriv")
    kubelet.start()
    node.files.put(f"{node.sysfs_root}/fs", {"selinux": {"enforce": "1"}})
    hidden = () if readable else (f"{node.sysfs_root}/fs/selinux/enforce",)
    for path in (kubelet.socket, *hidden):
        os.chmod(path, 0o600)
    for path in (node.socket_dir, kubelet.socket, *hidden):
        os.chown(path, 65534, 65534)
    done = subprocess.run(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *COMMAND, "diagnose"],
        env=clean_environment(settings_for(node)),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    lines = done.stdout.splitlines()
    line_with(lines, "fail  socket directory: Permission denied", "run as root")
    line_with(lines, "fail  kubelet: ", "Permission denied; run as root")
    line_with(lines, "warn  SELinux: ", "container_device_plugin_t")
