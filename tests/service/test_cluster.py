"""``cluster`` as a process against the fake API server, whose proxy reaches the pods over HTTP."""

import csv
import io
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.api_server import RunningApiServer
from tests.support.plugin_pods import PluginPods, device, state
from tests.support.probed import Probed
from tests.support.process import COMMAND, Service, clean_environment, started
from tests.support.schemas import conforms
from tests.support.terminal import Terminal
from tests.support.waiting import wait_for
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode

HOLDER = {"namespace": "default", "pod": "mypod", "container": "main"}
FAULTY = device("0000:66:00.1", serial="S2", health="Unhealthy", reason="firewall", held_by=[HOLDER])
GOLDEN = {"0000:81:00.0": "golden image: program a shell first"}
WATCH = (*COMMAND, "cluster", "--watch")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningApiServer]:
    folder = tmp_path / "api"
    folder.mkdir()
    with RunningApiServer(folder, tls=False) as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def pods(server: RunningApiServer) -> Iterator[PluginPods]:
    with PluginPods(server) as pods:
        yield pods


@pytest.fixture
def three(pods: PluginPods) -> PluginPods:
    """A node with two cards, one without a card, and one whose pod is still Pending."""
    pods.add("n1", state(device(), FAULTY, left_out=GOLDEN))
    pods.add("n2", state())
    pods.add("n3", phase="Pending", containerStatuses=[_waiting("ImagePullBackOff")])
    return pods


def _waiting(reason: str) -> dict[str, Any]:
    return {"name": "xilinx-fpga-dp", "state": {"waiting": {"reason": reason}}}


def _bytes(document: Any) -> bytes:
    return json.dumps(document).encode()


def _errors(pods: PluginPods, others: int = 0) -> dict[str, str]:
    """Return why nodes have no answer, where another one has, and so many more of them."""
    pods.add("good", state(device()))
    done = started("cluster", "--output", "json")
    assert done.returncode == 0
    document = json.loads(done.stdout)
    conforms("cluster", document)
    assert "good" in document["nodes"]
    assert len(document["nodes"]) == 1 + others
    return dict(document["errors"])


def _csv(*options: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(started("cluster", "--output", "csv", *options).stdout)))


