"""No OpenSSL in the process of the service."""

from xilinx_fpga_dp.process import ssl_by_name


def test_here_it_is_there() -> None:
    """Where asyncio was first nothing is stood in for."""
    with ssl_by_name():
        import ssl  # noqa: PLC0415

        assert ssl.OPENSSL_VERSION
