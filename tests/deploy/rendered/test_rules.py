"""The alert rules in promtool: they parse, and they fire only as expected."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy.manifests import DEPLOY
from tests.deploy.tools import promtool

PROMETHEUS = DEPLOY / "prometheus"


def check(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(promtool()), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_alerts_fire_as_expected() -> None:
    done = check(PROMETHEUS, "test", "rules", "alerts.test.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("max by (node) (up{", "min by (node) (up{"),  # during an update one of two pods is down
        ('health="Unhealthy", reason!~"resetting|held"', 'health="Unhealthy"'),
        ("for: 13m", "for: 5m"),
        ("build_info offset 1h) unless on (node) up{", "build_info offset 2h) unless on (node) up{"),
        ("(sum by (node, pod) (xilinx_fpga_dp_devices))", "(xilinx_fpga_dp_devices)"),
        (" or 0 * max by (node) (xilinx_fpga_dp_build_info)", ""),
        (" or 0 * xilinx_fpga_dp_allocations_total", " or xilinx_fpga_dp_allocations_total"),
        (" or 0 * xilinx_fpga_dp_claims_total", " or xilinx_fpga_dp_claims_total"),
        (") > 5", ") > 2"),
        (
            "min by (node) (xilinx_fpga_dp_slice_age_seconds)",
            "max by (node) (xilinx_fpga_dp_slice_age_seconds)",
        ),
        ("seconds) > 300", "seconds) > 900"),
        ("for: 1h", "for: 10m"),
        ("_lanes < xilinx_fpga_pcie_link_lanes_max", "_lanes <= xilinx_fpga_pcie_link_lanes_max"),
        ("_per_second < xilinx_fpga_pcie", "_per_second > xilinx_fpga_pcie"),
        ('{sensor=~"(fpga|hbm|device|chip.*)(_2)?"}) >= 90', ") >= 90"),
        (">= 90", ">= 95"),
        ("(max_over_time(xilinx_fpga_temperature_celsius[15m]))", "(xilinx_fpga_temperature_celsius)"),
        (">= 0.8 *", ">= 0.7 *"),
        ('\n              and on (node, device) xilinx_fpga_card_info{driver="ami"}', ""),
        ("nonfatal|fatal", "fatal"),
        ("max by (node, device, severity) (increase", "(increase"),
        ("[15m])) > 100", "[15m])) > 10"),
        ("> time() - 900", "> time() - 9000"),
        ("max by (node, device, kind) (xilinx_fpga_errors_total offset 15m)", "0"),
        ("(max_over_time(xilinx_fpga_contexts[1d])) == 0", "(xilinx_fpga_contexts) == 0"),
        ("              and max by (node, device, namespace, pod) (xilinx_fpga_allocated offset 1d)\n", ""),
        ("            and on (node, device) xilinx_fpga_contexts offset 1d\n", ""),
    ],
)
def test_wrong_rule_is_found(old: str, new: str, tmp_path: Path) -> None:
    shutil.copy(PROMETHEUS / "alerts.test.yaml", tmp_path)
    text = (PROMETHEUS / "alerts.yaml").read_text()
    assert old in text
    (tmp_path / "alerts.yaml").write_text(text.replace(old, new))
    assert check(tmp_path, "check", "rules", "alerts.yaml").returncode == 0
    assert check(tmp_path, "test", "rules", "alerts.test.yaml").returncode != 0


def test_each_alert_fires_in_a_test() -> None:
    rules = yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text())["groups"][0]["rules"]
    stories = yaml.safe_load((PROMETHEUS / "alerts.test.yaml").read_text())["tests"]
    fired = {
        each["alertname"] for story in stories for each in story["alert_rule_test"] if each["exp_alerts"]
    }
    assert fired == {rule["alert"] for rule in rules}
