"""The parsers of what sensors and counters print: examples of each driver, and any other text."""

import math
from collections.abc import Callable, Iterable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xilinx_fpga_dp.discovery import sensor_texts
from xilinx_fpga_dp.discovery.sensor_texts import Value, link, sensor_name
from xilinx_fpga_dp.discovery.xocl_errors import ErrorRecord, added, parse

PARSERS: tuple[Callable[[str], Iterable[Value]], ...] = (
    sensor_texts.board_power,
    sensor_texts.board_temperatures,
    sensor_texts.board_supplies,
    sensor_texts.chip_temperatures,
    sensor_texts.chip_voltages,
    sensor_texts.memory_errors,
    sensor_texts.link_errors,
    partial(sensor_texts.firmware_sensors, kind="temp"),
    partial(sensor_texts.firmware_sensors, kind="curr"),
    sensor_texts.contexts,
    sensor_texts.memory_used,
    sensor_texts.compute_units,
    sensor_texts.xclbins,
)
EXAMPLES = (
    " <<<Board power>>> \n Board Power = 15691 mW ",
    (
        "<<<Board temperature>>> \n \tBoard Temperature = 37\n\t VRM Temperature = 41\n"
        "\t VRM Max Temperature = 46"
    ),
    "<<<Board Voltage, Current>>>\n\t 3V PEX Voltage = 3305 mV\n\t 3V PEX Current = 310 mA\n",
    "<<<Temperature>>>\n sensor0=43;\n sensor1=44;",
    "<<<Voltage>>>\n sensor0(0.75v)=751 mV;\n sensor1(0.75v)=752 mV;",
    "ddr channel 0 :error uncorrectable counter =1 error correctable counter =2 \n ",
    "THS 1 axi sram :error uncorrectable counter =3, error correctable counter =4 \n",
    (
        "xclbin:\t\t\t00000000-0000-0000-0000-000000000000\n"
        "outstanding execs:\t0\ncontexts:\t\t2\nclient pid:\t\t77\n"
    ),
    "4096 1\n0 0\n8192 2 1\n=== 0 0 ===\nRegular 1KB 1BOs\n",
    "0,vadd:vadd_1,0x1800000,0x4,17\n1,vadd:vadd_2,0x1810000,0x4,3\n",
    "0,0,vadd:vadd_1,0x1800000,0x4,17\n1,0,vadd:vadd_1,0x1810000,0x4,3\n",
    "0b095b81-fa2b-e6bd-4524-72b1c1474f18\n",
    "pcie uncorrected error counter =3 corrected error counter =250\n",
    "Temp PCB,35,34,41,1,0\nTemp, of FPGA,44,43,50,1,0\nfpga_fan_1,1200,1190,1300,1,0\n",
    "12V PEX Current,1730,1650,1900,1,-3\nVCC INT Current,8200,8100,9000,0,-3\n",
)
TEXTS = st.one_of(
    st.text(max_size=300),
    st.sampled_from(EXAMPLES).flatmap(
        lambda text: st.builds(
            lambda at, put, cut: text[:at] + put + text[at + cut :],
            st.integers(0, len(text)),
            st.text(max_size=5),
            st.integers(0, 5),
        )
    ),
)


def values(parse: Callable[[str], Iterable[Value]], text: str) -> dict[tuple[str, ...], float]:
    return {(each.metric, *(label for _, label in each.labels)): each.value for each in parse(text)}


@given(TEXTS)
def test_any_text_gives_bounded_finite_values_or_none(text: str) -> None:
    for parser in PARSERS:
        found = list(parser(text))
        assert len(found) <= 512
        for each in found:
            assert math.isfinite(each.value)
            assert all(0 < len(label) <= 64 for _, label in each.labels)


@given(st.text(max_size=100), st.text(max_size=20))
def test_link_is_plausible_or_none(speed: str, width: str) -> None:
    found = link(speed, width)
    assert found is None or (0 < found[0] <= 512e9 and 0 < found[1] <= 32)


@pytest.mark.parametrize(
    ("speed", "width", "expected"),
    [
        ("8.0 GT/s PCIe", "16", (8e9, 16)),
        ("8 GT/s", "8", (8e9, 8)),
        ("2.5 GT/s PCIe", "1", (2.5e9, 1)),
        ("Unknown", "63", None),
        ("Unknown speed", "16", None),
        ("8.0 GT/s PCIe", "63", None),
        ("8.0 GT/s PCIe", "0", None),
        ("8.0 GT/s PCIe", "\u0661", None),
        ("", "", None),
    ],
)
def test_link(speed: str, width: str, expected: tuple[float, int] | None) -> None:
    assert link(speed, width) == expected


@given(st.text(max_size=100), st.integers(1, 99))
def test_name_of_a_sensor_is_a_short_word(label: str, number: int) -> None:
    name = sensor_name(label, f"temp{number}")
    assert 0 < len(name) <= 40
    assert name.isascii()
    assert name.replace("_", "a").isalnum()
    assert name == name.lower()


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("FPGA TEMP", "fpga"),
        ("HBM TEMP", "hbm"),
        ("PCB TOP FRONT", "board_top_front"),
        ("DIMM0 TEMP", "dimm0"),
        ("QSPF 3", "cage3"),
        ("12V PEX Current", "12v_pex"),
        ("FAN SPEED", "fan"),
        ("Temp FPGA", "fpga"),
        ("", "temp4"),
        ("TEMP", "temp4"),
    ],
)
def test_name_of_a_sensor(label: str, name: str) -> None:
    assert sensor_name(label, "temp4") == name


