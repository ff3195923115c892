"""The process of the service does not load OpenSSL."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.double import KubeletDouble
from tests.support.process import Service
from tests.support.running import settings_for
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode


def test_running_service_has_not_loaded_openssl(node: SampleNode, kubelet: KubeletDouble) -> None:
    node.add_card("u200", "0000:11:00")
    kubelet.start()
    with Service(settings_for(node, HTTP_ADDRESS="127.0.0.1:0")) as service:
        service.logged(Event.REGISTERED)
        maps = Path(f"/proc/{service.process.pid}/maps").read_text()
    assert "libc.so" in maps or "musl" in maps
    assert "libssl" not in maps
    assert "libcrypto" not in maps


@pytest.mark.parametrize("before", ["", "import ssl; "])
def test_modules_that_name_ssl_can_be_imported(before: str) -> None:
    """If OpenSSL was loaded before, it stays complete."""
    code = f"""{before}from xilinx_fpga_dp import process
process.prepare()
with process.ssl_by_name():
    import ssl
    ssl.SSLContext, ssl.PROTOCOL_TLS_CLIENT
import hashlib, asyncio, grpclib.client, sys
assert hashlib.sha256(b"").hexdigest().startswith("e3b0")
assert (sys.modules["ssl"] is None) is {not before}
assert asyncio.sslproto.ssl is sys.modules["ssl"]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
