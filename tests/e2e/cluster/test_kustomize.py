"""The overlays of deploy/kustomize, through kubectl."""

import json
from functools import partial

import pytest

from tests.deploy.tools import operator_definition
from tests.support.pages import text

from ..namespace import wait_for
from .cluster import Cluster
from .deployed import (
    DRIVER_NAME,
    EXAMPLES,
    NAMESPACE,
    daemonset,
    nodes_in,
    only_card,
    wait_available,
    wait_offered,
)
from .driver import CLAIMS, slices
from .user import User

pytestmark = pytest.mark.usefixtures("bare", "pods")

APPLY = "kubectl apply -k deploy/kustomize/overlays/plain"


def test_plain_overlay_offers_all_cards(cluster: Cluster, user: User) -> None:
    assert f"`{APPLY}`" in text("docs/operating/install.md")
    user.run(APPLY)
    wait_offered(cluster)
    wait_available(cluster)
    # Applied again it changes nothing.
    generation = daemonset(cluster)["metadata"]["generation"]
    assert "unchanged" in user.run(APPLY)
    assert daemonset(cluster)["metadata"]["generation"] == generation


def test_cdi_overlay_grants_a_card_by_its_cdi_name(cluster: Cluster, user: User) -> None:
    user.run(APPLY.replace("plain", "cdi"))
    wait_offered(cluster)
    name = cluster.create(EXAMPLES / "dp-pod.yaml")
    cluster.wait_pod(name, "Running")
    card = only_card(cluster, name)
    assert nodes_in(cluster, name) == [card.render_node]
    [spec] = [path for path in cluster.path("/run/cdi").iterdir() if path.suffix == ".json"]
    devices = json.loads(spec.read_text())["devices"]
    assert card.address in {device["name"] for device in devices}
    spec.unlink()


def _is_served(cluster: Cluster, plural: str) -> bool:
    found = cluster.api.get("/apis/monitoring.coreos.com/v1")
    return any(each["name"] == plural for each in (found or {}).get("resources", ()))


def test_prometheus_operator_overlay_is_accepted(cluster: Cluster, user: User) -> None:
    """With the kinds of the operator, which itself does not run here."""
    for plural in ("podmonitors", "prometheusrules"):
        file = operator_definition(plural)
        cluster.kubectl("create", "-f", file)
        wait_for(partial(_is_served, cluster, plural), f"the API of {plural}", 60)
    user.run(APPLY.replace("plain", "prometheus-operator"))
    wait_offered(cluster)
    listed = cluster.kubectl("get", "podmonitors,prometheusrules", "-n", "kube-system", "-o", "name")
    assert len(listed.split()) == 2
    user.run("kubectl delete -k deploy/kustomize/overlays/prometheus-operator")


def test_dra_overlay_serves_a_pod_with_a_claim(cluster: Cluster, user: User) -> None:
    apply = APPLY.replace("plain", "dra")
    assert f"`{apply}`" in text("docs/operating/dra.md")
    user.run(apply)
    wait_for(lambda: slices(cluster), "a slice", 60)
    wait_available(cluster, DRIVER_NAME)
    cluster.kubectl("create", "-f", EXAMPLES / "dra" / "dra-pod-shell.yaml")
    try:
        cluster.wait_pod("one-shell", "Running")
        [node] = nodes_in(cluster, "one-shell")
        [claim] = cluster.api.get(CLAIMS)["items"]
        driver = ("exec", "-n", NAMESPACE, f"daemonset/{DRIVER_NAME}", "--", "xilinx-fpga-dp")
        assert node in cluster.kubectl(*driver, "explain", claim["metadata"]["uid"])
    finally:
        cluster.kubectl("delete", "-f", EXAMPLES / "dra" / "dra-pod-shell.yaml", "--now", "--wait")
        user.run(f"{apply.replace('apply', 'delete')} --wait")
        cluster.kubectl("delete", "resourceslices", "--all", "--wait")
