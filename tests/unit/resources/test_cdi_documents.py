"""What a container gets beyond a device node: CDI, mounts, shared devices, a check before it starts."""

import asyncio
import json
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator, ValidationError
from referencing import Registry
from referencing.jsonschema import DRAFT7

from tests.support.double import KubeletDouble, NoEndpoint
from tests.support.factories import PLAIN, device, offer
from tests.support.paths import DATA
from tests.support.resource_names import U55C
from tests.support.running import settings_for
from xilinx_fpga_dp.hostfiles.host_paths import HostPaths
from xilinx_fpga_dp.model import Device, Inventory, Shell
from xilinx_fpga_dp.resources.documents import cdi
from xilinx_fpga_dp.resources.naming import SHARED, Naming, name_problem
from xilinx_fpga_dp.resources.offers import offers_of
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode

A, B = "0000:11:00.1", "0000:21:00.1"


@pytest.fixture
def pair(node: SampleNode) -> SampleNode:
    node.add_card("u55c", "0000:11:00")
    node.add_card("u55c", "0000:21:00")
    return node


def only(container: Any) -> tuple[str, dict[str, Any]]:
    """The granted addresses, and the details of each."""
    [info] = [json.loads(value) for name, value in container.envs.items() if name.endswith("_INFO")]
    [addresses] = [value for name, value in container.envs.items() if not name.endswith("_INFO")]
    return addresses, info


class TestNames:
    @given(st.text(min_size=1, max_size=90))
    def test_shared_name_is_valid(self, vbnv: str) -> None:
        device = Device(A, Shell(vbnv, "1", None), "b", "xocl")
        naming = Naming("xilinx.com/fpga-", "{shell}-{timestamp}", SHARED)
        [name] = offers_of(Inventory((device,)), naming, 2).by_resource
        assert name_problem(name) is None
        assert name.endswith(SHARED)


SCHEMAS = DATA / "cdi"  # as the CDI project publishes them, release 0.8.1


def against_the_schema(document: Any) -> None:
    """Check a spec against the published schema.

    Raises:
        jsonschema.ValidationError: it is none.
    """
    defs = DRAFT7.create_resource(json.loads((SCHEMAS / "defs.json").read_text()))
    schema = json.loads((SCHEMAS / "schema.json").read_text())
    Draft7Validator(schema, registry=Registry().with_resource("defs.json", defs)).validate(document)


class TestCdi:
    @given(
        st.lists(
            st.tuples(
                st.from_regex(r"[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]", fullmatch=True)
                | st.sampled_from(["axi:zyxclmm_drm", "amba_pl@0:zyxclmm_drm"]),
                st.booleans(),
            ),
            unique_by=lambda each: each[0],
        )
    )
    def test_any_spec_is_valid(self, cards: list[tuple[str, bool]]) -> None:
        shell = Shell("a_b", "1", None)
        text = cdi.spec(
            (Device(address, shell, "b", "xocl"), ("/dev/dri/renderD128",) if node else ())
            for address, node in cards
        )
        assert (text is None) == (not any(node for _, node in cards))
        if text:
            against_the_schema(json.loads(text))

    def test_schema_rejects_an_invalid_spec(self) -> None:
        with pytest.raises(ValidationError):
            against_the_schema({"cdiVersion": "0.6.0", "kind": "xilinx.com/fpga"})

    def read(self, node: SampleNode) -> dict[str, Any] | None:
        try:
            with open(f"{node.root}/cdi/{cdi.FILE}") as file:
                document: dict[str, Any] = json.load(file)
        except FileNotFoundError:
            return None
        return document

    def names(self, node: SampleNode) -> list[str]:
        return [each["name"] for each in (self.read(node) or {"devices": []})["devices"]]

    def nodes(self, node: SampleNode) -> dict[str, str]:
        """The first device node of each device, by the device's name."""
        devices = (self.read(node) or {"devices": []})["devices"]
        return {each["name"]: each["containerEdits"]["deviceNodes"][0]["path"] for each in devices}

    def seldom_scanned(self, node: SampleNode) -> dict[str, str]:
        """Settings with which only Allocate and SIGHUP change the file."""
        return settings_for(
            node, DEVICE_STRATEGY="cdi", CDI_DIR=f"{node.root}/cdi", SCAN_INTERVAL="60", HEALTH_INTERVAL="60"
        )

    def _has_open(self, pid: int, path: Path) -> bool:
        for each in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed by now
                if each.samefile(path):
                    return True
        return False

    def _granted(self, kubelet: KubeletDouble, unit_id: str) -> bool:
        try:
            kubelet.allocate(U55C, [unit_id])
        except NoEndpoint:  # SIGHUP registers again, too
            return False
        return True

    def _served(self, pair: SampleNode, kubelet: KubeletDouble) -> None:
        """Check that everything else continues."""
        kubelet.start()
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 2)
        for _ in range(3):
            pair.cards[0].offline()
            kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1, 5)
            pair.cards[0].mend()
            kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 2, 5)
        [container] = kubelet.allocate(U55C, [B], timeout=40).container_responses
        assert [each.host_path for each in container.devices] == [pair.cards[1].render_node]


class TestMounts:
    @pytest.mark.parametrize(
        ("links", "is_there"),
        [
            ({"opt": "/data"}, True),  # an absolute link, which in the plugin's own root leads elsewhere
            ({"opt": "data/../data"}, True),
            ({"opt": "../../../data"}, True),  # no path leads above the root
            ({"opt": "/data", "data/xrt": "/data/old"}, True),
            ({"opt": "/missing"}, False),  # a runtime could not make a directory there
            ({"opt": "opt"}, False),
            ({"opt": "data/file"}, False),
        ],
    )
    async def test_link_is_resolved_in_the_host_root(
        self, tmp_path: Path, links: dict[str, str], is_there: bool
    ) -> None:
        (tmp_path / "data/old").mkdir(parents=True)
        (tmp_path / "data/file").touch()
        for name, target in links.items():
            (tmp_path / name).symlink_to(target)
        if "data/xrt" not in links:
            (tmp_path / "data/xrt").mkdir()
        assert await HostPaths(str(tmp_path), ["/opt/xrt"]).existing() == (("/opt/xrt",) if is_there else ())

    async def test_hanging_path_leaves_time_for_the_answer(self, tmp_path: Path) -> None:
        over = threading.Event()
        grants = replace(PLAIN, mounts=HostPaths(str(tmp_path), ["/opt"]).existing)
        with (
            mock.patch("xilinx_fpga_dp.hostfiles.host_paths.resolve", side_effect=lambda *_: over.wait(60)),
            mock.patch("xilinx_fpga_dp.hostfiles.host_paths._TIME_LIMIT", 30.0),
        ):
            async with asyncio.timeout(10):  # less than it takes otherwise
                answer = await grants.resolve(offer(device()), [device().address])
        over.set()
        assert answer.mounts == ()
