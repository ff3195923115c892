"""What the DRA driver does without a right, and what it may write with its own."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from ..host import HOSTNAME
from ..namespace import wait_for
from .api import Api, ApiError
from .cluster import NODE_ADDRESS, Cluster
from .deployed import DRIVER_NAME, NAME, NAMESPACE, plugins, wait_available
from .driver import DRIVER, SLICES, run, slices
from .user import User, commands

pytestmark = pytest.mark.usefixtures("driver", "pods")

RBAC = "/apis/rbac.authorization.k8s.io/v1"
ROLES = (f"{RBAC}/clusterroles/{NAME}", f"{RBAC}/namespaces/default/roles/{NAME}-events")
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
NODE = f"/api/v1/nodes/{HOSTNAME}"


def is_ready(pod: Any) -> bool:
    return any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"]["conditions"])


def test_driver_without_any_right_unprepares_and_names_what_it_lacks(cluster: Cluster) -> None:
    run(cluster, "one")
    rules = {role: cluster.api.get(role)["rules"] for role in ROLES}
    for role in ROLES:
        cluster.api("PATCH", role, {"rules": []}, MERGE)
    added = ""
    try:
        [old] = plugins(cluster)
        cluster.kubectl("delete", "pod", "-n", NAMESPACE, old["metadata"]["name"], "--wait")
        name = wait_for(
            lambda: (
                [
                    each["metadata"]["name"]
                    for each in plugins(cluster)
                    if each["status"]["phase"] == "Running"
                ]
                or None
            ),
            "another pod",
            60,
        )[0]
        diagnose = ["exec", "-n", NAMESPACE, name, "--", "xilinx-fpga-dp", "diagnose"]

        def missing() -> str | None:
            said = json.loads(cluster.sh('kubectl "$@" || true', *diagnose, "--output", "json") or "{}")
            return said.get("missing_rights") or None

        added = wait_for(missing, "the missing rights", 60, 1.0)
        # A pod with a claim ends only where its driver unprepares it.
        cluster.kubectl("delete", "pod", "one", "--now", "--wait", limit=60)
        assert not list(cluster.path("/run/cdi").glob(f"k8s.{DRIVER}-claim_*.json"))
        [pod] = plugins(cluster)
        assert (pod["metadata"]["name"], is_ready(pod)) == (name, False)
        cluster.kubectl("apply", "-f", "-", stdin=added)
        wait_available(cluster, DRIVER_NAME)
        assert "gives the rights that" in cluster.kubectl(*diagnose)
        [pod] = plugins(cluster)
        assert pod["metadata"]["name"] == name
        assert pod["status"]["containerStatuses"][0]["restartCount"] == 0
        run(cluster, "two")
    finally:
        for role, each in rules.items():
            cluster.api("PATCH", role, {"rules": each}, MERGE)
        if added:
            cluster.kubectl("delete", "-f", "-", stdin=added)


@pytest.fixture(scope="module")
def driver_api(cluster: Cluster, driver: None) -> Api:
    """The API server with a token that is bound to the driver's pod."""
    [instance] = plugins(cluster)
    bound = ["--bound-object-kind=Pod", f"--bound-object-name={instance['metadata']['name']}"]
    account = instance["spec"]["serviceAccountName"]
    token = cluster.kubectl("create", "token", "-n", NAMESPACE, account, *bound)
    return Api(NODE_ADDRESS, cluster.authority, token.strip())


@pytest.fixture(scope="module")
def foreign(cluster: Cluster, driver: None) -> Iterator[dict[str, Any]]:
    """Slices that are not the driver's: of another node, and of another driver on this node."""
    made = {}
    for kind, node, driver_name in (("node", "another", DRIVER), ("driver", HOSTNAME, "gpu.example.com")):
        pool = {"name": kind, "generation": 1, "resourceSliceCount": 1}
        spec = {"driver": driver_name, "nodeName": node, "pool": pool, "devices": []}
        body = {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceSlice",
            "metadata": {"name": f"of-another-{kind}"},
            "spec": spec,
        }
        made[kind] = cluster.api("POST", SLICES, body)
    yield made
    for each in made.values():
        cluster.api("DELETE", f"{SLICES}/{each['metadata']['name']}")


