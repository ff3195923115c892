"""``python -m xilinx_fpga_dp``: the same as the ``xilinx-fpga-dp`` script."""

from xilinx_fpga_dp import process

process.prepare()

from xilinx_fpga_dp.cli import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main())
