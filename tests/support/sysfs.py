"""Reads of the files of a sample node."""

import os
from pathlib import Path

from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode


def read(path: str) -> str:
    return Path(path).read_text()


def names(path: str) -> set[str]:
    return set(os.listdir(path))


def nodes(node: SampleNode) -> set[str]:
    """Return all device nodes and their directories."""
    found = set()
    for folder, directories, files in os.walk(node.dev_root):
        found |= {os.path.relpath(f"{folder}/{name}", node.dev_root) for name in directories + files}
    return found


def driver(path: str) -> str | None:
    return os.path.basename(os.readlink(f"{path}/driver")) if os.path.islink(f"{path}/driver") else None
