"""Events, the node's condition and the startup taint: the service as a process, an API server with TLS."""

import base64
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from tests.support.api_server import RunningApiServer
from tests.support.double import KubeletDouble
from tests.support.process import COMMAND, Service, clean_environment, cli
from tests.support.resource_names import U200, U250
from tests.support.running import settings_for
from tests.support.waiting import wait_for
from xilinx_fpga_dp.apiserver.node import _LOOK
from xilinx_fpga_dp.observe.events import Event, NodeEvent
from xilinx_fpga_dp.simulate.api_server import Json
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode, XrtCard

NODE = "/api/v1/nodes/n1"
EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"
TAINT = "fpga.xilinx.com/starting"
OTHER_TAINT = {"key": "example.com/other", "effect": "NoExecute"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningApiServer]:
    with RunningApiServer(tmp_path) as running:
        running.put(NODE, {"spec": {}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}})
        yield running


@pytest.fixture
def card(node: SampleNode, kubelet: KubeletDouble) -> XrtCard:
    """The first of two cards on a node whose kubelet runs."""
    kubelet.start()
    node.add_card("u250", "0000:21:00")
    return node.add_card("u200", "0000:11:00")


def _service(node: SampleNode, server: RunningApiServer, **settings: str) -> Service:
    return Service(settings_for(node, NODE_NAME="n1", **settings), environment=server.environment)


def _condition(server: RunningApiServer) -> Json:
    node = server.api.get(NODE) or {}
    return next((each for each in node["status"]["conditions"] if each["type"] == "FPGAHealthy"), {})


def _condition_is(server: RunningApiServer, status: str, reason: str) -> Json:
    def as_wanted() -> Json | None:
        found = _condition(server)
        return found if (found.get("status"), found.get("reason")) == (status, reason) else None

    return server.wait_for(as_wanted, f"{status} {reason}") or {}


def _events(server: RunningApiServer) -> list[tuple[str, str]]:
    return [(each["reason"], each["note"]) for each in server.api.all(EVENTS)]


def _writes(server: RunningApiServer) -> list[tuple[str, str]]:
    return [(each.method, each.path) for each in list(server.api.requests) if each.writes]


class TestEvents:
    def test_fault_and_recovery_are_told_once_each(
        self, card: XrtCard, node: SampleNode, server: RunningApiServer
    ) -> None:
        with _service(node, server, EVENTS="true", DRA_DRIVER_NAME="fpga.example.com") as service:
            service.logged(Event.REGISTERED, count=2)
            card.offline()
            server.wait_for(lambda: len(_events(server)) == 1, "the fault is told")
            card.mend()
            server.wait_for(lambda: len(_events(server)) == 2, "the recovery is told")
        assert sorted(_events(server)) == [
            (NodeEvent.RECOVERED, "0000:11:00.1 (u200): healthy after offline"),
            (NodeEvent.UNHEALTHY, "0000:11:00.1 (u200): offline"),
        ]
        assert [method for method, _ in _writes(server)] == ["POST", "POST"]
        found = next(each for each in server.api.all(EVENTS) if each["reason"] == NodeEvent.UNHEALTHY)
        assert (found["type"], found["reportingController"]) == ("Warning", "fpga.example.com")
        assert found["regarding"] == {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "n1"}

    def test_uid_of_the_node_comes_from_the_token(
        self, card: XrtCard, node: SampleNode, server: RunningApiServer
    ) -> None:
        claims = {"kubernetes.io": {"node": {"name": "n1", "uid": "u-1"}}}
        payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
        server.rotate_token(f"e30.{payload}.c2ln")
        card.offline()
        with _service(node, server, EVENTS="true"):
            server.wait_for(lambda: _events(server), "the fault is told")
        [found] = server.api.all(EVENTS)
        assert (found["regarding"]["uid"], found["reportingController"]) == ("u-1", "fpga.xilinx.com")

    def test_fault_from_before_the_start_is_told_once_by_two_processes(
        self, card: XrtCard, node: SampleNode, server: RunningApiServer
    ) -> None:
        card.offline()
        with _service(node, server, EVENTS="true"):
            server.wait_for(lambda: _events(server), "the fault is told")
        with _service(node, server, EVENTS="true"):
            server.wait_for(lambda: len(_writes(server)) == 2, "the fault is told again")
            card.mend()
            server.wait_for(lambda: len(_events(server)) == 2, "what comes next is told")
        assert [method for method, _ in _writes(server)] == ["POST"] * 3
        assert not any("series" in each for each in server.api.all(EVENTS))

    def test_flapping_card_is_told_once_in_ten_minutes(
        self, card: XrtCard, node: SampleNode, server: RunningApiServer
    ) -> None:
        with _service(node, server, EVENTS="true", RECOVERY_CHECKS="1") as service:
            for count in range(1, 4):
                card.offline()
                service.logged(Event.DEVICE_UNHEALTHY, count=count)
                card.mend()
                service.logged(Event.DEVICE_HEALTHY, count=count)
            card.remove()
            server.wait_for(lambda: len(_events(server)) == 3, "the removal is told")
        assert len(_writes(server)) == 3

    def test_server_that_is_away_is_told_later_and_once(
        self, card: XrtCard, node: SampleNode, kubelet: KubeletDouble, server: RunningApiServer
    ) -> None:
        with _service(node, server, EVENTS="true", NODE_CONDITION="true") as service:
            _condition_is(server, "True", "AllHealthy")
            server.stop()
            card.offline()
            kubelet.wait_for(lambda: kubelet.allocatable(U200) == 0)
            service.logged(Event.API_CALL_FAILED, purpose="Events")
            assert kubelet.allocatable(U250) == 1
            server.start()
            _condition_is(server, "False", "Offline")
            server.wait_for(lambda: len(_events(server)) == 1, "the fault is told")
            service.logged(Event.API_CALL_SUCCEEDED, purpose="Events")
            service.logged(Event.API_CALL_SUCCEEDED, purpose="node condition")
        [found] = server.api.all(EVENTS)
        assert "series" not in found

    def test_answer_that_is_lost_tells_nothing_twice(
        self, card: XrtCard, node: SampleNode, server: RunningApiServer
    ) -> None:
        """The server has stored the Event and the answer is cut off, more often than a call is repeated."""
        trouble = server.trouble(matches="POST", cut="after", times=3)
        with _service(node, server, EVENTS="true") as service:
            service.logged(Event.REGISTERED, count=2)
            card.offline()
            server.wait_for(lambda: trouble.times == 0, "three answers are lost")
            service.logged(Event.API_CALL_SUCCEEDED)
        [found] = server.api.all(EVENTS)
        assert "series" not in found


