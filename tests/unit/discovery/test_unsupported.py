"""Functions that no driver of ours has: which are reported, and what their line says."""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.scanning import RULES, only_reason, scanner_for, settled
from xilinx_fpga_dp.discovery.pci_ids import PCI_IDS, Role
from xilinx_fpga_dp.discovery.scanner import Scanner
from xilinx_fpga_dp.discovery.sysfs import Bus, Function, slot_of
from xilinx_fpga_dp.discovery.unsupported import probes
from xilinx_fpga_dp.simulate.sysfs.bus import Ids
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode

FOREIGN = ("onic", "coyote_driver", "xdma", "qdma-pf", "igb_uio", "uio_pci_generic")
FOR_MACHINES = ("vfio-pci", "pci-stub", "pciback", "xen-pciback")
OURS = ("xocl", "xclmgmt", "ami", "transcoder")
ACCELERATOR = "120000"


def plug(node: SampleNode, device: str, driver: str | None = None, *, slot: str = "0000:70:00.0") -> str:
    vendor, _, device = f"10ee:{device}".rpartition(":")
    vendor = vendor.rpartition(":")[2]
    node.add_function(slot, Ids(vendor, device, ACCELERATOR), driver=driver)
    return slot


def load(node: SampleNode, *modules: str) -> None:
    for module in modules:
        os.makedirs(f"{node.sysfs_root}/module/{module}", exist_ok=True)


async def lines(node: SampleNode) -> dict[str, str]:
    return {entry.function: entry.reason for entry in (await settled(scanner_for(node))).left_out}


class TestForeignDriver:
    @pytest.mark.parametrize("driver", FOREIGN)
    async def test_card_names_it_and_the_right_one(self, node: SampleNode, driver: str) -> None:
        plug(node, "5004", driver, slot="0000:70:00.0")
        plug(node, "5005", driver, slot="0000:70:00.1")
        why = f"bound to {driver}, not XRT's; bind it to xocl to offer it here"
        assert await lines(node) == {"0000:70:00.1": why}

    @pytest.mark.parametrize("driver", FOREIGN)
    async def test_user_function_alone_has_it(self, node: SampleNode, driver: str) -> None:
        card = node.add_card("u250")
        card.unbind()
        card._user.bind(driver)
        assert f"bound to {driver}, not XRT's" in await only_reason(node)

    @pytest.mark.parametrize("driver", FOR_MACHINES)
    async def test_driver_for_virtual_machines(self, node: SampleNode, driver: str) -> None:
        plug(node, "505d", driver)
        assert await only_reason(node) == (
            f"bound to {driver}, for a virtual machine; bind it to xocl to offer it here"
        )

    @pytest.mark.parametrize(("device", "driver"), [("50b4", "ami"), ("5710", "ami"), ("5071", "transcoder")])
    async def test_right_driver_of_other_cards(self, node: SampleNode, device: str, driver: str) -> None:
        plug(node, device, "onic")
        assert f"bind it to {driver} to offer it here" in await only_reason(node)

    async def test_management_function_alone_goes_back_to_its_own(self, node: SampleNode) -> None:
        plug(node, "5004", "vfio-pci")
        assert "bind it to xclmgmt" in await only_reason(node)

    @pytest.mark.parametrize("driver", [*FOREIGN, *FOR_MACHINES, "slash", "sfc"])
    async def test_unknown_id_that_has_one_is_not_reported(self, node: SampleNode, driver: str) -> None:
        plug(node, "913f", driver)
        assert await lines(node) == {}

    @pytest.mark.parametrize("driver", [None, "qdma-pf", "slash_qdma", "vfio-pci"])
    async def test_second_function_of_a_v80_says_nothing(self, node: SampleNode, driver: str | None) -> None:
        plug(node, "50b5", driver, slot="0000:70:00.0")
        plug(node, "50b6", driver, slot="0000:71:00.0")
        assert await lines(node) == {}

    async def test_v80_of_a_virtual_machine_is_reported_once(self, node: SampleNode) -> None:
        for number, device in enumerate(("50b4", "50b5", "50b6")):
            plug(node, device, "vfio-pci", slot=f"0000:70:00.{number}")
        assert list(await lines(node)) == ["0000:70:00.0"]

    async def test_v80_of_which_only_the_first_function_should_be_bound(self, node: SampleNode) -> None:
        plug(node, "50b4", slot="0000:70:00.0")
        plug(node, "50b5", "onic", slot="0000:70:00.1")
        assert list(await lines(node)) == ["0000:70:00.0"]

    async def test_user_function_with_the_management_driver(self, node: SampleNode) -> None:
        plug(node, "5004", "xclmgmt", slot="0000:70:00.0")
        plug(node, "5005", "xclmgmt", slot="0000:70:00.1")
        assert await lines(node) == {"0000:70:00.1": "bound to xclmgmt; bind it to xocl to offer it here"}

    @pytest.mark.parametrize("driver", ["xocl", "xocl_xdma", "xocl_qdma"])
    async def test_right_driver_in_its_probe_is_not_called_foreign(
        self, node: SampleNode, driver: str
    ) -> None:
        plug(node, "5005", driver)
        assert (await only_reason(node)).startswith("no user_pf")


