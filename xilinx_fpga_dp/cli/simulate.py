"""``simulate``: the whole job on any machine, or only its sample node."""

import argparse
import asyncio

from xilinx_fpga_dp.cli.command import FROM_OPTION, BadUse, Command
from xilinx_fpga_dp.settings_model import Settings


def run(settings: Settings, options: argparse.Namespace) -> int:
    from xilinx_fpga_dp.simulate import demo

    if options.archive is not None and (options.board or options.node is not None):
        raise BadUse("--from: not together with --board or --node")
    if options.node is not None:
        return demo.build_node(options.node, options.board)
    return asyncio.run(demo.run_demo(settings, options.board, options.archive, once=options.once))


COMMAND = Command(
    run,
    # The sample node sets the others.
    settings=frozenset(Settings.model_fields)
    - {"sysfs_root", "dev_root", "socket_dir", "plugins_dir", "plugins_registry_dir", "node_name", "pod_uid"},
    options={
        "--once": {"action": "store_true", "help": "play all steps and end; else stay up until Ctrl-C"},
        "--board": {
            "action": "append",
            "default": [],
            "metavar": "NAME",
            "help": "a card of the sample node; may be repeated",
        },
        "--node": {"metavar": "DIR", "help": "only build the sample node in this directory"},
        **FROM_OPTION,
    },
    own_cluster=True,
)