class TestCondition:
    def test_condition_follows_the_cards(
        self, card: XrtCard, node: SampleNode, server: RunningApiServer
    ) -> None:
        with _service(node, server, NODE_CONDITION="true"):
            healthy = _condition_is(server, "True", "AllHealthy")
            assert healthy["message"] == "FPGA devices: 2, none has a fault"
            card.offline()
            broken = _condition_is(server, "False", "Offline")
            assert broken["message"] == "0000:11:00.1 (u200): offline"
            card.mend()
            _condition_is(server, "True", "AllHealthy")
        assert _writes(server) == [("PATCH", f"{NODE}/status")] * 3
        [ready] = [
            each for each in (server.api.get(NODE) or {})["status"]["conditions"] if each["type"] == "Ready"
        ]
        assert ready == {"type": "Ready", "status": "True"}

    def test_card_that_does_not_return_from_its_reset_counts_after_the_grace(
        self, card: XrtCard, node: SampleNode, server: RunningApiServer
    ) -> None:
        with _service(node, server, NODE_CONDITION="true", RESET_GRACE="1") as service:
            _condition_is(server, "True", "AllHealthy")
            card.offline()
            service.logged(Event.DEVICE_UNHEALTHY)
            card.remove()
            assert _condition_is(server, "False", "Resetting")["message"] == "0000:11:00.1: resetting"
            card.plug()
            _condition_is(server, "True", "AllHealthy")

    def test_time_of_the_change_outlives_the_process(
        self, card: XrtCard, node: SampleNode, server: RunningApiServer
    ) -> None:
        since = "2026-01-01T00:00:00Z"
        old = {"type": "FPGAHealthy", "status": "True", "reason": "AllHealthy", "lastTransitionTime": since}
        server.put(NODE, {"spec": {}, "status": {"conditions": [old]}})
        with _service(node, server, NODE_CONDITION="true"):
            server.wait_for(lambda: _writes(server), "the condition is written")
            assert _condition(server)["lastTransitionTime"] == since
            card.offline()
            assert _condition_is(server, "False", "Offline")["lastTransitionTime"] > since

    def test_standby_instance_leaves_the_condition_to_the_newer_one(
        self, card: XrtCard, node: SampleNode, server: RunningApiServer
    ) -> None:
        with _service(node, server, NODE_CONDITION="true", EVENTS="true") as older:
            older.logged(Event.REGISTERED, count=2)
            _condition_is(server, "True", "AllHealthy")
            with _service(node, server, NODE_CONDITION="true", EVENTS="true") as newer:
                older.logged(Event.SUPERSEDED, count=2)
                newer.logged(Event.REGISTERED, count=2)
                before = len(_writes(server))
                card.offline()
                _condition_is(server, "False", "Offline")
                server.wait_for(lambda: _events(server), "the fault is told")
                older.logged(Event.DEVICE_UNHEALTHY)
                newer.terminate()
            card.mend()
            _condition_is(server, "True", "AllHealthy")
            server.wait_for(lambda: len(_events(server)) == 2, "the recovery is told")
        kinds = [method for method, _ in _writes(server)[before:]]
        assert kinds.count("POST") == 2
        assert kinds.count("PATCH") <= 4  # the first and the change, by each instance in its turn

    def test_missing_right_is_logged_with_the_server_s_words(
        self, card: XrtCard, node: SampleNode, kubelet: KubeletDouble, server: RunningApiServer
    ) -> None:
        server.api.denied = {("patch", "nodes/status")}
        with _service(node, server, NODE_CONDITION="true") as service:
            failed = service.logged(Event.API_CALL_FAILED)
            kubelet.wait_for(lambda: kubelet.allocatable(U200) == 1)
        assert 'cannot patch resource "nodes/status"' in failed["error"]
        assert len(server.api.requests) == 1

    def test_rotated_token_and_authority_are_used(
        self, card: XrtCard, node: SampleNode, server: RunningApiServer
    ) -> None:
        with _service(node, server, NODE_CONDITION="true") as service:
            _condition_is(server, "True", "AllHealthy")
            server.stop()
            server.rotate_token("second")
            server.new_authority()
            server.start()
            card.offline()
            _condition_is(server, "False", "Offline")
        assert Event.API_CALL_FAILED not in [each["event"] for each in service.events]


