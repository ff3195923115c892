"""COMPAT=1.3.0: names, ids and units as plugin 1.3.0 has them, and the migration advice."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.kubelet_names import kubelet_takes
from tests.support.paths import DATA
from xilinx_fpga_dp.hostfiles.watched_file import FileState
from xilinx_fpga_dp.model import Device, Inventory, Offers, Shell
from xilinx_fpga_dp.resources.compat_1_3_0.advice import advice, as_rules
from xilinx_fpga_dp.resources.compat_1_3_0.names import (
    NAME_CUSTOMIZE,
    VARIABLES,
    Compat130Names,
    Compat130Settings,
    NameCustomize,
    parse,
)
from xilinx_fpga_dp.resources.naming import Naming
from xilinx_fpga_dp.resources.rename_rules import Renaming
from xilinx_fpga_dp.resources.rename_rules import parse as parse_rules
from xilinx_fpga_dp.settings import BadSettings
from xilinx_fpga_dp.settings_model import Settings
from xilinx_fpga_dp.snapshot import SnapshotBuilder

CASES: list[dict[str, Any]] = json.loads((DATA / "plugin-1.3.0.json").read_text())["cases"]
U30_VBNV = "xilinx_u30_gen3x4_base_1"


def device(  # noqa: PLR0917 - in the order of the data
    address: str = "0000:65:00.1",
    driver: str = "xocl",
    node: str | None = None,
    vbnv: str = "xilinx_u200_xdma_201830_2",
    timestamp: str | None = "1561465320",
    uuid: str | None = None,
    device_id: str | None = "5001",
    serial: str | None = None,
) -> Device:
    return Device(
        address,
        Shell(vbnv, timestamp, uuid),
        "",
        driver,
        device_id=device_id,
        serial=serial,
        nodes=(node,) if node else (),
    )


def offers_by(
    settings: Settings, devices: Sequence[Device], customize: NameCustomize | None = None
) -> Offers:
    builder = SnapshotBuilder(settings, patient=False)
    found = Inventory(tuple(devices))
    cards, _ = builder._decide(found, 0)
    return builder._offers(found, cards, FileState(customize))


def parsed(text: bytes) -> NameCustomize | None:
    """Return the names of a file; None if it is not a JSON object."""
    try:
        return parse(text)
    except ValueError:
        return None


def listed(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], file: str, *devices: Device
) -> dict[str, list[str]]:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = Settings.load({"compat": "1.3.0"})
    customize = parsed(file.encode()) if settings.resource_renames else None
    offers = offers_by(settings, sorted(devices, key=lambda each: each.address), customize)
    return {name: [unit.id for unit in offer.units] for name, offer in offers.by_resource.items()}


@pytest.mark.parametrize("case", CASES, ids=map(str, range(len(CASES))))
def test_names_and_ids_equal_those_of_the_plugin(
    monkeypatch: pytest.MonkeyPatch, case: dict[str, Any]
) -> None:
    devices = [device(*each) for each in case["devices"]]
    assert listed(monkeypatch, case["environment"], case["file"], *devices) == case["listed"]


@pytest.mark.parametrize(
    ("environment", "old"),
    [
        ({}, Compat130Settings()),
        ({"U30NameConvention": "EXACTNAME"}, Compat130Settings(exact=True)),
        ({"U30NameConvention": "Exact"}, Compat130Settings()),
        ({"U30AllocUnit": "device"}, Compat130Settings(cards=False)),
        ({"U30AllocUnit": " Device"}, Compat130Settings()),
        ({"DeviceNameCustomize": "true"}, Compat130Settings(customize=True)),
        ({"DeviceNameCustomize": "1"}, Compat130Settings()),
        ({"VirtualNum": "4"}, Compat130Settings()),
        ({"VirtualDev": "TRUE"}, Compat130Settings(virtual=1)),
        ({"VirtualDev": "True", "VirtualNum": "+4"}, Compat130Settings(virtual=4)),
        ({"VirtualDev": "True", "VirtualNum": "04"}, Compat130Settings(virtual=4)),
        ({"VirtualDev": "True", "VirtualNum": "4_0"}, Compat130Settings(virtual=1)),
        ({"VirtualDev": "True", "VirtualNum": "-4"}, Compat130Settings(virtual=1)),
        ({"VirtualDev": "True", "VirtualNum": "٤"}, Compat130Settings(virtual=1)),
        ({"VirtualDev": "True", "VirtualNum": "9" * 5000}, Compat130Settings(virtual=1000)),
        ({"virtualdev": "True"}, Compat130Settings()),
    ],
)
def test_variables_are_read_as_by_the_plugin(environment: dict[str, str], old: Compat130Settings) -> None:
    assert Compat130Settings.of(environment) == old


@given(st.dictionaries(st.sampled_from(VARIABLES), st.text()))
def test_any_value_is_accepted(environment: dict[str, str]) -> None:
    old = Compat130Settings.of(environment)
    assert 0 <= old.virtual <= 1000
    assert advice(old, environment)


def test_variables_become_settings_unless_those_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {
        "VirtualDev": "True",
        "VirtualNum": "4",
        "U30AllocUnit": "Device",
        "DeviceNameCustomize": "True",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = Settings.load({"compat": "1.3.0"})
    assert settings.resource_prefix == "amd.com/"
    assert (settings.shared_replicas, settings.shared_grant, settings.u30_unit) == (4, "all", "device")
    assert settings.resource_renames == NAME_CUSTOMIZE
    own = {"resource_prefix": "xilinx.com/fpga-", "u30_unit": "card", "resource_renames": "/etc/names"}
    settings = Settings.load({"compat": "1.3.0", **own})
    assert settings.model_dump().items() >= own.items()
    assert Settings.load({}).shared_replicas == 1, "no effect without COMPAT"
    with pytest.raises(BadSettings, match="PREFERRED_ALLOCATION: must not be none with VirtualDev"):
        Settings.load({"compat": "1.3.0", "preferred_allocation": "none"})


def test_card_has_one_id_for_both_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = [device(f"0000:{bus}:00.1", vbnv=U30_VBNV, serial="XFL1") for bus in ("21", "22")]
    lone = device("0000:31:00.1", vbnv=U30_VBNV)
    assert listed(monkeypatch, {}, "", *pair, lone) == {"amd.com/ama_u30": ["0000:21:00.1", "0000:31:00.1"]}
    offers = offers_by(Settings.load({"compat": "1.3.0"}), [*pair, lone])
    assert [len(unit.devices) for unit in offers.by_resource["amd.com/ama_u30"].units] == [2, 1]


@pytest.mark.parametrize(
    ("file", "entries", "problem"),
    [
        ('{"u30-*": "shellVer", "*-*-*": "SN"}', 1, "'u30-*' is left out: it must have three parts"),
        ('{"*-*-*": "colour"}', 0, "'*-*-*' is left out"),
        ('{"*-*-*": ""}', 0, "'*-*-*' is left out"),
        ('{"*-*-*": 7}', 0, "'*-*-*' is left out"),
        ('{"*-*-*": "SN+\'"}', 0, "'*-*-*' is left out"),
    ],
)
def test_entry_that_crashed_the_plugin_is_left_out_as_a_problem(
    file: str, entries: int, problem: str
) -> None:
    names = parse(file.encode())
    assert len(names.entries) == entries
    assert problem in names.problems[0]


@given(
    st.one_of(
        st.binary(max_size=60),
        st.dictionaries(st.text(), st.text() | st.integers()).map(json.dumps).map(str.encode),
    )
)
def test_any_file_gives_valid_names(text: bytes) -> None:
    names = Compat130Names("amd.com/", Compat130Settings(customize=True), parsed(text)).among([device()])
    assert kubelet_takes(names.resource_name(device()))


@given(
    st.sampled_from(["", "u200", "\ud800", "a_b", "MA35", "ma35", "x" * 80]) | st.text(),
    st.lists(st.text("'+ab-\ud800é") | st.sampled_from(["SN", "DBDF", "uuid", "index"]), min_size=1),
    st.none() | st.text(),
)
def test_any_device_gets_a_valid_name(vbnv: str, parts: list[str], timestamp: str | None) -> None:
    names = Compat130Names(
        "amd.com/", Compat130Settings(), parse(json.dumps({"*-*-*": "+".join(parts)}).encode())
    )
    assert kubelet_takes(names.resource_name(device(vbnv=vbnv or "x", timestamp=timestamp)))


keys = st.builds(
    "{}-{}-{}".format,
    st.sampled_from(["*", "u30", "U200", "u55c", "MA35"]),
    st.sampled_from(["*", U30_VBNV, "Xilinx_U200_xdma_201830_2", "MA35", "[x]"]),
    st.sampled_from(["*", "0", "1561465320", "123456", "6669e5"]),
)
values = st.lists(
    st.sampled_from(["'-'", "'fpga'", "'x.y'", "shellVer", "deviceType", "timestamp", "Healthy", "deviceID"]),
    min_size=1,
    max_size=3,
).map("+".join)
TREE = [
    device("0000:11:00.1", vbnv=U30_VBNV, timestamp="0", uuid="0" * 26 + "6669e5", serial="X1"),
    device("0000:21:00.1", uuid="1" * 26 + "123456"),
    device("0000:31:00.1", vbnv="xilinx_u200_xdma_201830_2", timestamp="123456"),
    device("0000:41:00.1", vbnv="xilinx_u55c_gen3x16_xdma_base_3", timestamp="0"),
    device("0000:51:00.0", driver="transcoder", vbnv="MA35", timestamp=None, node="/dev/ama_transcoder0"),
]


@given(st.dictionaries(keys, values, max_size=5), st.booleans())
def test_rules_of_the_advice_give_the_same_names(file: dict[str, str], exact: bool) -> None:
    board = {
        each.address: each.shell.vbnv.split("_")[1] if "_" in each.shell.vbnv else "ma35d" for each in TREE
    }
    tree = [dataclasses.replace(each, board=board[each.address]) for each in TREE]
    old = Compat130Settings(exact=exact, customize=True)
    customize = parse(json.dumps(file).encode())
    old_names = Compat130Names("amd.com/", old, customize).among(tree)
    rules = parse_rules("\n".join(as_rules(customize, old)).encode())
    names = Renaming(Naming("amd.com/", "{shell}-{timestamp}"), rules).among(tree)
    for each in tree:
        theirs = old_names.resource_name(each)
        if len(names.resource_name(each)) <= len("amd.com/") + 60:  # the plugin dropped longer ones
            assert names.resource_name(each) == theirs


def test_quote_drops_first_and_last_character() -> None:
    names = parse(b"""{"*-*-*": "'a'+xbc'+'-'+SN"}""")
    assert (
        Compat130Names("amd.com/", Compat130Settings(), names).resource_name(device(serial="X1"))
        == "amd.com/abc-X1"
    )


def test_first_matching_key_of_the_file_wins() -> None:
    names = parse(b'{"*-*-*": "\'one\'", "u200-*-*": "\'two\'"}')
    assert Compat130Names("amd.com/", Compat130Settings(), names).resource_name(device()) == "amd.com/one"
