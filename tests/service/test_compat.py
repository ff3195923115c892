"""COMPAT=1.3.0 in the running service and in `list`."""

import os
from pathlib import Path

import pytest

from tests.support.double import KubeletDouble
from tests.support.process import Service, cli
from tests.support.running import settings_for
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.resources.compat_1_3_0.names import NAME_CUSTOMIZE, VARIABLES
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode


def test_variable_of_old_plugin_without_compat_is_a_warning(
    node: SampleNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.add_card("u200", "0000:21:00")
    for name in VARIABLES:
        monkeypatch.setenv(name, "True")
    with Service(settings_for(node)) as service:
        for name in VARIABLES:
            service.logged(Event.COMPAT_NEEDED, variable=name, level="warning")
        service.logged(Event.DEVICE_FOUND, resource="xilinx.com/fpga-xilinx_u200_xdma_201830_2-1561465320")


def test_service_with_compat(
    node: SampleNode, kubelet: KubeletDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    node.add_card("u200", "0000:21:00")
    node.add_card("u55c", "0000:31:00")
    path = tmp_path / "NameCustomize.json"
    path.write_text("{\"u200-*-*\": \"'fast-'+deviceType+'-'+timestamp\"}")
    monkeypatch.setenv("DeviceNameCustomize", "True")
    monkeypatch.setenv("VirtualDev", "True")
    monkeypatch.setenv("VirtualNum", "2")
    kubelet.start()
    template = {"RESOURCE_NAME_TEMPLATE": "{board}"}
    with Service(settings_for(node, COMPAT="1.3.0", RESOURCE_RENAMES=str(path), **template)) as service:
        service.logged(
            Event.COMPAT_TEMPLATE_IGNORED,
            variable="XILINX_FPGA_DP_RESOURCE_NAME_TEMPLATE",
            level="warning",
        )
        expected = {
            "amd.com/fast-u200-1561465320": {"0000:21:00.1-0": "Healthy", "0000:21:00.1-1": "Healthy"},
            "amd.com/xilinx_u55c_gen3x16_xdma_base_3-0": {
                "0000:31:00.1-0": "Healthy",
                "0000:31:00.1-1": "Healthy",
            },
        }
        kubelet.wait_for(lambda: kubelet.resources() == expected)
        answer = kubelet.allocate("amd.com/fast-u200-1561465320", ["0000:21:00.1-1"])
        assert len(answer.container_responses[0].devices) == 2, "every card of the node"
        advised = {e["was"]: e["write"] for e in service.events if e["event"] == Event.COMPAT_ADVICE}
        assert "XILINX_FPGA_DP_RESOURCE_PREFIX=amd.com/" in advised["its prefix"]
        assert "SHARED_REPLICAS=2" in advised["VirtualDev=True, VirtualNum=2"]
        rules = service.logged(Event.COMPAT_RULES)["write"]
        assert '- {match: {board: "u200"}, name: "fast-{board}-{timestamp}", share: true}' in rules
        path.write_text('{"*-*-*": "\'all\'"}')
        kubelet.wait_for(lambda: kubelet.allocatable("amd.com/all") == 4)
        path.write_text('{"*-*-*": all}')
        assert "is no JSON object of names" in service.logged(Event.CONFIGURATION_WARNING)["problem"]
        assert kubelet.allocatable("amd.com/all") == 4


@pytest.mark.skipif(os.path.exists(NAME_CUSTOMIZE), reason="this machine has the plugin's file")
def test_name_customize_is_read_from_the_path_of_the_plugin(
    node: SampleNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.add_card("u200", "0000:21:00")
    monkeypatch.setenv("DeviceNameCustomize", "True")
    output = cli("list", settings=settings_for(node, COMPAT="1.3.0")).stdout
    assert f"warning: {NAME_CUSTOMIZE}: No such file or directory" in output
    assert "amd.com/xilinx_u200_xdma_201830_2-1561465320" in output


def test_name_customize_without_compat_is_a_problem(node: SampleNode, tmp_path: Path) -> None:
    path = tmp_path / "NameCustomize.json"
    path.write_text('{"u200-*-*": "shellVer"}')
    assert "COMPAT=1.3.0" in cli("list", settings=settings_for(node, RESOURCE_RENAMES=str(path))).stdout
