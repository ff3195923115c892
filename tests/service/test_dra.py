"""The DRA driver as a process, with a double of kubelet and an API server of its own."""

import json
import os
import signal
import uuid
from functools import partial
from pathlib import Path

import pytest

from tests.support.api_server import RunningApiServer
from tests.support.dra_kubelet import DRIVER, EVENTS, NODE, SLICES, ClaimName, DraKubelet, claim_of
from tests.support.dra_stage import (
    SLICE,
    checkpoint,
    data,
    published,
    registry,
    spec_path,
    store_claim,
    taints,
)
from tests.support.paths import PROJECT
from tests.support.podresources import ClaimHold, Hold, PodResourcesDouble
from tests.support.probed import Probed
from tests.support.process import Service, cli, started
from tests.support.resource_names import U200
from tests.support.running import settings_for
from tests.support.waiting import wait_for
from xilinx_fpga_dp.dra.pool import Pool
from xilinx_fpga_dp.observe.events import Event, NodeEvent
from xilinx_fpga_dp.resources.pool_names import device_name
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode

A, B, C = "pci-0000-11-00-1", "pci-0000-21-00-1", "pci-0000-31-00-1"
NODE_PATH = f"/api/v1/nodes/{NODE}"


def test_driver_registers_and_publishes_its_devices(node_api: RunningApiServer, dra: DraKubelet) -> None:
    assert (dra.info.type, dra.info.name) == ("DRAPlugin", DRIVER)
    assert list(dra.info.supported_versions) == [
        "v1.DRAPlugin",
        "v1.DRAResourceHealth",
        "v1alpha1.DRAResourceHealth",
    ]
    wait_for(lambda: published(node_api).keys() == {A, B, C}, "three devices")
    [found] = node_api.do(lambda: node_api.api.all(SLICES))
    assert found["spec"]["pool"] == {"name": NODE, "generation": 1, "resourceSliceCount": 1}
    [owner] = found["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Node", NODE, "node-uid")
    attributes = published(node_api)[A]["attributes"]
    assert attributes["resourceName"] == {"string": U200.partition("/")[2]}
    assert attributes["resource.kubernetes.io/pciBusID"] == {"string": "0000:11:00.1"}


def test_nothing_is_published_before_kubelet_has_registered_the_driver(
    cards: SampleNode, node_api: RunningApiServer, dra_driver: Service
) -> None:
    with DraKubelet(registry(cards)) as kubelet:
        kubelet.register(refusal="no such plugin")
        dra_driver.logged(Event.NOT_REGISTERED, error="kubelet refused: no such plugin")
        assert not node_api.do(lambda: [each for each in node_api.api.requests if each.writes])
        kubelet.register()
        wait_for(lambda: published(node_api), "a slice")


def test_driver_without_a_card_is_ready_and_empties_its_old_slice(
    cards: SampleNode, node_api: RunningApiServer, dra_settings: dict[str, str]
) -> None:
    """A card that was removed while the driver was away would still be allocated."""
    for card in cards.cards:
        card.remove()
    taint = {"key": "fpga.xilinx.com/starting", "effect": "NoSchedule"}
    node_api.put(NODE_PATH, {"metadata": {"name": NODE, "uid": "node-uid"}, "spec": {"taints": [taint]}})
    node_api.put(SLICE, Pool(DRIVER, NODE, "node-uid").slices([{"name": A}])[0])
    pages = Probed(cards, **{name: value for name, value in dra_settings.items() if name != "HTTP_ADDRESS"})
    settings = pages.settings | {"STARTUP_TAINT": taint["key"]}
    with (
        Service(settings, environment=node_api.environment) as service,
        DraKubelet(registry(cards)) as kubelet,
    ):
        kubelet.register()
        node_api.wait_for(lambda: not (node_api.api.get(SLICE) or {})["spec"]["devices"], "no device")
        wait_for(lambda: pages.get("readyz")[0] == 200, lambda: pages.get("readyz")[1])
        service.logged(Event.STARTUP_TAINT_REMOVED)


