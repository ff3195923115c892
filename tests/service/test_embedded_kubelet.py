"""The embedded kubelet of `simulate` in the scenarios that tests/e2e/ runs with a real kubelet.

Each assertion also holds for the real kubelet. The embedded kubelet has no real pods, no device cgroups
and no metrics.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager

import pytest

from tests.support.process import Service
from tests.support.resource_names import U200, U250
from tests.support.running import settings_for
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.simulate.kubelet import AdmissionError, Allocation, Kubelet
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode, XrtCard

ALL = {U200: 2, U250: 1}


class Stage:
    """A sample node, an embedded kubelet and instances of the service."""

    def __init__(self, node: SampleNode) -> None:
        self.node = node
        self.cards = [node.add_card(board) for board in ("u200", "u200", "u250")]
        self.kubelet = Kubelet(node.socket_dir)

    async def restart(self) -> None:
        await self.kubelet.stop()
        self.kubelet = Kubelet(self.node.socket_dir)
        await self.kubelet.start()

    @contextmanager
    def service(self, node: SampleNode | None = None, **settings: str) -> Iterator[Service]:
        if node:
            settings["SYSFS_ROOT"] = node.sysfs_root
        with Service(settings_for(self.node, **settings)) as service:
            yield service

    async def until(self, holds: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(30):
                await self.kubelet.changes.until(lambda _: holds())
        except TimeoutError:
            pytest.fail(f"capacity {self.kubelet.capacity()}, allocatable {self.kubelet.allocatable()}")

    async def until_counts(self, capacity: Mapping[str, int], allocatable: Mapping[str, int]) -> None:
        await self.until(lambda: self.counts() == (capacity, allocatable))

    def counts(self) -> tuple[Mapping[str, int], Mapping[str, int]]:
        return self.kubelet.capacity(), self.kubelet.allocatable()

    async def get(self, pod: str, resource: str = U200, count: int = 1) -> Allocation:
        return (await self.kubelet.admit(pod, {resource: count}))[resource]

    async def refused(self, pod: str, resource: str = U200, count: int = 1) -> str:
        with pytest.raises(AdmissionError) as refusal:
            await self.kubelet.admit(pod, {resource: count})
        return str(refusal.value)

    def card(self, allocation: Allocation) -> XrtCard:
        return next(card for card in self.cards if allocation.ids == (card.address,))


def nodes(allocation: Allocation) -> set[str]:
    return {device.host_path for device in allocation.response.devices}


@pytest.fixture
async def stage(node: SampleNode) -> AsyncIterator[Stage]:
    """A stage with a running kubelet and no service."""
    stage = Stage(node)
    await stage.kubelet.start()
    yield stage
    await stage.kubelet.stop()


@pytest.fixture
async def served(stage: Stage) -> AsyncIterator[Stage]:
    """A stage whose kubelet and service run, with all cards registered."""
    with stage.service():
        await stage.until_counts(ALL, ALL)
        yield stage


async def test_kubelet_rejects_pod_that_requests_too_many_devices(served: Stage) -> None:
    one = await served.get("one")
    assert nodes(one) == {served.card(one).render_node}
    refusal = await served.refused("many", count=2)
    assert refusal == (
        "UnexpectedAdmissionError: Allocate failed due to requested number of devices unavailable for "
        f"{U200}. Requested: 2, Available: 1, which is unexpected"
    )
    assert (await served.get("two")).ids != one.ids
    assert "Available: 0" in await served.refused("three")
    served.kubelet.remove("one")
    assert (await served.get("four")).ids == one.ids


async def test_rejected_pod_holds_no_device_of_another_resource(served: Stage) -> None:
    with pytest.raises(AdmissionError):
        await served.kubelet.admit("both", {U200: 1, U250: 2})
    assert (await served.get("next", count=2)).ids == tuple(card.address for card in served.cards[:2])


async def test_kubelet_rejects_pod_for_unknown_resource(served: Stage) -> None:
    assert "Requested: 1, Available: 0" in await served.refused("pod", "xilinx.com/fpga-nothing")


async def test_allocations_survive_ten_kubelet_restarts(served: Stage) -> None:
    allocation = await served.get("one")
    for _ in range(10):
        await served.restart()
        # kubelet knows the resources from the checkpoint and counts 0 until the plugin registers.
        assert served.counts() in ((dict.fromkeys(ALL, 0),) * 2, (ALL, ALL))
        await served.until_counts(ALL, ALL)
        assert await served.get("one") == allocation
    assert (await served.get("two")).ids != allocation.ids


async def test_capacity_stays_between_two_instances(stage: Stage) -> None:
    none = dict.fromkeys(ALL, 0)
    for end in (signal.SIGKILL, signal.SIGTERM):
        with stage.service() as service:
            await stage.until_counts(ALL, ALL)
            service.process.send_signal(end)
            await stage.until_counts(ALL, none)
            assert "Available: 0" in await stage.refused("one")
    with stage.service():
        await stage.until_counts(ALL, ALL)
        assert await stage.get("one")


async def test_reprogrammed_card_moves_to_another_resource(served: Stage) -> None:
    allocation = await served.get("one")
    free = next(card for card in served.cards[:2] if card is not served.card(allocation))
    free.reprogram("u250")
    moved = {U200: 1, U250: 2}
    await served.until_counts(moved, moved)
    assert "Available: 0" in await served.refused("two")
    assert free.render_node in nodes(await served.get("three", U250, 2))


async def test_resource_without_cards_has_no_capacity(served: Stage) -> None:
    served.cards[2].reprogram("u50")
    await served.until(lambda: [counts.get(U250, 0) for counts in served.counts()] == [0, 0])


async def test_allocated_card_stays_allocated_after_hot_plug(served: Stage) -> None:
    allocation = await served.get("one")
    card = served.card(allocation)
    card.remove()
    await served.until_counts({U200: 1, U250: 1}, {U200: 1, U250: 1})
    assert (await served.get("two")).ids != allocation.ids
    card.plug()
    await served.until_counts(ALL, ALL)
    assert "Available: 0" in await served.refused("three")


async def test_rejection_carries_the_message_of_the_plugin(stage: Stage) -> None:
    with stage.service(SCAN_INTERVAL="600", HEALTH_INTERVAL="600"):
        await stage.until_counts(ALL, ALL)
        stage.node.files.drop(
            f"{stage.cards[2].user}/drm"
        )  # a reset begins; the device node is still present
        refusal = await stage.refused("one", U250)
    assert refusal.startswith(
        "UnexpectedAdmissionError: Allocate failed due to rpc error: code = FailedPrecondition desc = "
        "device 0000:67:00.1 is Unhealthy"
    )


async def test_new_allocation_after_reset_has_new_render_node(
    served: Stage,
) -> None:
    card = served.cards[2]
    old = await served.get("old", U250)
    card.reset_begin()
    await served.until_counts(ALL, {U200: 2, U250: 0})
    card.reset_end(render=140)
    await served.until_counts(ALL, ALL)
    # A restarted container keeps its allocation: kubelet does not call Allocate again.
    assert await served.get("old", U250) == old
    served.kubelet.remove("old")
    assert nodes(await served.get("new", U250)) == {"/dev/dri/renderD140"}
    assert nodes(old) != {"/dev/dri/renderD140"}


async def test_older_instance_takes_over_after_newer_one_ends(
    stage: Stage, tmp_path_factory: pytest.TempPathFactory
) -> None:
    twin = SampleNode(tmp_path_factory.mktemp("twin"))
    others = [twin.add_card(card.board, serial="TWIN") for card in stage.cards]
    with stage.service(twin):
        await stage.until_counts(ALL, ALL)
        with stage.service() as newer:
            await asyncio.to_thread(newer.logged, Event.REGISTERED, count=2)
            others[0].offline()
            await asyncio.sleep(1)
            assert stage.counts() == (ALL, ALL)
            assert "TWIN" not in str((await stage.get("one", U250)).response.envs)
            await asyncio.to_thread(newer.terminate)
        await stage.until_counts(ALL, {U200: 1, U250: 1})
        assert "TWIN" in str((await stage.get("two")).response.envs)


async def test_end_of_older_instance_changes_no_count(stage: Stage) -> None:
    with stage.service() as older:
        await stage.until_counts(ALL, ALL)
        with stage.service() as newer:
            await asyncio.to_thread(newer.logged, Event.REGISTERED, count=2)
            await asyncio.to_thread(older.terminate)
            for _ in range(20):
                assert stage.counts() == (ALL, ALL)
                await asyncio.sleep(0.02)
            assert await stage.get("one")


async def test_two_instances_keep_streams_of_one_resource(stage: Stage) -> None:
    """kubelet >= 1.37 calls the plugin that registered last and keeps the stream of the other."""
    with stage.service() as older:
        await stage.until_counts(ALL, ALL)
        with stage.service() as newer:
            await asyncio.to_thread(newer.logged, Event.REGISTERED, count=2)
            await asyncio.sleep(0.3)
            assert not [event for event in older.events if event["event"] == Event.LEAVING_ENDPOINT]
