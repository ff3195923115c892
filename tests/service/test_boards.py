"""docs/reference/boards.md and aws.md against the output of `list` on sample nodes."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.boards_page import PAGE, rows
from tests.support.process import COMMAND
from tests.support.scanning import listed
from xilinx_fpga_dp.simulate.sysfs.boards import (
    AMI_BOARDS,
    BARE_BOARDS,
    MA35D_BOARDS,
    ZOCL_BOARDS,
)
from xilinx_fpga_dp.simulate.sysfs.sample_node import Ids, SampleNode, is_known

_LEFT_OUT = re.compile(r"\| `(\w[\w.-]+)`(?: \([^|]*\))? \| ([^|]+) \|")
_EXPERIMENTAL = {*AMI_BOARDS, *MA35D_BOARDS, *ZOCL_BOARDS, "accel"}


def test_page_has_the_generated_tables() -> None:
    done = subprocess.run([COMMAND[0], PAGE.parents[1] / "tools" / "boards.py", "check"], check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("name", sorted(set(rows()) - {"f1-cleared"}))  # not before its image is loaded
def test_service_offers_the_board_as_its_row_says(node: SampleNode, name: str) -> None:
    node.plug(name)
    resource, nodes = rows()[name]
    devices = listed(node)["devices"]
    assert {device["resource"] for device in devices} == {resource}
    assert sorted(each for device in devices for each in device["nodes"]) == sorted(nodes)
    assert all(("experimental" in device) == (name in _EXPERIMENTAL) for device in devices)
    assert all(device["health"] == "Healthy" for device in devices)


@pytest.mark.parametrize(("name", "reason"), _LEFT_OUT.findall(PAGE.read_text().partition("## Left out")[2]))
def test_service_leaves_out_the_board_with_the_documented_reason(
    node: SampleNode, name: str, reason: str
) -> None:
    assert is_known(name)
    node.plug(name)
    assert reason in {left["reason"] for left in listed(node)["left_out"]}


@pytest.mark.parametrize("name", sorted(set(BARE_BOARDS) - {"f2-hdk"}))
def test_service_offers_no_function_of_another_driver(node: SampleNode, name: str) -> None:
    """One with an id of a card is left out, naming the driver."""
    node.plug(name)
    found = listed(node)
    assert found["devices"] == []
    assert [entry["reason"].partition(",")[0] for entry in found["left_out"]] == (
        ["bound to xdma"] if name == "ul3524-xdma" else []
    )


def test_boards_of_all_drivers_are_independent(node: SampleNode) -> None:
    """Each card has the same resource and nodes as alone, beside cards of all drivers."""
    node.add_ordinary_devices()
    names = ("u200", "u30", "f2", "v80", "ma35d", "kv260", "npu", "xdma", "qdma", "u250-golden", "f2-hdk")
    cards = {name: node.plug(name) for name in names}
    found = listed(node)
    by_resource: dict[str, set[str]] = {}
    for device in found["devices"]:
        by_resource.setdefault(device["resource"], set()).update(device["nodes"])
    assert by_resource == {
        rows()[name][0]: {path for card in cards[name] for path in card.nodes}
        for name in ("u200", "u30", "f2", "v80", "ma35d", "kv260")
    }
    assert len(found["left_out"]) == 3


class TestAws:
    """The stages of docs/reference/aws.md."""

    PAGE_OF_MIGRATION = PAGE.with_name("migration.md").read_text()
    PAGE = PAGE.with_name("aws.md").read_text()

    def seen(self, node: SampleNode) -> str:
        found = listed(node)
        if found["devices"]:
            (device,) = found["devices"]
            reason = f" ({device['reason']})" if device["reason"] else ""
            return f"`{device['resource']}`: {device['health']}{reason}"
        return f"left out: {found['left_out'][0]['reason']}"

    def test_f1_shows_the_documented_stages(self, node: SampleNode) -> None:
        stages = re.findall(
            r"^\| [^|]+ \| (left out: .*|`xilinx.*|the same.*) \|$",
            self.PAGE.partition("## F1")[2],
            re.MULTILINE,
        )
        card = node.add_card("f1-cleared")
        card.unbind()
        shown = [self.seen(node)]
        node.files.drop(f"{node.sysfs_root}/module/xocl")
        shown.append(self.seen(node))
        card.bind()
        shown.append(self.seen(node))
        card.remove()
        card.plug("f1")
        shown.append(self.seen(node))
        assert shown == stages

    @pytest.mark.parametrize(
        "rules", re.findall(r"```yaml\n(- [^`]*f1-04261818[^`]*)```", PAGE + PAGE_OF_MIGRATION)
    )
    def test_rename_rules_give_the_name_of_plugin_1_3_0(self, node: SampleNode, rules: str) -> None:
        path = Path(node.root, "renames.yaml")
        path.write_text(rules)
        for name in ("f1", "f1-2019"):
            card = node.add_card(name)
            (device,) = listed(node, RESOURCE_RENAMES=str(path))["devices"]
            assert device["resource"] == "xilinx.com/fpga-xilinx_aws-vu9p-f1-04261818_dynamic_5_0-0"
            card.remove()

    def test_service_ignores_disk_and_network_of_aws(self, node: SampleNode) -> None:
        """They also have the vendor id of Amazon."""
        node.add_function("0000:00:04.0", Ids("1d0f", "8061", "010802"), driver="nvme")
        node.add_function("0000:00:05.0", Ids("1d0f", "ec20", "020000"), driver="ena")
        node.add_card("f1")
        found = listed(node)
        assert [device["id"] for device in found["devices"]] == ["0000:00:1d.0"]
        assert found["left_out"] == []

    def test_page_has_the_resources_of_f2_and_vt1(self, node: SampleNode) -> None:
        node.plug("f2-hdk")
        assert f"| {listed(node)['left_out'][0]['reason']} |" in self.PAGE
        node.plug("f2")
        node.plug("vt1")
        for device in listed(node)["devices"]:
            assert f"`{device['resource']}`" in self.PAGE

    def test_migration_page_has_the_names_of_f1(self, node: SampleNode) -> None:
        node.add_card("f1")
        for settings in ({"COMPAT": "1.3.0"}, {}):
            (device,) = listed(node, **settings)["devices"]
            assert f"`{device['resource']}`" in self.PAGE_OF_MIGRATION
