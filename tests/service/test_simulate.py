"""The ``simulate`` command."""

import os
import re
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.process import COMMAND, clean_environment, cli
from tests.support.waiting import wait_for
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode

NO_SENSORS = ("--telemetry", "none")  # which leaves the steps with the sensors out


def test_once_plays_all_steps_and_ends() -> None:
    done = cli("simulate", "--once")
    assert done.returncode == 0, done.stdout + done.stderr
    output = done.stdout
    for text in (
        "0000:65:00.1  u200",
        "xilinx.com/fpga-xilinx_u200_xdma_201830_2-1561465320  2         2            1",
        "xilinx.com/fpga-xilinx_u55c_gen3x16_xdma_base_3-0     1         1            0",
        "PCIDEVICE_XILINX_COM_FPGA_XILINX_U200_XDMA_201830_2_1561465320=0000:65:00.1",
        "device /dev/dri/renderD129 (rw)",
        "xilinx.com/fpga-xilinx_u200_xdma_201830_2-1561465320  2         1            1",
        "kubelet restarts",
        "mypod still holds 0000:65:00.1",
        "It ended with 0 and left no socket.",
    ):
        assert text in output
    assert output.count("registered resource=") >= 3  # the demo may end before the second log line arrives
    assert done.stderr == ""


def test_once_shows_what_happens_to_the_card_of_the_pod() -> None:
    """Sensors that move, a hot card, a link that trains down, a trip: on /metrics and in the log."""
    done = cli("simulate", "--once", "--board", "u200")
    assert done.returncode == 0, done.stdout + done.stderr
    steps = dict(re.findall(r"=== (.+)\n((?:(?!===).*\n)*)", done.stdout))
    device = 'device="0000:65:00.1"'
    moving = steps["The sensors of the xilinx_u200_xdma_201830_2 at 0000:65:00.1, which mypod has (/metrics)"]
    powers = re.findall(rf"xilinx_fpga_power_watts{{{device}}} (\S+)", moving)
    assert len(set(powers)) == 2
    assert f'allocated{{{device},namespace="default",pod="mypod",container="mypod"}} 1' in moving
    [hot] = re.findall(r"temperature_celsius\S+ (\d+)", steps["It runs hot"])
    assert int(hot) >= 90
    link = steps["Its PCIe link trains down to half of its lanes"]
    assert f"pcie_link_lanes{{{device}}} 8\n" in link
    assert f"pcie_link_lanes_max{{{device}}} 16\n" in link
    trip = steps["The xilinx_u200_xdma_201830_2 at 0000:65:00.1 becomes Unhealthy: firewall"]
    assert f'errors_total{{{device},kind="firewall"}} 1\n' in trip
    [line] = [line for line in done.stdout.splitlines() if f" {Event.CARD_ERROR} " in line]
    assert re.search(r"device=0000:65:00.1 kind=firewall time=20\S+Z held_by=default/mypod", line)


