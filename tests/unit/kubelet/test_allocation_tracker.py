"""Queries of podresources: refused ones, and those that several callers share."""

import asyncio
import errno
import os
from unittest import mock

from tests.support.podresources import Hold, PodResourcesDouble
from tests.support.resource_names import U55C
from xilinx_fpga_dp.kubelet.allocation_tracker import AllocationTracker
from xilinx_fpga_dp.kubelet.podresources import PodResources

A = "0000:11:00.1"


async def test_refused_query_does_not_delay_its_caller() -> None:
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    with mock.patch("xilinx_fpga_dp.kubelet.podresources.connected", side_effect=denied) as questions:
        assert await PodResources("/nowhere", "").held(insist=True) is None
    assert questions.call_count == 1


async def test_kept_connection_is_replaced_after_kubelet_restarts(pods: PodResourcesDouble) -> None:
    pods.holds = [Hold(U55C, A)]
    api = PodResources(pods.path, "", often=True)
    for _ in range(2):
        pods.start()
        for _ in range(2):
            assert A in (await api.held(insist=True) or {})
        pods.stop()
    assert await api.held() is None


async def test_frequent_page_requests_cause_few_queries(pods: PodResourcesDouble) -> None:
    pods.holds = [Hold(U55C, A)]
    pods.start()
    tracker = AllocationTracker(PodResources(pods.path, ""), lambda: None, lambda: False)
    answers = await asyncio.gather(*(tracker.recent_holders() for _ in range(100)))
    assert all(A in each for each in answers)
    assert pods.questions == 1
    pods.holds = []
    async with asyncio.timeout(10):
        while await tracker.recent_holders():
            await asyncio.sleep(0.05)