class TestTable:
    def test_shows_every_card_left_out_function_and_silent_node(self, three: PluginPods) -> None:
        done = started("cluster")
        assert done.returncode == 0
        assert done.stderr == ""
        assert "\n\nleft out:\n  n1  0000:81:00.0  golden image" in done.stdout
        lines = [line.split("  ") for line in done.stdout.splitlines()]
        shown = [[cell.strip() for cell in line if cell.strip()] for line in lines]
        assert shown == [
            ["NODE", "DEVICE", "BOARD", "SHELL", "SERIAL", "HEALTH", "SINCE", "HELD BY"],
            [
                *("n1", "0000:65:00.1", "u200", "xilinx_u200_xdma_201830_2", "XFL1A2B3C4D5", "Healthy"),
                *("2026-11-23T07:00:00Z", "-"),
            ],
            [
                *("n1", "0000:66:00.1", "u200", "xilinx_u200_xdma_201830_2", "S2", "Unhealthy (firewall)"),
                *("2026-11-23T07:00:00Z", "default/mypod/main"),
            ],
            [
                "n3",
                "no answer: pod kube-system/xilinx-fpga-dp-n3 is not running: Pending, ImagePullBackOff",
            ],
            [],
            ["left out:"],
            ["n1", "0000:81:00.0", "golden image: program a shell first"],
        ]

    def test_wide_adds_where_the_card_is_and_its_resource(self, three: PluginPods) -> None:
        head, row, *_ = started("cluster", "--output", "wide").stdout.splitlines()
        assert head.split()[-4:] == ["NUMA", "DRIVER", "NODES", "RESOURCE"]
        assert row.split()[-4:] == ["0", "xocl", "/dev/dri/renderD128", device()["resource"]]

    def test_node_chooses_nodes_and_tells_of_one_without_a_pod(self, three: PluginPods) -> None:
        done = started("cluster", "--node", "n2", "--node", "n9")
        assert done.returncode == 0
        [line] = [line for line in done.stdout.splitlines() if line.startswith("n")]
        assert line.split(maxsplit=1) == ["n9", "no answer: no pod of the plugin on this node"]

    def test_unhealthy_leaves_out_healthy_devices_only(self, three: PluginPods) -> None:
        shown = started("cluster", "--unhealthy").stdout
        assert "0000:65:00.1" not in shown
        assert all(each in shown for each in ("0000:66:00.1", "0000:81:00.0", "n3  "))
        document = json.loads(started("cluster", "--unhealthy", "--output", "json").stdout)
        assert document["nodes"]["n1"]["devices"] == [FAULTY]

    def test_control_characters_never_reach_the_terminal(self, pods: PluginPods) -> None:
        escape = "\x1b[2J\x9b\x7f\u202e\ud800\r\n"
        pods.add("n1", state(device(escape, board=escape, serial=escape), left_out={escape: escape}))
        pods.add("n2", escape.encode(errors="replace"), code=500)
        pods.add("n3", phase=escape)
        for output in ("table", "wide", "json", "csv"):
            shown = started("cluster", "--output", output).stdout
            assert all(char.isprintable() or char in "\r\n" for char in shown)
            assert "\r" not in shown.replace("\r\n", "")

    def test_two_hundred_nodes_are_asked_a_bounded_number_at_a_time(self, pods: PluginPods) -> None:
        for number in range(200):
            pods.add(f"n{number:03}", state(device(serial=f"S{number}")))
        shown = started("cluster").stdout.splitlines()[1:]
        assert [(line.split()[0], line.split()[4]) for line in shown] == [
            (f"n{number:03}", f"S{number}") for number in range(200)
        ]
        assert 1 < pods.most <= 32


class TestJson:
    def test_has_the_documents_by_node_and_conforms(self, three: PluginPods) -> None:
        document = json.loads(started("cluster", "--output", "json").stdout)
        conforms("cluster", document)
        assert document["nodes"] == {"n1": state(device(), FAULTY, left_out=GOLDEN), "n2": state()}
        for each in document["nodes"].values():
            conforms("state", each)
        assert document["errors"].keys() == {"n3"}


class TestCsv:
    def test_has_a_header_and_a_row_a_card(self, three: PluginPods) -> None:
        text = subprocess.run(
            [*COMMAND, "cluster", "--output", "csv"], stdout=subprocess.PIPE, check=True
        ).stdout
        assert text.count(b"\r\n") == text.count(b"\n") == 5
        rows = _csv()
        assert [(row["node"], row["device"], row["health"]) for row in rows] == [
            ("n1", "0000:65:00.1", "Healthy"),
            ("n1", "0000:66:00.1", "Unhealthy"),
            ("n1", "0000:81:00.0", "left out"),
            ("n3", "", "no answer"),
        ]
        assert rows[1]["reason"] == "firewall"
        assert rows[1]["held_by"] == "default/mypod/main"
        assert rows[0]["serial"] == "XFL1A2B3C4D5"
        assert rows[0]["pod"] == "kube-system/xilinx-fpga-dp-n1"

    def test_cell_is_no_formula_of_a_spreadsheet(self, pods: PluginPods) -> None:
        texts = ["=1+1", "+1", "-1", "@A1", " =1", "\uff1d1", "a;=1", "plain", 'a,"b"']
        pods.add("n1", state(*[device(serial=text) for text in texts]))
        assert [row["serial"] for row in _csv()] == [
            *("'=1+1", "'+1", "'-1", "'@A1", "' =1", "'\uff1d1", "a;'=1", "plain", 'a,"b"')
        ]


