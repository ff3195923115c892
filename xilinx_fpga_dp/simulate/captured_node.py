"""A node from an archive of ``capture``, in a directory."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from xilinx_fpga_dp.hostfiles.archive import unpack
from xilinx_fpga_dp.hostfiles.bad_archive import BadArchive
from xilinx_fpga_dp.settings import variable


@dataclass(frozen=True, slots=True)
class CapturedNode:
    """The /sys and /dev of a captured node, and directories for kubelet and the service."""

    root: str

    @property
    def socket_dir(self) -> str:
        return f"{self.root}/device-plugins"

    def settings(self) -> dict[str, str]:
        """Return the settings to run against this node."""
        return {
            "sysfs_root": f"{self.root}/sys",
            "dev_root": f"{self.root}/dev",
            "socket_dir": self.socket_dir,
            "plugins_dir": f"{self.root}/plugins",
        }

    def environment(self) -> dict[str, str]:
        """Return them as environment variables."""
        return {variable(name): value for name, value in self.settings().items()}


@contextmanager
def unpacked(path: str) -> Iterator[CapturedNode]:
    """Unpack an archive into a temporary directory.

    Raises:
        BadArchive: it is no capture. Names the file.
        OSError: it cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="xilinx-fpga-dp-") as directory:
        node = CapturedNode(directory)
        try:
            unpack(path, directory)
        except BadArchive as error:
            raise BadArchive(f"{path}: {error}") from None
        for each in node.settings().values():
            os.makedirs(each, exist_ok=True)
        yield node
