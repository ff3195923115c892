"""The publisher of slices, with an API server of its own."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from tests.support.api_server import RunningApiServer
from tests.support.dra_kubelet import DRIVER, NODE
from tests.support.dra_stage import SLICE
from xilinx_fpga_dp.apiserver import access
from xilinx_fpga_dp.apiserver.backoff import Backoff
from xilinx_fpga_dp.apiserver.client import ApiServer
from xilinx_fpga_dp.dra import slices
from xilinx_fpga_dp.dra.front_end import example
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.simulate.api_server import Json


@asynccontextmanager
async def publishing(
    node_api: RunningApiServer, describe: Callable[[], Sequence[Json]] = list
) -> AsyncIterator[slices.SlicePublisher]:
    """Run a publisher of devices."""

    async def node_uid() -> str:
        return "node-uid"

    async with ApiServer(access.find(node_api.environment)) as api:
        publisher = slices.SlicePublisher(
            api,
            DRIVER,
            NODE,
            node_uid,
            describe=lambda _: describe(),
            take_over=lambda *_: None,
            example=example(DRIVER),
        )
        task = asyncio.create_task(publisher.run())
        try:
            yield publisher
        finally:
            task.cancel()
            await asyncio.wait([task])


async def wait_for(node_api: RunningApiServer, condition: Callable[[], object], what: str) -> None:
    await asyncio.to_thread(node_api.wait_for, condition, what)


def _offline(name: str) -> Json:
    return {"name": name, "taints": [{"key": f"{DRIVER}/offline", "effect": "NoSchedule"}]}


def _published(node_api: RunningApiServer) -> list[Json]:
    devices: list[Json] = (node_api.api.get(SLICE) or {"spec": {"devices": []}})["spec"]["devices"]
    return devices


async def test_slice_that_is_removed_soon_after_a_write_is_back_at_once(
    node_api: RunningApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "_BETWEEN_WRITES", 3600.0)
    async with publishing(node_api):
        for _ in range(3):
            await wait_for(node_api, lambda: node_api.api.get(SLICE), "a slice")
            node_api.remove(SLICE)


async def test_slice_is_back_at_once_after_each_of_many_restarts_of_kubelet(
    node_api: RunningApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "_BETWEEN_WRITES", 0.01)
    async with publishing(node_api) as publisher:
        for _ in range(10):
            await wait_for(node_api, lambda: node_api.api.get(SLICE), "a slice")
            node_api.remove(SLICE)
            publisher.registered_again()


async def test_war_over_the_slice_is_a_problem_until_it_is_restored(
    node_api: RunningApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a token of a Node that is gone: the garbage collector removes what names it as the owner."""
    monkeypatch.setattr(slices, "_PATIENCE", 0)
    async with publishing(node_api) as publisher, asyncio.timeout(50):
        await publisher.standing.until(lambda now: now.as_wanted)
        await wait_for(node_api, lambda: node_api.api.watches, "a watch")
        node_api.remove(SLICE)
        contested = await publisher.standing.until(lambda now: not now.as_wanted)
        assert "again and again; they are of the Node with the uid node-uid" in (contested.problem or "")
        assert node_api.api.get(SLICE) is None
        await publisher.standing.until(lambda now: now.as_wanted and now.problem is None)
        assert node_api.api.get(SLICE)


async def test_tainted_device_that_the_server_refuses_is_left_out(
    node_api: RunningApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "_BETWEEN_WRITES", 0.01)
    bad = {**_offline("a"), "attributes": {}}
    wish: list[Json] = [bad, {"name": "b"}]
    node_api.api.invalid = lambda item: [
        f"spec.devices[{number}].attributes"
        for number, each in enumerate(item["spec"].get("devices") or ())
        if each.get("attributes", {}).get("refused")
    ]

    async with publishing(node_api, lambda: wish) as publisher:
        await wait_for(node_api, lambda: len(_published(node_api)) == 2, "both devices")
        stored = node_api.api.get(SLICE)
        assert stored
        stored["spec"]["devices"][0]["taints"][0]["timeAdded"] = "2026-01-01T00:00:00Z"  # by the server
        node_api.put(SLICE, stored)
        wish[0] = bad | {"attributes": {"refused": {"bool": True}}}
        publisher.wake()
        await wait_for(
            node_api, lambda: [each["name"] for each in _published(node_api)] == ["b"], "the other device"
        )


