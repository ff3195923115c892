"""Faults of the API server, of kubelet, of files and of the driver's own process, and what stays right."""

import asyncio
import json
import os
import signal
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support.api_server import RunningApiServer
from tests.support.dra_kubelet import DRIVER, EVENTS, NODE, SLICES, DraKubelet
from tests.support.dra_stage import (
    SLICE,
    cdi,
    checkpoint,
    data,
    published,
    registry,
    spec_path,
    store_claim,
    taints,
    writes,
)
from tests.support.paths import PROJECT
from tests.support.probed import Probed
from tests.support.process import Service
from tests.support.waiting import wait_for
from xilinx_fpga_dp.observe.events import Event, NodeEvent
from xilinx_fpga_dp.simulate import dra_kubelet as embedded
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode

A, B, C = "pci-0000-11-00-1", "pci-0000-21-00-1", "pci-0000-31-00-1"
ALL = {A, B, C}
HEALTHY, UNKNOWN = ("Healthy", ""), ("Unknown", "")
# In the process of the driver: a silent watch ends after 3 s, not 90; lists of health are an hour apart,
# not 10 s; and a scan is patient
_TIMES = """
from xilinx_fpga_dp.apiserver.client import ApiServer
from xilinx_fpga_dp.discovery import scanner
from xilinx_fpga_dp.dra import health
ApiServer.__init__.__kwdefaults__["silence"] = 3.0
scanner._PATIENCE = 10.0
health._EVERY = 3600.0
"""
FIRST, SECOND = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"


@pytest.fixture
def standing(node_api: RunningApiServer, dra: DraKubelet) -> DraKubelet:
    """A kubelet whose driver has published all devices."""
    wait_for(lambda: published(node_api).keys() == ALL, "a slice")
    return dra


@pytest.fixture
def other_times(node_api: RunningApiServer, tmp_path: Path) -> dict[str, str]:
    """The environment of a driver with other times."""
    (tmp_path / "sitecustomize.py").write_text(_TIMES)
    # The checkout too: it is not yet in the path when sitecustomize is imported
    return node_api.environment | {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(PROJECT)))}


def test_api_server_that_is_away_stops_only_prepare(
    cards: SampleNode, node_api: RunningApiServer, dra_driver: Service, standing: DraKubelet
) -> None:
    claim, later = store_claim(node_api, "mine", A), store_claim(node_api, "later", B)
    standing.prepared(claim)
    health = standing.watch_health()
    node_api.stop()
    assert "API server: " in standing.refusal(later)
    cards.cards[2].offline()
    health.wait_for(**{A: "", B: "", C: "offline"})
    assert standing.unprepare(claim) == {claim.uid: ""}
    assert dra_driver.process.poll() is None
    node_api.start()
    wait_for(lambda: taints(node_api, C) == [f"{DRIVER}/offline"], "a taint")
    assert standing.prepared(later)


@pytest.mark.parametrize("code", [401, 403, 409, 429, 500, 503])
def test_refused_write_is_tried_again(
    cards: SampleNode, node_api: RunningApiServer, standing: DraKubelet, code: int
) -> None:
    trouble = node_api.trouble(matches="PUT ", code=code, times=1, retry_after=0)
    cards.cards[0].offline()
    node_api.wait_for(lambda: trouble.times == 0, "the trouble")
    wait_for(lambda: taints(node_api, A) == [f"{DRIVER}/offline"], "a taint")


@pytest.mark.parametrize("verb", ["list", "create"])
def test_missing_right_is_named_by_readyz(
    cards: SampleNode, node_api: RunningApiServer, dra_settings: dict[str, str], verb: str
) -> None:
    node_api.api.denied = {(verb, "resourceslices")}
    pages = Probed(cards, **{name: value for name, value in dra_settings.items() if name != "HTTP_ADDRESS"})
    with (
        Service(pages.settings, environment=node_api.environment) as service,
        DraKubelet(registry(cards)) as kubelet,
    ):
        kubelet.register()
        service.logged(Event.SERVING_HTTP)
        right = f'cannot {verb} resource "resourceslices" in API group "resource.k8s.io"'
        wait_for(lambda: right in pages.get("readyz")[1], lambda: pages.get("readyz")[1])
        assert pages.get("readyz")[0] == 503
        assert not published(node_api)


