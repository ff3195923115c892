"""The command `rules`, and a file of rules for other devices that changes while the service runs."""

import json
from pathlib import Path

from tests.support.double import KubeletDouble
from tests.support.paths import PROJECT
from tests.support.process import Service, cli
from tests.support.running import settings_for
from tests.support.scanning import listed
from tests.support.schemas import conforms
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode

SHIPPED = str(PROJECT / "deploy" / "device-rules.yaml")
XDMA = '- {name: xdma, match: {driver: xdma}, nodes: ["/dev/xdma*"]}\n'
RESOURCE = "xilinx.com/fpga-xdma"


def test_rules_of_a_file_and_what_they_take(node: SampleNode) -> None:
    card = node.plug("xdma")[0]
    done = cli("rules", SHIPPED, "--output", "json", settings=settings_for(node))
    document = json.loads(done.stdout)
    conforms("rules", document)
    assert (done.returncode, document["problems"]) == (0, [])
    taken = {rule["rule"]: rule["devices"] for rule in document["rules"] if rule["devices"]}
    assert [device["id"] for device in taken.pop("xdma")] == [card.address]
    assert taken == {}
    text = cli("rules", settings=settings_for(node, DEVICE_RULES=SHIPPED))
    assert text.returncode == 0
    assert f"  {card.address}  driver xdma  Healthy  {' '.join(sorted(card.nodes))}" in text.stdout


def test_problem_of_a_rule_or_a_missing_node_is_exit_code_1(node: SampleNode, tmp_path: Path) -> None:
    card = node.plug("xdma")[0]
    file = tmp_path / "rules.yaml"
    file.write_text(
        f"- {{name: bad, match: {{colour: red}}, nodes: []}}\n{XDMA.replace('xdma*', 'nothing*')}"
    )
    done = cli("rules", str(file), settings=settings_for(node))
    assert done.returncode == 1
    assert "problem: rule 1 (bad): match.colour: unknown field" in done.stdout
    assert f"problem: {card.address}: rule xdma: no node of it matches /dev/nothing*" in done.stdout
    assert cli("rules", str(tmp_path / "none"), settings=settings_for(node)).returncode == 1
    assert cli("rules", settings=settings_for(node)).returncode == 2


def test_file_without_a_good_rule_is_exit_code_1(node: SampleNode, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text("- {name: bad, match: {}, nodes: []}")
    done = cli("rules", str(file), settings=settings_for(node))
    assert done.returncode == 1
    assert done.stdout.startswith(f"{file}:\nproblem: rule 1 (bad): match: ")


def test_changed_rules_take_effect_and_a_broken_file_changes_nothing(
    node: SampleNode, kubelet: KubeletDouble, tmp_path: Path
) -> None:
    card = node.plug("xdma")[0]
    file = tmp_path / "rules.yaml"
    file.write_text("[]")
    kubelet.start()
    with Service(settings_for(node, DEVICE_RULES=str(file))) as service:
        service.logged(Event.DEVICE_RULES_READ)
        file.write_text(XDMA)
        kubelet.wait_for(lambda: kubelet.allocatable(RESOURCE) == 1)
        file.write_text("- {")
        assert "what it said before counts" in service.logged(Event.CONFIGURATION_WARNING)["problem"]
        assert kubelet.allocatable(RESOURCE) == 1
        [answer] = kubelet.allocate(RESOURCE, [card.address]).container_responses
        assert [each.host_path for each in answer.devices] == sorted(card.nodes)
        file.write_text("[]")
        kubelet.wait_for(lambda: kubelet.capacity(RESOURCE) == 0)


def test_list_names_the_rule_and_problems(node: SampleNode, tmp_path: Path) -> None:
    node.plug("xdma")
    file = tmp_path / "rules.yaml"
    file.write_text(XDMA)
    document = listed(node, DEVICE_RULES=str(file))
    conforms("state", document)
    [device] = document["devices"]
    assert (device["rule"], device["resource"], device["driver"]) == ("xdma", RESOURCE, "xdma")
    file.write_text("- {")
    text = cli("list", settings=settings_for(node, DEVICE_RULES=str(file))).stdout
    assert f"warning: {file}: line " in text


def test_grant_has_nodes_and_the_mounts_that_exist(node: SampleNode, tmp_path: Path) -> None:
    card = node.plug("xdma")[0]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "vrtd.sock").touch()
    file = tmp_path / "rules.yaml"
    file.write_text(XDMA.replace("]}", '], mounts: ["/run/vrtd.sock", "/run/none"]}'))
    done = cli(
        "explain", card.address, "--output", "json",
        settings=settings_for(node, DEVICE_RULES=str(file), HOST_ROOT=str(tmp_path)),
    )  # fmt: skip
    answer = json.loads(done.stdout)["answer"]
    assert [each["host_path"] for each in answer["devices"]] == sorted(card.nodes)
    assert [each["host_path"] for each in answer["mounts"]] == ["/run/vrtd.sock"]


def test_device_without_nodes_is_granted_by_its_address(node: SampleNode) -> None:
    card = node.plug("aws-f2-slot")[0]
    done = cli("explain", card.address, "--output", "json", settings=settings_for(node, DEVICE_RULES=SHIPPED))
    answer = json.loads(done.stdout)["answer"]
    assert answer["devices"] == []
    assert answer["envs"]["PCIDEVICE_XILINX_COM_FPGA_AWS_F2_SLOT"] == card.address
