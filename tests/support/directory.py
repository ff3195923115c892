"""The socket directory of kubelet: the objects of the plugin for it, and the sockets in it."""

import os
import socket
from pathlib import Path

from xilinx_fpga_dp.deviceplugin.socket_directory import SocketDirectory
from xilinx_fpga_dp.hostfiles.instance_lock import InstanceLock, lock_folder
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode


def instance(path: Path) -> InstanceLock:
    """Return another instance on the node whose socket directory is ``path``; it holds no lock yet."""
    return InstanceLock(lock_folder(str(path / "plugins")))


def socket_directory(path: Path) -> SocketDirectory:
    """Return the directory at ``path``, not scanned yet, with PLUGINS_DIR below it."""
    return SocketDirectory(str(path), instance(path), lambda: None)


def endpoint_sockets(node: SampleNode) -> list[str]:
    """Return the names of the endpoint sockets of all instances on a node."""
    return [name for name in os.listdir(node.socket_dir) if name.endswith("-fpga.sock")]


def make_socket(path: Path) -> None:
    """Create the socket of a process that has ended."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
