"""The limits of Events: how many are written, and what waits."""

import asyncio
from typing import Any, cast

from tests.support.running import running
from xilinx_fpga_dp.apiserver.client import ApiServer, Json
from xilinx_fpga_dp.apiserver.errors import Invalid, NoAnswer
from xilinx_fpga_dp.apiserver.events import NodeEvents, Occurrence
from xilinx_fpga_dp.observe.events import NodeEvent


class _Server:
    """An API server that records what is created, or raises an error."""

    def __init__(self) -> None:
        self.created: list[Json] = []
        self.calls = 0
        self.error: Exception | None = None

    async def bound_node_uid(self, node: str) -> None:
        return None

    async def create(self, path: str, body: Json) -> Json:
        self.calls += 1
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        self.created.append(body)
        return body

    async def patch(self, *_: Any, **__: Any) -> Json:
        raise AssertionError("no repeat is due")


def _events(server: _Server) -> NodeEvents:
    return NodeEvents(cast(ApiServer, server), "n1", "fpga.xilinx.com")


async def _until(server: _Server, calls: int) -> None:
    async with asyncio.timeout(30):
        while server.calls < calls:
            await asyncio.sleep(0.001)
    for _ in range(20):
        await asyncio.sleep(0)


async def test_node_writes_twenty_an_hour() -> None:
    server = _Server()
    events = _events(server)
    async with running(events.run()):
        for number in range(30):
            events.tell(Occurrence(NodeEvent.UNHEALTHY, str(number), "offline"))
        await _until(server, 20)
    assert server.calls == 20


async def test_equal_occurrences_are_one_object_with_their_count() -> None:
    server = _Server()
    events = _events(server)
    for _ in range(5):
        events.tell(Occurrence(NodeEvent.UNHEALTHY, "a", "offline"))
    async with running(events.run()):
        await _until(server, 1)
        events.tell(Occurrence(NodeEvent.UNHEALTHY, "a", "offline"))
        await _until(server, 1)
    [found] = server.created
    assert found["series"]["count"] == 5


async def test_refused_content_is_not_sent_again() -> None:
    server = _Server()
    server.error = Invalid("POST /", 422, "no")
    events = _events(server)
    events.tell(Occurrence(NodeEvent.UNHEALTHY, "a", "offline"))
    async with running(events.run()):
        await _until(server, 1)
    assert server.calls == 1


async def test_only_so_many_wait_for_the_server() -> None:
    server = _Server()
    server.error = NoAnswer("away", connected=False)
    events = _events(server)
    for number in range(1000):
        events.tell(Occurrence(NodeEvent.UNHEALTHY, str(number), "x" * 5000))
    async with running(events.run()):
        await _until(server, 1)
        server.error = None
        await _until(server, 21)
    assert len(events._told) == 64
    assert all(len(each["note"]) == 1024 for each in server.created)
