"""The examples for the DRA driver: valid for Kubernetes, and about devices as the driver publishes them."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.manifests import DEPLOY, documents
from tests.deploy.rendered.schemas import complaint
from tests.deploy.tools import KUBERNETES
from tests.support.pages import blocks
from xilinx_fpga_dp.dra.devices import PoolDevice, published
from xilinx_fpga_dp.model import Device, Shell

EXAMPLES = sorted((DEPLOY / "examples" / "dra").glob("*.yaml"))
_ATTRIBUTE = re.compile(r'device\.(attributes|capacity)\["([a-z.]+)"\]\.\??(\w+)')
_BOARD = re.compile(r'\.board == "(\w+)"')


def _entry(board: str) -> dict[str, Any]:
    device = Device(
        "0000:65:00.1",
        Shell("xilinx_u200_xdma_201830_2", "1561465320", None),
        board,
        "xocl",
        numa_node=0,
        pcie_path=("pci0000:64", "0000:64:00.0"),
    )
    entry = published(
        PoolDevice("x", "xilinx.com/fpga-x", (device,), 2), "fpga.xilinx.com", {}, lambda *_: ""
    )
    assert entry
    return entry


def _claims(example: Path) -> list[dict[str, Any]]:
    found = documents(example.read_text())
    return [each["spec"]["spec"]["devices"] for each in found if each["kind"] == "ResourceClaimTemplate"]


def test_examples_are_those_of_the_documentation() -> None:
    page = (DEPLOY.parent / "docs" / "operating" / "dra.md").read_text()
    assert {each.name for each in EXAMPLES} == set(re.findall(r"`(dra-pod-[-a-z]+\.yaml)`", page))


def test_manifests_of_the_documentation_are_valid() -> None:
    found = [each for block in blocks("docs/operating/dra.md", "yaml") for each in documents(block)]
    assert [each["kind"] for each in found] == ["ClusterRole", "ResourceClaimTemplate", "DeviceTaintRule"]
    assert [complaint(each, KUBERNETES[0]) for each in found] == [None] * len(found)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
class TestExample:
    def test_example_is_valid(self, example: Path) -> None:
        found = documents(example.read_text())
        assert [complaint(each, KUBERNETES[0]) for each in found] == [None] * len(found)

    def test_pod_uses_the_claim_of_the_template(self, example: Path) -> None:
        found = documents(example.read_text())
        by_kind = {each["kind"]: each for each in found}
        pod, template = by_kind["Pod"], by_kind["ResourceClaimTemplate"]
        [claim] = pod["spec"]["resourceClaims"]
        assert claim["resourceClaimTemplateName"] == template["metadata"]["name"]
        assert pod["metadata"].get("namespace") == template["metadata"].get("namespace")
        [container] = pod["spec"]["containers"]
        assert container["resources"] == {"claims": [{"name": claim["name"]}]}

    def test_names_of_attributes_are_published(self, example: Path) -> None:
        for devices in _claims(example):
            text = yaml.safe_dump(devices, width=10000)
            for board in _BOARD.findall(text) or ["u200"]:
                entry = _entry(board)
                for kind, domain, name in _ATTRIBUTE.findall(text):
                    full = name if domain == "fpga.xilinx.com" else f"{domain}/{name}"
                    assert full in entry[kind], board
            for each in devices.get("constraints", ()):
                assert each["matchAttribute"].removeprefix("fpga.xilinx.com/") in _entry("u200")["attributes"]
