"""The publisher of slices, with an API server of its own."""

import asyncio

import pytest

from tests.support.api_server import RunningApiServer
from tests.support.dra_kubelet import DRIVER, NODE
from tests.support.dra_stage import SLICE
from xilinx_fpga_dp.apiserver import access
from xilinx_fpga_dp.apiserver.client import ApiServer
from xilinx_fpga_dp.dra import slices
from xilinx_fpga_dp.dra.front_end import example


async def test_slice_that_is_removed_soon_after_a_write_is_back_at_once(
    node_api: RunningApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "_BETWEEN_WRITES", 3600.0)

    async def node_uid() -> str:
        return "node-uid"

    async with ApiServer(access.find(node_api.environment)) as api:
        publisher = slices.SlicePublisher(
            api, DRIVER, NODE, node_uid, describe=lambda _: [], example=example(DRIVER)
        )
        publishing = asyncio.create_task(publisher.run())
        for _ in range(3):
            await asyncio.to_thread(node_api.wait_for, lambda: node_api.api.get(SLICE), "a slice", 10.0)
            node_api.remove(SLICE)
        publishing.cancel()
        await asyncio.wait([publishing])


async def test_slice_is_back_at_once_after_each_of_many_restarts_of_kubelet(
    node_api: RunningApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "_BETWEEN_WRITES", 0.01)

    async def node_uid() -> str:
        return "node-uid"

    async with ApiServer(access.find(node_api.environment)) as api:
        publisher = slices.SlicePublisher(
            api, DRIVER, NODE, node_uid, describe=lambda _: [], example=example(DRIVER)
        )
        publishing = asyncio.create_task(publisher.run())
        for _ in range(10):
            await asyncio.to_thread(node_api.wait_for, lambda: node_api.api.get(SLICE), "a slice", 10.0)
            node_api.remove(SLICE)
            publisher.registered()
        publishing.cancel()
        await asyncio.wait([publishing])
