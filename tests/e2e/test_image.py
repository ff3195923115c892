"""The image in a pod of the daemonset's template at a real kubelet, on a separate network."""

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from xilinx_fpga_dp import __version__
from xilinx_fpga_dp.observe.events import Event

from .build import install_packages
from .image import PACKAGES, PROJECT, Image, build_image, download_wheels
from .namespace import wait_for
from .node import Node
from .report import Report
from .stage import U200, Stage

CNI = Path("/usr/lib/cni")
MANIFEST = PROJECT / "deploy" / "fpga-device-plugin.yml"
DAEMONSET: dict[str, Any] = yaml.safe_load(MANIFEST.read_text())
MEBIBYTE = 1 << 20
ZCU102 = "xilinx.com/fpga-ZynqMP-ZCU102"

# Writable mounts of every container, by kubelet and the runtime.
RUNTIME = {
    *("/dev", "/dev/pts", "/dev/mqueue", "/dev/shm", "/dev/termination-log"),
    *("/etc/hosts", "/etc/hostname", "/etc/resolv.conf"),
    "/sys/fs/cgroup",  # with cgroup v1, a tmpfs of the container
}

# Prints the result of opening the node of a card.
OPEN = """
import os, sys
os.stat(sys.argv[1])
try:
    os.open(sys.argv[1], os.O_RDWR)
except OSError as error:
    print(error.strerror)
"""

# Imports all modules, then prints those without bytecode.
WITHOUT_BYTECODE = """
import importlib, os, pkgutil, sys, xilinx_fpga_dp
for each in pkgutil.walk_packages(xilinx_fpga_dp.__path__, "xilinx_fpga_dp."):
    if not each.name.endswith("__main__"):
        importlib.import_module(each.name)
for name, module in sorted(sys.modules.items()):
    cached = getattr(module, "__cached__", None)
    if cached and not os.path.exists(cached):
        print(name)
"""


@pytest.fixture(scope="module")
def image(live_node: Node, report: Report) -> Image:
    """The image of the Containerfile, imported into containerd under the name of the manifest."""
    install_packages(PACKAGES | {"containernetworking-plugins": str(CNI / "ptp")})
    [container] = DAEMONSET["spec"]["template"]["spec"]["containers"]
    built = build_image(container["image"], live_node.folder)
    live_node.ctr("images", "import", built.archive)
    built.archive.unlink()
    live_node.add_network(CNI)
    size, own = built.size / MEBIBYTE, built.own_size / MEBIBYTE
    report.note(f"image: {size:.0f} MiB unpacked, {own:.1f} MiB of it above the base")
    return built


