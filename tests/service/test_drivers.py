"""All drivers in the service and in `list`, and their independence on one node."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.double import KubeletDouble
from tests.support.mixed_node import FIVE, PREFIX, Mixed
from tests.support.probed import Probed
from tests.support.process import Service, cli
from tests.support.running import settings_for
from tests.support.scanning import impatient, listed, only_device, scanner_for, settled
from tests.support.waiting import wait_for
from xilinx_fpga_dp.model import Reason
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.simulate.sysfs.sample_node import DAMAGES, SampleNode, XrtCard


@pytest.fixture
def mixed(node: SampleNode) -> Mixed:
    return Mixed(node)


def resources(document: dict[str, Any]) -> dict[str, str]:
    return {row["id"]: row["resource"] for row in document["devices"]}


def rows(document: dict[str, Any]) -> dict[str, str]:
    return {row["id"]: row["health"] for row in document["devices"]}


def health(pages: Probed) -> dict[str, str]:
    return rows(json.loads(pages.get("state")[1]))


class TestAmazon:
    async def test_two_devices_of_vt1_are_one_card(self, node: SampleNode) -> None:
        cards = node.plug("u30-vt1")
        [row] = listed(node)["devices"]
        assert row["id"] == min(card.address for card in cards)
        assert row["nodes"] == [n for card in sorted(cards, key=lambda c: c.address) for n in card.nodes]


class TestU30:
    def test_card_id_gets_nodes_of_both_devices(self, node: SampleNode, kubelet: KubeletDouble) -> None:
        cards = sorted(node.plug("u30"), key=lambda card: card.address)
        name = f"{PREFIX}xilinx_u30_gen3x4_base_1-0"
        with Service(settings_for(node)):
            kubelet.start()
            kubelet.wait_for(lambda: kubelet.allocatable(name) == 1)
            [container] = kubelet.allocate(name, [cards[0].address]).container_responses
        assert [each.host_path for each in container.devices] == [n for card in cards for n in card.nodes]
        variable = "PCIDEVICE_XILINX_COM_FPGA_XILINX_U30_GEN3X4_BASE_1_0"
        assert container.envs[variable] == ",".join(card.address for card in cards)
        assert list(json.loads(container.envs[f"{variable}_INFO"])) == [card.address for card in cards]

    def test_unit_device_offers_each_device(self, node: SampleNode) -> None:
        cards = node.plug("u30")
        rows = listed(node, U30_UNIT="device")["devices"]
        assert {row["id"] for row in rows} == {card.address for card in cards}

    def test_unhealthy_device_makes_only_its_card_unhealthy(self, node: SampleNode) -> None:
        bad, good = node.plug("u30"), node.plug("u30")
        assert isinstance(bad[1], XrtCard)
        bad[1].offline()
        health = {row["id"]: row["reason"] for row in listed(node)["devices"]}
        assert health == {bad[0].address: "offline", good[0].address: None}

    def test_single_scan_pairs_by_bridge(self, node: SampleNode) -> None:
        for card in (*node.plug("u30"), *node.plug("u30")):
            card.write("xmc/serial_num", "\n")
        assert [row["resource"] for row in listed(node)["devices"]] == [
            f"{PREFIX}xilinx_u30_gen3x4_base_1-0"
        ] * 2

    @pytest.mark.parametrize("lost", [0, 1])
    def test_half_a_card_is_the_same_lost_listed_and_after_a_restart(
        self, node: SampleNode, lost: int
    ) -> None:
        """A slot that is not split x4x4: Xilinx/video-sdk#2."""
        whole, half = node.plug("u30"), node.plug("u30")
        pages = Probed(node)
        left = half[1 - lost].address
        wanted = {whole[0].address: "Healthy", left: "Healthy"}
        warning = f"{left} is half a card"
        with Service(pages.settings) as service:
            service.logged(Event.SERVING_HTTP)
            wait_for(lambda: len(health(pages)) == 2, "both cards are offered")
            half[lost].remove()
            wait_for(lambda: health(pages) == wanted, "what is left is offered")
            wait_for(lambda: any(warning in str(each) for each in service.events), "warning")
            assert rows(listed(node)) == wanted
        with Service(pages.settings) as service:
            service.logged(Event.SERVING_HTTP)
            wait_for(lambda: health(pages) == wanted, "what is left is offered")
            lines = cli("diagnose", settings=pages.settings).stdout.splitlines()
        assert [line for line in lines if warning in line and line.startswith("warn")]

    def test_service_waits_for_serials_and_reports_it(self, node: SampleNode) -> None:
        for card in node.plug("u30"):
            card.write("xmc/serial_num", "\n")
        pages = Probed(node)
        with Service(pages.settings) as service:
            reason = "waiting for its serial number; that takes 30 s at most"
            service.logged(Event.LEFT_OUT, function=node.cards[0].address, reason=reason)
            service.logged(Event.SERVING_HTTP)
            addresses = ", ".join(sorted(card.address for card in node.cards))
            # An update with surge would otherwise end the older instance, which offers the card.
            assert pages.get("readyz") == (503, f"waiting for the serial number of {addresses}\n")
            for each in node.cards:
                each.write("xmc/serial_num", "XFL1LATE")
            service.logged(Event.DEVICE_FOUND, device=node.cards[1].address)