def test_invalid_wish_is_not_repeated_until_it_differs(
    cards: SampleNode, node_api: RunningApiServer, dra_driver: Service, standing: DraKubelet
) -> None:
    trouble = node_api.trouble(matches="PUT ", code=422, message="spec.devices[0].name: no")
    cards.cards[0].offline()
    dra_driver.logged(Event.SLICE_NOT_WRITTEN)
    before = writes(node_api)
    node_api.put(f"{SLICES}/unrelated", {"spec": {"driver": DRIVER, "nodeName": NODE, "pool": {"name": "x"}}})
    trouble.times = 0
    cards.cards[1].offline()
    wait_for(lambda: taints(node_api, B) == [f"{DRIVER}/offline"], "the next wish")
    assert taints(node_api, A) == [f"{DRIVER}/offline"]
    assert writes(node_api) == before + 1


def test_slice_that_the_server_refuses_is_told_as_an_event(
    cards: SampleNode, node_api: RunningApiServer, dra_settings: dict[str, str]
) -> None:
    node_api.trouble(matches="POST .*/resourceslices$", code=422, message="spec.devices[0].name: no")
    with (
        Service(dra_settings | {"EVENTS": "true"}, environment=node_api.environment),
        DraKubelet(registry(cards)) as kubelet,
    ):
        kubelet.register()
        [event] = node_api.wait_for(lambda: node_api.api.all(EVENTS), "an Event")
    assert (event["reason"], event["type"]) == (NodeEvent.NOT_PUBLISHED, "Warning")
    assert "spec.devices[0].name: no" in event["note"]


def test_device_that_the_server_refuses_is_named_and_left_out(
    cards: SampleNode, node_api: RunningApiServer, dra_settings: dict[str, str]
) -> None:
    def bad(item: dict[str, Any]) -> list[str]:
        devices = item["spec"].get("devices", []) if item["kind"] == "ResourceSlice" else []
        refused = [n for n, each in enumerate(devices) if each["name"] == A and not each.get("taints")]
        return [f"spec.devices[{number}].attributes[{DRIVER}/shell].string" for number in refused]

    node_api.api.invalid = bad
    with (
        Service(dra_settings | {"EVENTS": "true"}, environment=node_api.environment) as service,
        DraKubelet(registry(cards)) as kubelet,
    ):
        kubelet.register()
        wait_for(lambda: published(node_api).keys() == {B, C}, "the other devices")
        assert service.logged(Event.DEVICE_REFUSED)["device"] == A
        [event] = node_api.wait_for(lambda: node_api.api.all(EVENTS), "an Event")
        assert (event["reason"], event["type"]) == (NodeEvent.NOT_PUBLISHED, "Warning")
        assert f"device {A}: POST" in event["note"]
        cards.cards[1].offline()  # it is not tried again for the change of another one
        wait_for(lambda: taints(node_api, B), "a taint")
        assert [each["event"] for each in service.events].count(Event.DEVICE_REFUSED) == 1
        cards.cards[0].offline()
        wait_for(lambda: published(node_api).keys() == ALL, "the device, which differs")


@pytest.mark.parametrize("kind", ["end", "cut", "within a line", "expire"])
def test_watch_that_ends_in_any_way_loses_nothing(
    node_api: RunningApiServer, standing: DraKubelet, kind: str
) -> None:
    node_api.wait_for(lambda: node_api.api.watches, "a watch")
    before = writes(node_api)
    act = {
        "end": node_api.api.end_watches,
        "cut": node_api.api.cut_watches,
        "within a line": node_api.api.end_watches_within_a_line,
        "expire": node_api.api.expire_watches,
    }[kind]
    node_api.do(act)
    node_api.wait_for(lambda: node_api.api.watches, "a watch again")
    assert writes(node_api) == before, "nothing differs"
    node_api.remove(SLICE)
    wait_for(lambda: published(node_api).keys() == ALL, "the slice again")


def watches(api: RunningApiServer) -> int:
    """Count the watches that have begun."""
    return sum("watch" in each.query for each in api.api.requests)


