"""What a command prints when a file or its output fails."""

import errno

import pytest

from xilinx_fpga_dp.cli.errors import exit_code


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x"), "list: No space left on device: /x"),
        (TimeoutError("no answer within 3 s"), "list: no answer within 3 s"),
        (TimeoutError(), "list: TimeoutError()"),
    ],
)
def test_error_is_one_line(error: OSError, line: str, capfd: pytest.CaptureFixture[str]) -> None:
    def run() -> int:
        raise error

    with open("/dev/null", "w") as null, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", null)
        assert exit_code("list", run) == 1
    assert capfd.readouterr().err == f"{line}\n"
