"""``run``: the service, until SIGTERM or SIGINT."""

import argparse
import asyncio

from xilinx_fpga_dp import process
from xilinx_fpga_dp.cli.command import Command
from xilinx_fpga_dp.settings import Settings


def run(settings: Settings, _options: argparse.Namespace) -> int:
    from xilinx_fpga_dp.observe import logs
    from xilinx_fpga_dp.service import Service

    async def serve() -> None:
        await Service(settings).run()

    process.become_service()
    logs.set_up(settings.log_level, settings.log_format)
    asyncio.run(serve())
    return 0


COMMAND = Command(run, settings=frozenset(Settings.model_fields))