def test_claim_is_prepared_and_unprepared(
    cards: SampleNode, node_api: RunningApiServer, dra: DraKubelet
) -> None:
    claim = store_claim(node_api, "mine", A)
    [device] = dra.prepared(claim)
    assert (device.pool_name, device.device_name, list(device.request_names)) == (NODE, A, ["fpga"])
    spec = json.loads(spec_path(cards, claim).read_text())
    edits = {f"{spec['kind']}={each['name']}": each["containerEdits"] for each in spec["devices"]}
    nodes, variables, metadata = device.cdi_device_ids
    [node] = edits[nodes]["deviceNodes"]
    assert node == {"path": cards.cards[0].nodes[0], "permissions": "rw"}
    info, addresses = sorted(edits[variables]["env"], key=lambda each: "_INFO=" not in each)
    name = "PCIDEVICE_XILINX_COM_FPGA_XILINX_U200_XDMA_201830_2_1561465320"
    assert addresses == f"{name}=0000:11:00.1"
    assert json.loads(info.partition("=")[2])["0000:11:00.1"]["board"] == "u200"
    assert metadata == f"{DRIVER}/metadata={claim.uid}_fpga"
    stored = json.loads((data(cards) / "checkpoint.json").read_text())
    assert stored["claims"][claim.uid]["results"] == [
        {
            "request": "fpga",
            "pool": NODE,
            "device": A,
            "address": "0000:11:00.1",
            "resource": U200,
            "addresses": ["0000:11:00.1"],
        }
    ]
    assert dra.unprepare(claim) == {claim.uid: ""}
    assert os.listdir(f"{cards.root}/cdi") == []
    assert json.loads((data(cards) / "checkpoint.json").read_text())["claims"] == {}
    assert list((data(cards) / "dra-device-metadata").iterdir()) == []


def test_card_of_one_claim_is_refused_to_another(node_api: RunningApiServer, dra: DraKubelet) -> None:
    first, second = store_claim(node_api, "first", A), store_claim(node_api, "second", A)
    dra.prepared(first)
    assert "still prepared for the ResourceClaim default/first" in dra.refusal(second)
    assert dra.prepared(first), "again for its own claim"
    dra.unprepare(first)
    assert dra.prepared(second)


def test_every_claim_of_a_call_has_an_answer(node_api: RunningApiServer, dra: DraKubelet) -> None:
    good = store_claim(node_api, "good", A)
    unknown = ClaimName("default", "unknown", "1-2-3")
    replaced = store_claim(node_api, "replaced", B)._replace(uid="another")
    pending, stored = claim_of("pending")
    node_api.put(pending.path, stored)
    elsewhere = store_claim(node_api, "elsewhere", C, pool="n2")
    missing = store_claim(node_api, "missing", "pci-0000-99-00-1")
    others = store_claim(node_api, "others", "gpu-1", driver="gpu.example.com")
    odd = ClaimName("..", "../../etc", "../x")
    asked = (good, unknown, replaced, pending, elsewhere, missing, others, odd)
    answers = dra.prepare(*asked)
    assert answers.keys() == {each.uid for each in asked}
    assert not answers[good.uid].error
    assert (answers[others.uid].error, list(answers[others.uid].devices)) == ("", [])
    assert "does not exist" in answers[unknown.uid].error
    assert "was replaced" in answers[replaced.uid].error
    assert "is not allocated" in answers[pending.uid].error
    assert "not of this node's pool" in answers[elsewhere.uid].error
    assert "there is no device pci-0000-99-00-1" in answers[missing.uid].error
    assert answers[odd.uid].error
    assert dra.unprepare(unknown, odd) == {unknown.uid: "", odd.uid: ""}


def test_fault_becomes_taint_and_health_and_is_taken_back(
    cards: SampleNode, node_api: RunningApiServer, dra: DraKubelet
) -> None:
    wait_for(lambda: published(node_api), "a slice")
    claim = store_claim(node_api, "mine", A)
    health, old = dra.watch_health(), dra.watch_health(old=True)
    for stream in (health, old):
        stream.wait_for(**{A: "", B: "", C: ""})
    cards.cards[0].offline()
    wait_for(lambda: taints(node_api, A) == [f"{DRIVER}/offline"], "a taint")
    for stream in (health, old):
        stream.wait_for(**{A: "offline", B: "", C: ""})
    assert "Unhealthy: offline" in dra.refusal(claim)
    tolerant = store_claim(node_api, "tolerant", A, tolerations=[{"operator": "Exists"}])
    assert dra.prepared(tolerant)
    cards.cards[0].online()
    wait_for(lambda: published(node_api) and not taints(node_api, A), "no taint")
    health.wait_for(**{A: "", B: "", C: ""})


