"""The command `cluster`, with a kubeconfig and with a service account that has the documented rights."""

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.schemas import conforms

from ..host import HOSTNAME
from ..namespace import wait_for
from ..pods import pod
from .cluster import Cluster
from .deployed import EXAMPLES, IMAGE, NAMESPACE
from .user import User, commands, manifest

pytestmark = pytest.mark.usefixtures("daemonset", "pods")

PAGE = "docs/reference/cluster.md"
ACCOUNT = "reader"
COMMAND = [sys.executable, "-m", "xilinx_fpga_dp", "cluster"]


@pytest.fixture
def account(cluster: Cluster) -> Iterator[str]:
    """A service account without rights; return the name of the role of the documentation, which it lacks."""
    role = manifest(PAGE, "kind: ClusterRole")
    cluster.kubectl("create", "serviceaccount", ACCOUNT)
    created = cluster.kubectl("create", "-f", "-", "-o", "jsonpath={.metadata.name}", stdin=role)
    yield created
    cluster.kubectl("delete", "clusterrolebinding,clusterrole", created, "--ignore-not-found")
    cluster.kubectl("delete", "serviceaccount", ACCOUNT)
    cluster.kubectl("delete", "rolebinding", "-n", NAMESPACE, created, "--ignore-not-found")


def _document(text: str) -> Any:
    document = json.loads(text)
    conforms("cluster", document)
    conforms("state", document["nodes"][HOSTNAME])
    return document


def _run(cluster: Cluster, *options: str, kubeconfig: Path | None = None) -> str:
    """Run the command on this machine, outside of the cluster."""
    words = [*COMMAND, *options]
    return cluster.sh('exec "$@"', *words, env={"KUBECONFIG": str(kubeconfig or cluster.kubeconfig())})


def _in_a_pod(cluster: Cluster, name: str, *options: str) -> tuple[str, str]:
    """Run the command in a pod of the account; return the pod's phase and what it printed."""
    container = {
        "name": "main",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "args": ["cluster", *options],
    }
    cluster.run_pod(
        pod(name, restart="Never", hostNetwork=False, serviceAccountName=ACCOUNT, containers=[container])
    )

    def phase() -> str | None:
        found = str((cluster.pod(name) or {"status": {}})["status"].get("phase"))
        return found if found in ("Succeeded", "Failed") else None

    return wait_for(phase, f"the end of {name}", 60), cluster.kubectl("logs", name)


def test_administrator_sees_every_card_and_its_holder(cluster: Cluster, user: User) -> None:
    name = cluster.create(EXAMPLES / "dp-pod.yaml")
    cluster.wait_pod(name, "Running")
    document = _document(_run(cluster, "--output", "json"))
    assert document["errors"] == {}
    devices = document["nodes"][HOSTNAME]["devices"]
    assert {each["id"] for each in devices} == {card.address for card in cluster.sample.cards}
    assert {each["health"] for each in devices} == {"Healthy"}
    assert [holder["pod"] for each in devices for holder in each["held_by"]] == [name]
    rows = list(csv.DictReader(_run(cluster, "--output", "csv").splitlines()))
    assert [row["device"] for row in rows] == sorted(card.address for card in cluster.sample.cards)
    [command] = commands(PAGE)
    assert f"default/{name}/" in user.run(command)


def test_service_account_needs_the_documented_rights_only(cluster: Cluster, account: str) -> None:
    phase, said = _in_a_pod(cluster, "without")
    assert phase == "Failed"
    assert f'User "system:serviceaccount:default:{ACCOUNT}" cannot list resource "pods"' in said

    subject = f"--serviceaccount=default:{ACCOUNT}"
    cluster.kubectl("create", "rolebinding", "-n", NAMESPACE, account, f"--clusterrole={account}", subject)
    phase, said = _in_a_pod(cluster, "namespaced", "--namespace", NAMESPACE, "--output", "json")
    assert phase == "Succeeded"
    assert _document(said)["errors"] == {}

    cluster.kubectl("create", "clusterrolebinding", account, f"--clusterrole={account}", subject)
    phase, said = _in_a_pod(cluster, "everywhere", "--output", "json")
    assert phase == "Succeeded"
    devices = _document(said)["nodes"][HOSTNAME]["devices"]
    assert {each["id"] for each in devices} == {card.address for card in cluster.sample.cards}


def test_right_to_list_alone_names_the_missing_one(cluster: Cluster, tmp_path: Path) -> None:
    cluster.kubectl("create", "clusterrole", "list-pods", "--verb=list", "--resource=pods")
    cluster.kubectl("create", "serviceaccount", "lister")
    cluster.kubectl(
        "create",
        "clusterrolebinding",
        "list-pods",
        "--clusterrole=list-pods",
        "--serviceaccount=default:lister",
    )
    try:
        config = json.loads(cluster.kubeconfig().read_text())
        config["users"][0]["user"] = {"token": cluster.kubectl("create", "token", "lister").strip()}
        path = tmp_path / "kubeconfig"
        path.write_text(json.dumps(config))
        done = subprocess.run(
            COMMAND, env={"KUBECONFIG": str(path)}, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 1
        assert 'cannot get resource "pods/proxy"' in done.stdout
    finally:
        cluster.kubectl("delete", "clusterrolebinding,clusterrole", "list-pods")
        cluster.kubectl("delete", "serviceaccount", "lister")
