"""docs/boards.md against the trees `simulate` builds, and both against what the service makes of them."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import settings_for
from tests.observed_boards import all_rows
from tests.process import COMMAND, cli
from xilinx_fpga_dp.simulate.sysfs.boards import (
    ALIASES,
    ALL_BOARDS,
    AMI_BOARDS,
    BARE_BOARDS,
    MA35D_BOARDS,
    XRT_BOARDS,
    ZOCL_BOARDS,
)
from xilinx_fpga_dp.simulate.sysfs.sample_node import Ids, SampleNode, is_known

PAGE = Path(__file__).parent.parent / "docs" / "boards.md"
_ROW = re.compile(r"\| (`[^|]+`) \| ([^|]+) \| `([^|]+)` \| ([^|]+) \| (yes|no) \| ([^|]+) \|")
_LEFT_OUT = re.compile(r"\| `(\w[\w.-]+)`(?: \([^|]*\))? \| ([^|]+) \|")
_EXPERIMENTAL = {*AMI_BOARDS, *MA35D_BOARDS, *ZOCL_BOARDS}


def rows() -> dict[str, tuple[str, list[str]]]:
    """The rows of boards that are offered: by name, the resource and the nodes."""
    found = {}
    for names, _, resource, nodes, _, _ in _ROW.findall(PAGE.read_text()):
        for name in names.split(", "):
            found[name.strip("`")] = (resource, re.findall(r"`([^`]+)`", nodes))
    return found


def listed(node: SampleNode, **settings: str) -> dict[str, Any]:
    done = cli("list", "--output", "json", settings=settings_for(node, **settings))
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_the_page_has_the_tables_made_from_the_boards() -> None:
    done = subprocess.run([COMMAND[0], PAGE.with_suffix(".py"), "check"], check=False)
    assert done.returncode == 0


def test_every_board_that_can_be_offered_has_a_row() -> None:
    assert set(rows()) == {*XRT_BOARDS, *AMI_BOARDS, *MA35D_BOARDS, *ZOCL_BOARDS, *ALIASES}


@pytest.mark.parametrize("name", rows())
def test_a_row_is_what_the_service_makes_of_the_board(node: SampleNode, name: str) -> None:
    node.plug(name)
    resource, nodes = rows()[name]
    devices = listed(node)["devices"]
    assert {device["resource"] for device in devices} == {resource}
    assert sorted(each for device in devices for each in device["nodes"]) == sorted(nodes)
    assert all(("experimental" in device) == (name in _EXPERIMENTAL) for device in devices)
    assert all(device["health"] == "Healthy" for device in devices) != (name == "f1-cleared")


@pytest.mark.parametrize(("name", "reason"), _LEFT_OUT.findall(PAGE.read_text().partition("## Left out")[2]))
def test_what_is_left_out_says_why(node: SampleNode, name: str, reason: str) -> None:
    assert is_known(name)
    node.plug(name)
    assert reason in {left["reason"] for left in listed(node)["left_out"]}


@pytest.mark.parametrize("name", sorted(set(BARE_BOARDS) - {"f2-hdk"}))
def test_what_is_ignored_is_not_spoken_of(node: SampleNode, name: str) -> None:
    node.plug(name)
    found = listed(node)
    assert (found["devices"], found["left_out"]) == ([], [])


def test_the_drivers_do_not_disturb_each_other(node: SampleNode) -> None:
    """Five drivers at once, and those that are none of ours: each card is what it is alone."""
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


def test_every_row_of_the_facts_is_a_board() -> None:
    """By ids where a row has no name; a row of a board whose shell is another may share its ids."""
    known = {(f"0x{board.vendor}", f"0x{board.user_id}") for board in XRT_BOARDS.values()}
    known |= {("0x10ee", f"0x{board.dma_ids.device}") for board in AMI_BOARDS.values()}
    known |= {("0x10ee", f"0x{board.ids.device}") for board in MA35D_BOARDS.values()}
    others = [
        row["board"]
        for row in all_rows()
        if row["device_user"] and (row["vendor"], row["device_user"]) not in known
    ]
    assert others == ["U30"]  # an alpha shell with other ids
    assert all(board.source for board in ALL_BOARDS.values())


class TestAws:
    """The stages of docs/aws.md."""

    PAGE_OF_MIGRATION = PAGE.with_name("migration.md").read_text()
    PAGE = PAGE.with_name("aws.md").read_text()

    def seen(self, node: SampleNode) -> str:
        found = listed(node)
        if found["devices"]:
            (device,) = found["devices"]
            reason = f" ({device['reason']})" if device["reason"] else ""
            return f"`{device['resource']}`: {device['health']}{reason}"
        return f"left out: {found['left_out'][0]['reason']}"

    def test_f1_from_boot_to_a_load(self, node: SampleNode) -> None:
        stages = re.findall(
            r"^\| [^|]+ \| (left out: .*|`xilinx.*|the same.*) \|$",
            self.PAGE.partition("## F1")[2],
            re.MULTILINE,
        )
        card = node.add_card("f1-cleared")
        card.unbind()
        shown = [self.seen(node)]
        card.bind()
        shown.append(self.seen(node))
        card.remove()
        card.plug("f1")
        shown.append(self.seen(node))
        card.not_ready()
        shown.append("the same: " + self.seen(node).partition(": ")[2])
        assert shown == stages

    @pytest.mark.parametrize(
        "rules", re.findall(r"```yaml\n(- [^`]*f1-04261818[^`]*)```", PAGE + PAGE_OF_MIGRATION)
    )
    def test_the_name_of_the_old_plugin(self, node: SampleNode, rules: str) -> None:
        path = Path(node.root, "renames.yaml")
        path.write_text(rules)
        for name in ("f1", "f1-2019"):
            card = node.add_card(name)
            (device,) = listed(node, RESOURCE_RENAMES=str(path))["devices"]
            assert device["resource"] == "xilinx.com/fpga-xilinx_aws-vu9p-f1-04261818_dynamic_5_0-0"
            card.remove()

    def test_its_disk_and_network_are_none_of_ours(self, node: SampleNode) -> None:
        """Amazon's vendor id is on them too."""
        node.add_function("0000:00:04.0", Ids("1d0f", "8061", "010802"), driver="nvme")
        node.add_function("0000:00:05.0", Ids("1d0f", "ec20", "020000"), driver="ena")
        node.add_card("f1")
        found = listed(node)
        assert [device["id"] for device in found["devices"]] == ["0000:00:1d.0"]
        assert found["left_out"] == []

    def test_f2_and_vt1(self, node: SampleNode) -> None:
        node.plug("f2-hdk")
        assert f"| {listed(node)['left_out'][0]['reason']} |" in self.PAGE
        node.plug("f2")
        node.plug("vt1")
        for device in listed(node)["devices"]:
            assert f"`{device['resource']}`" in self.PAGE

    def test_the_names_in_the_page_on_migration(self, node: SampleNode) -> None:
        node.add_card("f1")
        for settings in ({"COMPAT": "1.3.0"}, {}):
            (device,) = listed(node, **settings)["devices"]
            assert f"`{device['resource']}`" in self.PAGE_OF_MIGRATION