@pytest.mark.parametrize("flags", [("--telemetry", "none"), ("--http-address", "")])
def test_once_without_metrics_shows_no_sensors(flags: tuple[str, str]) -> None:
    done = cli("simulate", "--once", "--board", "u50", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "xilinx_fpga_" not in done.stdout
    assert "becomes Unhealthy: firewall" in done.stdout


def test_once_waits_for_no_sensor_that_is_read_once_a_minute() -> None:
    done = cli("simulate", "--once", "--board", "v70", "--telemetry", "all")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "It runs hot" not in done.stdout
    assert "Its PCIe link trains down" in done.stdout


def test_options_choose_boards_and_settings() -> None:
    done = cli("simulate", "--once", "--board", "u50", "--resource-prefix", "amd.com/", *NO_SENSORS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "amd.com/xilinx_u50_gen3x16_xdma_201920_3-0" in done.stdout


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--device-strategy", "cdi"), "CDI device xilinx.com/fpga=0000:65:00.1"),
        (("--extra-mounts", "/usr/bin"), "mount /usr/bin"),
        (("--shared-replicas", "3"), "  3         0            1"),
    ],
)
def test_all_parts_of_a_grant_are_shown(flags: tuple[str, str], text: str) -> None:
    written = [path for path in ("/var/run/cdi", "/run/cdi") if os.path.exists(path)]
    done = cli("simulate", "--once", "--board", "u200", *flags, *NO_SENSORS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert text in done.stdout
    assert written == [path for path in ("/var/run/cdi", "/run/cdi") if os.path.exists(path)], (
        "the directories of the host are unchanged"
    )


def test_error_of_unknown_board_lists_known_boards() -> None:
    done = cli("simulate", "--once", "--board", "u1000")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "'u1000'" in done.stderr
    for known in ("u200", "vt1", "v80", "ma35d", "kv260", "-golden"):
        assert known in done.stderr


def test_two_boards_with_a_device_tree_are_refused(tmp_path: Path) -> None:
    done = cli("simulate", "--node", str(tmp_path / "node"), "--board", "kv260", "--board", "zcu102")
    assert done.returncode == 2
    assert "ZCU102" in done.stderr


def test_demo_lists_left_out_cards_and_plays_the_others() -> None:
    done = cli("simulate", "--once", "--board", "u50", "--board", "u250-golden", *NO_SENSORS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0000:66:00.0  golden image" in done.stdout
    assert "The xilinx_u50_gen3x16_xdma_201920_3 at 0000:65:00.1 becomes Unhealthy: firewall" in done.stdout
    assert "reason=firewall" in done.stdout


@pytest.mark.parametrize("board", ["u200", "v70", "u200-2018.3", "arista", "f1-2019", "v80", "ma35d", "u30"])
def test_headline_of_the_fault_says_what_the_log_says(board: str) -> None:
    """With boards that show the same fault in different ways; ``arista`` asks through the mailbox."""
    done = cli("simulate", "--once", "--board", board, *NO_SENSORS)
    assert done.returncode == 0, done.stdout + done.stderr
    [step] = re.findall(r"=== The .+ at (\S+) becomes Unhealthy: (.+)\n((?:(?!===).*\n)*)", done.stdout)
    address, reasons, log = step
    logged = re.findall(rf'{Event.DEVICE_UNHEALTHY} device="?{re.escape(address)}"? .*reason=(\S+)', log)
    assert logged[: reasons.count(", then ") + 1] == reasons.split(", then ")


def test_headline_has_the_reason_of_a_log_in_json() -> None:
    done = cli("simulate", "--once", "--board", "u50", "--log-format", "json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "at 0000:65:00.1 becomes Unhealthy: firewall" in done.stdout


def test_events_of_the_fault_are_shown() -> None:
    done = cli("simulate", "--once", "--board", "u50", "--events", "true", *NO_SENSORS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning  FPGAUnhealthy  0000:65:00.1 (u50): firewall" in done.stdout


def test_headline_without_a_log_gives_no_reason() -> None:
    done = cli("simulate", "--once", "--board", "u50", "--log-level", "error", *NO_SENSORS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "at 0000:65:00.1 becomes Unhealthy\n" in done.stdout


def test_demo_ends_without_an_allocatable_card() -> None:
    done = cli("simulate", "--once", "--board", "u250-golden")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "None of these can be offered" in done.stdout
    assert "kubelet starts" not in done.stdout


def test_node_option_builds_a_node_and_prints_its_settings(node: SampleNode) -> None:
    """The output is valid in a shell, also if the path has a space and quotes."""
    folder = f"{node.root}/my node; it's"  # short enough for sockets, unlike the directories of pytest
    done = subprocess.run(
        ["sh", "-c", 'set -a; eval "$("$@")"; unset PYTHONPATH; exec "$1" -m xilinx_fpga_dp list', "sh",
         *COMMAND, "simulate", "--node", folder, "--board", "u280"],
        env=clean_environment({}), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "u280" in done.stdout
    assert done.stderr == ""


def test_directory_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    done = cli("simulate", "--node", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == f"--node: {tmp_path}: is not empty, and nothing is written over\n"
    assert os.listdir(tmp_path) == ["mine"]
    (tmp_path / "mine").unlink()
    assert cli("simulate", "--node", str(tmp_path)).returncode == 0
    assert cli("simulate", "--node", str(tmp_path)).returncode == 1


def test_node_option_without_directory_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "simulate", "--node", ""],
        env=clean_environment({}), cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("--node: must name a directory")
    assert os.listdir(tmp_path) == []


@pytest.fixture
def temporary() -> Iterator[str]:
    """A directory for temporary files, with a path short enough for unix sockets."""
    with tempfile.TemporaryDirectory(prefix="sim-") as directory:
        yield directory


@pytest.mark.parametrize(("flags", "ending"), [((), "It ended with 0"), (("--board", "u200-golden"), "")])
def test_demo_runs_until_interrupted(temporary: str, flags: tuple[str, ...], ending: str) -> None:
    with subprocess.Popen(
        [*COMMAND, "simulate", *flags],
        env=clean_environment({}) | {"TMPDIR": temporary},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "Ctrl-C" in line:
                break
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(30) == 0
        assert ending in rest
    assert os.listdir(temporary) == []


def test_cards_of_the_demo_go_on_until_it_is_interrupted(temporary: str) -> None:
    with subprocess.Popen(
        [*COMMAND, "simulate", "--board", "u200"],
        env=clean_environment({}) | {"TMPDIR": temporary},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        [page] = next(found for line in lines if (found := re.findall(r"curl -s (http\S+/metrics)", line)))

        def scraped(series: str) -> float:
            """Return the value of a series; 0 while it is not on the page."""
            with urllib.request.urlopen(page, timeout=30) as answer:  # noqa: S310 - the page of the demo
                lines = answer.read().decode().splitlines()
            found = [line for line in lines if line.startswith(f"xilinx_fpga_{series} ")]
            return float(found[0].rpartition(" ")[2]) if found else 0.0

        power = 'power_watts{device="0000:65:00.1"}'
        before = wait_for(lambda: scraped(power), "the power of the card")
        wait_for(lambda: scraped(power) not in (before, 0.0), "sensors that move")
        next(line for line in lines if line == "=== The card at 0000:65:00.1 runs hot\n")
        fpga = 'temperature_celsius{device="0000:65:00.1",sensor="fpga"}'
        wait_for(lambda: scraped(fpga) >= 90, "a hot card")
        process.send_signal(signal.SIGINT)
        assert "It ended with 0" in process.stdout.read()
        assert process.wait(30) == 0
    assert os.listdir(temporary) == []


@pytest.mark.parametrize(("flags", "code"), [(("--once",), 1), ((), 0)])
def test_interrupted_demo_leaves_no_file(temporary: str, flags: tuple[str, ...], code: int) -> None:
    with subprocess.Popen(
        [*COMMAND, "simulate", *flags],
        env=clean_environment({}) | {"TMPDIR": temporary},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == code
    assert os.listdir(temporary) == []


def test_demo_plays_cards_of_all_drivers() -> None:
    boards = ("u30", "v80", "ma35d", "npu", "f2", "kv260")
    done = cli("simulate", "--once", *(word for name in boards for word in ("--board", name)))
    assert done.returncode == 0, done.stdout + done.stderr
    for text in (
        "xilinx.com/fpga-xilinx_u30_gen3x4_base_1-0  ",
        "xilinx.com/fpga-xilinx_v80  ",
        "xilinx.com/fpga-MA35  ",
        "xilinx.com/fpga-ZynqMP-KV260  ",
        "0000:34:00.1  second function of one device",
        "The ZynqMP KV260 revB at axi:zyxclmm_drm is gone",
        f"{Event.DEVICE_GONE} device=axi:zyxclmm_drm ",
        "It ended with 0 and left no socket.",
    ):
        assert text in done.stdout