class TestNodeWithoutAnswer:
    def test_wrong_document_is_told(self, pods: PluginPods) -> None:
        no_json = "the answer of /state is no JSON"
        expected = {
            b"<html>": no_json,
            b'{"devices": NaN}': no_json,
            b'{"devices": 1e999}': no_json,
            b"[" * 100_000: no_json,
            b"\xff\xfe\x00": no_json,
            b"[]": "not the state of a node: /state: Input should be a valid dictionary",
            b"{}": "not the state of a node: devices: Field required",
            b'{"devices": [{"health": "Healthy"}]}': "devices.0.id: Field required",
            b'{"devices": [{"id": 1, "health": "Healthy"}]}': "devices.0.id: Input should be a valid string",
            _bytes(state(device(serial="x" * 1000))): "devices.0.serial: String should have at most 512",
            _bytes({"devices": [{}] * 5000}): "devices: List should have at most 4096 items",
            _bytes(state(*[device()] * 5000)): "an answer of over 2 MiB",
        }
        for number, answer in enumerate(expected):
            pods.add(f"n{number}", answer)
        errors = _errors(pods)
        for number, reason in enumerate(expected.values()):
            error = errors.pop(f"n{number}")
            assert error.startswith(f"pod kube-system/xilinx-fpga-dp-n{number}: ")
            assert reason in error
            assert len(error) < 400
        assert not errors

    def test_pod_that_cannot_answer_is_told(self, pods: PluginPods) -> None:
        unscheduled = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]
        expected: list[tuple[dict[str, Any], str]] = [
            ({"code": 500}, "500 no"),
            ({"code": 403}, "403 no"),
            ({"code": 302, "headers": {"Location": "http://127.0.0.1/"}}, "302 no"),
            ({"port": 1}, "503 error trying to reach service: dial tcp 127.0.0.1:1: connect: connection ref"),
            ({"port": 0}, "has no port named http: its HTTP_ADDRESS is empty"),
            ({"phase": "Failed", "reason": "Evicted"}, "is not running: Failed, Evicted"),
            ({"containerStatuses": [_waiting("CrashLoopBackOff")]}, "not running: Running, CrashLoopBackOff"),
            ({"phase": "Pending", "conditions": unscheduled}, "is not running: Pending, Unschedulable"),
        ]
        for number, (pod, _) in enumerate(expected):
            pods.add(f"n{number}", b"no", **pod)
        pods.add("silent", None)
        errors = _errors(pods)
        assert errors.pop("silent") == "pod kube-system/xilinx-fpga-dp-silent: no answer for 5 s"
        for number, (_, reason) in enumerate(expected):
            assert reason in errors.pop(f"n{number}")
        assert not errors

    def test_waiting_for_a_turn_takes_nothing_of_the_time(self, pods: PluginPods) -> None:
        for number in range(97):
            pods.add(f"n{number}", state())
        pods.server.trouble(matches="GET .*/proxy/state", delay=2.0)
        assert _errors(pods, others=97) == {}

    def test_missing_right_is_told(self, pods: PluginPods) -> None:
        pods.add("bad", state())
        pods.server.api.denied.add(("get", "pods/proxy"))
        done = started("cluster")
        assert (
            'cannot get resource "pods/proxy" in API group "" in the namespace "kube-system"' in done.stdout
        )
        assert done.returncode == 1, "no node answered"

    def test_unscheduled_pod_of_a_daemonset_has_its_node(self, pods: PluginPods) -> None:
        name = pods.add("", phase="Pending")
        term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["bad"]}]}
        pod = pods.server.api.get(f"/api/v1/namespaces/kube-system/pods/{name}")
        assert pod
        terms = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
        spec = {"containers": pod["spec"]["containers"], "affinity": {"nodeAffinity": terms}}
        pods.server.put(f"/api/v1/namespaces/kube-system/pods/{name}", pod | {"spec": spec})
        assert "is not running: Pending" in _errors(pods)["bad"]

    def test_other_version_shows_what_it_has(self, pods: PluginPods) -> None:
        known = device(slot="new in a later version")
        del known["since"], known["held_by"]
        pods.add("n1", state(known))
        lines = started("cluster").stdout.splitlines()
        assert lines[1].split()[-3:] == ["Healthy", "-", "-"]
        assert lines[-1] == ("warning: n1: its /state has no held_by, since: another version of the plugin")
        assert json.loads(started("cluster", "--output", "json").stdout)["nodes"]["n1"]["devices"] == [known]
        assert _csv()[0]["since"] == ""