class TestStartupTaint:
    @staticmethod
    def _taint(server: RunningApiServer, *capacity: str) -> None:
        taints = [{"key": TAINT, "effect": "NoSchedule"}, OTHER_TAINT, {"key": TAINT, "effect": "NoExecute"}]
        server.put(NODE, {"spec": {"taints": taints}, "status": {"capacity": dict.fromkeys(capacity, "1")}})

    def test_taint_goes_when_the_node_counts_all_cards(
        self, card: XrtCard, node: SampleNode, server: RunningApiServer
    ) -> None:
        self._taint(server, U200)
        with _service(node, server, STARTUP_TAINT=TAINT) as service:
            service.logged(Event.REGISTERED, count=2)
            server.wait_for(lambda: len(server.api.requests) >= 2, "the node is read twice")
            assert len((server.api.get(NODE) or {})["spec"]["taints"]) == 3
            node_object: Any = server.api.get(NODE)
            server.put(NODE, node_object | {"status": {"capacity": {U200: "1", U250: "1"}}})
            service.logged(Event.STARTUP_TAINT_REMOVED)
            assert (server.api.get(NODE) or {})["spec"]["taints"] == [OTHER_TAINT]
            self._taint(server, U200, U250)
            requests = len(server.api.requests)
            service.hang_up()
            service.logged(Event.REGISTERED, count=4)
        assert len(server.api.requests) == requests, "the taint is removed once"

    def test_taint_stays_until_kubelet_has_registered_all(
        self, node: SampleNode, kubelet: KubeletDouble, server: RunningApiServer
    ) -> None:
        node.add_card("u200", "0000:11:00")
        self._taint(server, U200)
        with _service(node, server, STARTUP_TAINT=TAINT, HTTP_ADDRESS="127.0.0.1:0") as service:
            service.logged(Event.SERVING_HTTP)
            assert not server.api.requests
            kubelet.start()
            service.logged(Event.STARTUP_TAINT_REMOVED)

    def test_taint_stays_while_a_card_starts(
        self, node: SampleNode, kubelet: KubeletDouble, server: RunningApiServer
    ) -> None:
        card = node.add_card("u50", "0000:11:00")
        card.write("mgmt/rp_program", "1")
        kubelet.start()
        self._taint(server)
        with _service(node, server, STARTUP_TAINT=TAINT) as service:
            service.logged(Event.LEFT_OUT, function=card.address)
            time.sleep(2 * _LOOK)
            assert not server.api.requests
            card.write("mgmt/rp_program", "0")
            self._taint(server, service.logged(Event.REGISTERED)["resource"])
            service.logged(Event.STARTUP_TAINT_REMOVED)

    def test_node_without_the_taint_is_not_written(
        self, card: XrtCard, node: SampleNode, server: RunningApiServer
    ) -> None:
        server.put(NODE, {"spec": {"taints": [OTHER_TAINT]}, "status": {}})
        with _service(node, server, STARTUP_TAINT=TAINT) as service:
            server.wait_for(lambda: server.api.requests, "the node is read")
            service.logged(Event.REGISTERED, count=2)
        assert _writes(server) == []

    def test_changed_taints_are_read_again(
        self, card: XrtCard, node: SampleNode, server: RunningApiServer
    ) -> None:
        self._taint(server, U200, U250)
        server.trouble(matches=f"PATCH {NODE}$", code=422, reason="Invalid", times=1)
        with _service(node, server, STARTUP_TAINT=TAINT) as service:
            service.logged(Event.STARTUP_TAINT_REMOVED)
        assert (server.api.get(NODE) or {})["spec"]["taints"] == [OTHER_TAINT]


