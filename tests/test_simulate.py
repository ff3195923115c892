"""``simulate`` as a newcomer runs it."""

import os
import signal
import subprocess
import time
from pathlib import Path

from tests.process import COMMAND, clean_environment, cli


def test_once_tells_the_whole_story_and_ends() -> None:
    done = cli("simulate", "--once", limit=60)
    assert done.returncode == 0, done.stdout + done.stderr
    told = done.stdout
    for said in (
        "0000:65:00.1  u200",
        "xilinx.com/fpga-xilinx_u200_xdma_201830_2-1561465320  2         2            1",
        "xilinx.com/fpga-xilinx_u55c_gen3x16_xdma_base_3-0     1         1            0",
        "PCIDEVICE_XILINX_COM_FPGA_XILINX_U200_XDMA_201830_2_1561465320=0000:65:00.1",
        "device /dev/dri/renderD129 (rw)",
        "xilinx.com/fpga-xilinx_u55c_gen3x16_xdma_base_3-0     1         0            0",
        "kubelet restarts",
        "mypod still holds 0000:65:00.1",
        "It ended with 0 and left no socket.",
    ):
        assert said in told
    assert told.count("registered resource=") >= 6
    assert done.stderr == ""


def test_boards_may_be_chosen_and_settings_given() -> None:
    done = cli("simulate", "--once", "--board", "u50", "--resource-prefix", "amd.com/", limit=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "amd.com/xilinx_u50_gen3x16_xdma_201920_3-0" in done.stdout


def test_an_unknown_board_is_named_with_those_known() -> None:
    done = cli("simulate", "--once", "--board", "u1000")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "'u1000'" in done.stderr
    assert "u200" in done.stderr


def test_a_node_is_built_with_the_settings_to_run_against_it(tmp_path: Path) -> None:
    done = cli("simulate", "--node", str(tmp_path / "node"), "--board", "u280")
    assert done.returncode == 0
    settings = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert all(name.startswith("XILINX_FPGA_DP_") for name in settings)
    listed = subprocess.run(
        [*COMMAND, "list"],
        env={**clean_environment({}), **settings},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "u280" in listed.stdout
    again = cli("simulate", "--node", str(tmp_path / "node"))
    assert again.returncode == 2
    assert len(again.stderr.splitlines()) == 1


def test_it_stays_up_until_interrupted() -> None:
    with subprocess.Popen(
        [*COMMAND, "simulate"], env=clean_environment({}), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "Ctrl-C" in line:
                break
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(10) == 0
        assert "It ended with 0" in rest
    assert not [name for name in os.listdir("/tmp") if name.startswith("xilinx-fpga-dp-")]


def test_interrupted_in_the_middle_it_leaves_nothing() -> None:
    with subprocess.Popen(
        [*COMMAND, "simulate", "--once"],
        env=clean_environment({}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        assert process.returncode != 0
    assert not [name for name in os.listdir("/tmp") if name.startswith("xilinx-fpga-dp-")]
