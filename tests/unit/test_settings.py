"""The settings: values, defaults and problems."""

import argparse
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.running import settings_for
from xilinx_fpga_dp.cli.program import load
from xilinx_fpga_dp.observe import logs
from xilinx_fpga_dp.settings import BadSettings, unknown_variables, variable
from xilinx_fpga_dp.settings_model import Settings
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
        ("RESOURCE_NAME_TEMPLATE", "fpga", "RESOURCE_RENAMES does it: {match: {}, name: fpga, share: true}"),
        ("COMPAT", "1.2.0", "'1.3.0'"),
        ("RESOURCE_RENAMES", "names.yaml", "absolute"),
        ("U30_UNIT", "Card", "'card'"),
        ("EXPOSE_MGMT", "perhaps", "boolean"),
        ("EXTRA_MOUNTS", "/opt/xilinx/xrt,etc/OpenCL", "absolute path, like /opt/xilinx/xrt "),
        ("DEVICE_STRATEGY", "magic", "'both'"),
        ("MODE", "csi", "'dra'"),
        ("MODE", "dra", "NODE_NAME"),
        ("NODE_NAME", "Node_1", "lower-case"),
        ("POD_UID", "../x", "metadata.uid"),
        ("DRA_DRIVER_NAME", "x" * 64, "63"),
        ("DRA_DRIVER_NAME", "FPGA", "lower-case"),
        ("DRA_EVICT_ON", "offline,resetting", "'shutdown'"),
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
def test_bad_setting_is_one_line_with_its_variable(name: str, value: str, message: str) -> None:
    with pytest.raises(BadSettings) as bad:
        Settings.load({name.lower(): value})
    [line] = str(bad.value).split("\n")
    assert line.startswith(f"XILINX_FPGA_DP_{name}: ")
    assert message in line
    assert repr(value.rpartition(",")[2]) in line


def test_option_overrides_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XILINX_FPGA_DP_SCAN_INTERVAL", "7")
    assert Settings.load({}).scan_interval == 7
    assert Settings.load({"scan_interval": "8"}).scan_interval == 8


def test_settings_have_the_documented_defaults() -> None:
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
        "device_rules": "",
        "sysfs_root": "/sys",
        "dev_root": "/dev",
        "pod_resources_socket": "/var/lib/kubelet/pod-resources/kubelet.sock",
        "http_address": "127.0.0.1:8080",
        "mode": "device-plugin",
        "pod_uid": "",
        "plugins_registry_dir": "/var/lib/kubelet/plugins_registry",
        "dra_driver_name": "fpga.xilinx.com",
        "dra_evict_on": (),
        "dra_metadata": True,
        "telemetry": "safe",
        "telemetry_interval": 15.0,
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
        "node_name": "",
        "events": False,
        "node_condition": False,
        "startup_taint": "",
        "log_level": "info",
        "log_format": "auto",
    }


def test_replicas_need_a_preference() -> None:
    with pytest.raises(BadSettings) as bad:
        Settings.load({"shared_replicas": "2", "preferred_allocation": "none"})
    [line] = str(bad.value).split("\n")
    assert line.startswith("XILINX_FPGA_DP_SHARED_REPLICAS: ")
    assert "PREFERRED_ALLOCATION" in line


def test_extra_mounts_are_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XILINX_FPGA_DP_EXTRA_MOUNTS", "/opt/xilinx/xrt, /etc/OpenCL/vendors/xilinx.icd,")
    assert Settings.load({}).extra_mounts == ("/opt/xilinx/xrt", "/etc/OpenCL/vendors/xilinx.icd")


def test_unknown_variables_are_listed() -> None:
    environment = {
        "XILINX_FPGA_DP_SERVICE_HOST": "10.0.0.1",
        "XILINX_FPGA_DP_SCAN_INTERVAL": "5",
        "PATH": "/",
    }
    assert unknown_variables(environment, Settings.model_fields) == ["XILINX_FPGA_DP_SERVICE_HOST"]


@given(st.sampled_from(sorted(Settings.model_fields)), st.text(st.characters()))
def test_any_text_is_accepted_or_refused_in_one_line(name: str, value: str) -> None:
    try:
        Settings.load({name: value})
    except BadSettings as bad:
        [line] = str(bad).split("\n")
        assert line.split(": ")[0] == variable(name)


def test_settings_pass_to_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.load({"expose_mgmt": "true", "scan_interval": "2.5"})
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert Settings.load({}) == settings


@pytest.mark.parametrize(
    ("name", "with_claims"),  # what it reads with MODE=dra only
    [("list", {"plugins_dir"}), ("diagnose", set()), ("explain", {"plugins_dir", "cdi_dir", "dra_metadata"})],
)
def test_command_declares_the_settings_that_it_reads(
    node: SampleNode, name: str, with_claims: set[str], monkeypatch: pytest.MonkeyPatch
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
    command.run(settings, argparse.Namespace(output="json", ids=["0000:11:00.1"], archive=None, watch=False))
    # The first scan does not use these two.
    assert read - {"recovery_checks", "reset_grace"} == command.settings - with_claims