def test_watch_that_is_silent_gives_way_to_another(
    cards: SampleNode,
    node_api: RunningApiServer,
    dra_settings: dict[str, str],
    other_times: dict[str, str],
) -> None:
    with Service(dra_settings, environment=other_times), DraKubelet(registry(cards)) as kubelet:
        kubelet.register()
        wait_for(lambda: published(node_api).keys() == ALL, "a slice")
        node_api.wait_for(lambda: node_api.api.watches, "a watch")
        before = node_api.do(lambda: watches(node_api))
        node_api.do(node_api.api.silence_watches)
        node_api.wait_for(lambda: watches(node_api) > before, "another watch")
        node_api.remove(SLICE)
        wait_for(lambda: published(node_api).keys() == ALL, "the slice again")


def test_one_fault_and_its_end_are_two_writes(
    cards: SampleNode, node_api: RunningApiServer, standing: DraKubelet
) -> None:
    before = writes(node_api)
    for card in cards.cards:
        card.offline()
    wait_for(lambda: all(taints(node_api, each) for each in ALL), "all tainted")
    for card in cards.cards:
        card.online()
    wait_for(lambda: published(node_api) and not any(taints(node_api, each) for each in ALL), "none tainted")
    # Cards that break within a scan or two: at most one write more for each.
    assert 2 <= writes(node_api) - before <= 4


def test_rotated_token_is_taken(cards: SampleNode, node_api: RunningApiServer, standing: DraKubelet) -> None:
    node_api.rotate_token("second")
    cards.cards[0].offline()
    wait_for(lambda: taints(node_api, A) == [f"{DRIVER}/offline"], "a taint")


@pytest.mark.parametrize("which", ["registration", "driver"])
def test_removed_socket_is_bound_again(cards: SampleNode, standing: DraKubelet, which: str) -> None:
    own = next(data(cards).glob("*.sock"))
    path = own if which == "driver" else registry(cards) / standing.sockets[0]
    before = path.stat().st_mtime_ns
    path.unlink()
    wait_for(lambda: path.exists() and path.stat().st_mtime_ns != before, "a socket")
    standing.register()


def test_kubelet_that_starts_gets_the_slices_back(node_api: RunningApiServer, standing: DraKubelet) -> None:
    for _ in range(3):
        standing.stop()
        node_api.remove(SLICE)  # as a kubelet that starts does, before it asks GetInfo
        standing.register()
        wait_for(lambda: published(node_api).keys() == ALL, "the slice")


def test_slice_that_kubelet_removed_while_the_driver_was_away_is_back(
    cards: SampleNode, node_api: RunningApiServer, dra_settings: dict[str, str]
) -> None:
    """After 30 s: cm/dra/plugin/dra_plugin_manager.go."""

    def spec() -> dict[str, Any]:
        return dict(node_api.do(lambda: node_api.api.get(SLICE) or {"spec": {}})["spec"])

    late = {"serial", "driverVersion"}

    with Service(dra_settings, environment=node_api.environment), DraKubelet(registry(cards)) as kubelet:
        kubelet.register()
        wait_for(lambda: published(node_api).keys() == ALL, "a slice")
        wait_for(
            lambda: all(each["attributes"].keys() >= late for each in spec()["devices"]), "all attributes"
        )
        before = spec()
    node_api.remove(SLICE)
    with Service(dra_settings, environment=node_api.environment), DraKubelet(registry(cards)) as kubelet:
        kubelet.register()
        wait_for(lambda: spec() == before, lambda: f"{before} in {spec()}")


def test_driver_that_starts_leaves_the_slice_as_it_is(
    cards: SampleNode, node_api: RunningApiServer, dra_settings: dict[str, str]
) -> None:
    # A busy machine reads them after the first slice is written
    for pattern in ("**/serial_num", "module/*/version"):
        for path in Path(cards.sysfs_root).glob(pattern):
            path.unlink()
    pages = Probed(cards, **{name: value for name, value in dra_settings.items() if name != "HTTP_ADDRESS"})
    before: list[int] = []
    for _ in range(2):
        with (
            Service(pages.settings, environment=node_api.environment) as service,
            DraKubelet(registry(cards)) as kubelet,
        ):
            kubelet.register()
            service.logged(Event.SERVING_HTTP)
            wait_for(lambda: pages.get("readyz")[0] == 200, lambda: pages.get("readyz")[1])
            assert published(node_api).keys() == ALL
            assert service.terminate() == 0
        before.append(writes(node_api))
    assert before == [1, 1]


