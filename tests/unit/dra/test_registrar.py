"""The names of the driver's sockets, and their loss."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xilinx_fpga_dp.dra.registrar import Registrar, Sockets, sockets_of

UID = "9ae4d2b4-1e2b-4c7f-8a70-5ad1a5b4d0d1"


def test_sockets_without_a_uid_have_fixed_names() -> None:
    found = sockets_of("/var/lib/kubelet/plugins", "/var/lib/kubelet/plugins_registry", "fpga.xilinx.com", "")
    assert found.driver == "/var/lib/kubelet/plugins/fpga.xilinx.com/dra.sock"
    assert found.registration == "/var/lib/kubelet/plugins_registry/fpga.xilinx.com-reg.sock"


def test_sockets_of_two_instances_differ() -> None:
    found = sockets_of("/p", "/r", "fpga.xilinx.com", UID)
    assert found.driver == f"/p/fpga.xilinx.com/dra-{UID}.sock"
    assert found.registration == f"/r/fpga.xilinx.com-{UID}-reg.sock"


@given(st.integers(1, 63))
def test_registration_socket_fits_a_socket_address(length: int) -> None:
    found = sockets_of("/var/lib/kubelet/plugins", "/var/lib/kubelet/plugins_registry", "d" * length, UID)
    assert len(found.registration) <= 107
    assert found.registration.endswith("-reg.sock")


@pytest.mark.parametrize("gone", ["driver", "registration"])
async def test_socket_that_is_gone_before_the_first_look_is_noticed(tmp_path: Path, gone: str) -> None:
    sockets = Sockets(str(tmp_path / "driver"), str(tmp_path / "registration"))
    for name in {"driver", "registration"} - {gone}:
        (tmp_path / name).touch()
    registrar = Registrar(sockets, "fpga.xilinx.com", (), lambda: pytest.fail("nothing is served"))
    async with asyncio.timeout(50):
        assert await registrar._watch() == str(tmp_path / gone)
