"""The JSON outputs conform to the schemas in the package."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.double import KubeletDouble
from tests.support.paths import PROJECT
from tests.support.podresources import Hold, PodResourcesDouble
from tests.support.probed import Probed
from tests.support.process import Service, cli
from tests.support.running import settings_for
from tests.support.schemas import SCHEMAS, conforms
from tests.support.waiting import wait_for
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode


def run(node: SampleNode, *arguments: str, **settings: str) -> Any:
    done = cli(*arguments, "--output", "json", settings=settings_for(node, **settings))
    return json.loads(done.stdout)


@pytest.fixture
def pods(pods: PodResourcesDouble) -> PodResourcesDouble:
    """A podresources double of the node, running."""
    pods.start()
    return pods


def test_list_of_every_kind_of_device_conforms(node: SampleNode) -> None:
    conforms("state", run(node, "list"))
    node.add_card("u200")
    node.add_card("u250").offline()
    for name in ("u30", "v80", "ma35d", "kv260", "f1-cleared", "u250-golden", "f2-hdk", "f2"):
        node.plug(name)
    found = run(node, "list", SHARED_REPLICAS="2", EXPOSE_MGMT="true")
    conforms("state", found)
    assert {device["health"] for device in found["devices"]} == {"Healthy", "Unhealthy"}
    assert any("experimental" in device for device in found["devices"])
    assert found["left_out"]
    assert all(device["last_reason"] is None for device in found["devices"])


def test_state_of_a_running_service_conforms(
    node: SampleNode, kubelet: KubeletDouble, pods: PodResourcesDouble
) -> None:
    held, faulty = node.add_card("u200"), node.add_card("u250")
    pods.holds.append(Hold("amd.com/xilinx_u200_xdma_201830_2-1561465320", held.address))
    kubelet.start()
    probed = Probed(node, POD_RESOURCES_SOCKET=pods.path)
    with Service(probed.settings) as service:
        service.logged(Event.SERVING_HTTP)
        wait_for(lambda: probed.get("readyz")[0] == 200, "ready")
        faulty.firewall_trip()

        def reasons() -> set[str | None]:
            state = json.loads(probed.get("state")[1])
            conforms("state", state)
            assert all(device["since"] for device in state["devices"])
            return {device["reason"] for device in state["devices"]}

        wait_for(lambda: reasons() == {"held", "firewall"}, "both are Unhealthy")


@pytest.mark.parametrize("cards", [(), ("u200",), ("u200", "u250-golden")])
def test_diagnose_conforms(node: SampleNode, cards: tuple[str, ...]) -> None:
    for card in cards:
        node.plug(card)
    found = run(node, "diagnose")
    conforms("diagnose", found)
    assert found["result"] == "fail", "there is no kubelet"


@pytest.mark.parametrize("strategy", ["device-specs", "cdi", "both"])
def test_explain_of_a_grant_conforms(node: SampleNode, strategy: str) -> None:
    card = node.add_card("u200")
    found = run(node, "explain", card.address, DEVICE_STRATEGY=strategy, EXTRA_MOUNTS="/tmp")
    conforms("explain", found)
    assert "answer" in found
    assert found["answer"]["mounts"]


def test_explain_of_a_refusal_conforms(node: SampleNode) -> None:
    card = node.add_card("u250")
    card.offline()
    for ids, code in (
        ((card.address,), "FAILED_PRECONDITION"),
        (("0000:ff:00.1",), "NOT_FOUND"),
    ):
        found = run(node, "explain", *ids)
        conforms("explain", found)
        assert found["refused"]["code"] == code


def test_wheel_contains_the_schemas(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, timeout=60)
    [wheel] = tmp_path.glob("*.whl")
    assert {f"xilinx_fpga_dp/schemas/{name}.json" for name in SCHEMAS} <= set(
        zipfile.ZipFile(wheel).namelist()
    )