async def test_health_is_unknown_only_until_the_driver_is_back(
    cards: SampleNode,
    node_api: RunningApiServer,
    dra_settings: dict[str, str],
    other_times: dict[str, str],
    tmp_path: Path,
) -> None:
    """What the status of pods has while the driver restarts; a card breaks meanwhile."""
    pods = f"{cards.root}/embedded.sock"
    kubelet = embedded.DraKubelet(str(tmp_path), str(registry(cards)), pods, NODE, node_api.api)

    def health() -> dict[str, tuple[str, str]]:
        return {device: kubelet.health(DRIVER, device) for device in sorted(ALL)}

    async def known(what: bool) -> dict[str, tuple[str, str]]:
        async with asyncio.timeout(50):
            while any(each != UNKNOWN for each in health().values()) is not what:
                await asyncio.sleep(0.005)
        return health()

    await kubelet.start()
    try:
        with Service(dra_settings, environment=other_times) as service:
            assert await known(True) == dict.fromkeys(sorted(ALL), HEALTHY)
            assert await asyncio.to_thread(service.terminate) == 0
        await known(False)
        cards.cards[2].offline()
        with Service(dra_settings, environment=other_times):
            assert await known(True) == {A: HEALTHY, B: HEALTHY, C: ("Unhealthy", "offline")}
    finally:
        await kubelet.stop()


def test_newest_of_two_instances_publishes_and_both_prepare(
    cards: SampleNode, node_api: RunningApiServer, dra_settings: dict[str, str]
) -> None:
    environment = node_api.environment
    claims = [store_claim(node_api, name, device) for name, device in (("a", A), ("b", B), ("c", A))]
    folder = registry(cards)
    with (
        Service(dra_settings | {"POD_UID": FIRST}, environment=environment) as old,
        DraKubelet(folder) as to_old,
        DraKubelet(folder) as to_new,
    ):
        to_old.register()
        wait_for(lambda: published(node_api).keys() == ALL, "a slice")
        health = to_old.watch_health()
        assert to_old.prepared(claims[0])
        before = writes(node_api)
        with Service(dra_settings | {"POD_UID": SECOND}, environment=environment) as new:
            old.logged(Event.SUPERSEDED)
            to_new.register(socket=f"{DRIVER}-{SECOND}-reg.sock")
            assert to_new.prepared(claims[1])
            assert "still prepared" in to_new.refusal(claims[2])
            assert "still prepared" in to_old.refusal(claims[2])
            assert to_new.prepared(claims[0]), "by the other instance"
            cards.cards[2].offline()
            wait_for(lambda: taints(node_api, C) == [f"{DRIVER}/offline"], "a taint")
            assert writes(node_api) == before + 1
            assert new.terminate() == 0
        old.logged(Event.ACTIVE)
        cards.cards[2].online()
        wait_for(lambda: published(node_api) and not taints(node_api, C), "no taint")
        health.wait_for(**{A: "", B: "", C: ""})
        assert to_old.unprepare(*claims[:2]) == dict.fromkeys((each.uid for each in claims[:2]), "")
        assert to_old.sockets == [f"{DRIVER}-{FIRST}-reg.sock"]


def test_newest_instance_repeats_health_when_an_older_one_leaves(
    cards: SampleNode, node_api: RunningApiServer, dra_settings: dict[str, str]
) -> None:
    environment = node_api.environment
    with (
        Service(dra_settings | {"POD_UID": FIRST}, environment=environment) as old,
        DraKubelet(registry(cards)) as kubelet,
    ):
        wait_for(lambda: kubelet.sockets, "the first instance")
        with Service(dra_settings | {"POD_UID": SECOND}, environment=environment):
            old.logged(Event.SUPERSEDED)
            kubelet.register(socket=f"{DRIVER}-{SECOND}-reg.sock")
            health = kubelet.watch_health()
            health.wait_for(**{A: "", B: "", C: ""})
            first = len(health.lists)
            assert old.terminate() == 0

            def intervals() -> list[int]:
                times = [each[A].last_updated_time for each in health.lists[first - 1 :]]
                return [after - before for before, after in pairwise(times)]

            # Without a change the lists are 10 s apart.
            wait_for(lambda: any(each < 9 for each in intervals()), "a list soon after another")


