"""``version``: the name and the version of the program."""

import argparse

from xilinx_fpga_dp import __version__
from xilinx_fpga_dp.cli.command import Command
from xilinx_fpga_dp.settings import Settings


def run(_settings: Settings, _options: argparse.Namespace) -> int:
    print(f"xilinx-fpga-dp {__version__}")
    return 0


COMMAND = Command(run)