class TestManagementFunctionWithoutUserFunction:
    @pytest.mark.parametrize(
        ("device", "driver"), [("5084", "xilinx_efct"), ("5084", None), ("9999", None), ("50b5", "qdma-pf")]
    )
    async def test_is_reported_beside_what_is_no_user_function(
        self, node: SampleNode, device: str, driver: str | None
    ) -> None:
        plug(node, "50b4" if device == "50b5" else "5074", "xclmgmt", slot="0000:70:00.0")
        plug(node, device, driver, slot="0000:70:00.1")
        assert (await lines(node))["0000:70:00.0"].startswith("management function only")

    async def test_has_no_line_beside_a_user_function_that_has_one(self, node: SampleNode) -> None:
        plug(node, "50b4", "xclmgmt", slot="0000:70:00.0")
        plug(node, "50b5", slot="0000:70:00.1")
        found = await lines(node)
        assert list(found) == ["0000:70:00.1"]
        assert "install XRT's driver" in found["0000:70:00.1"]


class TestWithoutDriver:
    @pytest.mark.parametrize(
        ("device", "load_these"),
        [
            ("5005", "install XRT's driver or load it (modprobe xocl xclmgmt)"),
            ("50b4", "install AVED's or AMR's driver or load it (modprobe ami), or XRT's for its shells"),
            ("5710", "install AVED's or AMR's driver or load it (modprobe ami), or XRT's for its shells"),
            ("50bc", "install AVED's or AMR's driver or load it (modprobe ami)"),
            ("5711", "install XRT's driver or load it (modprobe xocl xclmgmt)"),
            ("5070", "install the AMA SDK's driver or load it (modprobe ama_transcoder)"),
            ("5071", "install the AMA SDK's driver or load it (modprobe ama_transcoder)"),
        ],
    )
    async def test_module_that_is_not_loaded(self, node: SampleNode, device: str, load_these: str) -> None:
        plug(node, device)
        assert await only_reason(node) == f"no driver: {load_these}"

    @pytest.mark.parametrize(
        ("device", "module"),
        [("5005", "xocl"), ("50b4", "ami"), ("5710", "ami"), ("5070", "ama_transcoder"), ("f010", "xocl")],
    )
    async def test_module_that_is_loaded_did_not_take_it(
        self, node: SampleNode, device: str, module: str
    ) -> None:
        load(node, module)
        plug(node, f"1d0f:{device}" if device == "f010" else device)
        why = f"no driver: {module} is loaded and did not take it: dmesg says why (failed probe)"
        assert await only_reason(node) == why

    async def test_both_functions_with_both_modules_loaded(self, node: SampleNode) -> None:
        load(node, "xocl", "xclmgmt")
        plug(node, "5004", slot="0000:70:00.0")
        plug(node, "5005", slot="0000:70:00.1")
        assert "xocl and xclmgmt are loaded and did not take it" in await only_reason(node)

    async def test_loaded_driver_of_another_maker(self, node: SampleNode) -> None:
        load(node, "xclmgmt")
        plug(node, "50b4")
        why = await only_reason(node)
        assert "xclmgmt is loaded and did not take it" in why
        assert "install AVED's or AMR's driver" in why

    async def test_card_that_newer_releases_do_not_know(self, node: SampleNode) -> None:
        load(node, "xocl")
        plug(node, "500d")
        assert "XRT takes this card up to release 2023.2" in await only_reason(node)

    @pytest.mark.parametrize("device", ["f000", "f010"])
    async def test_application_id_of_aws_is_not_called_f1(self, node: SampleNode, device: str) -> None:
        plug(node, f"1d0f:{device}")
        assert "an AWS slot (F1 or F2) with an image" in await only_reason(node)


