"""CDI specs and mounts of a grant, and the names of shared resources."""

import asyncio
import json
import threading
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import ValidationError

from tests.support.cdi_schema import validate_spec
from tests.support.factories import PLAIN, device, offer
from xilinx_fpga_dp.hostfiles.host_paths import HostPaths
from xilinx_fpga_dp.model import Device, Inventory, Shell
from xilinx_fpga_dp.resources.documents import cdi
from xilinx_fpga_dp.resources.naming import SHARED, Naming, name_problem
from xilinx_fpga_dp.resources.offers import offers_of

A = "0000:11:00.1"


class TestNames:
    @given(st.text(min_size=1, max_size=90))
    def test_shared_name_is_valid(self, vbnv: str) -> None:
        device = Device(A, Shell(vbnv, "1", None), "b", "xocl")
        naming = Naming("xilinx.com/fpga-", "{shell}-{timestamp}", SHARED)
        [name] = offers_of(Inventory((device,)), naming, 2).by_resource
        assert name_problem(name) is None
        assert name.endswith(SHARED)


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
            validate_spec(json.loads(text))

    def test_schema_rejects_an_invalid_spec(self) -> None:
        with pytest.raises(ValidationError):
            validate_spec({"cdiVersion": "0.6.0", "kind": "xilinx.com/fpga"})


class TestMounts:
    @pytest.mark.parametrize(
        ("links", "is_there"),
        [
            ({"opt": "/data"}, True),  # absolute: another target in the root of the plugin
            ({"opt": "data/../data"}, True),
            ({"opt": "../../../data"}, True),  # no path leads above the root
            ({"opt": "/data", "data/xrt": "/data/old"}, True),
            ({"opt": "/missing"}, False),  # a runtime cannot create a directory there
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
            async with asyncio.timeout(25):  # less than the time limit of the path
                answer = await grants.resolve(offer(device()), [device().address])
        over.set()
        assert answer.mounts == ()