def test_card_of_the_device_plugin_is_tainted_and_refused(
    node_api: RunningApiServer, answering: PodResourcesDouble, dra: DraKubelet
) -> None:
    claim = store_claim(node_api, "mine", A)
    answering.holds = [Hold(U200, "0000:11:00.1")]
    assert "held by the pod default/mypod" in dra.refusal(claim)
    wait_for(lambda: taints(node_api, A) == [f"{DRIVER}/held"], "a taint")
    answering.holds = []
    wait_for(lambda: published(node_api) and not taints(node_api, A), "no taint")
    assert dra.prepared(claim)


def test_class_device_of_the_device_plugin_is_tainted_and_refused(
    cards: SampleNode, node_api: RunningApiServer, dra_settings: dict[str, str], answering: PodResourcesDouble
) -> None:
    cards.plug("coyote")
    rules = str(PROJECT / "deploy" / "device-rules.yaml")
    region, resource, name = "coyote_fpga_0_v0", "xilinx.com/fpga-coyote", "dev-coyote-fpga-0-v0"
    answering.holds = [Hold(resource, region)]
    answering.offered = [Hold(resource, f"{region}::0")]
    claim = store_claim(node_api, "mine", name)
    settings = dra_settings | {"DEVICE_RULES": rules}
    with (
        Service(settings, environment=node_api.environment) as service,
        DraKubelet(registry(cards)) as kubelet,
    ):
        kubelet.register()
        service.logged(Event.MODE_CONFLICT, devices=region)
        wait_for(lambda: len(published(node_api)) > 1, "a slice")
        assert name not in published(node_api)
        answering.offered = []
        wait_for(lambda: taints(node_api, name) == [f"{DRIVER}/held"], "a taint")
        assert "held by the pod default/mypod" in kubelet.refusal(claim)
        answering.holds = []
        wait_for(lambda: published(node_api) and not taints(node_api, name), "no taint")
        assert kubelet.prepared(claim)


def test_card_of_a_driver_with_another_name_is_tainted_and_refused(
    node_api: RunningApiServer, answering: PodResourcesDouble, dra: DraKubelet
) -> None:
    answering.claims = [ClaimHold("another.example.com", A)]
    assert "which has it as another.example.com" in dra.refusal(store_claim(node_api, "mine", A))
    wait_for(lambda: taints(node_api, A) == [f"{DRIVER}/held"], "a taint")
    answering.claims = []
    wait_for(lambda: published(node_api) and not taints(node_api, A), "no taint")


def test_state_shows_the_pod_that_has_a_class_device_by_a_claim(
    cards: SampleNode,
    node_api: RunningApiServer,
    dra_settings: dict[str, str],
    answering: PodResourcesDouble,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(node_api.kubeconfig))
    cards.plug("coyote")
    answering.claims = [ClaimHold(DRIVER, "dev-coyote-fpga-0-v0"), ClaimHold(DRIVER, A)]
    settings = dra_settings | {"DEVICE_RULES": str(PROJECT / "deploy" / "device-rules.yaml")}
    document = json.loads(cli("list", "--output", "json", settings=settings).stdout)
    held = [each["id"] for each in document["devices"] if each["held_by"]]
    assert held == ["0000:11:00.1", "coyote_fpga_0_v0"]
    assert not [each for each in document["devices"] if each["reason"]]


def test_other_device_of_a_claimed_card_is_refused_and_tainted(
    cards: SampleNode,
    node_api: RunningApiServer,
    answering: PodResourcesDouble,
    dra_settings: dict[str, str],
) -> None:
    """A claim has both devices of a U30; after a restart only one exists."""
    first, second = cards.plug("u30")
    card, left = device_name(first.address), device_name(second.address)
    claim, other = store_claim(node_api, "mine", card), store_claim(node_api, "other", left)

    def driver() -> Service:
        return Service(dra_settings, environment=node_api.environment)

    with driver(), DraKubelet(registry(cards)) as kubelet:
        kubelet.register()
        wait_for(lambda: card in published(node_api), "the card")
        kubelet.prepared(claim)
    first.remove()
    with driver(), DraKubelet(registry(cards)) as kubelet:
        kubelet.register()
        wait_for(lambda: left in published(node_api), "the other device")
        assert "still prepared for the ResourceClaim default/mine" in kubelet.refusal(other)
        answering.claims = [ClaimHold(DRIVER, card)]
        wait_for(lambda: taints(node_api, left) == [f"{DRIVER}/held"], "a taint")
        answering.claims = []
        kubelet.unprepare(claim)
        wait_for(lambda: left in published(node_api) and not taints(node_api, left), "no taint")
        assert kubelet.prepared(other)


