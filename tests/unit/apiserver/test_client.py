"""The words for a call without an answer."""

import pytest

from xilinx_fpga_dp.apiserver.client import _said


# OpenSSL's crypto/x509/x509_txt.c
@pytest.mark.parametrize("text", ["certificate is not yet valid", "certificate has expired"])
def test_certificate_of_another_time_asks_for_the_clock(text: str) -> None:
    assert _said(OSError(f"certificate verify failed: {text}")).endswith("; is the clock of this node right?")
