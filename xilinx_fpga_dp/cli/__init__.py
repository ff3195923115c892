"""The command line: the commands, and how each is started.

A command is a module of this package with a ``COMMAND``, and a line in `COMMANDS`; `program` parses its flags
and runs it. The service starts without any of these: a child process checks its settings.
"""

import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import Any

from xilinx_fpga_dp import process
from xilinx_fpga_dp.cli.errors import exit_code
from xilinx_fpga_dp.settings import Settings

COMMANDS = {
    "run": "discover, register, serve and watch until SIGTERM or SIGINT (the default)",
    "list": "scan once; show every device, and every function left out with the reason",
    "diagnose": "check this node; each line that is not ok ends with the remedy",
    "explain": "show what Allocate would answer for these device ids, or why it would refuse",
    "classes": "print the DeviceClasses for the devices of this node, for the DRA driver",
    "rules": "check a file of rules for other devices against this node",
    "capture": "pack what may safely be read of this node into an archive for a bug report",
    "cluster": "show every card of the cluster in one table, read from the pods of the service",
    "simulate": "run the whole job on this machine, with a sample node and an embedded kubelet",
    "version": "show name and version",
}
"""The summary of each command, by name. The name is also that of its module."""

# Words without which the arguments start the service, if they are valid.
_NOT_SERVICE = {"-h", "--help", *COMMANDS} - {"run"}
# The service and `settings_model` both need these: loaded before the child starts, they are loaded once.
_SHARED = (
    *("asyncio", "datetime", "ipaddress", "json", "pathlib", "platform", "secrets", "tempfile"),
    *("typing_extensions", "urllib.parse"),
    "xilinx_fpga_dp.resources.naming",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code: 2, with a line each on stderr, for bad use and bad settings."""
    words = sys.argv[1:] if arguments is None else arguments
    if _NOT_SERVICE.isdisjoint(words):
        return exit_code("run", partial(_serve, words))
    return _run_program(words)


def _serve(words: Sequence[str]) -> int:
    """Run the service with settings from a child process; without an answer parse and report here."""
    for name in _SHARED:
        import_module(name)
    values = process.in_child(partial(_settings, words), meanwhile=_import_service)
    if values is None:
        return _run_program(words)
    from xilinx_fpga_dp.service import serve

    return serve(Settings(**values))


def _import_service() -> None:
    with process.without_pydantic(), process.without_version_check():
        import_module("xilinx_fpga_dp.service")
        import_module("xilinx_fpga_dp.deviceplugin.front_end")


def _settings(words: Sequence[str]) -> dict[str, Any]:
    with process.stand_ins("dotenv", "importlib.metadata"):
        from xilinx_fpga_dp.cli import program

    return dict(program.parse(words).settings)


def _run_program(words: Sequence[str]) -> int:
    from xilinx_fpga_dp.cli import program

    return program.main(words)
