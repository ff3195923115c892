"""The content of the feature file for node-feature-discovery."""

import re
from dataclasses import replace
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from tests.support.nfd import parse_features
from xilinx_fpga_dp.discovery.driver_versions import DriverVersions
from xilinx_fpga_dp.discovery.sysfs import OutOfDescriptors
from xilinx_fpga_dp.model import Device, Offer, Offers, Shell, Unit
from xilinx_fpga_dp.resources.documents import nfd

# apimachinery's validation.IsQualifiedName and IsValidLabelValue
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


def offers_of(*devices: Device) -> Offers:
    return Offers(
        {"xilinx.com/fpga": Offer("xilinx.com/fpga", tuple(Unit(d.address, (d,)) for d in devices))}
    )


U200 = Device("0000:11:00.1", Shell("xilinx_u200_xdma_201830_2", "1561465320", None), "u200", "xocl")


def test_node_with_two_kinds_of_cards() -> None:
    v80 = Device("0000:31:00.0", Shell("xilinx_v80", None, None), "v80", "ami")
    text = nfd.feature_file(
        offers_of(U200, replace(U200, address="0000:21:00.1"), v80), {"xocl": "2.16.204,f2524a"}
    )
    assert text == (
        "xilinx.com/fpga.board.u200=true\n"
        "xilinx.com/fpga.board.v80=true\n"
        "xilinx.com/fpga.count=3\n"
        "xilinx.com/fpga.driver.ami=true\n"
        "xilinx.com/fpga.driver.xocl=2.16.204\n"
        "xilinx.com/fpga.present=true\n"
        "xilinx.com/fpga.shell.xilinx_u200_xdma_201830_2=1561465320\n"
        "xilinx.com/fpga.shell.xilinx_v80=true\n"
    )


def test_replicas_are_one_device() -> None:
    unit = Unit(U200.address, (U200,))
    text = nfd.feature_file(Offers({"x/y.shared": Offer("x/y.shared", (unit, unit))}), {})
    assert "fpga.count=1\n" in (text or "")


def test_no_devices_give_no_file() -> None:
    assert nfd.feature_file(Offers({}), {}) is None


texts = st.text(min_size=1, max_size=300)


@given(
    st.lists(st.tuples(texts, st.none() | st.from_regex("[0-9]{1,20}", fullmatch=True), texts, texts)), texts
)
def test_labels_are_valid_for_any_device(rows: list[tuple[str, str | None, str, str]], version: str) -> None:
    devices = [
        Device(f"0000:{index:02x}:00.1", Shell(vbnv, timestamp, None), board, driver)
        for index, (vbnv, timestamp, board, driver) in enumerate(rows[:200])
    ]
    text = nfd.feature_file(offers_of(*devices), {device.driver: version for device in devices})
    found = parse_features(text or "")
    for label, value in found.items():
        domain, _, name = label.partition("/")
        assert domain == "xilinx.com"
        assert _NAME.fullmatch(name)
        assert _NAME.fullmatch(value)
    shells = {device.shell.vbnv for device in devices}
    assert sum(name.startswith("xilinx.com/fpga.shell.") for name in found) == len(shells), (
        "each shell has a label"
    )


async def test_last_known_version_is_used_while_unreadable() -> None:
    versions = DriverVersions("/nowhere")
    for answer, expected, complete in (
        (["2.16.0"], {"xocl": "2.16.0"}, True),
        (OutOfDescriptors("none is left"), {"xocl": "2.16.0"}, False),
        ([None], {}, True),
    ):
        with mock.patch("xilinx_fpga_dp.discovery.driver_versions.module_version", side_effect=answer):
            assert await versions.of(["xocl"]) == expected
        assert versions.complete is complete
