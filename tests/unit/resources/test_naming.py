"""Resource names: each is valid, and different shells have different names."""

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.kubelet_names import kubelet_takes
from xilinx_fpga_dp.model import Device, Shell
from xilinx_fpga_dp.resources.naming import (
    FIELDS,
    Naming,
    name_problem,
    prefix_problem,
    template_problem,
)

DEFAULT = Naming("xilinx.com/fpga-", "{shell}-{timestamp}")


def device(vbnv: str = "xilinx_u200_xdma_201820_1", timestamp: str | None = "1535712995") -> Device:
    return Device("0000:65:00.1", Shell(vbnv, timestamp, None), "u200", "xocl", device_id="5001")


def test_default_name() -> None:
    assert DEFAULT.resource_name(device()) == "xilinx.com/fpga-xilinx_u200_xdma_201820_1-1535712995"


def test_prefix_of_plugin_1_3_0() -> None:
    naming = Naming("amd.com/", "{shell}-{timestamp}")
    name = naming.resource_name(device("xilinx_u55c_gen3x16_xdma_base_3", "0"))
    assert name == "amd.com/xilinx_u55c_gen3x16_xdma_base_3-0"


def test_no_timestamp_gives_no_dash() -> None:
    assert DEFAULT.resource_name(device("xilinx_v80", None)) == "xilinx.com/fpga-xilinx_v80"


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{timestamp}-{shell}", "xilinx_v80"),
        ("{serial}_{timestamp}-{board}", "u200"),
        ("x-{serial}-{board}", "x-u200"),
        ("-{board}", "-u200"),
        ("{serial}-{uuid}.x", "x"),
        ("{board}-{serial}-{shell}", "u200-xilinx_v80"),
    ],
)
def test_missing_field_removes_a_separator(template: str, name: str) -> None:
    naming = Naming("xilinx.com/fpga", template)
    assert naming.resource_name(device("xilinx_v80", None)) == f"xilinx.com/fpga{name}"


@pytest.mark.parametrize(
    ("vbnv", "like"),
    [
        ("xilinx u200", r"fpga-xilinx-u200-1-[0-9a-f]{8}"),
        ("../../etc/passwd", r"fpga-..-..-etc-passwd-1-[0-9a-f]{8}"),
        ("ünïcode", r"fpga--n-code-1-[0-9a-f]{8}"),
        ("x" * 80, r"fpga-x{49}-[0-9a-f]{8}"),
    ],
)
def test_changed_name_ends_in_a_hash(vbnv: str, like: str) -> None:
    assert re.fullmatch(re.escape("xilinx.com/") + like, DEFAULT.resource_name(device(vbnv, "1")))


def test_similar_shells_have_different_names() -> None:
    names = {DEFAULT.resource_name(device(vbnv)) for vbnv in ("a:b", "a/b", "a-b", "a b", "a" * 99, "a" * 98)}
    assert len(names) == 6


@given(st.text(min_size=1), st.one_of(st.none(), st.integers(0, 2**64 - 1).map(str)))
def test_every_name_is_valid(vbnv: str, timestamp: str | None) -> None:
    name = DEFAULT.resource_name(device(vbnv, timestamp))
    assert kubelet_takes(name)
    assert name_problem(name) is None


@given(st.text(min_size=1, max_size=90), st.text(min_size=1, max_size=90))
def test_different_shells_have_different_names(one: str, other: str) -> None:
    same = DEFAULT.resource_name(device(one, "1")) == DEFAULT.resource_name(device(other, "1"))
    assert same == (one == other)


names = st.one_of(
    st.text(),
    st.from_regex(r"[a-zA-Z0-9.-]{0,12}/[a-zA-Z0-9._-]{0,70}", fullmatch=True),
    st.from_regex(r"[a-z0-9.-]{238,250}/x", fullmatch=True),
    st.from_regex(r"(requests\.)?[a-z]{1,5}\.(kubernetes\.io|com)/[a-z]{1,3}", fullmatch=True),
)


@given(names)
def test_name_problem_agrees_with_kubelet(name: str) -> None:
    assert (name_problem(name) is None) <= kubelet_takes(name)
    if "kubernetes.io" not in name:  # name_problem refuses that domain anywhere, kubelet only before the '/'
        assert (name_problem(name) is None) == kubelet_takes(name)


@given(st.from_regex(r"[a-zA-Z0-9.-]{0,12}/[a-zA-Z0-9._-]{0,50}", fullmatch=True), st.text(min_size=1))
def test_every_accepted_prefix_gives_valid_names(prefix: str, vbnv: str) -> None:
    if prefix_problem(prefix) is None:
        assert kubelet_takes(Naming(prefix, "{shell}").resource_name(device(vbnv)))


@pytest.mark.parametrize(
    "prefix",
    ["", "fpga", "Xilinx.com/fpga-", "/x", "kubernetes.io/fpga-", "requests.xilinx.com/", "a b/c",
     "xilinx.com/-fpga", "xilinx.com/fpga/", "xilinx.com/" + "x" * 50, "x" * 245 + "/"],
)  # fmt: skip
def test_invalid_prefix_is_a_problem(prefix: str) -> None:
    assert prefix_problem(prefix)


@pytest.mark.parametrize("template", ["", "fpga", "{}", "{nope}", "{shell", "{shell!r}", "{shell:>9}", "{0}"])
def test_invalid_template_is_a_problem(template: str) -> None:
    assert template_problem(template)


@given(st.lists(st.sampled_from(FIELDS), min_size=1), st.sampled_from(["-", "_", ".", ""]))
def test_every_field_can_be_used_in_a_template(fields: list[str], between: str) -> None:
    template = between.join(f"{{{field}}}" for field in fields)
    assert template_problem(template) is None
    full = dataclasses.replace(device(), serial="XFL1", shell=Shell("v_b_n_v", "7", "0" * 32))
    assert kubelet_takes(Naming("xilinx.com/", template).resource_name(full))


def test_template_of_missing_fields_gives_no_name() -> None:
    with pytest.raises(ValueError, match="gives no name"):
        Naming("xilinx.com/", "{serial}").resource_name(device())
