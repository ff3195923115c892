"""The settings and the command line."""

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import settings_for
from tests.process import COMMAND, cli
from xilinx_fpga_dp.cli import COMMANDS, load
from xilinx_fpga_dp.observe import logs
from xilinx_fpga_dp.settings import BadSettings, Settings, unknown_variables, variable
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SCAN_INTERVAL", "-1", "greater than 0"),
        ("SCAN_INTERVAL", "0", "greater than 0"),
        ("SCAN_INTERVAL", "nan", "finite"),
        ("SCAN_INTERVAL", "inf", "finite"),
        ("SCAN_INTERVAL", "soon", "number"),
        ("SCAN_INTERVAL", "", "number"),
        ("REQUEST_TIMEOUT", "0", "greater than 0"),
        ("SOCKET_DIR", "device-plugins", "absolute"),
        ("SOCKET_DIR", "/" + "x" * 100, "bytes"),
        ("SYSFS_ROOT", "", "absolute path, like /sys "),
        ("NFD_FEATURES_DIR", "features.d", "like /etc/kubernetes/node-feature-discovery/features.d "),
        ("DEV_ROOT", "../dev", "absolute path, like /dev "),
        ("RESOURCE_PREFIX", "Xilinx.com/", "lower-case"),
        ("RESOURCE_PREFIX", "fpga-", "'/'"),
        ("RESOURCE_PREFIX", "kubernetes.io/fpga-", "reserved"),
        ("RESOURCE_NAME_TEMPLATE", "{shell}-{colour}", "unknown field {colour}"),
        ("RESOURCE_NAME_TEMPLATE", "fpga", "no field"),
        ("COMPAT", "1.2.0", "'1.3.0'"),
        ("RESOURCE_RENAMES", "names.yaml", "absolute"),
        ("U30_UNIT", "Card", "'card'"),
        ("EXPOSE_MGMT", "perhaps", "boolean"),
        ("EXTRA_MOUNTS", "/opt/xilinx/xrt,etc/OpenCL", "absolute path, like /opt/xilinx/xrt "),
        ("DEVICE_STRATEGY", "magic", "'both'"),
        ("SHARED_REPLICAS", "0", "greater than or equal to 1"),
        ("SHARED_GRANT", "some", "'all'"),
        ("PREFERRED_ALLOCATION", "best", "'numa'"),
        ("POD_RESOURCES_SOCKET", "kubelet.sock", "like /var/lib/kubelet/pod-resources/kubelet.sock "),
        ("RESET_GRACE", "-1", "greater than or equal to 0"),
        ("RECOVERY_CHECKS", "0", "greater than or equal to 1"),
        ("RECOVERY_CHECKS", "1.5", "integer"),
        ("HEALTH_INTERVAL", "0", "greater than 0"),
        ("HTTP_ADDRESS", "8080", "host:port"),
        ("HTTP_ADDRESS", "127.0.0.1:99999", "port"),
        ("HTTP_ADDRESS", "some host:80", "host"),
        ("HTTP_ADDRESS", "a..b:80", "1 to 63 characters"),
        ("HTTP_ADDRESS", "[:::]:80", "IPv6"),
        ("HTTP_ADDRESS", "[fe80::1", "host"),
        ("HTTP_ADDRESS", f"{'a' * 64}.example:80", "1 to 63 characters"),
        ("LOG_LEVEL", "loud", "'debug'"),
        ("LOG_FORMAT", "xml", "'json'"),
    ],
)
def test_a_bad_setting_is_one_line_with_its_variable(name: str, value: str, message: str) -> None:
    with pytest.raises(BadSettings) as bad:
        Settings.load({name.lower(): value})
    [line] = bad.value.lines
    assert line.startswith(f"XILINX_FPGA_DP_{name}: ")
    assert message in line
    assert repr(value.rpartition(",")[2]) in line


