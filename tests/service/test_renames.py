"""Rename rules: their file, and its changes while the service runs."""

import subprocess
import threading
from pathlib import Path

import pytest

from tests.support.double import KubeletDouble
from tests.support.process import COMMAND, Service, clean_environment, cli
from tests.support.rule_files import ConfigMap, followed
from tests.support.running import settings_for
from xilinx_fpga_dp.hostfiles import ordinary_file
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode

PREFIX = "xilinx.com/fpga-"
U200_NAME = f"{PREFIX}xilinx_u200_xdma_201830_2-1561465320"


async def test_hanging_file_keeps_the_rules_read_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("- {match: {}, name: a}")
    file = await followed(path)
    good = file.state.value

    over = threading.Event()
    monkeypatch.setattr(ordinary_file, "read", lambda *_: over.wait(200) and b"[]")
    await file.read()
    over.set()
    assert file.state.value == good
    assert "hangs" in file.state.problems[0]


RULE = '- {{match: {{board: u200}}, name: "{}"}}'


@pytest.fixture
def card(node: SampleNode) -> SampleNode:
    node.add_card("u200", "0000:21:00")
    return node


def test_swapped_config_map_takes_effect_unless_it_has_problems(
    card: SampleNode, kubelet: KubeletDouble, tmp_path: Path
) -> None:
    volume = ConfigMap(tmp_path / "volume")
    path = volume.publish(RULE.format("first"))
    kubelet.start()
    with Service(settings_for(card, RESOURCE_RENAMES=path, SCAN_INTERVAL="60")) as service:
        kubelet.wait_for(lambda: kubelet.allocatable(PREFIX + "first") == 1)
        assert [each.resource for each in kubelet.registrations] == [PREFIX + "first"]
        volume.publish(RULE.format("second"))
        kubelet.wait_for(lambda: kubelet.allocatable(PREFIX + "second") == 1)
        volume.publish(RULE.format("{colour}"))
        logged = service.logged(Event.CONFIGURATION_WARNING)["problem"]
        assert path in logged
        assert "rule 1: name: unknown field {colour}" in logged
        assert "what it said before counts" in logged
        assert kubelet.allocatable(PREFIX + "second") == 1
        volume.publish(RULE.format("third"))
        kubelet.wait_for(lambda: kubelet.allocatable(PREFIX + "third") == 1)
        assert service.terminate() == 0


def test_file_mounted_by_itself_is_a_warning(card: SampleNode, tmp_path: Path) -> None:
    path = tmp_path / "the rules.yaml"
    path.write_text(RULE.format("mine"))
    script = 'mount --bind "$0" "$0" && exec "$@"'
    alone = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(path)]
    if subprocess.run([*alone, "true"], check=False).returncode:
        pytest.skip("needs user namespaces to mount")
    environment = clean_environment(settings_for(card, RESOURCE_RENAMES=str(path)))
    output = subprocess.check_output([*alone, *COMMAND, "list"], env=environment, text=True)
    assert PREFIX + "mine" in output
    assert f"warning: {path}: is mounted by itself (subPath)" in output
    assert "subPath" not in subprocess.check_output([*COMMAND, "list"], env=environment, text=True)


def test_missing_file_takes_effect_once_it_exists(
    card: SampleNode, kubelet: KubeletDouble, tmp_path: Path
) -> None:
    path = tmp_path / "rules.yaml"
    kubelet.start()
    with Service(settings_for(card, RESOURCE_RENAMES=str(path), SCAN_INTERVAL="60")) as service:
        kubelet.wait_for(lambda: kubelet.allocatable(U200_NAME) == 1)
        assert "No such file" in service.logged(Event.CONFIGURATION_WARNING)["problem"]
        path.write_text(RULE.format("late"))
        kubelet.wait_for(lambda: kubelet.allocatable(PREFIX + "late") == 1)
        path.unlink()
        service.logged(Event.CONFIGURATION_WARNING, count=2)
        assert kubelet.allocatable(PREFIX + "late") == 1


def test_no_device_is_offered_before_the_rules_are_read(
    card: SampleNode, kubelet: KubeletDouble, tmp_path: Path
) -> None:
    path = tmp_path / "rules.yaml"
    other = "- {match: {board: '[a-t]*'}, name: none}\n"
    path.write_text(other * 300 + RULE.format("mine"))  # takes longer than a scan
    kubelet.start()
    with Service(settings_for(card, RESOURCE_RENAMES=str(path))):
        kubelet.wait_for(lambda: kubelet.allocatable(PREFIX + "mine") == 1)
        assert [each.resource for each in kubelet.registrations] == [PREFIX + "mine"]


def test_list_and_explain_use_the_rules_and_show_problems(card: SampleNode, tmp_path: Path) -> None:
    path = tmp_path / "rules.json"
    path.write_text('[{"match": {"shell": "*u200*"}, "name": "{board}"}]')
    settings = settings_for(card, RESOURCE_RENAMES=str(path))
    assert PREFIX + "u200" in cli("list", settings=settings).stdout
    assert "PCIDEVICE_XILINX_COM_FPGA_U200" in cli("explain", "0000:21:00.1", settings=settings).stdout
    path.write_text("[{}]")
    output = cli("list", settings=settings).stdout
    assert f"warning: {path}: rule 1: match: must be" in output
    assert U200_NAME in output
