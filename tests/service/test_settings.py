"""The command line: settings, options, errors and output."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import COMMAND, cli, started
from tests.support.running import settings_for
from xilinx_fpga_dp.cli import COMMANDS
from xilinx_fpga_dp.cli.program import load
from xilinx_fpga_dp.settings import variable
from xilinx_fpga_dp.settings_model import Settings
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode


def test_each_bad_setting_has_a_line_and_exit_code_is_2() -> None:
    done = started("run", settings={"SCAN_INTERVAL": "-1", "SOCKET_DIR": "x", "RESOURCE_PREFIX": "A"})
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "XILINX_FPGA_DP_SCAN_INTERVAL",
        "XILINX_FPGA_DP_SOCKET_DIR",
        "XILINX_FPGA_DP_RESOURCE_PREFIX",
    ]
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--nope",), "--nope: no such option"),
        (("list", "--nope=1"), "--nope=1: no such option"),
        (("--scan-interval",), "--scan-interval: needs a value"),
        (("frobnicate",), "'frobnicate' is no command"),
        (("list", "extra"), "'extra': list takes no such argument"),
        (("explain",), "explain: which device ids?"),
        (("explain", "x", "--output", "table"), "--output: must be one of text, json"),
        (("list", "--output", "xml"), "--output: must be one of table, wide, json"),
        (("run", "--output", "json"), "--output: only with list"),
        (("--scan-int", "5"), "--scan-int: no such option"),
        (("simulate", "--once=yes"), "--once: takes no value"),
    ],
)
def test_bad_arguments_print_one_line(arguments: tuple[str, ...], message: str) -> None:
    done = cli(*arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr
    for word in ("usage:", "error:", "argument", "choose from"):
        assert word not in done.stderr.replace("takes no such argument", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ("list", "--scan-interval", "-3"),
        ("--scan-interval", "-3", "list"),
        ("--scan-interval=-3",),
        ("list", "--expose-mgmt", "--scan-interval=-3"),
        ("--expose-mgmt", "list", "--scan-interval=-3"),
    ],
)
def test_option_may_precede_or_follow_the_command(arguments: tuple[str, ...]) -> None:
    done = cli(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("XILINX_FPGA_DP_SCAN_INTERVAL: ")
    assert "'-3'" in done.stderr


def test_missing_directory_is_not_a_bad_setting(tmp_path: Path) -> None:
    done = cli("list", settings={"SYSFS_ROOT": str(tmp_path / "none"), "SOCKET_DIR": "/nowhere/at/all"})
    assert done.returncode == 0
    assert "No such file" in done.stderr
    assert "no device" in done.stdout


@pytest.mark.parametrize("command", ["version", "list", "diagnose"])
def test_failed_output_prints_one_line(node: SampleNode, command: str) -> None:
    with open("/dev/full", "w") as full:
        done = started(command, settings=settings_for(node), stdout=full)
    assert (done.returncode, done.stderr) == (1, f"{command}: No space left on device\n")


def test_closed_pipe_is_no_error(node: SampleNode) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = started("list", settings=settings_for(node), stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_closed_output_is_no_error() -> None:
    command = f"{shlex.join(COMMAND)} version >&-"
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_version_needs_no_valid_settings() -> None:
    done = cli("version", settings={"SCAN_INTERVAL": "-1"})
    assert (done.returncode, done.stdout.split()[0]) == (0, "xilinx-fpga-dp")


@pytest.mark.parametrize("arguments", [("--help",), ("run", "--help"), ("--scan-interval", "5", "-h")])
def test_help_shows_every_setting(arguments: tuple[str, ...]) -> None:
    done = cli(*arguments)
    assert done.returncode == 0
    assert all(variable(name) in done.stdout for name in Settings.model_fields)
    assert all(name in done.stdout for name in COMMANDS) == ("run" not in arguments)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_shows_its_options_and_settings(name: str) -> None:
    done = cli("--help", name)
    command = load(name)
    assert done.stdout.startswith(f"usage: xilinx-fpga-dp {name} [OPTION]...")
    assert all(option in done.stdout for option in command.options)
    shown = {field for field in Settings.model_fields if f"[{variable(field)}," in done.stdout}
    assert shown == command.settings


def test_command_accepts_a_setting_that_it_does_not_use(node: SampleNode) -> None:
    done = cli("list", "--request-timeout", "3", settings=settings_for(node))
    assert (done.returncode, done.stderr) == (0, "")
    done = cli("list", "--request-timeout", "0", settings=settings_for(node))
    assert (done.returncode, done.stderr[:31]) == (2, "XILINX_FPGA_DP_REQUEST_TIMEOUT:")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--output", "json", "explain", "--expose-mgmt", "x", "y"),
        ("explain", "x", "--output=json", "y", "--expose-mgmt"),
        ("--expose-mgmt", "true", "explain", "x", "--output", "json", "--", "y"),
    ],
)
def test_options_and_arguments_come_in_any_order(node: SampleNode, arguments: tuple[str, ...]) -> None:
    done = cli(*arguments, settings=settings_for(node))
    assert (done.returncode, done.stderr) == (1, "")
    assert json.loads(done.stdout)["refused"]["code"] == "NOT_FOUND"


@pytest.mark.parametrize(
    "arguments", ["version", "--help", "run --help", "list --help", "diagnose --help", "list nope"]
)
def test_command_without_a_service_imports_no_grpc(arguments: str) -> None:
    code = (
        "import sys\nfrom contextlib import suppress\nfrom xilinx_fpga_dp.cli import main\n"
        f"with suppress(SystemExit):\n    main({arguments.split()!r})\n"
        "sys.exit(any(name in sys.modules for name in ('grpclib', 'betterproto2', 'prometheus_client')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
