"""Connections without a free file descriptor: they wait at almost no cost."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.descriptors import no_descriptors
from tests.support.directory import socket_directory
from tests.support.factories import PLAIN, device, offer
from tests.support.metrics import NoMetrics
from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.deviceplugin.plugin import Plugin, PluginConfig
from xilinx_fpga_dp.observe import http_server as http

_SEVERAL = 10  # fewer than kubelet may open, more than the default backlog of asyncio


@asynccontextmanager
async def for_kubelet(directory: Path) -> AsyncIterator[tuple[socket.AddressFamily, Any]]:
    offered = offer(device())
    plugin = Plugin(offered.resource, Latest(offered), PluginConfig(PLAIN, 5), NoMetrics())
    async with socket_directory(directory).serving(plugin, offered.resource) as bound:
        yield socket.AF_UNIX, f"{directory}/{bound.name}"


@asynccontextmanager
async def for_probes(directory: Path) -> AsyncIterator[tuple[socket.AddressFamily, Any]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()
    server = asyncio.create_task(http.HttpServer(f"127.0.0.1:{address[1]}", {}).run())
    while True:
        with suppress(ConnectionRefusedError), socket.create_connection(address):
            break
        await asyncio.sleep(0.01)
    yield socket.AF_INET, address
    server.cancel()
    with suppress(asyncio.CancelledError):
        await server


@pytest.mark.parametrize("server", [for_kubelet, for_probes])
async def test_connections_wait_for_a_descriptor(tmp_path: Path, server: Any) -> None:
    failed: list[Any] = []
    loop = asyncio.get_running_loop()
    async with server(tmp_path) as (family, address):
        await asyncio.sleep(0.1)
        loop.set_exception_handler(lambda _, context: failed.append(context["exception"]))
        with ExitStack() as stack:
            clients = [stack.enter_context(socket.socket(family)) for _ in range(_SEVERAL)]
            for client in clients:
                client.settimeout(30)
            with no_descriptors():
                refused = [client.connect_ex(address) for client in clients]
                await asyncio.sleep(0.7)
            assert not any(refused)
            assert 1 <= len(failed) <= 8  # asyncio of Python 3.14 tries twice
            assert {error.strerror for error in failed} == {"Too many open files"}
            for client in clients:
                client.sendall(b"nonsense\r\n\r\n" * 3)
                assert await asyncio.to_thread(client.recv, 1)
        await asyncio.sleep(0.1)


async def test_pages_are_served_once_a_descriptor_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()
    with no_descriptors():
        server = asyncio.create_task(http.HttpServer(f"127.0.0.1:{address[1]}", {}).run())
        await asyncio.sleep(0.3)
    async with asyncio.timeout(30):
        while True:
            with suppress(ConnectionRefusedError), socket.create_connection(address):
                break
            await asyncio.sleep(0.05)
    server.cancel()
    await asyncio.wait([server])