class TestFactoryImages:
    @pytest.mark.parametrize("driver", [None, "vfio-pci", "onic", "xclmgmt"])
    @pytest.mark.parametrize("modules", [(), ("xocl", "xclmgmt")])
    @pytest.mark.parametrize("device", ["d000", "d020", "d04c", "e098", "eb10"])
    async def test_golden_id_is_a_golden_image(
        self, node: SampleNode, device: str, modules: tuple[str, ...], driver: str | None
    ) -> None:
        load(node, *modules)
        plug(node, device, driver)
        why = await only_reason(node)
        assert why.startswith("golden image: ")
        assert "program a shell first (xbmgmt program --base)" in why
        assert ("modprobe" in why) == (not modules and driver != "xclmgmt")

    async def test_u30_without_a_working_image(self, node: SampleNode) -> None:
        load(node, "xocl", "xclmgmt")
        plug(node, "abcd")
        assert (await only_reason(node)).startswith("recovery image: ")


class TestUnknownIds:
    async def test_neutral_line(self, node: SampleNode) -> None:
        load(node, "xocl", "xclmgmt", "ami")
        plug(node, "903f")
        why = await only_reason(node)
        assert why.startswith("10ee:903f is no id of XRT's, AVED's, AMR's or the AMA SDK's")
        assert "modprobe" not in why

    async def test_one_line_for_all_functions_of_a_card(self, node: SampleNode) -> None:
        for number in range(4):
            plug(node, f"903{number}", slot=f"0000:70:00.{number}")
        assert list(await lines(node)) == ["0000:70:00.0"]

    @pytest.mark.parametrize("pci_class", ["010802", "020000", "028000", "040100", "040300", "060400"])
    async def test_class_that_says_what_else_it_is(self, node: SampleNode, pci_class: str) -> None:
        node.add_function("0000:70:00.0", Ids("10ee", "3fc5", pci_class))
        assert await lines(node) == {}

    @pytest.mark.parametrize("device", ["0100", "1100", "5084"])
    @pytest.mark.parametrize("driver", [None, "vfio-pci", "sfc", "xilinx_efct"])
    async def test_network_cards(self, node: SampleNode, device: str, driver: str | None) -> None:
        plug(node, device, driver)
        node.add_function("0000:71:00.0", Ids("1924", device, ACCELERATOR), driver=driver)
        assert await lines(node) == {}

    async def test_virtual_function_is_its_physical_ones_business(self, node: SampleNode) -> None:
        slot = plug(node, "a03f")
        os.symlink("../0000:70:00.4", f"{node.sysfs_root}/bus/pci/devices/{slot}/physfn")
        assert await lines(node) == {}

    async def test_amazons_other_devices(self, node: SampleNode) -> None:
        plug(node, "1d0f:8061")
        plug(node, "1d0f:ec20", "ena", slot="0000:71:00.0")
        assert await lines(node) == {}


def function(slot: int, number: int, ids: tuple[str | None, str | None], driver: str | None) -> Function:
    return Function(f"0000:{slot:02x}:00.{number}", "/nowhere", ids[0], ids[1], (), None, driver)


FUNCTIONS = st.builds(
    function,
    st.integers(0, 3),
    st.integers(0, 7),
    st.sampled_from([*PCI_IDS, ("10ee", "903f"), ("10ee", None), (None, None), ("8086", "5001")]),
    st.sampled_from([None, *FOREIGN, *FOR_MACHINES, *OURS, "xocl_xdma"]),
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(FUNCTIONS, unique_by=lambda each: each.address))
def test_every_card_on_any_bus_has_a_line_that_hides_no_other(functions: list[Function]) -> None:
    bus = Bus("/nowhere", "/nowhere", tuple(functions))
    found = Scanner(bus.root, bus.dev_root, RULES)._probes(bus)
    keys = [probe.key for probe in found]
    assert len(keys) == len(set(keys))
    slots = {slot_of(key) for key in keys}
    for each in functions:
        known = PCI_IDS.get((each.vendor or "", each.device or ""))
        if known and known.role not in (Role.OTHER, Role.PART):
            assert each.slot in slots


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(FUNCTIONS, unique_by=lambda each: each.address), st.data())
def test_any_bus_gives_each_function_one_line_at_most(functions: list[Function], data: st.DataObject) -> None:
    bus = Bus("/nowhere", "/nowhere", tuple(functions))
    slots = sorted({each.slot for each in functions})
    taken = data.draw(st.sets(st.sampled_from(slots))) if slots else set()
    lost = {each.address for each in functions if each.driver not in OURS and data.draw(st.booleans())}
    found = list(probes(bus, taken, lost, ()))
    addresses = [probe.key for probe in found]
    assert len(addresses) == len(set(addresses))
    by_address = {each.address: each for each in functions}
    for probe in found:
        function = by_address[probe.key]
        assert function.slot not in taken
        known = PCI_IDS.get((function.vendor or "", function.device or ""))
        assert probe.key in lost or known is None or known.role is not Role.OTHER
        observation = probe.observe()
        assert observation is None or (observation.why and not observation.device)
