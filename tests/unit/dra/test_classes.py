"""DeviceClasses for resource names."""

import re

from hypothesis import given
from hypothesis import strategies as st

from xilinx_fpga_dp.dra.classes import device_classes

DRIVER = "fpga.xilinx.com"
U200 = "xilinx.com/fpga-xilinx_u200_xdma_201830_2-1561465320"
_NAMES = st.from_regex(r"[a-z]{1,8}\.com/[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", fullmatch=True)
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def test_class_of_a_resource_selects_and_extends_by_its_name() -> None:
    general, own = device_classes([U200], DRIVER)
    assert general["metadata"]["name"] == DRIVER
    assert general["spec"]["selectors"] == [{"cel": {"expression": f'device.driver == "{DRIVER}"'}}]
    assert own["metadata"]["name"] == "fpga-xilinx-u200-xdma-201830-2-1561465320"
    assert own["spec"]["extendedResourceName"] == U200
    [selector] = own["spec"]["selectors"]
    attributes = f'device.attributes["{DRIVER}"]'
    assert selector["cel"]["expression"] == (
        f'device.driver == "{DRIVER}" && '
        f'{attributes}.?resourceName.orValue("") == "fpga-xilinx_u200_xdma_201830_2-1561465320" && '
        f'{attributes}.?resourcePrefix.orValue("") == "xilinx.com"'
    )


@given(st.lists(_NAMES, unique=True, max_size=6))
def test_every_class_has_a_valid_name_of_its_own(resources: list[str]) -> None:
    names = [each["metadata"]["name"] for each in device_classes(resources, DRIVER)]
    assert len(set(names)) == len(resources) + 1
    assert all(_SUBDOMAIN.fullmatch(name) and len(name) <= 63 for name in names)


def test_names_that_become_alike_are_told_apart() -> None:
    resources = ["a.com/fpga-x_1", "a.com/fpga-x-1", "b.com/fpga-x-1"]
    _, *own = device_classes(resources, DRIVER)
    assert [each["metadata"]["name"][:9] for each in own] == ["fpga-x-1-"] * 3
    assert [each["spec"]["extendedResourceName"] for each in own] == sorted(resources)
