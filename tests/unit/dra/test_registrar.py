"""The names of the driver's sockets."""

from hypothesis import given
from hypothesis import strategies as st

from xilinx_fpga_dp.dra.registrar import sockets_of

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