def test_sockets_of_a_killed_instance_are_swept(
    cards: SampleNode, node_api: RunningApiServer, dra_settings: dict[str, str]
) -> None:
    foreign = registry(cards) / "other.example.com-reg.sock"
    with Service(dra_settings | {"POD_UID": FIRST}, environment=node_api.environment) as first:
        with DraKubelet(registry(cards)) as kubelet:
            kubelet.register()
        first.process.send_signal(signal.SIGKILL)
        first.process.wait(30)
    foreign.write_text("")
    with (
        Service(dra_settings | {"POD_UID": SECOND}, environment=node_api.environment),
        DraKubelet(registry(cards)) as kubelet,
    ):
        kubelet.register(socket=f"{DRIVER}-{SECOND}-reg.sock")
        assert kubelet.sockets == [f"{DRIVER}-{SECOND}-reg.sock", foreign.name]
        assert [path.name for path in data(cards).glob("*.sock")] == [f"dra-{SECOND}.sock"]


def test_unwritable_directory_fails_that_claim_with_its_path(
    cards: SampleNode, node_api: RunningApiServer, standing: DraKubelet
) -> None:
    claim = store_claim(node_api, "mine", A)
    folder = cdi(cards)
    if folder.exists():
        folder.rmdir()
    folder.write_text("")  # root may write into every directory, but not into a file
    assert str(folder) in standing.refusal(claim)
    folder.unlink()
    assert standing.prepared(claim)
    assert spec_path(cards, claim).exists()


def test_broken_checkpoint_is_restored_from_the_specs(
    cards: SampleNode, node_api: RunningApiServer, dra_driver: Service, standing: DraKubelet
) -> None:
    claim, other = store_claim(node_api, "mine", A), store_claim(node_api, "other", A)
    standing.prepared(claim)
    before = checkpoint(cards)
    (data(cards) / "checkpoint.json").write_text("{")
    assert "still prepared for the ResourceClaim default/mine" in standing.refusal(other)
    dra_driver.logged(Event.CHECKPOINT_SET_ASIDE)
    wait_for(lambda: (data(cards) / "checkpoint.json").exists() and checkpoint(cards) == before, "the same")


def test_another_boot_makes_all_documents_again(
    cards: SampleNode, node_api: RunningApiServer, dra_settings: dict[str, str]
) -> None:
    claim = store_claim(node_api, "mine", A)
    with Service(dra_settings, environment=node_api.environment), DraKubelet(registry(cards)) as kubelet:
        kubelet.register()
        kubelet.prepared(claim)
    path = data(cards) / "checkpoint.json"
    document = json.loads(path.read_text())
    own = document["bootID"]
    path.write_text(json.dumps(document | {"bootID": "another"}))
    for file in cdi(cards).iterdir():
        file.unlink()
    with Service(dra_settings, environment=node_api.environment):
        wait_for(spec_path(cards, claim).exists, "the spec")
        wait_for(lambda: json.loads(path.read_text())["bootID"] == own, "this boot")


def test_spec_follows_a_node_that_a_reset_has_renumbered(
    cards: SampleNode, node_api: RunningApiServer, standing: DraKubelet
) -> None:
    claim = store_claim(node_api, "mine", A)
    standing.prepared(claim)
    card = cards.cards[0]
    card.reset_begin()
    wait_for(lambda: taints(node_api, A) == [f"{DRIVER}/resetting"], "a taint")
    assert spec_path(cards, claim).exists()
    card.reset_end(render=190)
    wait_for(lambda: "/dev/dri/renderD190" in spec_path(cards, claim).read_text(), "the new node")


def test_call_that_is_cancelled_writes_nothing(
    cards: SampleNode, node_api: RunningApiServer, standing: DraKubelet
) -> None:
    claim = store_claim(node_api, "mine", A)
    node_api.trouble(matches=f"GET {claim.path}", delay=2, times=1)
    call = threading.Thread(target=standing.cancelled_prepare, args=(claim,))
    call.start()
    node_api.wait_for(lambda: node_api.api.troubles[-1].times == 0, "the call")
    call.join(10)
    other = store_claim(node_api, "other", A)
    assert standing.prepared(other)
    assert checkpoint(cards).keys() == {other.uid}
    assert not spec_path(cards, claim).exists()