async def test_fault_that_was_refused_once_is_written_when_it_comes_again(node_api: RunningApiServer) -> None:
    """As a policy of admission refuses it, which is mended before the same fault comes again."""
    wish: list[Json] = [{"name": "a"}]
    async with publishing(node_api, lambda: wish) as publisher:
        await wait_for(node_api, lambda: _published(node_api), "the device")
        trouble = node_api.trouble(matches="PUT ", code=422, message="denied")
        for standing in (False, True):
            wish[:] = [{"name": "a"}] if standing else [_offline("a")]
            publisher.wake()
            async with asyncio.timeout(50):
                await publisher.standing.until(lambda now, standing=standing: now.as_wanted is standing)  # type: ignore[misc]
        trouble.times = 0
        wish[:] = [_offline("a")]
        publisher.wake()
        await wait_for(node_api, lambda: "taints" in _published(node_api)[0], "the taint")


async def test_refused_slice_is_tried_again_at_each_look(
    node_api: RunningApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "_LOOK_EVERY", 0.05)
    monkeypatch.setattr(slices, "_BETWEEN_WRITES", 0.01)
    trouble = node_api.trouble(matches="POST .*/resourceslices$", code=422, message="denied")
    async with publishing(node_api, lambda: [{"name": "a"}]) as publisher:
        async with asyncio.timeout(50):
            await publisher.standing.until(lambda now: "denied" in (now.problem or ""))
        trouble.times = 0
        await wait_for(node_api, lambda: _published(node_api), "the device")


@pytest.mark.parametrize("field", ["spec.devices[0].attributes", "spec.pool"])
async def test_server_that_is_back_is_sent_again_what_it_refused(
    node_api: RunningApiServer, field: str
) -> None:
    """It may be a newer one."""
    wish = [{"name": "a"}, {"name": "b"}]
    node_api.api.invalid = lambda item: [field] if item["spec"].get("devices") == wish else []
    async with publishing(node_api, lambda: wish) as publisher:
        async with asyncio.timeout(50):
            await publisher.refusal.until(bool)
        await wait_for(node_api, lambda: node_api.api.watches, "a watch")
        node_api.api.invalid = None
        node_api.do(node_api.api.cut_watches)
        await wait_for(node_api, lambda: len(_published(node_api)) == 2, "both devices")


async def test_write_that_conflicts_for_ever_is_a_failure(
    node_api: RunningApiServer, caplog: pytest.LogCaptureFixture
) -> None:
    foreign = {"driver": "other.example.com", "nodeName": NODE, "pool": {"name": NODE}, "devices": []}
    node_api.put(SLICE, {"spec": foreign})
    async with publishing(node_api) as publisher:
        async with asyncio.timeout(50):
            standing = await publisher.standing.until(lambda now: "409" in (now.problem or ""))
        assert "already exists" in (standing.problem or "")
        assert Event.SLICE_NOT_WRITTEN in caplog.messages
        node_api.remove(SLICE)
        async with asyncio.timeout(50):
            await publisher.standing.until(lambda now: now.as_wanted)


async def test_dry_run_that_conflicts_is_not_repeated_without_a_wait(
    node_api: RunningApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = asyncio.Event()

    def after(*_: object) -> float:
        waited.set()
        return 3600.0

    monkeypatch.setattr(Backoff, "after", after)
    node_api.trouble(matches="POST .*dryRun", code=409)
    async with publishing(node_api) as publisher, asyncio.timeout(50):
        await waited.wait()
        assert "409" in (publisher.standing.value.problem or "")


async def test_slice_of_a_node_with_a_long_name_is_published(
    node_api: RunningApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.service.test_slices.NODE", ".".join(["n" * 60] * 4))
    node_api.api.invalid = lambda item: ["metadata.name"] if len(item["metadata"]["name"]) > 253 else []
    async with publishing(node_api) as publisher, asyncio.timeout(50):
        standing = await publisher.standing.until(lambda now: now.as_wanted or "422" in (now.problem or ""))
    assert standing.problem is None