def test_aer_total_is_the_last_line() -> None:
    assert sensor_texts.aer_total("RxErr 5\nBadTLP 2\nTOTAL_ERR_COR 7\n") == 7
    assert sensor_texts.aer_total("RxErr 5\n") is None


def test_sensors_of_an_ma35d() -> None:
    [(_, power)] = values(sensor_texts.board_power, EXAMPLES[0]).items()
    assert power == 15.691
    assert values(sensor_texts.board_temperatures, EXAMPLES[1]) == {
        ("temperature_celsius", "board"): 37,
        ("temperature_celsius", "vrm"): 41,
        ("temperature_celsius", "vrm_max"): 46,
    }
    assert values(sensor_texts.board_supplies, EXAMPLES[2]) == {
        ("voltage_volts", "3v_pex"): 3.305,
        ("current_amperes", "3v_pex"): 0.31,
    }
    assert values(sensor_texts.chip_temperatures, EXAMPLES[3])[("temperature_celsius", "chip1")] == 44
    assert values(sensor_texts.chip_voltages, EXAMPLES[4])[("voltage_volts", "chip0")] == 0.751
    assert values(sensor_texts.memory_errors, EXAMPLES[5]) == {
        ("memory_errors_total", "ddr0", "uncorrectable"): 1,
        ("memory_errors_total", "ddr0", "correctable"): 2,
    }
    assert (
        values(sensor_texts.memory_errors, EXAMPLES[6])[("memory_errors_total", "sram1", "correctable")] == 4
    )


def test_use_of_an_xrt_card() -> None:
    assert values(sensor_texts.contexts, EXAMPLES[7]) == {("contexts",): 2}
    assert values(sensor_texts.memory_used, EXAMPLES[8]) == {
        ("memory_used_bytes", "0"): 4096,
        ("memory_used_bytes", "1"): 0,
        ("memory_used_bytes", "2"): 8192,
    }
    one = {("compute_unit_starts_total", f"vadd:vadd_{number}"): n for number, n in ((1, 17), (2, 3))}
    assert values(sensor_texts.compute_units, EXAMPLES[9]) == one
    assert values(sensor_texts.compute_units, EXAMPLES[10]) == {
        ("compute_unit_starts_total", "vadd:vadd_1"): 20
    }, "the same unit in two slots"


def test_sensors_of_a_firmware() -> None:
    assert values(partial(sensor_texts.firmware_sensors, kind="temp"), EXAMPLES[13]) == {
        ("temperature_celsius", "board"): 35,
        ("temperature_celsius", "of_fpga"): 44,
        ("fan_rpm", "fpga_fan_1"): 1200,
    }
    assert values(partial(sensor_texts.firmware_sensors, kind="curr"), EXAMPLES[14]) == {
        ("current_amperes", "12v_pex"): 1.73
    }, "the second one is not present"


def test_link_errors_of_an_ma35d() -> None:
    assert values(sensor_texts.link_errors, EXAMPLES[12]) == {
        ("memory_errors_total", "pcie", "uncorrectable"): 3,
        ("memory_errors_total", "pcie", "correctable"): 250,
    }


@pytest.mark.parametrize("text", ["", "00000000-0000-0000-0000-000000000000\n", "(null)\n"])
def test_no_image_is_no_xclbin(text: str) -> None:
    assert not list(sensor_texts.xclbins(text))


def test_xclbin_of_each_slot() -> None:
    uuid = "0b095b81-fa2b-e6bd-4524-72b1c1474f18"
    for text in (f"{uuid}\n{uuid}\n", f"0 {uuid}\n1 {uuid}\n"):
        assert list(values(sensor_texts.xclbins, text)) == [
            ("xclbin_info", uuid, "0"),
            ("xclbin_info", uuid, "1"),
        ]


RECORDS = st.lists(st.builds(ErrorRecord, st.integers(0, 3), st.integers(0, 3)), max_size=8)


class TestRecordOfErrors:
    @given(RECORDS, RECORDS)
    def test_new_ones_are_found(self, before: list[ErrorRecord], new: list[ErrorRecord]) -> None:
        unlike = [ErrorRecord(each.code, each.time + 10 + number) for number, each in enumerate(new)]
        assert list(added(before, before + unlike)) == unlike

    @given(RECORDS, st.integers(0, 8))
    def test_ones_that_left_a_full_record_are_not_missed(self, before: list[ErrorRecord], gone: int) -> None:
        new = [ErrorRecord(1, 100)]
        if before[gone:]:
            assert list(added(before, before[gone:] + new)) == new

    @given(RECORDS)
    def test_same_record_has_none(self, records: list[ErrorRecord]) -> None:
        assert not added(records, list(records))

    @given(st.binary(max_size=2000))
    def test_any_content_is_a_record_or_none(self, data: bytes) -> None:
        for record in parse(data) or ():
            assert record.kind

    @pytest.mark.parametrize(
        ("number", "kind"),
        [(1, "firewall"), (2, "temperature"), (13, "cu_timeout"), (0, "other"), (99, "other")],
    )
    def test_kind_is_that_of_the_number(self, number: int, kind: str) -> None:
        assert ErrorRecord(number | 1 << 16, 5).kind == kind
