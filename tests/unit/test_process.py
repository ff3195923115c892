"""The replacement of the ssl module in the process of the service."""

from xilinx_fpga_dp.process import ssl_by_name


def test_ssl_is_loaded_outside_the_service() -> None:
    """If asyncio was imported first, the ssl module is not replaced."""
    with ssl_by_name():
        import ssl  # noqa: PLC0415

        assert ssl.OPENSSL_VERSION
