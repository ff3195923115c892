"""No OpenSSL in the process of the service."""

from xilinx_fpga_dp.process import ssl_by_name


def test_ssl_is_loaded_outside_the_service() -> None:
    """Where asyncio was first nothing is stood in for."""
    with ssl_by_name():
        import ssl  # noqa: PLC0415

        assert ssl.OPENSSL_VERSION