@pytest.mark.parametrize("shared_before", [False, True])
def test_change_of_sharing_waits_for_the_prepared_claim(
    cards: SampleNode, node_api: RunningApiServer, dra_settings: dict[str, str], shared_before: bool
) -> None:
    replicas = {False: "1", True: "4"}
    shares: dict[bool, dict[str, str]] = {False: {}, True: {"shareID": str(uuid.uuid4())}}
    claim = store_claim(node_api, "mine", A, **shares[shared_before])
    later = store_claim(node_api, "later", A, **shares[not shared_before])

    def slots(name: str) -> str | None:
        found = published(node_api).get(name)
        return found["capacity"].get("slots", {}).get("value", "exclusive") if found else None

    def has_slots(name: str, wanted: str) -> bool:
        return slots(name) == wanted

    for shared in (shared_before, not shared_before):
        settings = dra_settings | {"SHARED_REPLICAS": replicas[shared]}
        with Service(settings, environment=node_api.environment), DraKubelet(registry(cards)) as kubelet:
            wait_for(lambda: kubelet.sockets, "a socket")
            kubelet.register()
            wait_for(partial(has_slots, B, "4" if shared else "exclusive"), "the slice")
            if shared is shared_before:
                kubelet.prepared(claim)
                continue
            assert slots(A) == ("1" if shared_before else "exclusive")
            assert "still prepared" in kubelet.refusal(later)
            kubelet.unprepare(claim)
            wait_for(lambda: slots(A) == slots(B), "the change")
            assert kubelet.prepared(later)


def test_slice_that_others_change_is_restored(node_api: RunningApiServer, dra: DraKubelet) -> None:
    wait_for(lambda: published(node_api), "a slice")
    node_api.remove(SLICE)
    wait_for(lambda: published(node_api).keys() == {A, B, C}, "the slice again")
    changed = node_api.do(lambda: node_api.api.get(SLICE)) or {}
    node_api.put(SLICE, {**changed, "spec": {**changed["spec"], "devices": []}})
    wait_for(lambda: published(node_api).keys() == {A, B, C}, "all devices again")


def test_slice_belongs_to_the_node_that_was_made_again(
    node_api: RunningApiServer, dra_driver: Service, dra: DraKubelet
) -> None:
    wait_for(lambda: published(node_api), "a slice")

    def owners() -> list[str]:
        found = node_api.do(lambda: node_api.api.get(SLICE)) or {"metadata": {}}
        return [each["uid"] for each in found["metadata"].get("ownerReferences", ())]

    for _ in range(4):  # the garbage collector, while the token is that of the Node that is gone
        node_api.remove(SLICE)
        wait_for(lambda: owners() == ["node-uid"], "the slice again")
    assert dra_driver.logged(Event.SLICE_CONTESTED)["node_uid"] == "node-uid"
    node_api.remove(f"/api/v1/nodes/{NODE}")
    node_api.put(f"/api/v1/nodes/{NODE}", {"metadata": {"name": NODE, "uid": "another"}})
    node_api.remove(SLICE)
    wait_for(lambda: owners() == ["another"], "the slice of the Node")


def test_server_without_taints_gets_no_faulty_device(
    cards: SampleNode, node_api: RunningApiServer, dra: DraKubelet
) -> None:
    node_api.do(lambda: node_api.api.dropped.append("spec.devices.*.taints"))
    cards.cards[0].offline()
    wait_for(lambda: published(node_api).keys() == {B, C}, "two devices")
    wrong = [
        each
        for each in node_api.do(lambda: list(node_api.api.requests))
        if each.writes and any(device["name"] == A for device in each.body["spec"]["devices"])
    ]
    assert all(not each.body["spec"]["devices"][0].get("taints") for each in wrong), (
        "a faulty device is never sent to such a server"
    )


def test_documents_are_restored_where_they_were_removed(
    cards: SampleNode, node_api: RunningApiServer, dra: DraKubelet
) -> None:
    claim = store_claim(node_api, "mine", A)
    dra.prepared(claim)
    folder = Path(cards.root) / "cdi"
    before = {path.name: path.read_text() for path in folder.iterdir()}
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    wait_for(
        lambda: folder.exists() and {path.name: path.read_text() for path in folder.iterdir()} == before,
        "the same documents",
    )


