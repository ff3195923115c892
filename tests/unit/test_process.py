"""The replacement of modules, and a child process that cannot be started."""

import errno
import os
import sys
from typing import Any
from unittest import mock

import pytest

from xilinx_fpga_dp import process
from xilinx_fpga_dp.settings_model import Settings


def test_loaded_module_is_not_replaced() -> None:
    import ssl  # noqa: PLC0415

    with process.stand_ins("ssl"):
        assert sys.modules["ssl"] is ssl
    assert sys.modules["ssl"] is ssl


def test_stand_in_is_dropped_after_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wsgiref.simple_server", None)
    monkeypatch.delitem(sys.modules, "http.server", raising=False)
    with process.stand_ins("http.server", "wsgiref.simple_server"):
        from http.server import BaseHTTPRequestHandler  # noqa: PLC0415
        from wsgiref.simple_server import WSGIServer  # noqa: PLC0415

        class Handler(BaseHTTPRequestHandler, WSGIServer): ...  # as a library may use them

        made: Any = Handler
        made("anything", at="all")
    assert "http.server" not in sys.modules
    assert sys.modules["wsgiref.simple_server"] is None, "as before"


def test_stand_in_is_a_part_of_its_package_during_the_import_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import xml  # noqa: PLC0415

    monkeypatch.delitem(sys.modules, "xml.sax", raising=False)
    monkeypatch.delattr(xml, "sax", raising=False)
    with process.stand_ins("xml.sax"):
        import xml.sax  # noqa: PLC0415

        assert xml.sax.ContentHandler.__module__ == process.__name__
    assert not hasattr(xml, "sax")


def test_replaced_module_has_its_members_during_the_import_alone() -> None:
    with process.replaced("not_installed", answer=42):
        from not_installed import answer  # type: ignore[import-not-found]  # noqa: PLC0415

        with pytest.raises(ImportError):
            from not_installed import question  # noqa: F401, PLC0415
    assert answer == 42
    assert "not_installed" not in sys.modules
    with process.replaced("os", name="none"):
        assert os.name != "none"


def test_version_of_messages_is_compared_where_its_module_is_loaded() -> None:
    import betterproto2  # noqa: PLC0415

    with process.without_version_check(), pytest.raises(ImportError):
        betterproto2.check_compiler_version("0.0.1")
    with mock.patch.dict(sys.modules):
        del sys.modules["betterproto2._version"]
        with process.without_version_check():
            from betterproto2._version import check_compiler_version  # noqa: PLC0415

            check_compiler_version("0.0.1")
        assert "betterproto2._version" not in sys.modules


@pytest.mark.parametrize("function", ["pipe", "fork"])
def test_no_child_means_no_answer(function: str) -> None:
    descriptors = os.listdir("/proc/self/fd")
    with mock.patch(f"os.{function}", side_effect=OSError(errno.EAGAIN, "Resource temporarily unavailable")):
        assert process.in_child(dict, lambda: None) is None
    assert os.listdir("/proc/self/fd") == descriptors


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"XILINX_FPGA_DP_EVENTS": "true"}, []),
        ({"xilinx_fpga_dp_node_condition": "1"}, []),
        ({"XILINX_FPGA_DP_STARTUP_TAINT": "fpga.xilinx.com/starting"}, []),
        ({"XILINX_FPGA_DP_MODE": "dra"}, []),
        ({"XILINX_FPGA_DP_EVENTS": "wrong"}, []),
        ({}, ["run", "--events"]),
        ({}, ["--events", "false"]),
        ({}, ["--mode=dra"]),
        ({}, ["cluster", "--output", "json"]),
    ],
)
def test_process_with_the_api_server_keeps_openssl(environment: dict[str, str], words: list[str]) -> None:
    assert process.asks_for_tls(environment, words)


@pytest.mark.parametrize("key", ["none", "no", "off", "false", "0", "f", "n", "device-plugin"])
def test_key_of_a_taint_may_be_any_word(key: str) -> None:
    settings = Settings.load({"node_name": "n1", "startup_taint": key})
    assert settings.startup_taint == key
    assert process.asks_for_tls({"XILINX_FPGA_DP_STARTUP_TAINT": key}, [])
    assert process.asks_for_tls({}, [f"--startup-taint={key}"])


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, []),
        ({"XILINX_FPGA_DP_EVENTS": "False", "XILINX_FPGA_DP_STARTUP_TAINT": ""}, ["run"]),
        ({"XILINX_FPGA_DP_MODE": "device-plugin", "EVENTS": "true"}, ["list", "--output", "wide"]),
        ({}, ["--events=false", "--mode=device-plugin", "--events-of-mine"]),
    ],
)
def test_process_without_the_api_server_leaves_it_out(environment: dict[str, str], words: list[str]) -> None:
    assert not process.asks_for_tls(environment, words)
