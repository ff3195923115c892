"""The HTTP server: liveness by timers, and clients that do not read."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest import mock

import pytest

from tests.support.descriptors import descriptors
from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.model import Offers
from xilinx_fpga_dp.observe.http_routes import HttpRoutes
from xilinx_fpga_dp.observe.http_server import HttpServer, Response
from xilinx_fpga_dp.observe.metrics import Metrics
from xilinx_fpga_dp.snapshot import Snapshot


async def test_loop_without_timers_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop answers, but its timers have not fired for long."""

    async def no_holders() -> dict[str, Any]:
        return {}

    snapshots = Latest(Snapshot(Offers({})))
    pages = HttpRoutes(Metrics(snapshots, dict), snapshots, dict, no_holders, expose_mgmt=False).by_path()
    assert (await pages["/livez"]()).status == 200
    loop = asyncio.get_running_loop()
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now + 11)
    answer = await pages["/livez"]()
    assert (answer.status, answer.body) == (503, b"timers have not fired for 11 s\n")


class TestUnreadAnswers:
    """A client that requests a page and does not read it."""

    @asynccontextmanager
    async def requested(self) -> AsyncIterator[tuple[HttpServer, asyncio.Task[None]]]:
        """Yield a server and the task of a request whose answer the client never reads."""

        async def page() -> Response:
            return Response(bytes(32 << 20))

        server = HttpServer("127.0.0.1:0", {"/": page})
        listener = await server._listen()
        before = asyncio.all_tasks()
        _, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await asyncio.sleep(0.2)
        [task] = asyncio.all_tasks() - before
        try:
            yield server, task
        finally:
            writer.transport.abort()
            listener.close()

    async def test_connection_with_unread_answer_is_closed(self) -> None:
        before = descriptors()
        with mock.patch("xilinx_fpga_dp.observe.http_server._TIME_LIMIT", 0.3):
            async with self.requested() as (server, task):
                assert server._connections
                async with asyncio.timeout(30):
                    await asyncio.wait([task])
                    while (
                        server._connections or descriptors() > before + 3
                    ):  # listener, client, eventfd of the loop
                        await asyncio.sleep(0.01)

    async def test_unread_answer_does_not_delay_the_end(self, caplog: pytest.LogCaptureFixture) -> None:
        async with self.requested() as (_, task):
            task.cancel()
            async with asyncio.timeout(30):
                await asyncio.wait([task])
            await asyncio.sleep(0.05)
        assert not caplog.records