def test_killed_driver_keeps_its_claims(
    cards: SampleNode, node_api: RunningApiServer, dra_settings: dict[str, str]
) -> None:
    claim, other = store_claim(node_api, "mine", A), store_claim(node_api, "other", A)
    with Service(dra_settings, environment=node_api.environment) as first:
        with DraKubelet(registry(cards)) as kubelet:
            kubelet.register()
            before = kubelet.prepared(claim)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait(30)
    spec = Path(cards.root) / "cdi" / f"k8s.{DRIVER}-claim_{claim.uid}.json"
    text = spec.read_text()
    spec.unlink()
    with Service(dra_settings, environment=node_api.environment), DraKubelet(registry(cards)) as kubelet:
        wait_for(lambda: spec.exists() and spec.read_text() == text, "the same spec")
        wait_for(lambda: kubelet.sockets, "a socket")
        kubelet.register()
        assert "still prepared" in kubelet.refusal(other)
        assert kubelet.prepared(claim) == before
        assert kubelet.unprepare(claim) == {claim.uid: ""}
        assert kubelet.prepared(other)


def test_driver_ends_without_a_socket_and_leaves_its_slice(
    cards: SampleNode, node_api: RunningApiServer, dra_driver: Service, dra: DraKubelet
) -> None:
    wait_for(lambda: published(node_api), "a slice")
    assert dra_driver.terminate() == 0
    assert dra.sockets == []
    assert not list(data(cards).glob("*.sock"))
    assert published(node_api)


def test_mode_without_a_node_name_or_access_is_a_bad_setting(cards: SampleNode) -> None:
    for more, problem in (({}, "NODE_NAME"), ({"NODE_NAME": NODE}, "KUBECONFIG")):
        done = cli("run", settings=settings_for(cards, MODE="dra", **more))
        assert done.returncode == 2
        assert problem in done.stderr