class TestPods:
    def test_ready_instance_of_two_on_a_node_answers(self, pods: PluginPods) -> None:
        not_ready = [{"type": "Ready", "status": "False"}]
        pods.add("n1", state(device(serial="new")), name="new", conditions=not_ready)
        pods.add("n1", state(device(serial="old")), name="old")
        assert [row["serial"] for row in _csv()] == ["old"]
        pods.answers("old", b"gone", 500)
        assert [row["serial"] for row in _csv()] == ["new"]

    def test_pods_of_several_namespaces_are_a_warning(self, pods: PluginPods) -> None:
        pods.add("n1", state(device(serial="true")))
        pods.add("n2", state(device(serial="true")))
        pods.add("n1", state(device(serial="false")), name="a", namespace="a-tenant")
        done = started("cluster")
        assert "false" not in done.stdout
        assert "kube-system (2), a-tenant (1); --namespace chooses one" in done.stdout
        assert [row["serial"] for row in _csv("--namespace", "a-tenant")] == ["false"]

    def test_other_labels_need_the_selector(self, pods: PluginPods) -> None:
        name = pods.add("n1", state(device()))
        pod = pods.server.api.get(f"/api/v1/namespaces/kube-system/pods/{name}")
        assert pod
        labels = {"labels": {"app.kubernetes.io/name": "fpga"}}
        pods.server.put(f"/api/v1/namespaces/kube-system/pods/{name}", pod | {"metadata": labels})
        done = started("cluster", "--output", "json")
        assert (done.returncode, json.loads(done.stdout)) == (1, {"nodes": {}, "errors": {}})
        assert "no pod with the label app.kubernetes.io/name=xilinx-fpga-dp in any namespace" in done.stderr
        assert "kubectl get daemonsets -A" in done.stderr
        assert "--selector" in done.stderr
        assert "0000:65:00.1" in started("cluster", "--selector", "app.kubernetes.io/name=fpga").stdout

    def test_cookies_of_a_pod_reach_no_other(self, pods: PluginPods) -> None:
        for number in range(40):
            pods.add(f"n{number:02}", state(device()), headers={"Set-Cookie": f"c{number}=x; Path=/"})
        started("cluster")
        assert {each.cookie for each in pods.server.api.requests} == {""}

    def test_running_service_is_shown(self, pods: PluginPods, node: SampleNode) -> None:
        card = node.add_card("u200")
        probed = Probed(node)
        with Service(probed.settings) as service:
            service.logged(Event.SERVING_HTTP)
            pods.add("n1", port=int(probed.address.rpartition(":")[2]))
            [row] = _csv()
            assert (row["device"], row["health"], row["since"] != "") == (card.address, "Healthy", True)
            card.firewall_trip()
            wait_for(lambda: _csv("--unhealthy"), "it is Unhealthy")
            assert _csv()[0]["reason"] == "firewall"


