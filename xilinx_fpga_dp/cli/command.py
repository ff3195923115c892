"""What the module of a command declares."""

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from xilinx_fpga_dp.settings import Settings

SCAN_SETTINGS = (
    frozenset({"sysfs_root", "dev_root", "expose_mgmt", "pod_resources_socket", "log_format"})
    | {"resource_prefix", "resource_name_template", "resource_renames", "device_rules", "compat"}
    | {"u30_unit", "shared_replicas", "mode", "dra_driver_name"}
)
"""The settings that a single scan uses."""


class BadUse(Exception):  # noqa: N818 - an error of the caller
    """A command line that is not valid."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command. Its module imports what only `run` needs inside that function."""

    run: Callable[[Settings, argparse.Namespace], int]  # returns the exit code
    settings: frozenset[str] = frozenset()  # the fields it uses; if empty, the settings are not validated
    # Its own options and arguments, each with the keywords of argparse's ``add_argument``.
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    own_cluster: bool = False  # it brings the Node and the API server itself


def output_option(*formats: str) -> dict[str, Mapping[str, Any]]:
    """Declare ``--output``; the first format is the default."""

    def parse(text: str) -> str:
        if text not in formats:
            raise argparse.ArgumentTypeError(f"must be one of {', '.join(formats)} (it is {text!r})")
        return text

    shown = f"{' or '.join(formats)}; default {formats[0]}"
    return {"--output": {"type": parse, "default": formats[0], "metavar": "FORMAT", "help": shown}}


FROM_OPTION: dict[str, Mapping[str, Any]] = {
    "--from": {"metavar": "FILE", "dest": "archive", "help": "a node captured by `capture` instead"}
}


def print_result(options: argparse.Namespace, document: Mapping[str, Any], text: str) -> None:
    """Print a result in the format that ``--output`` asks for."""
    print(json.dumps(document, indent=2) if options.output == "json" else text)
