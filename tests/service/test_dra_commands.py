"""The commands that show the DRA driver: `list` and the page `/state`, `explain`, `classes`."""

import json
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.api_server import RunningApiServer
from tests.support.dra_kubelet import DRIVER, NODE, SLICES, DraKubelet
from tests.support.dra_stage import SLICE, data, published, registry, store_claim
from tests.support.probed import Probed
from tests.support.process import COMMAND, Service, clean_environment, cli, started
from tests.support.resource_names import U55C, U200, U250
from tests.support.schemas import conforms
from tests.support.waiting import wait_for
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode

A, B, C = "pci-0000-11-00-1", "pci-0000-21-00-1", "pci-0000-31-00-1"
CLASSES = "/apis/resource.k8s.io/v1/deviceclasses"


@pytest.fixture(autouse=True)
def access(node_api: RunningApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in node_api.environment.items():
        monkeypatch.setenv(name, value)


def _json(*command: str, settings: dict[str, str]) -> Any:
    return json.loads(started(*command, "--output", "json", settings=settings).stdout)


class TestList:
    def test_unit_has_its_name_taint_and_claims(
        self, cards: SampleNode, node_api: RunningApiServer, dra: DraKubelet, dra_settings: dict[str, str]
    ) -> None:
        claim = store_claim(node_api, "mine", A)
        dra.prepared(claim)
        cards.cards[1].offline()
        document = _json("list", settings=dra_settings)
        conforms("state", document)
        assert document["mode"] == "dra"
        first, second = document["devices"][:2]
        mine = {"namespace": "default", "name": "mine", "uid": claim.uid}
        assert first["dra"] == {"name": A, "taint": None, "claims": [mine]}
        assert second["dra"] == {"name": B, "taint": f"{DRIVER}/offline", "claims": []}
        table = started("list", settings=dra_settings).stdout
        [row] = [line for line in table.splitlines() if A in line]
        assert row.split()[-2:] == [A, "default/mine"]

    def test_page_is_as_the_command(
        self, cards: SampleNode, node_api: RunningApiServer, dra_settings: dict[str, str]
    ) -> None:
        settings = {name: value for name, value in dra_settings.items() if name != "HTTP_ADDRESS"}
        pages = Probed(cards, **settings)
        with (
            Service(pages.settings, environment=node_api.environment) as service,
            DraKubelet(registry(cards)) as kubelet,
        ):
            service.logged(Event.SERVING_HTTP)
            kubelet.register()
            kubelet.prepared(store_claim(node_api, "mine", A))
            page = json.loads(pages.get("state")[1])
        conforms("state", page)
        assert [each["dra"] for each in page["devices"]] == [
            each["dra"] for each in _json("list", settings=dra_settings)["devices"]
        ]

    def test_device_plugin_shows_no_names_of_a_pool(
        self, cards: SampleNode, dra_settings: dict[str, str]
    ) -> None:
        document = _json("list", settings=dra_settings | {"MODE": "device-plugin"})
        assert "mode" not in document
        assert not any("dra" in each for each in document["devices"])

    def test_checkpoint_that_is_none_is_said(self, cards: SampleNode, dra_settings: dict[str, str]) -> None:
        data(cards).mkdir(parents=True)
        (data(cards) / "checkpoint.json").write_text("{")
        done = started("list", settings=dra_settings)
        assert done.stderr.startswith("the claims are not known: ")
        assert A in done.stdout


class TestExplain:
    def test_claim_is_answered_as_it_was_prepared(
        self, cards: SampleNode, node_api: RunningApiServer, dra: DraKubelet, dra_settings: dict[str, str]
    ) -> None:
        claim = store_claim(node_api, "mine", A)
        [device] = dra.prepared(claim)
        document = _json("explain", claim.uid, settings=dra_settings)
        conforms("explain", document)
        answer = document["answer"]
        assert [each["name"] for each in answer["cdi_devices"]] == list(device.cdi_device_ids)
        assert [each["host_path"] for each in answer["devices"]] == list(cards.cards[0].nodes[:1])
        assert (
            answer["envs"]["PCIDEVICE_XILINX_COM_FPGA_XILINX_U200_XDMA_201830_2_1561465320"] == "0000:11:00.1"
        )
        [metadata] = answer["mounts"]
        assert metadata["container_path"].endswith(f"/resourceclaims/mine/fpga/{DRIVER}-metadata.json")
        text = started("explain", claim.uid, settings=dra_settings).stdout
        assert text.startswith("The containers of the ResourceClaim default/mine get:")

    @pytest.mark.parametrize("given", [B, "0000:21:00.1"])
    def test_device_is_answered_by_address_and_name(
        self, given: str, cards: SampleNode, dra_settings: dict[str, str]
    ) -> None:
        [node] = _json("explain", given, settings=dra_settings)["answer"]["devices"]
        assert node["host_path"] == cards.cards[1].nodes[0]

    def test_refusals_are_those_of_the_driver(
        self, cards: SampleNode, node_api: RunningApiServer, dra: DraKubelet, dra_settings: dict[str, str]
    ) -> None:
        dra.prepared(store_claim(node_api, "mine", A))
        cards.cards[1].offline()
        for given, code, message in (
            ("0000:11:00.1", "FAILED_PRECONDITION", "is prepared for the ResourceClaim default/mine"),
            ("0000:21:00.1", "FAILED_PRECONDITION", "is Unhealthy: offline"),
            ("unknown", "NOT_FOUND", "neither a prepared claim nor a device"),
        ):
            done = cli("explain", given, "--output", "json", settings=dra_settings)
            assert done.returncode == 1
            refused = json.loads(done.stdout)["refused"]
            assert refused["code"] == code
            assert message in refused["message"]


def _put_slice(node_api: RunningApiServer, node: str, *resources: str) -> None:
    """Publish a slice of a node with a device of each resource."""
    parts = ("resourcePrefix", "resourceName")
    devices = [
        {
            "name": f"device-{number}",
            "attributes": {part: {"string": text} for part, text in zip(parts, each.split("/"), strict=True)},
        }
        for number, each in enumerate(resources)
    ]
    spec = {"driver": DRIVER, "nodeName": node, "devices": devices}
    node_api.put(f"{SLICES}/{node}", {"metadata": {"name": node}, "spec": spec})


def _extended_names(node_api: RunningApiServer) -> set[str | None]:
    """Return the extended resource names of all classes."""
    classes = node_api.do(lambda: node_api.api.all(CLASSES))
    return {each["spec"].get("extendedResourceName") for each in classes}


class TestClasses:
    def _run(self, settings: dict[str, str], *options: str) -> Any:
        return started("classes", *options, settings=settings)

    def test_classes_of_the_cluster_are_those_of_its_slices(
        self, node_api: RunningApiServer, dra: DraKubelet, dra_settings: dict[str, str], cards: SampleNode
    ) -> None:
        wait_for(lambda: published(node_api), "a slice")
        other = {"driver": "gpu.example.com", "nodeName": "n2", "devices": [{"name": "gpu"}]}
        node_api.put(f"{SLICES}/other", {"metadata": {"name": "other"}, "spec": other})
        elsewhere = dra_settings | {"SYSFS_ROOT": "/nonexistent"}
        found = json.loads(self._run(elsewhere, "--from-cluster", "--output", "json").stdout)
        own = json.loads(self._run(dra_settings, "--output", "json").stdout)
        assert found == own
        names = {each["spec"].get("extendedResourceName") for each in found["items"]}
        assert names == {None, U200, U250}

    def test_classes_are_applied_once(
        self, cards: SampleNode, node_api: RunningApiServer, dra_settings: dict[str, str]
    ) -> None:
        first = self._run(dra_settings, "--apply").stdout
        assert {line.rpartition(": ")[2] for line in first.splitlines()} == {"created"}
        assert self._run(dra_settings, "--apply").stdout == first.replace("created", "unchanged")
        path = f"{CLASSES}/{DRIVER}"
        stored = node_api.do(lambda: node_api.api.get(path))
        assert stored is not None
        node_api.put(path, {**stored, "spec": {}})
        third = self._run(dra_settings, "--apply").stdout
        assert f"deviceclass {DRIVER}: changed" in third
        assert (node_api.do(lambda: node_api.api.get(path)) or {})["spec"] == stored["spec"]

    def test_follow_creates_the_class_of_each_new_resource(
        self, node_api: RunningApiServer, dra_settings: dict[str, str]
    ) -> None:
        _put_slice(node_api, "n1", U200)
        trouble = node_api.trouble(matches=f"POST {CLASSES}", code=500, times=2)
        with subprocess.Popen(
            [*COMMAND, "classes", "--follow"],
            env=clean_environment(dra_settings),
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            wait_for(lambda: _extended_names(node_api) == {U200}, "the first class")
            assert trouble.times == 0
            node_api.do(node_api.api.cut_watches)
            _put_slice(node_api, "n2", U250)
            wait_for(lambda: _extended_names(node_api) == {U200, U250}, "the new class")
            node_api.remove(f"{SLICES}/n2")
            process.terminate()
            said, _ = process.communicate(timeout=30)
        assert process.returncode == 0
        assert [line.rpartition(": ")[2] for line in said.splitlines()] == ["created"] * 2
        assert _extended_names(node_api) == {U200, U250}, "and not the class of all devices"

    def test_class_that_is_refused_holds_up_no_other(
        self, node_api: RunningApiServer, dra_settings: dict[str, str]
    ) -> None:
        def refused(item: dict[str, Any]) -> list[str]:
            return ["spec"] if item["spec"].get("extendedResourceName") == U200 else []

        node_api.api.invalid = refused
        with subprocess.Popen(
            [*COMMAND, "classes", "--follow"],
            env=clean_environment(dra_settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            _put_slice(node_api, "n1", U200, U250)
            wait_for(lambda: _extended_names(node_api) == {U250}, "the class after the refused one")
            _put_slice(node_api, "n2", U55C)
            wait_for(lambda: _extended_names(node_api) == {U250, U55C}, "the class of a later slice")
            node_api.api.invalid = None
            wait_for(lambda: _extended_names(node_api) == {U200, U250, U55C}, "the class that was refused")
            process.terminate()
            process.communicate(timeout=30)
        assert process.returncode == 0

    def test_class_of_another_owner_stays(
        self, cards: SampleNode, node_api: RunningApiServer, dra_settings: dict[str, str]
    ) -> None:
        path = f"{CLASSES}/{DRIVER}"
        node_api.put(path, {"metadata": {"name": DRIVER}, "spec": {"selectors": []}})
        done = self._run(dra_settings, "--apply")
        assert done.returncode == 1
        assert f"deviceclass {DRIVER}: left as it is" in done.stdout
        assert (node_api.do(lambda: node_api.api.get(path)) or {})["spec"] == {"selectors": []}

    def test_missing_right_is_one_line(
        self, cards: SampleNode, node_api: RunningApiServer, dra_settings: dict[str, str]
    ) -> None:
        node_api.api.denied = {("list", "resourceslices")}
        done = self._run(dra_settings, "--from-cluster")
        assert (done.returncode, done.stdout) == (1, "")
        assert len(done.stderr.splitlines()) == 1


class TestDiagnose:
    def _lines(self, settings: dict[str, str], check: str) -> list[str]:
        lines = started("diagnose", settings=settings).stdout.splitlines()
        return [line for line in lines if line[6:].startswith(f"{check}:")]

    def test_slices_as_scanned_are_ok(
        self, node_api: RunningApiServer, dra: DraKubelet, dra_settings: dict[str, str]
    ) -> None:
        wait_for(lambda: published(node_api), "a slice")
        assert self._lines(dra_settings, "ResourceSlices") == [
            "ok    ResourceSlices: 3 devices are published as this scan finds them"
        ]
        [service] = self._lines(dra_settings, "service")
        assert service == "ok    service: it runs on this node"

    def test_other_slices_are_named(
        self, node_api: RunningApiServer, dra: DraKubelet, dra_driver: Service, dra_settings: dict[str, str]
    ) -> None:
        wait_for(lambda: published(node_api), "a slice")
        dra_driver.process.kill()
        dra_driver.process.wait(10)
        found = node_api.do(lambda: node_api.api.get(SLICE))
        assert found is not None
        devices = {each["name"]: each for each in found["spec"]["devices"]}
        devices[A]["attributes"]["board"] = {"string": "u50"}
        devices[B]["taints"] = [{"key": f"{DRIVER}/offline", "effect": "NoSchedule"}]
        devices[C]["name"] = "pci-0000-99-00-1"
        found["metadata"]["ownerReferences"][0]["uid"] = "another"
        node_api.put(SLICE, found)
        lines = "\n".join(self._lines(dra_settings, "ResourceSlices"))
        assert lines.count("warn") == 5
        assert f'attributes.board of {A} is {{"string": "u50"}}, and this scan finds {{"string": ' in lines
        assert f'taints of {B} is ["{DRIVER}/offline"], and this scan finds none' in lines
        assert f"{C} is not published" in lines
        assert "pci-0000-99-00-1 is published and is not on this node" in lines
        owner = f"belongs to Node {NODE} another, and has to belong to Node {NODE} node-uid"
        assert owner in lines

    def test_device_that_an_older_claim_keeps_exclusive_is_as_wanted(
        self, cards: SampleNode, node_api: RunningApiServer, dra_settings: dict[str, str]
    ) -> None:
        claim = store_claim(node_api, "mine", A)

        def is_shared(name: str, wanted: bool) -> bool:
            found = published(node_api).get(name)
            return found is not None and bool(found["attributes"]["shared"]["bool"]) == wanted

        for replicas in ("1", "4"):
            settings = dra_settings | {"SHARED_REPLICAS": replicas}
            with (
                Service(settings, environment=node_api.environment),
                DraKubelet(registry(cards)) as kubelet,
            ):
                wait_for(lambda: kubelet.sockets, "a socket")
                kubelet.register()
                wait_for(partial(is_shared, B, replicas == "4"), "the slice")
                kubelet.prepared(claim)
                [line] = self._lines(settings, "ResourceSlices")
                assert line.startswith("ok")

    def test_node_that_is_none_is_said(
        self, cards: SampleNode, node_api: RunningApiServer, dra_settings: dict[str, str]
    ) -> None:
        [line] = self._lines(dra_settings | {"NODE_NAME": "n2"}, "ResourceSlices")
        assert line.startswith("fail  ResourceSlices: they can't be compared")
        assert "NODE_NAME" in line

    def test_user_of_a_kubeconfig_needs_the_right_to_read_nodes(
        self, cards: SampleNode, node_api: RunningApiServer, dra_settings: dict[str, str]
    ) -> None:
        node_api.api.denied = {("get", "nodes")}
        text = started("diagnose", settings=dra_settings).stdout
        assert "fail  API server: MODE=dra needs to get nodes" in text
        assert 'apiGroups: [""], resources: [nodes], verbs: [get]' in text

    def test_directory_of_the_checkpoint_must_be_writable(
        self, cards: SampleNode, node_api: RunningApiServer, dra_settings: dict[str, str]
    ) -> None:
        assert self._lines(dra_settings, "PLUGINS_DIR") == [
            f"ok    PLUGINS_DIR: {data(cards)} can be written"
        ]
        data(cards).parent.mkdir(parents=True, exist_ok=True)
        data(cards).write_text("")
        [line] = self._lines(dra_settings, "PLUGINS_DIR")
        assert line.startswith(
            f"fail  PLUGINS_DIR: Not a directory: {data(cards)}; mount it at the same path"
        )

    def test_device_plugin_beside_the_driver_is_named(
        self, cards: SampleNode, node_api: RunningApiServer, dra_settings: dict[str, str]
    ) -> None:
        locks = Path(cards.plugins_dir) / "fpga.xilinx.com" / "instances"
        with Service(dra_settings | {"MODE": "device-plugin"}):
            wait_for(lambda: [each for each in locks.glob("*") if each.suffix != ".new"], "its lock")
            found = "\n".join(self._lines(dra_settings, "service"))
        assert "warn  service: a device plugin of this program runs on this node too" in found

    def test_claims_that_a_driver_has_left_behind_are_named(
        self, node_api: RunningApiServer, dra: DraKubelet, dra_driver: Service, dra_settings: dict[str, str]
    ) -> None:
        wait_for(lambda: published(node_api), "a slice")
        dra.prepared(store_claim(node_api, "mine", A))
        plugin = dra_settings | {"MODE": "device-plugin"}
        assert not any("default/mine" in line for line in self._lines(plugin, "service"))
        dra_driver.process.terminate()
        dra_driver.process.wait(10)
        found = "\n".join(self._lines(plugin, "service"))
        assert "pods cannot end that have the prepared ResourceClaims default/mine; start the driver" in found

    def test_fields_that_the_server_drops_are_named(
        self, cards: SampleNode, node_api: RunningApiServer, dra: DraKubelet, dra_settings: dict[str, str]
    ) -> None:
        wait_for(lambda: published(node_api), "a slice")
        node_api.do(lambda: node_api.api.dropped.append("spec.devices.*.taints"))
        cards.cards[0].offline()
        wait_for(lambda: A not in published(node_api), "the faulty device is left out")
        found = "\n".join(self._lines(dra_settings, "ResourceSlices"))
        assert "not published" not in found
        assert "warn  ResourceSlices: the API server does not store taints of a device" in found