class TestAccess:
    def test_pods_that_may_not_be_listed_are_an_error(self, pods: PluginPods) -> None:
        pods.server.api.denied.add(("list", "pods"))
        done = started("cluster")
        assert (done.returncode, done.stdout) == (1, "")
        assert 'cannot list resource "pods"' in done.stderr
        assert done.stderr.endswith("; in one namespace: --namespace\n")
        assert len(done.stderr.splitlines()) == 1

    def test_unreachable_server_is_an_error(self, server: RunningApiServer) -> None:
        server.stop()
        done = started("cluster")
        assert (done.returncode, done.stdout) == (1, "")
        assert len(done.stderr.splitlines()) == 1

    def test_no_kubeconfig_is_bad_use(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("KUBECONFIG", raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        for options in ((), ("--watch",), ("--context", "x")):
            done = started("cluster", *options)
            assert (done.returncode, done.stdout) == (2, "")
            assert done.stderr.startswith("cluster: no access to the API server: KUBECONFIG names no file")
            assert len(done.stderr.splitlines()) == 1

    def test_broken_kubeconfig_is_bad_use(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for text in ("{", "current-context: x"):
            (tmp_path / "config").write_text(text)
            monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
            done = started("cluster")
            assert done.returncode == 2
            assert str(tmp_path / "config") in done.stderr
            assert len(done.stderr.splitlines()) == 1

    def test_context_of_several_files_is_chosen(
        self, pods: PluginPods, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pods.add("n1", state(device()))
        other = tmp_path / "other"
        other.write_text(
            yaml.safe_dump(
                {
                    "current-context": "away",
                    "contexts": [{"name": "away", "context": {"cluster": "away"}}],
                    "clusters": [{"name": "away", "cluster": {"server": "http://127.0.0.1:1"}}],
                }
            )
        )
        monkeypatch.setenv("KUBECONFIG", f"{other}:{pods.server.kubeconfig}")
        assert started("cluster").returncode == 1, "the first current-context counts"
        assert "0000:65:00.1" in started("cluster", "--context", "x").stdout
        assert started("cluster", "--context", "none").returncode == 2

    def test_impossible_namespace_is_bad_use(self, pods: PluginPods) -> None:
        done = started("cluster", "--namespace", "..")
        assert done.returncode == 2
        assert done.stderr.startswith("--namespace: ")


class TestWatch:
    def test_prints_a_table_when_something_changes(self, pods: PluginPods) -> None:
        name = pods.add("n1", state(device()))
        with subprocess.Popen(
            WATCH, env=clean_environment({}), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as watch:
            assert watch.stdout
            assert watch.stderr
            lines = iter(watch.stdout.readline, "")
            assert "Healthy" in [next(lines), next(lines), next(lines)][1]
            # Only rounded another way: no new table
            asked = len(pods.server.api.requests)
            pods.answers(name, state(device(since="2026-11-23T07:00:01Z")))
            pods.server.wait_for(lambda: len(pods.server.api.requests) >= asked + 2, "another round")
            pods.answers(name, state(device(health="Unhealthy", reason="offline")))
            assert "Unhealthy (offline)" in [next(lines), next(lines), next(lines)][1]
            pods.server.api.denied.add(("list", "pods"))
            assert "cannot list" in watch.stderr.readline()
            pods.server.api.denied.clear()
            pods.answers(name, state(device()))
            assert "Healthy" in [next(lines), next(lines), next(lines)][1]
            watch.send_signal(signal.SIGINT)
            assert watch.wait(30) == 0

    def test_redraws_on_a_terminal(self, pods: PluginPods) -> None:
        name = pods.add("n1", state(device()))
        with Terminal(WATCH, {}, columns=200) as terminal:
            wait_for(lambda: any("  Healthy  " in line for line in terminal.shown()), "the table")
            pods.answers(name, state(FAULTY))
            wait_for(lambda: any("Unhealthy (firewall)" in line for line in terminal.shown()), "the change")
            assert len(terminal.shown()) == 2
            pods.server.stop()
            wait_for(lambda: terminal.shown()[0].startswith("cluster: GET /api/v1/pods"), "what is wrong")
            terminal.interrupt()
            assert terminal.process.wait(30) == 0
