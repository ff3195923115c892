"""The ``simulate`` command with the DRA driver."""

import os
import re
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.support.process import COMMAND, clean_environment, cli

SMALL = ("--mode", "dra", "--telemetry", "none")


def _steps(output: str) -> dict[str, str]:
    return dict(re.findall(r"=== (.+)\n((?:(?!===).*\n)*)", output))


def test_once_plays_the_story_of_a_claim_and_ends() -> None:
    done = cli("simulate", "--mode", "dra", "--once")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    steps = _steps(done.stdout)
    title = "xilinx_u200_xdma_201830_2 at 0000:65:00.1"
    published, classes, pod, fault, recovery, restart, deleted, ended = list(steps.values())[1:]
    assert re.search(r"00000-fpga\.xilinx\.com-sample-node +sample-node +fpga\.xilinx\.com", published)
    assert re.search(r"pci-0000-65-00-1 +u200 +0 +2\.14\.0 +64Gi\n", published)
    assert "xilinx.com/fpga-xilinx_u55c_gen3x16_xdma_base_3-0" in classes
    assert "PCIDEVICE_XILINX_COM_FPGA_XILINX_U200_XDMA_201830_2_1561465320=0000:65:00.1" in pod
    assert "device /dev/dri/renderD129 (rw)" in pod
    assert "board=u200 serial=XFL100006501 devNode=/dev/dri/renderD129 numaNode=0" in pod
    assert f"The {title} becomes Unhealthy: firewall" in steps
    assert "fpga.xilinx.com/firewall:NoSchedule" in fault
    assert "its device pci-0000-65-00-1 is Unhealthy, firewall" in fault
    assert "Another pod of this class gets pci-0000-66-00-1." in fault
    assert "device /dev/dri/renderD140" in recovery
    assert re.search(r"The slice is back after \d+ ms\.", restart)
    assert "mypod still has pci-0000-65-00-1" in restart
    assert "No CDI spec is left." in deleted
    assert "It ended with 0 and left no socket." in ended


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--board", "kv260"), "its device dev-axi-zyxclmm-drm is Unknown"),
        (("--board", "u50", "--shared-replicas", "2"), "stays Pending: 0/1 nodes are available"),
    ],
)
def test_story_plays_with_other_cards_and_settings(flags: tuple[str, ...], text: str) -> None:
    done = cli("simulate", *SMALL, "--once", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert text in done.stdout


def test_failing_step_ends_with_1_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = cli("simulate", *SMALL, "--once", "--board", "u50", "--cdi-dir", f"{tmp_path}/file/cdi")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED: mypod: NodePrepareResources failed for ResourceClaim mypod-fpga: " in done.stdout


def test_story_stays_up_until_interrupted() -> None:
    with tempfile.TemporaryDirectory(prefix="sim-") as temporary:
        with subprocess.Popen(
            [*COMMAND, "simulate", *SMALL, "--board", "u50"],
            env=clean_environment({}) | {"TMPDIR": temporary},
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            next(line for line in process.stdout if "Ctrl-C" in line)
            process.send_signal(signal.SIGINT)
            assert "It ended with 0 and left no socket." in process.stdout.read()
            assert process.wait(30) == 0
        assert os.listdir(temporary) == []