@pytest.mark.parametrize("kind", ["node", "driver"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_policy_denies_slices_of_others(
    driver_api: Api, foreign: dict[str, Any], method: str, kind: str
) -> None:
    body = foreign[kind]
    path = SLICES if method == "POST" else f"{SLICES}/{body['metadata']['name']}"
    if method == "POST":
        body = {**body, "metadata": {"name": "case"}}
    with pytest.raises(ApiError, match=f"only slices of the .*{kind}".replace("node", "Node")) as refused:
        driver_api(method, f"{path}?dryRun=All", None if method == "DELETE" else body)
    assert refused.value.status in (403, 422)


def test_policy_allows_own_slices(cluster: Cluster, driver_api: Api) -> None:
    [found] = [each for each in slices(cluster) if each["spec"]["nodeName"] == HOSTNAME]
    path = f"{SLICES}/{found['metadata']['name']}"
    made = {**found, "metadata": {"name": "case"}}
    assert driver_api("POST", f"{SLICES}?dryRun=All", made)["metadata"]["name"] == "case"
    assert driver_api("PUT", f"{path}?dryRun=All", {**found, "spec": {**found["spec"], "devices": []}})
    assert driver_api("DELETE", f"{path}?dryRun=All")


@pytest.mark.parametrize(
    ("path", "patch", "kind"),
    [
        (f"{NODE}/status", {"status": {"conditions": [{"type": "Ready", "status": "False"}]}}, STRATEGIC),
        (f"{NODE}/status", {"status": {"capacity": {"example.com/x": "9"}}}, STRATEGIC),
        (NODE, {"metadata": {"labels": {"a": "b"}}}, MERGE),
    ],
)
def test_driver_changes_nothing_else_of_its_node(driver_api: Api, path: str, patch: Any, kind: str) -> None:
    with pytest.raises(ApiError) as refused:
        driver_api("PATCH", path, patch, kind)
    assert refused.value.status in (403, 422)


CLASSES = "/apis/resource.k8s.io/v1/deviceclasses"
OWN = f'device.driver == "{DRIVER}"'
LABELS = {"app.kubernetes.io/name": "xilinx-fpga-dp"}


@pytest.fixture(scope="module")
def classes_api(cluster: Cluster, user: User, driver: None) -> Iterator[Api]:
    """The API server with the token of the controller of classes, whose policy is in effect."""
    upgrade = commands("README.md", "Install")[2].replace("install", "upgrade") + " --reuse-values --set "
    user.run(f"{upgrade}dra.classesController=true")
    token = cluster.kubectl("create", "token", "-n", NAMESPACE, f"{NAME}-classes")
    api = Api(NODE_ADDRESS, cluster.authority, token.strip())

    def denied() -> bool:
        try:
            api("POST", f"{CLASSES}?dryRun=All", device_class("case", {}, OWN))
        except ApiError as error:
            return "only DeviceClasses with the label" in str(error)
        return False

    wait_for(denied, "the policy of classes", 60)
    yield api
    user.run(f"{upgrade}dra.classesController=false")
    cluster.kubectl("delete", "deviceclass", "-l", "app.kubernetes.io/name,!app.kubernetes.io/instance")


def device_class(name: str, labels: dict[str, str], expression: str) -> dict[str, Any]:
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceClass",
        "metadata": {"name": name, "labels": labels},
        "spec": {"selectors": [{"cel": {"expression": expression}}]},
    }


@pytest.mark.parametrize(
    "expression",
    [
        "true",
        'device.driver == "gpu.example.com"',
        f"{OWN} || true",
        f"{OWN} == false",
        f"{OWN} && true ? true : true",
    ],
)
def test_policy_denies_classes_of_other_devices(classes_api: Api, expression: str) -> None:
    with pytest.raises(ApiError, match=f"only devices of the driver {DRIVER}") as refused:
        classes_api("POST", f"{CLASSES}?dryRun=All", device_class("case", LABELS, expression))
    assert refused.value.status in (403, 422)


def test_policy_denies_changes_of_foreign_classes(cluster: Cluster, classes_api: Api) -> None:
    foreign = cluster.api("POST", CLASSES, device_class("foreign", {}, "true"))
    path = f"{CLASSES}/foreign"
    try:
        own = device_class("foreign", LABELS, OWN)
        own["metadata"]["resourceVersion"] = foreign["metadata"]["resourceVersion"]
        with pytest.raises(ApiError, match="only DeviceClasses with the label") as refused:
            classes_api("PUT", f"{path}?dryRun=All", own)
        assert refused.value.status in (403, 422)
    finally:
        cluster.api("DELETE", path)


@pytest.mark.parametrize("more", ["", f' && device.attributes["{DRIVER}"].?board.orValue("") == "u200"'])
def test_policy_allows_own_classes(cluster: Cluster, classes_api: Api, more: str) -> None:
    made = device_class("case", LABELS, OWN + more)
    assert classes_api("POST", f"{CLASSES}?dryRun=All", made)["metadata"]["name"] == "case"
    stored = cluster.api("POST", CLASSES, made)
    try:
        assert classes_api("PUT", f"{CLASSES}/case?dryRun=All", stored)
    finally:
        cluster.api("DELETE", f"{CLASSES}/case")