def test_diagnose_checks_what_the_driver_needs(
    node_api: RunningApiServer,
    dra_settings: dict[str, str],
    dra: DraKubelet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wait_for(lambda: published(node_api), "a slice")
    monkeypatch.setenv("KUBECONFIG", str(node_api.kubeconfig))
    done = started("diagnose", settings=dra_settings)
    said = {line[6:].partition(":")[0]: line[:4] for line in done.stdout.splitlines()}
    assert said["registration directory"] == "ok  "
    assert said["CDI_DIR"] == "ok  "
    assert said["API server"] == "ok  "
    assert "kubelet" not in said
    assert "socket directory" not in said


def test_pages_tell_of_the_driver(
    cards: SampleNode, node_api: RunningApiServer, dra_settings: dict[str, str]
) -> None:
    pages = Probed(cards, **{name: value for name, value in dra_settings.items() if name != "HTTP_ADDRESS"})
    with (
        Service(pages.settings, environment=node_api.environment) as service,
        DraKubelet(registry(cards)) as kubelet,
    ):
        service.logged(Event.SERVING_HTTP)
        wait_for(lambda: "kubelet has not registered the driver" in pages.get("readyz")[1], "the reason")
        kubelet.register()
        wait_for(lambda: pages.get("readyz")[0] == 200, lambda: pages.get("readyz")[1])
        claim = store_claim(node_api, "mine", A)
        kubelet.prepared(claim)
        kubelet.unprepare(claim)
        series = pages.series()
        for method in ("prepare", "unprepare"):
            assert series[f'claims_total{{method="{method}",result="ok"}}'] == 1
        assert series[f'registered{{resource="{U200}"}}'] == 1
        assert (series["claims_prepared"], series["slice_generation"]) == (0, 1)
        assert series["slice_age_seconds"] >= 0
        node_api.trouble(matches="(PUT|GET|POST) ", code=500)
        cards.cards[0].offline()
        wait_for(lambda: pages.get("readyz")[0] == 503, "not ready")
        assert pages.series()['api_errors_total{code="500"}'] >= 1


@pytest.mark.parametrize("mode", ["dra", "device-plugin"])
def test_metrics_name_the_pod_that_has_a_card_by_a_claim(
    cards: SampleNode,
    node_api: RunningApiServer,
    dra_settings: dict[str, str],
    answering: PodResourcesDouble,
    mode: str,
) -> None:
    """With a device plugin as well: a node may change from the driver to it while pods run."""
    answering.claims = [ClaimHold(DRIVER, A)]
    more = {"MODE": mode, "TELEMETRY_INTERVAL": "1"}
    given = {name: value for name, value in dra_settings.items() if name != "HTTP_ADDRESS"}
    pages = Probed(cards, **given | more)

    def allocated() -> dict[str, float]:
        return {name: value for name, value in pages.series().items() if "allocated{" in name}

    with Service(pages.settings, environment=node_api.environment) as service:
        service.logged(Event.SERVING_HTTP)
        labels = 'device="0000:11:00.1",namespace="default",pod="mypod",container="claiming"'
        held = {f"xilinx_fpga_allocated{{{labels}}}": 1.0}
        wait_for(lambda: allocated() == held, lambda: f"{held} in {allocated()}")
        answering.claims = []
        wait_for(lambda: not allocated(), "no pod")


def test_device_that_a_device_plugin_offers_is_not_published(
    cards: SampleNode, node_api: RunningApiServer, dra_settings: dict[str, str], answering: PodResourcesDouble
) -> None:
    answering.offered = [Hold(U200, "0000:11:00.1")]
    pages = Probed(cards, **{name: value for name, value in dra_settings.items() if name != "HTTP_ADDRESS"})
    with (
        Service(pages.settings | {"EVENTS": "true"}, environment=node_api.environment) as service,
        DraKubelet(registry(cards)) as kubelet,
    ):
        kubelet.register()
        wait_for(lambda: published(node_api).keys() == {B, C}, "the others")
        [event] = node_api.wait_for(lambda: node_api.api.all(EVENTS), "an Event")
        assert (event["reason"], "offers 0000:11:00.1 too" in event["note"]) == (
            NodeEvent.MODE_CONFLICT,
            True,
        )
        service.logged(Event.MODE_CONFLICT, devices="0000:11:00.1")
        wait_for(lambda: "offers 0000:11:00.1 too" in pages.get("readyz")[1], "the reason")
        answering.offered = []
        wait_for(lambda: published(node_api).keys() == {A, B, C}, "all")
        wait_for(lambda: pages.get("readyz")[0] == 200, "ready")


def test_device_is_published_when_the_device_plugin_has_left_early(
    node_api: RunningApiServer, answering: PodResourcesDouble, dra_settings: dict[str, str], cards: SampleNode
) -> None:
    answering.offered = [Hold(U200, "0000:11:00.1")]
    with Service(dra_settings, environment=node_api.environment), DraKubelet(registry(cards)) as kubelet:
        kubelet.register()
        wait_for(lambda: published(node_api).keys() == {B, C}, "the others")
        answering.offered = []
        wait_for(lambda: published(node_api).keys() == {A, B, C}, "all")


def test_claim_stays_prepared_while_a_pod_that_joined_it_later_runs(
    cards: SampleNode, node_api: RunningApiServer, answering: PodResourcesDouble, dra: DraKubelet
) -> None:
    """Kubelet prepares a claim for its first pod alone, and unprepares it when the last one is deleted."""

    def reserve(*pods: str) -> None:
        consumers = [{"resource": "pods", "name": each, "uid": f"uid-of-{each}"} for each in pods]
        found = node_api.do(lambda: node_api.api.get(claim.path)) or {}
        node_api.put(claim.path, {**found, "status": {**found["status"], "reservedFor": consumers}})

    claim = store_claim(node_api, "mine", A)
    reserve("first")
    answering.claims = [ClaimHold(DRIVER, A, "first")]
    dra.prepared(claim)
    reserve("first", "second")
    answering.claims.append(ClaimHold(DRIVER, A, "second"))
    pods = ["uid-of-first", "uid-of-second"]
    wait_for(lambda: checkpoint(cards)[claim.uid].get("pods") == pods, "the second pod")
    wait_for(lambda: pods[1] in spec_path(cards, claim).read_text(), "the second pod in the spec")
    reserve()
    answering.claims = []
    group = Path(cards.sysfs_root) / "fs" / "cgroup" / "kubepods" / "poduid-of-second"
    group.mkdir(parents=True)
    (group / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    assert "still runs" in dra.unprepare(claim)[claim.uid]
    (group / "cgroup.events").write_text("populated 0\nfrozen 0\n")
    assert dra.unprepare(claim) == {claim.uid: ""}
