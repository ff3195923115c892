"""The process of the service: what it loads, and the child process that checks the settings."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.double import KubeletDouble
from tests.support.process import ENDS, Service, clean_environment
from tests.support.resource_names import U200
from tests.support.running import settings_for
from tests.support.waiting import wait_for
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode

_LEFT_OUT = {
    *("pydantic", "pydantic_core", "pydantic_settings", "argparse", "tarfile", "yaml"),
    *("ssl", "_hashlib", "http.server", "http.client", "html.entities"),
    *("urllib.request", "urllib.error", "wsgiref.simple_server", "importlib.metadata", "email"),
    "xilinx_fpga_dp.discovery.attributes",
    *("httpcore2", "anyio", "xilinx_fpga_dp.apiserver.client", "xilinx_fpga_dp.apiserver.access"),
    *("xilinx_fpga_dp.dra", "xilinx_fpga_dp.dra.front_end", "xilinx_fpga_dp.observe.claim_metrics"),
}

# What only MODE=dra and the features of the API server use
_OF_THE_API = (
    *("xilinx_fpga_dp.apiserver", "xilinx_fpga_dp.dra", "xilinx_fpga_dp.observe.claim_metrics"),
    *("xilinx_fpga_dp.observe.node_reports", "xilinx_fpga_dp.kubelet.pod_cgroups"),
    *("xilinx_fpga_dp.rpc.api.dra_", "xilinx_fpga_dp.rpc.api.pluginregistration"),
    *("httpcore2", "httpx2", "h11", "ssl", "_ssl"),
)

# A module that is looked for is told of, and is not there
_WITHOUT_THE_API = f"""
import sys
from importlib.abc import MetaPathFinder
class Absent(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.startswith({_OF_THE_API}):
            print(name)
            raise ModuleNotFoundError(name, name=name)
from xilinx_fpga_dp import process
process.prepare()
sys.meta_path.insert(0, Absent())
"""

_TELLS_MODULES = """
import atexit, runpy, sys
atexit.register(lambda: print(*(name for name, module in sys.modules.items() if module)))
runpy.run_module("xilinx_fpga_dp", run_name="__main__")
"""

# The program with a fault in the child process, in place of its check of the settings.
_WITH_FAULT = """
import os, signal, sys, time
from xilinx_fpga_dp import process
process.prepare()
process._CHILD_LIMIT = 0.5
from xilinx_fpga_dp import cli
check = cli._settings
def no_more(): raise BlockingIOError(11, "Resource temporarily unavailable")
def fault(words):
    {fault}
{here}
cli._settings = fault
sys.exit(cli.main([]))
"""

_FAULTS = {
    "raises": ("raise RuntimeError", ""),
    "ends": ("os._exit(3)", ""),
    "is killed": ("os.kill(os.getpid(), signal.SIGKILL)", ""),
    "aborts": ("os.kill(os.getpid(), signal.SIGABRT)", ""),
    "hangs": ("time.sleep(60)", ""),
    "is stopped": ("os.kill(os.getpid(), signal.SIGSTOP)", ""),
    "prints": ("print('x', flush=True); print('x', file=sys.stderr); sys.exit(1)", ""),
    "is cut off": (
        "return check(words)",
        "dumps = process.marshal.dumps; process.marshal.dumps = lambda values: dumps(values)[:-9]",
    ),
    "ends unseen": ("return check(words)", "signal.signal(signal.SIGCHLD, signal.SIG_IGN)"),
    "cannot start": ("return check(words)", "os.fork = no_more"),
}


@contextmanager
def _with_fault(name: str, settings: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    fault, here = _FAULTS.get(name, (name, ""))
    with subprocess.Popen(
        [sys.executable, "-c", _WITH_FAULT.format(fault=fault, here=here)],
        env=clean_environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as service:
        try:
            yield service
        finally:
            service.kill()


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_running_service_has_not_loaded_openssl_or_pydantic(node: SampleNode, kubelet: KubeletDouble) -> None:
    node.add_card("u200", "0000:11:00")
    kubelet.start()
    with Service(settings_for(node, HTTP_ADDRESS="127.0.0.1:0")) as service:
        service.logged(Event.REGISTERED)
        maps = Path(f"/proc/{service.process.pid}/maps").read_text()
        assert not _children(service.process.pid)
    assert "libc.so" in maps or "musl" in maps
    assert "libssl" not in maps
    assert "libcrypto" not in maps
    assert "pydantic_core" not in maps


def test_service_has_loaded_no_module_that_it_can_do_without(
    node: SampleNode, kubelet: KubeletDouble
) -> None:
    node.add_card("u200", "0000:11:00")
    kubelet.start()
    settings = settings_for(node, HTTP_ADDRESS="127.0.0.1:0")
    with subprocess.Popen(
        [sys.executable, "-c", _TELLS_MODULES],
        env=clean_environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as service:
        try:
            kubelet.wait_for(lambda: kubelet.allocatable(U200) == 1)
            service.terminate()
            loaded = set(service.communicate(timeout=ENDS)[0].split())
        finally:
            service.kill()
    assert {"xilinx_fpga_dp.service", "prometheus_client", "betterproto2"} <= loaded
    assert not loaded & _LEFT_OUT


def test_device_plugin_needs_and_loads_nothing_of_the_api_server(
    node: SampleNode, kubelet: KubeletDouble
) -> None:
    """So its memory and its start are what they were without that code."""
    node.add_card("u200", "0000:11:00")
    kubelet.start()
    with subprocess.Popen(
        [sys.executable, "-c", _WITHOUT_THE_API + _TELLS_MODULES],
        env=clean_environment(settings_for(node, HTTP_ADDRESS="127.0.0.1:0")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as service:
        try:
            kubelet.wait_for(lambda: kubelet.allocatable(U200) == 1)
            kubelet.allocate(U200, ["0000:11:00.1"])
            service.terminate()
            out, errors = service.communicate(timeout=ENDS)
        finally:
            service.kill()
    assert service.returncode == 0, errors
    loaded = out.split()
    assert "xilinx_fpga_dp.service" in loaded
    assert [name for name in loaded if name.startswith(_OF_THE_API)] == []


@pytest.mark.parametrize("name", _FAULTS)
def test_service_starts_whatever_happens_to_the_child(
    node: SampleNode, kubelet: KubeletDouble, name: str
) -> None:
    node.add_card("u200", "0000:11:00")
    kubelet.start()
    with _with_fault(name, settings_for(node)) as service:
        kubelet.wait_for(lambda: kubelet.allocatable(U200) == 1)
        states = [Path(f"/proc/{child}/stat").read_text().split()[2] for child in _children(service.pid)]
        assert states in ([], ["Z"])
        service.terminate()
        out, _ = service.communicate(timeout=ENDS)
    assert (service.returncode, out) == (0, "")


@pytest.mark.parametrize("name", _FAULTS)
def test_bad_setting_is_one_line_whatever_happens_to_the_child(name: str) -> None:
    with _with_fault(name, {"SCAN_INTERVAL": "-1"}) as service:
        out, errors = service.communicate(timeout=30)
    line = "XILINX_FPGA_DP_SCAN_INTERVAL: should be greater than 0 (it is '-1')\n"
    assert (service.returncode, out, errors) == (2, "", line)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("whole_group", [False, True])
def test_signal_while_the_child_runs_ends_the_service(
    node: SampleNode, number: signal.Signals, whole_group: bool
) -> None:
    with _with_fault("time.sleep(0.3); return check(words)", settings_for(node)) as service:
        wait_for(lambda: bool(_children(service.pid)), "the child runs")
        (os.killpg if whole_group else os.kill)(service.pid, number)
        service.communicate(timeout=ENDS)
    assert service.returncode == 0


@pytest.mark.parametrize(("optimize", "described"), [("1", "A(x: int)"), ("2", "A")])
def test_data_classes_are_described_unless_docstrings_are_left_out(optimize: str, described: str) -> None:
    code = """from xilinx_fpga_dp import process
process.prepare()
import dataclasses, inspect
A = dataclasses.make_dataclass("A", [("x", int)], frozen=True, slots=True)
print(A.__doc__, inspect.signature(A), A(1), sep=";")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONOPTIMIZE": optimize},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == (f"{described};(x: int) -> None;A(x=1)\n", "")


@pytest.mark.parametrize("before", ["", "import ssl; "])
def test_modules_that_name_ssl_can_be_imported(before: str) -> None:
    """If OpenSSL was loaded before, it stays complete."""
    code = f"""{before}from xilinx_fpga_dp import process
process.prepare()
with process.stand_ins("ssl"):
    import ssl
    ssl.SSLContext, ssl.PROTOCOL_TLS_CLIENT
import hashlib, asyncio, grpclib.client, sys
assert hashlib.sha256(b"").hexdigest().startswith("e3b0")
assert (sys.modules["ssl"] is None) is {not before}
assert asyncio.sslproto.ssl is sys.modules["ssl"]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_client_of_the_api_server_loads_only_what_it_uses() -> None:
    code = """import sys
from xilinx_fpga_dp.apiserver import client
unused = {"anyio", "email.message", "http.cookiejar", "httpcore2._sync", "importlib.metadata"}
assert unused.isdisjoint(sys.modules), unused & sys.modules.keys()
import http.cookiejar, importlib.metadata
http.cookiejar.CookieJar(), importlib.metadata.version("httpcore2")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
