"""The DRA driver as a process, with a double of kubelet and an API server of its own."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.api_server import RunningApiServer
from tests.support.dra_kubelet import DRIVER, NODE, SLICES, ClaimName, DraKubelet, claim_of, result
from tests.support.podresources import Hold, PodResourcesDouble
from tests.support.process import Service, cli
from tests.support.resource_names import U200
from tests.support.running import settings_for
from tests.support.waiting import wait_for
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode

A, B, C = "pci-0000-11-00-1", "pci-0000-21-00-1", "pci-0000-31-00-1"
SLICE = f"{SLICES}/00000-{DRIVER}-{NODE}"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[RunningApiServer]:
    with RunningApiServer(tmp_path, tls=False) as server:
        server.put(f"/api/v1/nodes/{NODE}", {"metadata": {"name": NODE, "uid": "node-uid"}})
        yield server


@pytest.fixture
def answering(pods: PodResourcesDouble) -> PodResourcesDouble:
    pods.start()
    return pods


@pytest.fixture
def settings(cards: SampleNode, answering: PodResourcesDouble) -> dict[str, str]:
    return settings_for(
        cards,
        MODE="dra",
        NODE_NAME=NODE,
        PLUGINS_REGISTRY_DIR=str(_registry(cards)),
        CDI_DIR=f"{cards.root}/cdi",
        POD_RESOURCES_SOCKET=answering.path,
    )


@pytest.fixture
def driver(api: RunningApiServer, settings: dict[str, str]) -> Iterator[Service]:
    with Service(settings, environment=api.environment) as running:
        yield running


@pytest.fixture
def dra(cards: SampleNode, driver: Service) -> Iterator[DraKubelet]:
    """A kubelet that has registered the driver."""
    with DraKubelet(_registry(cards)) as kubelet:
        kubelet.register()
        yield kubelet


def _registry(node: SampleNode) -> Path:
    return Path(node.root) / "registry"


def _data(node: SampleNode) -> Path:
    return Path(node.plugins_dir) / DRIVER


def _claim(api: RunningApiServer, name: str, *devices: str, **more: Any) -> ClaimName:
    """Store a claim that has these devices."""
    reference, stored = claim_of(name, *(result(each, **more) for each in devices))
    api.put(reference.path, stored)
    return reference


def _published(api: RunningApiServer) -> dict[str, dict[str, Any]]:
    """Return the devices of the slice by name, none if there is no slice."""
    found = api.do(lambda: api.api.get(SLICE))
    return {each["name"]: each for each in found["spec"]["devices"]} if found else {}


def _taints(api: RunningApiServer, device: str) -> list[str]:
    return [each["key"] for each in _published(api).get(device, {}).get("taints", [])]


def _spec(node: SampleNode, claim: ClaimName) -> dict[str, Any]:
    path = Path(node.root) / "cdi" / f"k8s.{DRIVER}-claim_{claim.uid}.json"
    spec: dict[str, Any] = json.loads(path.read_text())
    return spec


def test_driver_registers_and_publishes_its_devices(api: RunningApiServer, dra: DraKubelet) -> None:
    assert (dra.info.type, dra.info.name) == ("DRAPlugin", DRIVER)
    assert list(dra.info.supported_versions) == [
        "v1.DRAPlugin",
        "v1.DRAResourceHealth",
        "v1alpha1.DRAResourceHealth",
    ]
    wait_for(lambda: _published(api).keys() == {A, B, C}, "three devices")
    [found] = api.do(lambda: api.api.all(SLICES))
    assert found["spec"]["pool"] == {"name": NODE, "generation": 1, "resourceSliceCount": 1}
    [owner] = found["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Node", NODE, "node-uid")
    attributes = _published(api)[A]["attributes"]
    assert attributes["resourceName"] == {"string": U200.partition("/")[2]}
    assert attributes["resource.kubernetes.io/pciBusID"] == {"string": "0000:11:00.1"}


def test_nothing_is_published_before_kubelet_has_registered_the_driver(
    cards: SampleNode, api: RunningApiServer, driver: Service
) -> None:
    with DraKubelet(_registry(cards)) as kubelet:
        kubelet.register(refusal="no such plugin")
        driver.logged(Event.NOT_REGISTERED, error="kubelet refused: no such plugin")
        assert not api.do(lambda: [each for each in api.api.requests if each.writes])
        kubelet.register()
        wait_for(lambda: _published(api), "a slice")


def test_claim_is_prepared_and_unprepared(cards: SampleNode, api: RunningApiServer, dra: DraKubelet) -> None:
    claim = _claim(api, "mine", A)
    [device] = dra.prepared(claim)
    assert (device.pool_name, device.device_name, list(device.request_names)) == (NODE, A, ["fpga"])
    spec = _spec(cards, claim)
    edits = {f"{spec['kind']}={each['name']}": each["containerEdits"] for each in spec["devices"]}
    nodes, variables, metadata = device.cdi_device_ids
    [node] = edits[nodes]["deviceNodes"]
    assert node == {"path": cards.cards[0].nodes[0], "permissions": "rw"}
    info, addresses = sorted(edits[variables]["env"], key=lambda each: "_INFO=" not in each)
    name = "PCIDEVICE_XILINX_COM_FPGA_XILINX_U200_XDMA_201830_2_1561465320"
    assert addresses == f"{name}=0000:11:00.1"
    assert json.loads(info.partition("=")[2])["0000:11:00.1"]["board"] == "u200"
    assert metadata == f"{DRIVER}/metadata={claim.uid}_fpga"
    checkpoint = json.loads((_data(cards) / "checkpoint.json").read_text())
    assert checkpoint["claims"][claim.uid]["results"] == [
        {"request": "fpga", "pool": NODE, "device": A, "address": "0000:11:00.1", "resource": U200}
    ]
    assert dra.unprepare(claim) == {claim.uid: ""}
    assert os.listdir(f"{cards.root}/cdi") == []
    assert json.loads((_data(cards) / "checkpoint.json").read_text())["claims"] == {}
    assert list((_data(cards) / "dra-device-metadata").iterdir()) == []


def test_card_of_one_claim_is_refused_to_another(api: RunningApiServer, dra: DraKubelet) -> None:
    first, second = _claim(api, "first", A), _claim(api, "second", A)
    dra.prepared(first)
    assert "still prepared for the ResourceClaim default/first" in dra.refusal(second)
    assert dra.prepared(first), "again for its own claim"
    dra.unprepare(first)
    assert dra.prepared(second)


def test_every_claim_of_a_call_has_an_answer(api: RunningApiServer, dra: DraKubelet) -> None:
    good = _claim(api, "good", A)
    unknown = ClaimName("default", "unknown", "1-2-3")
    replaced = _claim(api, "replaced", B)._replace(uid="another")
    pending, stored = claim_of("pending")
    api.put(pending.path, stored)
    elsewhere = _claim(api, "elsewhere", C, pool="n2")
    missing = _claim(api, "missing", "pci-0000-99-00-1")
    others = _claim(api, "others", "gpu-1", driver="gpu.example.com")
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
    cards: SampleNode, api: RunningApiServer, dra: DraKubelet
) -> None:
    wait_for(lambda: _published(api), "a slice")
    claim = _claim(api, "mine", A)
    health, old = dra.watch_health(), dra.watch_health(old=True)
    for stream in (health, old):
        stream.wait_for(**{A: "", B: "", C: ""})
    cards.cards[0].offline()
    wait_for(lambda: _taints(api, A) == [f"{DRIVER}/offline"], "a taint")
    for stream in (health, old):
        stream.wait_for(**{A: "offline", B: "", C: ""})
    assert "Unhealthy: offline" in dra.refusal(claim)
    tolerant = _claim(api, "tolerant", A, tolerations=[{"operator": "Exists"}])
    assert dra.prepared(tolerant)
    cards.cards[0].online()
    wait_for(lambda: _published(api) and not _taints(api, A), "no taint")
    health.wait_for(**{A: "", B: "", C: ""})


def test_card_of_the_device_plugin_is_tainted_and_refused(
    api: RunningApiServer, answering: PodResourcesDouble, dra: DraKubelet
) -> None:
    claim = _claim(api, "mine", A)
    answering.holds = [Hold(U200, "0000:11:00.1")]
    assert "held by the pod default/mypod" in dra.refusal(claim)
    wait_for(lambda: _taints(api, A) == [f"{DRIVER}/held"], "a taint")
    answering.holds = []
    wait_for(lambda: _published(api) and not _taints(api, A), "no taint")
    assert dra.prepared(claim)


def test_slice_that_others_change_is_restored(api: RunningApiServer, dra: DraKubelet) -> None:
    wait_for(lambda: _published(api), "a slice")
    api.remove(SLICE)
    wait_for(lambda: _published(api).keys() == {A, B, C}, "the slice again")
    changed = api.do(lambda: api.api.get(SLICE)) or {}
    api.put(SLICE, {**changed, "spec": {**changed["spec"], "devices": []}})
    wait_for(lambda: _published(api).keys() == {A, B, C}, "all devices again")


def test_server_without_taints_gets_no_faulty_device(
    cards: SampleNode, api: RunningApiServer, dra: DraKubelet
) -> None:
    api.do(lambda: api.api.dropped.append("spec.devices.*.taints"))
    cards.cards[0].offline()
    wait_for(lambda: _published(api).keys() == {B, C}, "two devices")
    wrong = [
        each
        for each in api.do(lambda: list(api.api.requests))
        if each.writes and any(device["name"] == A for device in each.body["spec"]["devices"])
    ]
    assert all(not each.body["spec"]["devices"][0].get("taints") for each in wrong), (
        "a faulty device is never sent to such a server"
    )


def test_documents_are_restored_where_they_were_removed(
    cards: SampleNode, api: RunningApiServer, dra: DraKubelet
) -> None:
    claim = _claim(api, "mine", A)
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
    cards: SampleNode, api: RunningApiServer, settings: dict[str, str]
) -> None:
    claim, other = _claim(api, "mine", A), _claim(api, "other", A)
    with Service(settings, environment=api.environment) as first:
        with DraKubelet(_registry(cards)) as kubelet:
            kubelet.register()
            before = kubelet.prepared(claim)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait(10)
    spec = Path(cards.root) / "cdi" / f"k8s.{DRIVER}-claim_{claim.uid}.json"
    text = spec.read_text()
    spec.unlink()
    with Service(settings, environment=api.environment), DraKubelet(_registry(cards)) as kubelet:
        wait_for(lambda: spec.exists() and spec.read_text() == text, "the same spec")
        wait_for(lambda: kubelet.sockets, "a socket")
        kubelet.register()
        assert "still prepared" in kubelet.refusal(other)
        assert kubelet.prepared(claim) == before
        assert kubelet.unprepare(claim) == {claim.uid: ""}
        assert kubelet.prepared(other)


def test_driver_ends_without_a_socket_and_leaves_its_slice(
    cards: SampleNode, api: RunningApiServer, driver: Service, dra: DraKubelet
) -> None:
    wait_for(lambda: _published(api), "a slice")
    assert driver.terminate() == 0
    assert dra.sockets == []
    assert not list(_data(cards).glob("*.sock"))
    assert _published(api)


def test_mode_without_a_node_name_or_access_is_a_bad_setting(cards: SampleNode) -> None:
    for more, problem in (({}, "NODE_NAME"), ({"NODE_NAME": NODE}, "KUBECONFIG")):
        done = cli("run", settings=settings_for(cards, MODE="dra", **more))
        assert done.returncode == 2
        assert problem in done.stderr
