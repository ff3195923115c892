"""Endpoints of the plugin in the process of the test."""

from pathlib import Path

import grpc

from tests.support.directory import make_socket, socket_directory
from tests.support.factories import PLAIN, device, offer
from tests.support.metrics import NoMetrics
from xilinx_fpga_dp.deviceplugin.endpoint import Endpoint
from xilinx_fpga_dp.deviceplugin.plugin import PluginConfig
from xilinx_fpga_dp.deviceplugin.socket_directory import SocketDirectory


def endpoint_in(directory: SocketDirectory) -> Endpoint:
    """Return the endpoint of a resource with one device."""
    offered = offer(device())
    endpoint = Endpoint(offered.resource, directory, PluginConfig(PLAIN, 5), NoMetrics())
    endpoint.offer.set(offered)
    return endpoint


def is_listed(endpoint: Endpoint) -> bool:
    """Return whether kubelet has registered the endpoint and reads its list."""
    return endpoint.listed


async def endpoint_and_dead_kubelet(path: Path) -> tuple[Path, SocketDirectory, Endpoint]:
    """Return the socket of a dead kubelet, the directory after a scan, and an endpoint."""
    dead = path / "kubelet.sock"
    make_socket(dead)
    directory = socket_directory(path)
    await directory.refresh()
    return dead, directory, endpoint_in(directory)


def channel_to(path: Path) -> grpc.Channel:
    """Return a connection to a socket, with the authority that kubelet sends."""
    return grpc.insecure_channel(f"unix:{path}", options=[("grpc.default_authority", "localhost")])