@pytest.mark.parametrize("step", range(6))
def test_driver_killed_within_prepare_loses_no_card(
    cards: SampleNode, node_api: RunningApiServer, dra_settings: dict[str, str], step: int
) -> None:
    """Leave behind what each step of a prepare leaves; the repeated call and the next one succeed."""
    claim, other = store_claim(node_api, "mine", A), store_claim(node_api, "other", A)
    with Service(dra_settings, environment=node_api.environment), DraKubelet(registry(cards)) as kubelet:
        kubelet.register()
        expected = kubelet.prepared(claim)
    files = [
        data(cards) / "checkpoint.json",
        *sorted((data(cards) / "dra-device-metadata").rglob("metadata.json")),
        *sorted(cdi(cards).iterdir()),
    ]
    assert len(files) == 4
    for path in files[step:]:
        path.unlink()
    if step:
        path = files[min(step, len(files) - 1)]
        path.with_name(f".{path.name}.new").write_text("{ half")
    with Service(dra_settings, environment=node_api.environment), DraKubelet(registry(cards)) as kubelet:
        kubelet.register()
        assert kubelet.prepared(claim) == expected
        assert "still prepared" in kubelet.refusal(other)
        assert kubelet.unprepare(claim) == {claim.uid: ""}
        assert kubelet.prepared(other)
        kubelet.unprepare(other)
        left = [path for path in Path(cdi(cards)).iterdir() if not path.name.startswith(".")]
        assert left == []


@pytest.mark.usefixtures("standing")
def test_spec_of_no_claim_is_removed_and_foreign_files_stay(cards: SampleNode) -> None:
    foreign = cdi(cards) / "vendor.example.com-claim_1.json"
    left = cdi(cards) / f"k8s.{DRIVER}-claim_9ae4d2b4.json"
    os.makedirs(cdi(cards), exist_ok=True)
    foreign.write_text("{}")
    left.write_text("{}")
    wait_for(lambda: not left.exists(), "the file of no claim is removed")
    assert foreign.exists()


def test_listed_reason_evicts_after_it_has_lasted(
    cards: SampleNode, node_api: RunningApiServer, dra_settings: dict[str, str]
) -> None:
    settings = dra_settings | {"DRA_EVICT_ON": "offline"}
    first, second = cards.plug("u30")
    second.write("device_bad_state", "1")
    with Service(settings, environment=node_api.environment), DraKubelet(registry(cards)) as kubelet:
        kubelet.register()
        wait_for(lambda: len(published(node_api)) == 4, "a slice")
        [pair] = published(node_api).keys() - ALL
        cards.cards[0].offline()
        cards.cards[1].reset_begin()

        def effects() -> dict[str, str]:
            return {
                name: each["taints"][0]["effect"]
                for name, each in published(node_api).items()
                if each.get("taints")
            }

        wait_for(lambda: effects() == dict.fromkeys((A, B, pair), "NoSchedule"), "the taints")
        wait_for(
            lambda: effects() == {A: "NoExecute", B: "NoSchedule", pair: "NoSchedule"}, "the eviction", 120
        )
        first.write("dev_offline", "1")
        wait_for(lambda: taints(node_api, pair) == [f"{DRIVER}/offline"], "a taint of the pair")
        assert effects()[pair] == "NoSchedule", "not by the age of the other device's fault"


@pytest.mark.parametrize("effect", ["NoExecute", "NoSchedule"])
def test_driver_that_starts_takes_over_the_age_of_a_fault(
    cards: SampleNode, node_api: RunningApiServer, dra_settings: dict[str, str], effect: str
) -> None:
    cards.cards[0].offline()
    taint = {"key": f"{DRIVER}/offline", "effect": effect, "timeAdded": "2026-01-01T00:00:00Z"}
    spec = {"driver": DRIVER, "nodeName": NODE, "pool": {"name": NODE, "generation": 1}}
    node_api.put(SLICE, {"spec": {**spec, "devices": [{"name": A, "taints": [taint]}]}})
    settings = dra_settings | {"DRA_EVICT_ON": "offline"}
    with Service(settings, environment=node_api.environment), DraKubelet(registry(cards)) as kubelet:
        kubelet.register()
        wait_for(lambda: published(node_api).keys() == ALL, "the slice of this instance")
    written = [
        device["taints"]
        for each in node_api.do(lambda: list(node_api.api.requests))
        if each.writes
        for device in each.body["spec"]["devices"]
        if device["name"] == A
    ]
    [found] = written[0]
    assert found["effect"] == "NoExecute", "from the first write on"
    if effect == "NoExecute":
        assert found["timeAdded"] == taint["timeAdded"]