def test_every_bad_setting_has_its_line_and_the_exit_code_is_2() -> None:
    done = cli("run", settings={"SCAN_INTERVAL": "-1", "SOCKET_DIR": "x", "RESOURCE_PREFIX": "A"})
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
        (("list", "--output", "xml"), "--output: must be one of table, json"),
        (("run", "--output", "json"), "--output: only with list"),
        (("--scan-int", "5"), "--scan-int: no such option"),
        (("simulate", "--once=yes"), "--once: takes no value"),
    ],
)
def test_bad_use_is_one_line(arguments: tuple[str, ...], message: str) -> None:
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
def test_a_flag_may_stand_before_or_after_the_command(arguments: tuple[str, ...]) -> None:
    done = cli(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("XILINX_FPGA_DP_SCAN_INTERVAL: ")
    assert "'-3'" in done.stderr


def test_a_flag_overrides_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XILINX_FPGA_DP_SCAN_INTERVAL", "7")
    assert Settings.load({}).scan_interval == 7
    assert Settings.load({"scan_interval": "8"}).scan_interval == 8


def test_the_defaults_of_the_contract() -> None:
    assert Settings.load({}).model_dump() == {
        "scan_interval": 5.0,
        "health_interval": 1.0,
        "reset_grace": 900.0,
        "recovery_checks": 3,
        "socket_dir": "/var/lib/kubelet/device-plugins",
        "plugins_dir": "/var/lib/kubelet/plugins",
        "resource_prefix": "xilinx.com/fpga-",
        "resource_name_template": "{shell}-{timestamp}",
        "compat": "none",
        "resource_renames": "",
        "sysfs_root": "/sys",
        "dev_root": "/dev",
        "pod_resources_socket": "/var/lib/kubelet/pod-resources/kubelet.sock",
        "http_address": "127.0.0.1:8080",
        "host_root": "/",
        "device_strategy": "device-specs",
        "cdi_dir": "/var/run/cdi",
        "extra_mounts": (),
        "prestart_check": False,
        "preferred_allocation": "numa",
        "shared_replicas": 1,
        "shared_grant": "own",
        "u30_unit": "card",
        "expose_mgmt": False,
        "request_timeout": 5.0,
        "nfd_features_dir": "",
        "log_level": "info",
        "log_format": "auto",
    }


def test_replicas_need_a_preference() -> None:
    with pytest.raises(BadSettings) as bad:
        Settings.load({"shared_replicas": "2", "preferred_allocation": "none"})
    [line] = bad.value.lines
    assert line.startswith("XILINX_FPGA_DP_SHARED_REPLICAS: ")
    assert "PREFERRED_ALLOCATION" in line


def test_extra_mounts_are_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XILINX_FPGA_DP_EXTRA_MOUNTS", "/opt/xilinx/xrt, /etc/OpenCL/vendors/xilinx.icd,")
    assert Settings.load({}).extra_mounts == ("/opt/xilinx/xrt", "/etc/OpenCL/vendors/xilinx.icd")


def test_a_missing_directory_is_no_bad_setting(tmp_path: Path) -> None:
    done = cli("list", settings={"SYSFS_ROOT": str(tmp_path / "none"), "SOCKET_DIR": "/nowhere/at/all"})
    assert done.returncode == 0
    assert "No such file" in done.stderr
    assert "no device" in done.stdout


def test_unknown_variables_are_listed() -> None:
    environment = {
        "XILINX_FPGA_DP_SERVICE_HOST": "10.0.0.1",
        "XILINX_FPGA_DP_SCAN_INTERVAL": "5",
        "PATH": "/",
    }
    assert unknown_variables(environment) == ["XILINX_FPGA_DP_SERVICE_HOST"]


@given(st.sampled_from(sorted(Settings.model_fields)), st.text())
def test_any_text_is_accepted_or_refused_in_one_line(name: str, value: str) -> None:
    try:
        Settings.load({name: value})
    except BadSettings as bad:
        assert [line.split(": ")[0] for line in bad.lines] == [variable(name)]
        assert "\n" not in bad.lines[0]


def test_settings_pass_to_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.load({"expose_mgmt": "true", "scan_interval": "2.5"})
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert Settings.load({}) == settings


@pytest.mark.parametrize("command", ["version", "list", "diagnose"])
def test_a_failed_write_is_one_line(node: SampleNode, command: str) -> None:
    with open("/dev/full", "w") as full:
        done = cli(command, settings=settings_for(node), stdout=full)
    assert (done.returncode, done.stderr) == (1, f"{command}: No space left on device\n")


def test_a_closed_pipe_is_no_error(node: SampleNode) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = cli("list", settings=settings_for(node), stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_closed_output_is_no_error() -> None:
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


@pytest.mark.parametrize("name", ["list", "diagnose", "explain"])
def test_a_command_declares_the_settings_that_it_reads(
    node: SampleNode, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = set()

    class Recorder(Settings):
        def __getattribute__(self, field: str) -> Any:
            if field in Settings.model_fields:
                read.add(field)
            return super().__getattribute__(field)

    monkeypatch.setattr(logs, "set_up", lambda *_: None)
    node.add_card("u200", "0000:11:00")
    values = {"device_strategy": "cdi", "http_address": ""} | settings_for(node)
    settings = Recorder.load({field.lower(): value for field, value in values.items()})
    command = load(name)
    command.run(settings, argparse.Namespace(output="json", ids=["0000:11:00.1"]))
    # The scanner has no use for these two in its first scan.
    assert read - {"recovery_checks", "reset_grace"} == command.settings


def test_a_command_accepts_a_setting_that_it_does_not_use(node: SampleNode) -> None:
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
    "arguments", ["version", "--help", "list --help", "diagnose --help", "run --scan-interval -1", "nope"]
)
def test_a_command_that_does_not_start_imports_no_grpc(arguments: str) -> None:
    code = (
        "import sys\nfrom contextlib import suppress\nfrom xilinx_fpga_dp.cli import main\n"
        f"with suppress(SystemExit):\n    main({arguments.split()!r})\n"
        "sys.exit(any(name in sys.modules for name in ('grpclib', 'betterproto2', 'prometheus_client')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