class TestDiagnose:
    ALL: ClassVar = {"NODE_NAME": "n1", "EVENTS": "true", "NODE_CONDITION": "true", "STARTUP_TAINT": TAINT}

    def _lines(self, node: SampleNode, server: RunningApiServer, **settings: str) -> tuple[int, str]:
        environment = clean_environment(settings_for(node, **settings)) | server.environment
        done = subprocess.run(
            [*COMMAND, "diagnose"], env=environment, capture_output=True, text=True, check=False
        )
        assert done.stderr == ""
        lines, _, manifest = done.stdout.partition("\n\n")
        return done.returncode, "\n".join(
            each for each in lines.splitlines() if "API server" in each
        ) + manifest

    def test_no_setting_asks_nothing(self, card: XrtCard, node: SampleNode, server: RunningApiServer) -> None:
        assert self._lines(node, server)[1] == ""
        assert not server.api.requests

    def test_rights_that_are_there(self, card: XrtCard, node: SampleNode, server: RunningApiServer) -> None:
        assert self._lines(node, server, **self.ALL)[1] == (
            "ok    API server: it answers system:serviceaccount:kube-system:xilinx-fpga-dp and gives the "
            "rights that EVENTS, NODE_CONDITION, STARTUP_TAINT need"
        )
        assert not [each for each in server.api.requests if each.writes]

    def test_missing_rights_come_with_a_manifest(
        self, card: XrtCard, node: SampleNode, server: RunningApiServer
    ) -> None:
        server.api.denied = {("patch", "events"), ("patch", "nodes/status")}
        code, text = self._lines(node, server, **self.ALL)
        assert code == 1
        assert "fail  API server: NODE_CONDITION needs to patch nodes/status, which system:" in text
        role, binding, cluster_role, cluster_binding = yaml.safe_load_all(text[text.index("apiVersion") :])
        assert role["metadata"]["namespace"] == binding["metadata"]["namespace"] == "default"
        assert role["rules"] == [
            {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]}
        ]
        assert cluster_role["rules"] == [
            {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]},
            {"apiGroups": [""], "resources": ["nodes"], "verbs": ["patch"]},
        ]
        subject = {"kind": "ServiceAccount", "namespace": "kube-system", "name": "xilinx-fpga-dp"}
        assert binding["subjects"] == cluster_binding["subjects"] == [subject]
        assert cluster_binding["roleRef"]["name"] == cluster_role["metadata"]["name"]

    def test_server_that_is_away(self, card: XrtCard, node: SampleNode, server: RunningApiServer) -> None:
        server.stop()
        code, text = self._lines(node, server, **self.ALL)
        assert (code, text.startswith("fail  API server: POST /apis/")) == (1, True)


@pytest.mark.parametrize("setting", ["EVENTS", "NODE_CONDITION"])
def test_setting_without_the_node_s_name_is_one_line(setting: str) -> None:
    done = cli("run", settings={setting: "true"})
    line = (
        f"XILINX_FPGA_DP_{setting}: needs NODE_NAME, in a pod from the field spec.nodeName (it is 'true')\n"
    )
    assert (done.returncode, done.stderr) == (2, line)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"STARTUP_TAINT": TAINT}, "STARTUP_TAINT: needs NODE_NAME"),
        ({"STARTUP_TAINT": "device-plugin"}, "STARTUP_TAINT: needs NODE_NAME"),
        ({"STARTUP_TAINT": "a/b/c", "NODE_NAME": "n1"}, "STARTUP_TAINT: must be the key of a taint"),
        ({"EVENTS": "true", "NODE_NAME": "a/b"}, "NODE_NAME: must be the name of a Node"),
    ],
)
def test_wrong_form_is_one_line(settings: dict[str, str], problem: str) -> None:
    done = cli("run", settings=settings)
    assert done.returncode == 2
    assert done.stderr.startswith(f"XILINX_FPGA_DP_{problem}")
    assert done.stderr.count("\n") == 1


def test_service_without_access_works_and_says_so(
    card: XrtCard, node: SampleNode, kubelet: KubeletDouble
) -> None:
    environment = {name: "" for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST") if name in os.environ}
    with Service(settings_for(node, NODE_NAME="n1", EVENTS="true"), environment=environment) as service:
        card.offline()
        failed = service.logged(Event.API_CALL_FAILED)
        wait_for(lambda: kubelet.allocatable(U250) == 1, "the other card is offered")
    assert failed["error"].startswith("no access to the API server: KUBECONFIG names no file")