def move(node: SampleNode, address: str, other: str) -> None:
    """Give a function another address, as a virtual machine does with the functions it is passed."""
    links = Path(node.sysfs_root) / "bus/pci/devices"
    path = (links / address).resolve()
    moved = path.rename(path.with_name(other))
    (links / address).unlink()
    (links / other).symlink_to(os.path.relpath(moved, links))


class TestGuest:
    """Management and user function in slots of their own: Xilinx/AVED#24, XRT PR#2828."""

    MGMT, USER = "0000:65:00.0", "0000:a5:00.0"

    @pytest.fixture
    def guest(self, node: SampleNode) -> SampleNode:
        node.plug("u280")
        move(node, "0000:65:00.1", self.USER)
        return node

    def test_management_function_is_part_of_its_card(self, guest: SampleNode) -> None:
        document = listed(guest, EXPOSE_MGMT="true")
        assert document["left_out"] == []
        [row] = document["devices"]
        assert row["id"] == self.USER
        assert row["nodes"] == ["/dev/dri/renderD128", "/dev/xclmgmt25856"]

    def test_grant_has_the_management_node(self, guest: SampleNode) -> None:
        done = cli("explain", self.USER, settings=settings_for(guest, EXPOSE_MGMT="true"))
        assert "device /dev/xclmgmt25856 (rw)" in done.stdout

    def test_cards_that_show_the_same_are_not_guessed(self, guest: SampleNode) -> None:
        [other] = guest.plug("u280")
        move(guest, other.address, "0000:a6:00.0")
        for name in os.listdir(links := f"{guest.sysfs_root}/bus/pci/devices"):
            for serial in Path(links, name).glob("xmc.*/serial_num"):
                serial.write_text("\n")
        settings = settings_for(guest, EXPOSE_MGMT="true")
        document = listed(guest, EXPOSE_MGMT="true")
        assert [row["health"] for row in document["devices"]] == ["Healthy", "Healthy"]
        assert all("can't be told" in entry["reason"] for entry in document["left_out"])
        lines = cli("diagnose", settings=settings).stdout.splitlines()
        warnings = [line for line in lines if "EXPOSE_MGMT gives no management node" in line]
        assert len(warnings) == 2
        explained = cli("explain", self.USER, settings=settings)
        assert f"warning: {self.USER}: EXPOSE_MGMT gives no management node" in explained.stdout
        assert not any("program a shell" in line for line in lines)


class TestZocl:
    @pytest.mark.parametrize(
        ("board", "shell", "name"),
        [
            ("zcu102", "ZynqMP-ZCU102", "zcu102"),
            ("zcu104", "ZynqMP-ZCU104", "zcu104"),
        ],
    )
    async def test_board_is_named_after_its_model(
        self, node: SampleNode, board: str, shell: str, name: str
    ) -> None:
        [card] = node.plug(board)
        device = await only_device(node)
        assert (device.shell.vbnv, device.shell.timestamp, device.board) == (shell, None, name)
        assert (device.address, device.driver) == (card.address, "zocl-drm")
        assert device.nodes == card.nodes
        assert device.experimental
        assert listed(node)["devices"][0]["resource"] == f"{PREFIX}{shell}"


