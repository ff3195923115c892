"""Kubelet's socket directory for tests within one process."""

from pathlib import Path

from tests.support.metrics import NoMetrics
from xilinx_fpga_dp.deviceplugin.instance_lock import InstanceLock
from xilinx_fpga_dp.deviceplugin.socket_directory import SocketDirectory


def instance(path: Path) -> InstanceLock:
    """Return another instance on the node whose socket directory is ``path``; it holds no lock yet."""
    return InstanceLock(str(path / "plugins"))


def socket_directory(path: Path) -> SocketDirectory:
    """Return the directory at ``path``, not scanned yet, with PLUGINS_DIR below it."""
    return SocketDirectory(str(path), instance(path), NoMetrics())
