"""``run``: the service, until SIGTERM or SIGINT."""

import argparse

from xilinx_fpga_dp.cli.command import Command
from xilinx_fpga_dp.settings_model import Settings


def run(settings: Settings, _options: argparse.Namespace) -> int:
    from xilinx_fpga_dp.service import serve

    return serve(settings)


COMMAND = Command(run, settings=frozenset(Settings.model_fields))