class TestMixedNode:
    def test_devices_of_all_drivers_are_listed_together(self, mixed: Mixed) -> None:
        document = listed(mixed.node)
        assert document["left_out"] == []
        assert {name.removeprefix(PREFIX) for name in resources(document).values()} == {
            "xilinx_u200_xdma_201830_2-1561465320",
            "xilinx_aws-vu9p-f1_shell-v04261818_201920_3-43981",
            "xilinx_v80",
            "MA35",
            "ZynqMP-ZCU102",
        }
        marked = {row["driver"] for row in document["devices"] if "experimental" in row}
        assert marked == {"ami", "transcoder", "zocl-drm"}

    def test_table_marks_experimental_drivers(self, mixed: Mixed) -> None:
        table = cli("list", settings=settings_for(mixed.node)).stdout
        assert "v80 (experimental)" in table
        assert "u200 (experimental)" not in table

    def test_pods_get_the_node_of_each_driver(self, mixed: Mixed, kubelet: KubeletDouble) -> None:
        rows = listed(mixed.node)["devices"]
        cards = mixed.by_address()
        assert {row["id"] for row in rows} == cards.keys()
        with Service(settings_for(mixed.node)):
            kubelet.start()
            kubelet.wait_for(lambda: all(kubelet.allocatable(row["resource"]) for row in rows))
            for row in rows:
                [container] = kubelet.allocate(row["resource"], [row["id"]]).container_responses
                assert [each.host_path for each in container.devices] == list(cards[row["id"]].nodes)
                info = json.loads(next(v for k, v in container.envs.items() if k.endswith("_INFO")))
                assert info[row["id"]]["nodes"] == list(cards[row["id"]].nodes)

    @pytest.mark.parametrize("victim", FIVE)
    async def test_fault_of_one_driver_changes_no_other_device(self, mixed: Mixed, victim: str) -> None:
        watched = scanner_for(mixed.node)
        before = {device.address: device for device in (await settled(watched)).devices}
        card = mixed.cards[victim][0]
        others = before.keys() - {each.address for each in mixed.cards[victim]}
        attribute = {"v80": "dev_state", "ma35d": "bus_id", "zcu102": "devicetree/model"}.get(
            victim, "rom/VBNV"
        )
        for damage in DAMAGES:
            card.corrupt(attribute, damage)
            after = {device.address: device for device in (await settled(watched)).devices}
            assert {a: after[a] for a in others} == {a: before[a] for a in others}, damage
            card.mend()
        card.mend()
        card.hang(attribute)
        with impatient():
            after = {device.address: device for device in (await watched.scan()).devices}
        assert {a: after[a] for a in others} == {a: before[a] for a in others}
        card.unhang(attribute)

    @pytest.mark.parametrize("other", ["u200", "f1", "v80", "ma35d"])
    async def test_device_with_address_of_another_is_left_out(self, mixed: Mixed, other: str) -> None:
        watched = scanner_for(mixed.node)
        before = {device.address: device for device in (await settled(watched)).devices}
        liar = mixed.cards["ma35d"][-1]
        victim = mixed.cards[other][0].address
        liar.write("bus_id", victim)
        for found in (await settled(watched), await watched.check(), await settled(scanner_for(mixed.node))):
            after = {device.address: device for device in found.devices}
            lost = after.pop(liar.address, None)
            assert lost is None or lost.reason is Reason.RESETTING
            assert after == {a: device for a, device in before.items() if a != liar.address}
            reasons = [entry.reason for entry in found.left_out if entry.function != liar.address]
            assert len(reasons) == 1
            assert reasons[0].startswith(f"it says that it is {victim}, which is another device")
        assert await watched.refresh(before[victim]) == before[victim]
