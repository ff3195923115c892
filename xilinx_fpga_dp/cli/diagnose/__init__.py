"""``diagnose``: checks of a node, with the remedy for each problem."""

import argparse
import asyncio
from dataclasses import asdict

from xilinx_fpga_dp.cli.command import SCAN_SETTINGS, Command, output_option, print_result
from xilinx_fpga_dp.observe import logs
from xilinx_fpga_dp.settings import Settings


def run(settings: Settings, options: argparse.Namespace) -> int:
    from xilinx_fpga_dp.cli.diagnose import checks, rights
    from xilinx_fpga_dp.cli.diagnose.collect import collect

    logs.set_up("error", settings.log_format)
    findings = asyncio.run(collect(settings))
    lines = checks.check(findings)
    worst = checks.worst(lines)
    document = {"result": worst, "lines": [asdict(line) for line in lines]}
    text = checks.as_text(lines)
    if findings.rights and (manifest := rights.manifest(findings.rights)):
        document["missing_rights"] = manifest
        text += f"\n\n# The missing rights, for `kubectl apply -f -`\n{manifest.rstrip()}"
    print_result(options, document, text)
    return 1 if worst is checks.Level.FAIL else 0


COMMAND = Command(
    run,
    settings=SCAN_SETTINGS
    | {"socket_dir", "plugins_dir", "http_address", "device_strategy", "cdi_dir", "nfd_features_dir"}
    | {
        "host_root",
        "extra_mounts",
        "mode",
        "plugins_registry_dir",
        "events",
        "node_condition",
        "startup_taint",
    },
    options=output_option("text", "json"),
)