@dataclass
class Daemon:
    """The pods of the daemonset on the node of the stage."""

    stage: Stage

    def start(self, name: str) -> None:
        """Run the template as a static pod, with the sample node as the /sys of the host."""
        template = copy.deepcopy(DAEMONSET["spec"]["template"])
        [sys] = [each for each in template["spec"]["volumes"] if each["hostPath"]["path"] == "/sys"]
        sys["hostPath"]["path"] = self.stage.sample.sysfs_root
        metadata = {"name": name, "namespace": DAEMONSET["metadata"]["namespace"], **template["metadata"]}
        self.stage.node.put(
            {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        )
        self.stage.pods.append(name)

    def wait_ready(self, name: str) -> None:
        """Wait until the probes of kubelet succeed."""

        def ready() -> bool:
            pod = self.stage.node.pod(name)
            conditions = pod.raw["status"].get("conditions", ()) if pod else ()
            return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

        wait_for(ready, f"{name} ready", 30, 0.1)

    def stop(self, name: str) -> None:
        self.stage.node.remove(name)
        self.stage.pods.remove(name)

    def log(self, name: str) -> str:
        return self.stage.node.logs(name, "xilinx-fpga-dp", DAEMONSET["metadata"]["namespace"])

    def container(self, name: str) -> str:
        """Return the id of its container at containerd."""
        pod = self.stage.node.wait_pod(name, "Running")
        return str(pod.container("xilinx-fpga-dp")["containerID"]).removeprefix("containerd://")

    def process(self, name: str) -> Path:
        """Return the /proc directory of its process."""
        tasks = [line.split() for line in self.stage.node.ctr("tasks", "list").splitlines()]
        [pid] = [pid for container, pid, *_ in tasks if container == self.container(name)]
        return Path("/proc") / pid

    def mounts(self, name: str) -> dict[str, list[str]]:
        """Return the mounts of the container with their options."""
        lines = (self.process(name) / "mounts").read_text().splitlines()
        return {line.split()[1]: line.split()[3].split(",") for line in lines}

    def run(self, name: str, *command: str) -> str:
        """Run a command in the container, as kubectl exec does."""
        return self.stage.node.ctr("tasks", "exec", "--exec-id", "e2e", self.container(name), *command)


@pytest.fixture
def daemon(image: Image, empty_stage: Stage) -> Daemon:
    """A daemonset with one pod, which has registered the cards of the stage."""
    empty_stage.add_cards()
    daemon = Daemon(empty_stage)
    daemon.start("plugin")
    empty_stage.wait_all(30)
    return daemon


def test_daemonset_pod_is_ready_and_a_pod_gets_its_card(daemon: Daemon) -> None:
    daemon.wait_ready("plugin")
    stage = daemon.stage
    name, seen = stage.run_pod({U200: 1})
    [address] = stage.held(name)
    [card] = [card for card in stage.cards if card.address == address]
    assert seen.cards == {card.render_node}
    assert seen.opened[str(card.render_node)] == "ok"

    # Kernel events also arrive in the network namespace of the pod: no log line reports their absence.
    assert f'"{Event.SERVING_HTTP}"' in daemon.log("plugin")
    assert Event.NO_KERNEL_EVENTS not in daemon.log("plugin")

    listed = json.loads(daemon.run("plugin", "xilinx-fpga-dp", "list", "--output", "json"))
    assert {each["id"]: each["health"] for each in listed["devices"]} == {
        card.address: "Healthy" for card in stage.cards
    }
    # podresources is reached through its directory, mounted read-only
    holders = {each["id"]: each["held_by"] for each in listed["devices"]}
    assert [holder["pod"] for holder in holders[address]] == [f"{name}-e2e"]


def test_daemonset_pod_offers_an_embedded_board(image: Image, empty_stage: Stage) -> None:
    """Its name is in /sys/firmware, which the runtime hides in every container."""
    board = empty_stage.sample.add_card("zcu102")
    daemon = Daemon(empty_stage)
    daemon.start("plugin")
    empty_stage.node.wait_allocatable(ZCU102, 1, 30)
    daemon.wait_ready("plugin")
    assert "/sys/firmware" in daemon.mounts("plugin")
    _, seen = empty_stage.run_pod({ZCU102: 1})
    assert seen.cards == set(board.nodes)


def test_daemonset_pod_has_least_privilege(daemon: Daemon) -> None:
    process = daemon.process("plugin")
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
    assert [status[name] for name in ("CapEff", "CapPrm", "CapBnd")] == ["0000000000000000"] * 3
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    # Python, started without a shell.
    command = (process / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    assert command == [b"python", b"-m", b"xilinx_fpga_dp"]

    mounts = daemon.mounts("plugin")
    written = {path for path, options in mounts.items() if "rw" in options and not path.startswith("/proc")}
    # The /dev of the host includes the mounts below it.
    below = {path for path in written if path.startswith(("/host/dev/", "/host/sys/"))}
    assert written - RUNTIME - below == {
        "/var/lib/kubelet/device-plugins",
        "/var/lib/kubelet/plugins/fpga.xilinx.com",
    }
    assert {"/", "/host/sys", "/host/dev", "/var/lib/kubelet/pod-resources"} <= mounts.keys() - written
    # It can see, but not open, the nodes of cards.
    node = f"/host{daemon.stage.cards[0].render_node}"
    said = daemon.run("plugin", "python", "-c", OPEN, node)
    assert said.strip() == "Operation not permitted"


def test_diagnose_succeeds_in_the_daemonset_pod(daemon: Daemon) -> None:
    """The documented command finds no problem, although it cannot open a device."""
    daemon.wait_ready("plugin")
    lines = daemon.run("plugin", "xilinx-fpga-dp", "diagnose").splitlines()
    assert [line for line in lines if not line.startswith("ok ")] == []
    for said in ("kubelet: it answers", "service: it runs", "podresources: kubelet reports"):
        assert any(said in line for line in lines), said
    nodes = {line.split()[1].removesuffix(":") for line in lines if "/dev/dri/renderD" in line}
    assert nodes == {card.render_node for card in daemon.stage.cards}


def test_update_with_surge_keeps_every_device(daemon: Daemon) -> None:
    """With maxSurge the new pod is ready before the old one ends: neither uses a port of the host."""
    stage = daemon.stage
    daemon.wait_ready("plugin")
    daemon.start("plugin-new")
    daemon.wait_ready("plugin-new")
    stage.wait_all()
    daemon.stop("plugin")
    stage.wait_all()
    daemon.wait_ready("plugin-new")
    name, _ = stage.run_pod({U200: 2})
    assert len(stage.held(name)) == 2


def test_daemonset_pod_ends_in_time(daemon: Daemon) -> None:
    daemon.wait_ready("plugin")
    sockets = daemon.stage.sockets()
    assert len(sockets) == 2
    daemon.stop("plugin")
    assert daemon.stage.sockets() == []


def test_image_has_labels_and_all_bytecode(image: Image, daemon: Daemon) -> None:
    config = image.config["config"]
    assert config["Labels"]["org.opencontainers.image.version"] == __version__
    assert daemon.run("plugin", "xilinx-fpga-dp", "version").split() == ["xilinx-fpga-dp", __version__]
    assert config["Entrypoint"] == ["python", "-m", "xilinx_fpga_dp"]
    assert daemon.run("plugin", "python", "-c", WITHOUT_BYTECODE).split() == []


def test_daemonset_pod_stays_within_its_memory_request(daemon: Daemon, report: Report) -> None:
    daemon.wait_ready("plugin")
    used = daemon.stage.node.working_set("plugin", "xilinx-fpga-dp") / MEBIBYTE
    report.note(f"the daemonset's pod: working set {used:.0f} MiB")
    [container] = DAEMONSET["spec"]["template"]["spec"]["containers"]
    assert used < int(container["resources"]["requests"]["memory"].removesuffix("Mi"))


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_locked_package_has_a_wheel_for(machine: str, tmp_path: Path) -> None:
    """The wheels are for the Python of the default base, so the image supports all architectures."""
    download_wheels(tmp_path, "3.13", f"manylinux2014_{machine}", f"manylinux_2_28_{machine}")
