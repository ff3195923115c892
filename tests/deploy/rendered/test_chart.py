"""The chart and the overlays, rendered by helm and kustomize: their content, valid for Kubernetes."""

import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.dashboards import DASHBOARDS
from tests.deploy.manifests import (
    ALWAYS,
    CDI,
    CHART,
    DEPLOY,
    STATIC,
    container,
    documents,
    environment,
    faults,
    hidden,
    mounts,
    only,
)
from tests.deploy.rendered.schemas import complaint
from tests.deploy.tools import KUBERNETES, helm, kustomize
from xilinx_fpga_dp.cli.diagnose.rights import RIGHTS, Right
from xilinx_fpga_dp.dra.classes import device_classes
from xilinx_fpga_dp.settings import variable
from xilinx_fpga_dp.settings_model import Settings

NFD = "/etc/kubernetes/node-feature-discovery/features.d"

# Every setting with another value than its default, except RESOURCE_RENAMES, for which the chart has a value.
SETTINGS: dict[str, Any] = {
    "SCAN_INTERVAL": 2.5,
    "HEALTH_INTERVAL": 0.5,
    "RECOVERY_CHECKS": 5,
    "RESET_GRACE": 86400,
    "REQUEST_TIMEOUT": 3,
    "SOCKET_DIR": "/var/lib/k0s/kubelet/device-plugins",
    "PLUGINS_DIR": "/var/lib/k0s/kubelet/plugins",
    "PLUGINS_REGISTRY_DIR": "/var/lib/k0s/kubelet/plugins_registry",
    "POD_RESOURCES_SOCKET": "/var/lib/k0s/kubelet/pod-resources/kubelet.sock",
    "SYSFS_ROOT": "/host/sysfs",
    "DEV_ROOT": "/host/devices",
    "HOST_ROOT": "/host/files",
    "RESOURCE_PREFIX": "amd.com/",
    "RESOURCE_NAME_TEMPLATE": "{board}-{timestamp}",
    "COMPAT": "1.3.0",
    "U30_UNIT": "device",
    "EXPOSE_MGMT": True,
    "DEVICE_STRATEGY": "both",
    "CDI_DIR": "/etc/cdi",
    "EXTRA_MOUNTS": ["/opt/xilinx/xrt", "/etc/OpenCL/vendors/xilinx.icd"],
    "PRESTART_CHECK": True,
    "PREFERRED_ALLOCATION": "spread",
    "SHARED_REPLICAS": 4,
    "SHARED_GRANT": "all",
    "NFD_FEATURES_DIR": NFD,
    "HTTP_ADDRESS": "[::]:9090",
    "LOG_LEVEL": "debug",
    "LOG_FORMAT": "text",
}
REPORTS = ("EVENTS", "NODE_CONDITION", "STARTUP_TAINT")
RULES = [
    {"match": {"shell": "xilinx_u30_*"}, "name": "u30-{timestamp}"},
    {"match": {}, "name": "fpga", "share": True},
]
EVERYTHING: dict[str, Any] = {
    "image": {"digest": f"sha256:{'0' * 64}", "pullPolicy": "Always"},
    "imagePullSecrets": [{"name": "registry"}],
    "settings": SETTINGS,
    "resourceRenames": RULES,
    "compat": {"env": {"VirtualNum": "4"}, "nameCustomizeConfigMap": "k8s-device-plugin-configmap"},
    "nodeSelector": {"xilinx.com/fpga.on-bus": "true"},
    "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "fpga", "operator": "Exists"}]}]}}},
    "serviceAccountName": "fpga",
    "events": True,
    "nodeCondition": True,
    "startupTaint": "fpga.xilinx.com/starting",
    "namespace": "fpga",
    "openshift": {"enabled": True},
    "podSecurity": {"createNamespace": True},
    "nodeFeatureRule": {"enabled": True},
    "podAnnotations": {"a/b": "c"},
    "podLabels": {"team": "fpga"},
    "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
    "dashboard": {"enabled": True},
}  # fmt: skip


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise AssertionError(done.stderr)
    return done.stdout


def render(folder: Path, values: Mapping[str, Any]) -> str:
    """Return the manifests that the chart renders with these values."""
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(dict(values)))
    kubernetes = f"--kube-version={KUBERNETES[0]}"
    return run(helm(), "template", "xilinx-fpga-dp", CHART, "--values", file, kubernetes)


@cache
def overlay(name: str) -> str:
    """Return the manifests that kustomize builds from an overlay."""
    return run(kustomize(), "build", DEPLOY / "kustomize" / "overlays" / name)


def valid(text: str, releases: tuple[str, ...] = KUBERNETES) -> list[dict[str, Any]]:
    """Return the documents of a text, each valid for the oldest and the newest Kubernetes."""
    found = documents(text)
    assert found
    for document in found:
        assert [complaint(document, release) for release in releases] == [None] * len(releases)
    return found


def test_lint_has_no_findings() -> None:
    run(helm(), "lint", "--strict", CHART)


def test_plain_manifests_equal_the_rendered_chart() -> None:
    run("sh", DEPLOY / "generate.sh", helm(), "check")


def test_default_values_are_rendered(tmp_path: Path) -> None:
    [daemonset] = valid(render(tmp_path, {}))
    assert faults(daemonset) == []


def test_all_options_together_are_rendered(tmp_path: Path) -> None:
    found = valid(render(tmp_path, EVERYTHING), KUBERNETES[:1])
    assert Counter(each["kind"] for each in found) == {
        **dict.fromkeys(
            (
                *("DaemonSet", "Namespace", "NodeFeatureRule", "PodMonitor", "PrometheusRule", "Role"),
                *("RoleBinding", "ClusterRole", "ClusterRoleBinding", "SecurityContextConstraints"),
            ),
            1,
        ),
        "ConfigMap": 2,
        "ValidatingAdmissionPolicy": 3,
        "ValidatingAdmissionPolicyBinding": 3,
    }
    namespaces = {each["kind"]: each["metadata"].get("namespace") for each in found}
    assert {kind for kind, namespace in namespaces.items() if namespace is None} == {
        *("Namespace", "NodeFeatureRule", "SecurityContextConstraints", "ClusterRole", "ClusterRoleBinding"),
        *("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"),
    }
    assert {kind for kind, namespace in namespaces.items() if namespace == "default"} == {
        "Role",
        "RoleBinding",
    }
    assert set(namespaces.values()) == {None, "fpga", "default"}
    [daemonset] = [each for each in found if each["kind"] == "DaemonSet"]
    variables = environment(daemonset)
    assert variables.pop("XILINX_FPGA_DP_RESOURCE_RENAMES") == "/etc/xilinx-fpga-dp/renames.yaml"
    assert variables.pop("VirtualNum") == "4"
    reports = {name: variables.pop(f"XILINX_FPGA_DP_{name}") for name in REPORTS}
    assert reports == {
        "EVENTS": "true",
        "NODE_CONDITION": "true",
        "STARTUP_TAINT": "fpga.xilinx.com/starting",
    }
    assert variables.keys() == {f"XILINX_FPGA_DP_{name}" for name in SETTINGS}
    # The values survive the forms that YAML and helm give to numbers and lists.
    rendered = Settings.load(
        {n: variables[variable(n)] for n in Settings.model_fields if variable(n) in variables}
    )
    expected = Settings.load(
        {n: _text(SETTINGS[n.upper()]) for n in Settings.model_fields if n.upper() in SETTINGS}
    )
    assert rendered == expected
    assert mounts(daemonset) == {
        "/var/lib/k0s/kubelet/device-plugins": ("/var/lib/k0s/kubelet/device-plugins", "Directory", False),
        "/var/lib/k0s/kubelet/plugins/fpga.xilinx.com": (
            "/var/lib/k0s/kubelet/plugins/fpga.xilinx.com",
            "DirectoryOrCreate",
            False,
        ),
        "/var/lib/k0s/kubelet/pod-resources": ("/var/lib/k0s/kubelet/pod-resources", "Directory", True),
        "/host/sysfs": ("/sys", "Directory", True),
        "/host/devices": ("/dev", "Directory", True),
        "/host/files": ("/", "Directory", True),
        "/etc/cdi": ("/etc/cdi", "DirectoryOrCreate", False),
        NFD: (NFD, "DirectoryOrCreate", False),
    }
    assert hidden(daemonset) == []
    assert container(daemonset)["ports"] == [{"name": "http", "containerPort": 9090}]
    assert container(daemonset)["image"].endswith(f"@sha256:{'0' * 64}")


def _text(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)


def test_renames_are_mounted_as_a_directory(tmp_path: Path) -> None:
    text = render(tmp_path, {"resourceRenames": RULES})
    config, daemonset = only("ConfigMap", text), only("DaemonSet", text)
    assert yaml.safe_load(config["data"]["renames.yaml"]) == RULES
    [volume] = [each for each in daemonset["spec"]["template"]["spec"]["volumes"] if "configMap" in each]
    assert volume["configMap"]["name"] == config["metadata"]["name"]
    [mount] = [each for each in container(daemonset)["volumeMounts"] if each["name"] == volume["name"]]
    assert mount == {"name": volume["name"], "mountPath": "/etc/xilinx-fpga-dp", "readOnly": True}
    assert environment(daemonset)["XILINX_FPGA_DP_RESOURCE_RENAMES"] == "/etc/xilinx-fpga-dp/renames.yaml"


def test_device_rules_are_mounted_beside_the_renames(tmp_path: Path) -> None:
    rules = yaml.safe_load((DEPLOY / "device-rules.yaml").read_text())
    text = render(tmp_path, {"deviceRules": rules, "resourceRenames": RULES})
    valid(text)
    configs = [each for each in documents(text) if each["kind"] == "ConfigMap"]
    [config] = [each for each in configs if "device-rules.yaml" in each["data"]]
    assert yaml.safe_load(config["data"]["device-rules.yaml"]) == rules
    daemonset = only("DaemonSet", text)
    [mount] = [each for each in container(daemonset)["volumeMounts"] if each["name"] == "device-rules"]
    path = environment(daemonset)["XILINX_FPGA_DP_DEVICE_RULES"]
    assert (path, mount["readOnly"]) == (f"{mount['mountPath']}/device-rules.yaml", True)
    assert "XILINX_FPGA_DP_HOST_ROOT" not in environment(daemonset)


def test_mounts_of_device_rules_are_looked_for_on_the_host(tmp_path: Path) -> None:
    rule = {"name": "x", "match": {"driver": "x"}, "nodes": [], "mounts": ["/run/vrtd.sock"]}
    daemonset = only("DaemonSet", render(tmp_path, {"deviceRules": [rule]}))
    assert environment(daemonset)["XILINX_FPGA_DP_HOST_ROOT"] == "/host/root"


@pytest.mark.parametrize(
    ("settings", "more"),
    [
        ({"DEVICE_STRATEGY": "cdi"}, CDI),
        ({"DEVICE_STRATEGY": "device-specs", "CDI_DIR": "/etc/cdi"}, {}),
        ({"NFD_FEATURES_DIR": NFD}, {NFD: (NFD, "DirectoryOrCreate", False)}),
        ({"NFD_FEATURES_DIR": "none"}, {}),
        ({"EXTRA_MOUNTS": ["/opt/xilinx/xrt"]}, {"/host/root": ("/", "Directory", True)}),
        ({"EXTRA_MOUNTS": "/opt/xilinx/xrt,/opt/x"}, {"/host/root": ("/", "Directory", True)}),
        ({"EXTRA_MOUNTS": []}, {}),
        ({"EXTRA_MOUNTS": "none"}, {}),
        ({"HOST_ROOT": "/"}, {}),
    ],
)
def test_directory_is_mounted_only_if_it_is_used(
    settings: dict[str, Any], more: dict[str, tuple[str, str, bool]], tmp_path: Path
) -> None:
    [daemonset] = valid(render(tmp_path, {"settings": settings}))
    assert mounts(daemonset) == ALWAYS | more
    assert (environment(daemonset).get("XILINX_FPGA_DP_HOST_ROOT", "/") != "/") == ("/host/root" in more)


def test_other_kubelet_directory_is_mounted(tmp_path: Path) -> None:
    other = "/var/snap/microk8s/common/var/lib/kubelet"
    [daemonset] = valid(render(tmp_path, {"kubeletDir": other}))
    found = mounts(daemonset)
    assert found.keys() == {
        f"{other}/device-plugins",
        f"{other}/plugins/fpga.xilinx.com",
        f"{other}/pod-resources",
        "/host/sys",
        "/host/dev",
    }
    assert environment(daemonset)["XILINX_FPGA_DP_SOCKET_DIR"] == f"{other}/device-plugins"
    assert environment(daemonset)["XILINX_FPGA_DP_PLUGINS_DIR"] == f"{other}/plugins"
    assert (
        environment(daemonset)["XILINX_FPGA_DP_POD_RESOURCES_SOCKET"] == f"{other}/pod-resources/kubelet.sock"
    )


def test_no_address_gives_no_probes(tmp_path: Path) -> None:
    [daemonset] = valid(render(tmp_path, {"settings": {"HTTP_ADDRESS": ""}}))
    assert not {"ports", "livenessProbe", "readinessProbe"} & container(daemonset).keys()
    assert environment(daemonset)["XILINX_FPGA_DP_HTTP_ADDRESS"] == ""


def test_alerts_match_the_job_of_any_release_name(tmp_path: Path) -> None:
    text = render(tmp_path, {"nameOverride": "fpga", "podMonitor": {"enabled": True}})
    monitor = only("PodMonitor", text)
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    assert {"targetLabel": "job", "replacement": "xilinx-fpga-dp"} in endpoint["relabelings"]
    pod = only("DaemonSet", text)["spec"]["template"]["metadata"]["labels"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= pod.items()


def test_empty_priority_class_is_omitted(tmp_path: Path) -> None:
    [daemonset] = valid(render(tmp_path, {"priorityClassName": ""}))
    assert "priorityClassName" not in daemonset["spec"]["template"]["spec"]


@pytest.mark.parametrize(
    ("chosen", "selector"),
    [
        ({"fpga": "yes"}, {"kubernetes.io/os": "linux", "fpga": "yes"}),
        ({"kubernetes.io/os": "other"}, {"kubernetes.io/os": "other"}),
        ({"kubernetes.io/os": None}, None),
    ],
)
def test_node_selector_is_added_to_linux(
    chosen: dict[str, str | None], selector: dict[str, str] | None, tmp_path: Path
) -> None:
    [daemonset] = valid(render(tmp_path, {"nodeSelector": chosen}))
    assert daemonset["spec"]["template"]["spec"].get("nodeSelector") == selector


def test_affinity_of_a_site_is_added_and_its_terms_replace(tmp_path: Path) -> None:
    own: dict[str, Any] = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}}
    [daemonset] = valid(render(tmp_path, {"affinity": own}))
    assert daemonset["spec"]["template"]["spec"]["affinity"].keys() == {"nodeAffinity", "podAffinity"}
    assert faults(daemonset) == []
    [daemonset] = valid(render(tmp_path, {"affinity": {"nodeAffinity": None}}))
    assert "affinity" not in daemonset["spec"]["template"]["spec"]


ON_OPENSHIFT = {"namespace": "fpga", "openshift": {"enabled": True}, "podSecurity": {"createNamespace": True}}


def test_constraints_of_openshift_allow_the_pod_and_no_more(tmp_path: Path) -> None:
    text = render(tmp_path, {**ON_OPENSHIFT, "resourceRenames": RULES})
    valid(text)
    daemonset, account = only("DaemonSet", text), only("ServiceAccount", text)
    constraints = only("SecurityContextConstraints", text)
    pod = daemonset["spec"]["template"]["spec"]
    assert (pod["serviceAccountName"], account["metadata"]["namespace"]) == (
        account["metadata"]["name"],
        "fpga",
    )
    assert constraints["users"] == [f"system:serviceaccount:fpga:{account['metadata']['name']}"]
    kinds = {kind for volume in pod["volumes"] for kind in volume if kind != "name"}
    assert set(constraints["volumes"]) == kinds
    forbidden = [name for name, allowed in constraints.items() if name.startswith("allow") and not allowed]
    assert len(forbidden) == 7
    assert constraints["allowHostDirVolumePlugin"] is True
    assert (
        only("Namespace", text)["metadata"]["labels"].items()
        >= {
            "pod-security.kubernetes.io/enforce": "privileged",
            "security.openshift.io/scc.podSecurityLabelSync": "false",
        }.items()
    )


@pytest.mark.parametrize(
    "account", [{"serviceAccount": {"create": False, "name": "own"}}, {"serviceAccountName": "own"}]
)
def test_existing_account_is_bound_to_constraints_and_rights(account: dict[str, Any], tmp_path: Path) -> None:
    text = render(tmp_path, {**ON_OPENSHIFT, **account, "events": True})
    [subject] = only("RoleBinding", text)["subjects"]
    assert subject["name"] == "own"
    assert not [each for each in documents(text) if each["kind"] == "ServiceAccount"]
    assert only("SecurityContextConstraints", text)["users"] == ["system:serviceaccount:fpga:own"]
    assert only("DaemonSet", text)["spec"]["template"]["spec"]["serviceAccountName"] == "own"


@pytest.mark.parametrize("values", [{}, {"mode": "dra"}])
def test_account_is_made_by_the_given_name(values: dict[str, Any], tmp_path: Path) -> None:
    text = render(tmp_path, {**values, "serviceAccount": {"name": "own"}})
    valid(text, KUBERNETES[:1])
    assert only("ServiceAccount", text)["metadata"]["name"] == "own"
    assert only("DaemonSet", text)["spec"]["template"]["spec"]["serviceAccountName"] == "own"


@pytest.mark.parametrize("values", [{}, {"mode": "dra", "dra": {"classesController": True}}])
def test_values_of_an_older_chart_render_the_same(values: dict[str, Any], tmp_path: Path) -> None:
    """`helm upgrade --reuse-values` leaves out what that chart did not know."""
    older = {"serviceAccount": None, "dra": {**values.get("dra", {}), "admissionPolicy": None}}
    assert render(tmp_path, {**values, **older}) == render(tmp_path, values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mode": "dra", "serviceAccount": {"create": False}}, r"needs serviceAccount\.name"),
        ({"serviceAccountName": "a", "serviceAccount": {"name": "b"}}, "not both"),
    ],
)
def test_account_that_is_not_told_is_refused(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=message):
        render(tmp_path, values)


@pytest.mark.parametrize(
    ("values", "role", "rules"),
    [
        (
            {"events": True},
            "Role",
            [{"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]}],
        ),
        (
            {"nodeCondition": True},
            "ClusterRole",
            [{"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]}],
        ),
        (
            {"startupTaint": "a/b"},
            "ClusterRole",
            [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["patch"]}],
        ),
    ],
)
def test_each_report_has_its_right_its_policy_and_a_token(
    values: dict[str, Any], role: str, rules: list[Any], tmp_path: Path
) -> None:
    text = render(tmp_path, values)
    assert {each["kind"] for each in valid(text, KUBERNETES[:1])} == {
        *(role, f"{role}Binding", "DaemonSet", "ServiceAccount"),
        *("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"),
    }
    assert only(role, text)["rules"] == rules
    account = {"kind": "ServiceAccount", "name": "xilinx-fpga-dp", "namespace": "kube-system"}
    assert only(f"{role}Binding", text)["subjects"] == [account]
    policy = only("ValidatingAdmissionPolicy", text)
    [condition] = policy["spec"]["matchConditions"]
    assert condition["expression"].endswith('== "system:serviceaccount:kube-system:xilinx-fpga-dp"')
    assert only("ValidatingAdmissionPolicyBinding", text)["spec"] == {
        "policyName": policy["metadata"]["name"],
        "validationActions": ["Deny"],
    }
    daemonset = only("DaemonSet", text)
    pod = daemonset["spec"]["template"]["spec"]
    assert (pod["automountServiceAccountToken"], pod["serviceAccountName"]) == (True, "xilinx-fpga-dp")
    assert faults(daemonset) == ["API token"]
    assert {
        "name": "XILINX_FPGA_DP_NODE_NAME",
        "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}},
    } in container(daemonset)["env"]


@pytest.mark.parametrize("driver", ["fpga.xilinx.com", "a.b"])
def test_policy_of_events_names_the_driver(driver: str, tmp_path: Path) -> None:
    text = render(tmp_path, {"events": True, "dra": {"driverName": driver}})
    _, controller = only("ValidatingAdmissionPolicy", text)["spec"]["validations"]
    assert controller["expression"] == f'object.?reportingController == optional.of("{driver}")'
    name = environment(only("DaemonSet", text)).get("XILINX_FPGA_DP_DRA_DRIVER_NAME", "fpga.xilinx.com")
    assert name == driver


@pytest.mark.parametrize(
    ("values", "policies"),
    [
        ({}, {"events", "slices", "classes"}),
        ({"admissionPolicy": False}, set()),
        ({"dra": {"admissionPolicy": False}}, {"events"}),
        ({"dra": {"classesController": False}}, {"events", "slices"}),
    ],
)
def test_policies_can_be_left_out(values: dict[str, Any], policies: set[str], tmp_path: Path) -> None:
    dra = {"classesController": True, **values.get("dra", {})}
    found = valid(render(tmp_path, {"mode": "dra", "events": True, **values, "dra": dra}), KUBERNETES[:1])
    for kind in ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"):
        names = {each["metadata"]["name"] for each in found if each["kind"] == kind}
        assert names == {f"xilinx-fpga-dp-{policy}" for policy in policies}


def _named(name: str, text: str) -> dict[str, Any]:
    """Return the DaemonSet of this name."""
    [found] = [
        each for each in documents(text) if each["kind"] == "DaemonSet" and each["metadata"]["name"] == name
    ]
    return found


REGISTRY = "/var/lib/kubelet/plugins_registry"
DRA_MOUNTS = {
    REGISTRY: (REGISTRY, "Directory", False),
    **CDI,
    **{path: each for path, each in ALWAYS.items() if path != "/var/lib/kubelet/device-plugins"},
}


class TestDra:
    """The values of the DRA driver."""

    def test_driver_replaces_the_plugin(self, tmp_path: Path) -> None:
        text = render(tmp_path, {"mode": "dra"})
        assert Counter(each["kind"] for each in valid(text, KUBERNETES[:1])) == dict.fromkeys(
            (
                *("DaemonSet", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "DeviceClass"),
                *("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"),
            ),
            1,
        )
        daemonset = only("DaemonSet", text)
        assert mounts(daemonset) == DRA_MOUNTS
        assert set(faults(daemonset)) == {"mounts", "API token", "SELinux"}
        assert environment(daemonset).items() >= {("XILINX_FPGA_DP_MODE", "dra")}
        fields = {
            each["name"]: each["valueFrom"]["fieldRef"]["fieldPath"]
            for each in container(daemonset)["env"]
            if "valueFrom" in each
        }
        assert fields == {
            "XILINX_FPGA_DP_NODE_NAME": "spec.nodeName",
            "XILINX_FPGA_DP_POD_UID": "metadata.uid",
        }
        pod = daemonset["spec"]["template"]["spec"]
        assert (pod["automountServiceAccountToken"], pod["serviceAccountName"]) == (True, "xilinx-fpga-dp")

    def test_driver_may_write_slices_and_read_claims(self, tmp_path: Path) -> None:
        rules = only("ClusterRole", render(tmp_path, {"mode": "dra"}))["rules"]
        given = {
            Right("MODE=dra", verb, group, resource)
            for rule in rules
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }
        assert given == {each for each in RIGHTS if each.setting == "MODE=dra"}

    def test_policy_names_node_and_driver(self, tmp_path: Path) -> None:
        policy = only(
            "ValidatingAdmissionPolicy", render(tmp_path, {"mode": "dra", "dra": {"driverName": "a.b"}})
        )
        [rule] = policy["spec"]["matchConstraints"]["resourceRules"]
        assert rule["operations"] == ["CREATE", "UPDATE", "DELETE"]
        own_node, own_driver = [each["expression"] for each in policy["spec"]["validations"]]
        assert "nodeName == optional.of(variables.node)" in own_node
        assert own_driver == 'variables.slice.spec.driver == "a.b"'

    def test_values_become_settings(self, tmp_path: Path) -> None:
        dra = {"driverName": "a.b", "metadata": False, "evictOn": ["offline", "firewall"]}
        values = {"mode": "dra", "dra": dra, "kubeletDir": "/opt/kubelet"}
        values["settings"] = {"DEVICE_STRATEGY": "cdi", "SHARED_GRANT": "all", "CDI_DIR": "/etc/cdi"}
        daemonset = only("DaemonSet", render(tmp_path, values))
        assert {
            name.removeprefix("XILINX_FPGA_DP_"): each for name, each in environment(daemonset).items()
        } == {
            "MODE": "dra",
            "DRA_DRIVER_NAME": "a.b",
            "DRA_METADATA": "false",
            "DRA_EVICT_ON": "offline,firewall",
            "PLUGINS_DIR": "/opt/kubelet/plugins",
            "PLUGINS_REGISTRY_DIR": "/opt/kubelet/plugins_registry",
            "POD_RESOURCES_SOCKET": "/opt/kubelet/pod-resources/kubelet.sock",
            "CDI_DIR": "/etc/cdi",
            "SYSFS_ROOT": "/host/sys",
            "DEV_ROOT": "/host/dev",
            "HTTP_ADDRESS": "0.0.0.0:8080",
        }
        assert mounts(daemonset).keys() >= {
            "/opt/kubelet/plugins/a.b",
            "/opt/kubelet/plugins_registry",
            "/etc/cdi",
        }

    def test_each_mode_knows_the_driver_and_the_directory_of_the_other(self, tmp_path: Path) -> None:
        """The commands `classes` and `diagnose` need them."""
        text = render(tmp_path, {"mode": "by-label", "dra": {"driverName": "a.b"}})
        valid(text, KUBERNETES[:1])
        own = {"xilinx-fpga-dp": "fpga.xilinx.com", "xilinx-fpga-dp-dra": "a.b"}
        for name, directory in own.items():
            daemonset = _named(name, text)
            assert environment(daemonset)["XILINX_FPGA_DP_DRA_DRIVER_NAME"] == "a.b"
            for path in (f"/var/lib/kubelet/plugins/{each}" for each in own.values()):
                read_only = not path.endswith(directory)
                assert mounts(daemonset)[path] == (path, "DirectoryOrCreate", read_only)

    def test_label_parts_the_nodes(self, tmp_path: Path) -> None:
        text = render(tmp_path, {"mode": "by-label"})
        valid(text, KUBERNETES[:1])
        plugin, driver = _named("xilinx-fpga-dp", text), _named("xilinx-fpga-dp-dra", text)
        [term] = plugin["spec"]["template"]["spec"]["affinity"]["nodeAffinity"][
            "requiredDuringSchedulingIgnoredDuringExecution"
        ]["nodeSelectorTerms"]
        label = "fpga.xilinx.com/mode"
        assert {"key": label, "operator": "NotIn", "values": ["dra"]} in term["matchExpressions"]
        assert driver["spec"]["template"]["spec"]["nodeSelector"][label] == "dra"
        own = (
            plugin["spec"]["template"]["metadata"]["labels"],
            driver["spec"]["template"]["metadata"]["labels"],
        )
        selectors = plugin["spec"]["selector"]["matchLabels"], driver["spec"]["selector"]["matchLabels"]
        assert selectors == own
        assert not selectors[0].items() <= own[1].items()
        assert not selectors[1].items() <= own[0].items()

    @pytest.mark.parametrize(
        ("affinity", "terms"),
        [
            ({}, 1),
            ({"podAntiAffinity": {}}, 1),
            (EVERYTHING["affinity"], 1),
            (
                {
                    "nodeAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": {
                            "nodeSelectorTerms": [
                                {"matchExpressions": [{"key": "a", "operator": "Exists"}]},
                                {
                                    "matchFields": [
                                        {"key": "metadata.name", "operator": "In", "values": ["node-1"]}
                                    ]
                                },
                            ]
                        }
                    }
                },
                2,
            ),
        ],
    )
    def test_label_is_in_each_term_of_an_affinity(
        self, affinity: dict[str, Any], terms: int, tmp_path: Path
    ) -> None:
        text = render(tmp_path, {"mode": "by-label", "affinity": {"nodeAffinity": None} | affinity})
        valid(text, KUBERNETES[:1])
        found = _named("xilinx-fpga-dp", text)["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
        chosen = found["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        assert len(chosen) == terms
        assert all(each["matchExpressions"][-1]["values"] == ["dra"] for each in chosen)

    def test_plugin_of_both_modes_is_the_plugin_alone(self, tmp_path: Path) -> None:
        """A change to by-label replaces pods, but no field that can't change."""
        both = _named("xilinx-fpga-dp", render(tmp_path, {"mode": "by-label"}))
        alone = only("DaemonSet", STATIC.read_text())
        pod = both["spec"]["template"]["spec"]
        assert pod.pop("serviceAccountName") == "xilinx-fpga-dp"
        for each in (pod, alone["spec"]["template"]["spec"]):
            del each["affinity"]
        assert both == alone

    def test_classes_are_those_of_the_command(self, tmp_path: Path) -> None:
        resources = [
            "xilinx.com/fpga-xilinx_u200_xdma_201830_2-1561465320",
            "amd.com/U30",
            "xilinx.com/fpga.xilinx.com",
            "xilinx.com/a..b_c",
        ]
        values = {"mode": "dra", "dra": {"classes": [{"resource": each} for each in resources]}}
        text = render(tmp_path, values)
        valid(text, KUBERNETES[:1])
        found = {
            each["metadata"]["name"]: each["spec"]
            for each in documents(text)
            if each["kind"] == "DeviceClass"
        }
        wanted = device_classes(resources, "fpga.xilinx.com")
        assert found == {each["metadata"]["name"]: each["spec"] for each in wanted}

    def test_class_has_the_given_name(self, tmp_path: Path) -> None:
        classes = [{"resource": "amd.com/a_b", "name": "ours"}, {"resource": "amd.com/a-b"}]
        values = {"mode": "dra", "dra": {"classes": classes, "generalClass": False}}
        found = documents(render(tmp_path, values))
        names = {each["metadata"]["name"] for each in found if each["kind"] == "DeviceClass"}
        assert names == {"ours", "a-b"}

    def test_controller_of_classes_has_the_rights_that_it_needs(self, tmp_path: Path) -> None:
        text = render(tmp_path, {"mode": "dra", "dra": {"classesController": True, "driverName": "a.b"}})
        valid(text, KUBERNETES[:1])
        pod = only("Deployment", text)["spec"]["template"]
        [container] = pod["spec"]["containers"]
        assert container["args"] == ["classes", "--follow"]
        assert container["env"] == [{"name": variable("DRA_DRIVER_NAME"), "value": "a.b"}]
        account = pod["spec"]["serviceAccountName"]
        objects = {(each["kind"], each["metadata"]["name"]): each for each in documents(text)}
        assert ("ServiceAccount", account) in objects
        assert objects["ClusterRoleBinding", account]["subjects"] == [
            {"kind": "ServiceAccount", "name": account, "namespace": "kube-system"}
        ]
        rules = objects["ClusterRole", account]["rules"]
        assert {resource: set(each["verbs"]) for each in rules for resource in each["resources"]} == {
            "resourceslices": {"list", "watch"},
            "deviceclasses": {"get", "create", "update"},
        }
        driver = only("DaemonSet", text)["spec"]["template"]["metadata"]["labels"]
        assert driver["app.kubernetes.io/name"] != pod["metadata"]["labels"]["app.kubernetes.io/name"]

    def test_policy_of_the_controller_names_its_account_label_and_driver(self, tmp_path: Path) -> None:
        text = render(tmp_path, {"mode": "dra", "dra": {"classesController": True, "driverName": "a.b"}})
        [policy] = [
            each["spec"]
            for each in documents(text)
            if each["kind"] == "ValidatingAdmissionPolicy" and each["metadata"]["name"].endswith("-classes")
        ]
        [condition] = policy["matchConditions"]
        account = only("Deployment", text)["spec"]["template"]["spec"]["serviceAccountName"]
        user = f"system:serviceaccount:kube-system:{account}"
        assert condition["expression"] == f'request.userInfo.username == "{user}"'
        [rule] = policy["matchConstraints"]["resourceRules"]
        assert (rule["resources"], rule["operations"]) == (["deviceclasses"], ["CREATE", "UPDATE"])
        label, selector = (each["expression"] for each in policy["validations"])
        [made, *_] = device_classes([], "a.b")
        wanted = made["metadata"]["labels"]["app.kubernetes.io/name"]
        assert label == f'variables.label == "{wanted}" && variables.labelBefore == "{wanted}"'
        [own] = made["spec"]["selectors"]
        assert f"startsWith('{own['cel']['expression']} && ')" in selector

    def test_classes_of_one_name_are_refused(self, tmp_path: Path) -> None:
        classes = [{"resource": "amd.com/a_b"}, {"resource": "amd.com/a-b"}]
        with pytest.raises(
            AssertionError, match=r"amd\.com/a_b and amd\.com/a-b would both have the name a-b"
        ):
            render(tmp_path, {"mode": "dra", "dra": {"classes": classes}})

    def test_monitor_finds_the_pods_of_both_modes(self, tmp_path: Path) -> None:
        text = render(tmp_path, {"mode": "by-label", "podMonitor": {"enabled": True}})
        selector = only("PodMonitor", text)["spec"]["selector"]
        [expression] = selector["matchExpressions"]
        for name in ("xilinx-fpga-dp", "xilinx-fpga-dp-dra"):
            labels = _named(name, text)["spec"]["template"]["metadata"]["labels"]
            assert selector["matchLabels"].items() <= labels.items()
            assert labels[expression["key"]] in expression["values"]

    def test_older_kubernetes_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(AssertionError, match=r"mode: dra needs Kubernetes 1\.34"):
            run(helm(), "template", "x", CHART, "--set", "mode=dra", "--kube-version=1.33.0")

    def test_overlay_is_the_chart_s(self, tmp_path: Path) -> None:
        of_both = [
            {(each["kind"], each["metadata"]["name"]): each for each in valid(manifests, KUBERNETES[:1])}
            for manifests in (overlay("dra"), render(tmp_path, {"mode": "dra"}))
        ]
        assert of_both[0] == of_both[1]


@pytest.mark.parametrize("namespace", ["kube-system", "default", ""])
def test_existing_namespace_is_not_created(namespace: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"the namespace (default|kube-system) exists"):
        render(tmp_path, {"namespace": namespace, "podSecurity": {"createNamespace": True}})


@pytest.mark.parametrize(
    ("functions", "labelled"),
    [
        (["10ee:5000/1200"], True),
        (["10ee:d004/1200"], True),  # a golden image
        (["10ee:5048/0580"], True),  # VCK5000
        (["10ee:903f/0700"], True),  # no shell
        (["10ee:50b4/1200", "10ee:50b5/1200"], True),
        (["1d0f:f010/0580"], True),
        (["1d0f:9048/0580"], True),
        (["1d0f:ec20/0200", "1d0f:8061/0108", "1d0f:1111/0300"], False),  # any instance of AWS
        (["10ee:0100/0200", "10ee:1100/0200"], False),  # SN1000
        (["10ee:3fc5/0401"], False),  # a sound card
        (["10ee:9134/0604", "8086:1572/0200"], False),
        ([], False),
    ],
)
def test_node_feature_rule_labels_nodes_with_cards(
    functions: list[str], labelled: bool, tmp_path: Path
) -> None:
    rule = only("NodeFeatureRule", render(tmp_path, {"nodeFeatureRule": {"enabled": True}}))
    [one] = rule["spec"]["rules"]
    devices = [
        dict(zip(("vendor", "device", "class"), re.split("[:/]", each), strict=True)) for each in functions
    ]
    assert any(_matches(each, devices) for each in one["matchAny"]) == labelled
    label = "label_" + re.sub(r"\W", "_", next(iter(one["labels"])))
    alerts = (DEPLOY / "prometheus" / "alerts.yaml").read_text()
    assert f'kube_node_labels{{{label}="true"}}' in alerts


def _matches(matcher: Mapping[str, Any], devices: list[dict[str, str]]) -> bool:
    """Evaluate as node-feature-discovery: one device meets all expressions of a feature."""
    found = {"In": lambda text, values: text in values,
             "InRegexp": lambda text, values: any(re.search(value, text) for value in values)}  # fmt: skip
    [feature] = matcher["matchFeatures"]
    assert feature["feature"] == "pci.device"
    expressions = feature["matchExpressions"].items()
    return any(all(found[e["op"]](device[name], e["value"]) for name, e in expressions) for device in devices)


@pytest.mark.parametrize(("chosen", "options"), [("spc_t", {"type": "spc_t"}), ("", None)])
def test_selinux_type_can_be_changed_or_omitted(
    chosen: str, options: dict[str, str] | None, tmp_path: Path
) -> None:
    [daemonset] = valid(render(tmp_path, {"seLinuxType": chosen}))
    assert daemonset["spec"]["template"]["spec"]["securityContext"].get("seLinuxOptions") == options
    assert faults(daemonset) == ["SELinux"]


def test_dashboards_are_rendered_unchanged(tmp_path: Path) -> None:
    found = only("ConfigMap", render(tmp_path, {"dashboard": {"enabled": True}}))
    files = {"xilinx-fpga-dp.json": "dashboard", "xilinx-fpga-cards.json": "dashboard-cards"}
    assert {name: json.loads(text) for name, text in found["data"].items()} == {
        name: DASHBOARDS[file] for name, file in files.items()
    }


@pytest.mark.parametrize(
    "values",
    [
        {"settings": {"SCAN_INTERVAL": 0}},
        {"settings": {"SCAN_INTERVAL": "soon"}},
        {"settings": {"SCAN_INTERVALL": 1}},
        {"settings": {"DEVICE_STRATEGY": "magic"}},
        {"settings": {"EXPOSE_MGMT": "perhaps"}},
        {"settings": {"EXTRA_MOUNTS": ["opt"]}},
        {"settings": {"SOCKET_DIR": "device-plugins"}},
        {"settings": {"HTTP_ADDRESS": "8080"}},
        {"settings": {"RESOURCE_PREFIX": "fpga-"}},
        {"settings": {"SHARED_REPLICAS": 2, "PREFERRED_ALLOCATION": "none"}},
        {"resourceRenames": [{"match": {"colour": "red"}, "name": "x"}]},
        {"compat": {"env": {"VirtualNumber": "4"}}},
        {"image": {"digest": "latest"}},
        {"kubeletDir": "kubelet"},
        {"privileged": True},
        {"tolerations": {"operator": "Exists"}},
        {"resources": {"limits": {"cpu": "much"}}},
        {"openshift": {"enable": True}},
        {"podSecurity": {"createNamespace": "yes"}},
        {"events": "yes"},
        {"startupTaint": "a/b/c"},
        {"mode": "both"},
        {"mode": "dra", "dra": {"evictOn": ["held"]}},
        {"mode": "dra", "dra": {"classes": [{"resource": "no-prefix"}]}},
        {"settings": {"EVENTS": True}},
    ],
)
def test_invalid_values_are_refused(values: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="values don't meet the specifications of the schema"):
        render(tmp_path, values)


@pytest.mark.parametrize(
    ("name", "more", "besides"),
    [("plain", {}, []), ("cdi", CDI, []), ("prometheus-operator", {}, ["PodMonitor", "PrometheusRule"])],
)
def test_overlay_renders(name: str, more: dict[str, tuple[str, str, bool]], besides: list[str]) -> None:
    found = valid(overlay(name))
    assert sorted(each["kind"] for each in found) == ["DaemonSet", *besides]
    daemonset = only("DaemonSet", overlay(name))
    assert faults(daemonset, more) == []
    assert (environment(daemonset).get("XILINX_FPGA_DP_DEVICE_STRATEGY") == "cdi") == (name == "cdi")


@pytest.mark.parametrize("on", ["plain", "cdi"])
@pytest.mark.parametrize(("name", "options"), [("selinux-spc", {"type": "spc_t"}), ("selinux-none", None)])
def test_component_renders(name: str, options: dict[str, str] | None, on: str, tmp_path: Path) -> None:
    shutil.copytree(DEPLOY / "kustomize", tmp_path / "kustomize")
    site = tmp_path / "kustomize" / "overlays" / "site"
    site.mkdir()
    (site / "kustomization.yaml").write_text(
        yaml.safe_dump({"resources": [f"../{on}"], "components": [f"../../components/{name}"]})
    )
    [daemonset] = valid(run(kustomize(), "build", site))
    assert daemonset["spec"]["template"]["spec"]["securityContext"].get("seLinuxOptions") == options
    assert faults(daemonset, CDI if on == "cdi" else {}) == ["SELinux"]


def test_component_of_the_reports_renders(tmp_path: Path) -> None:
    shutil.copytree(DEPLOY / "kustomize", tmp_path / "kustomize")
    site = tmp_path / "kustomize" / "overlays" / "site"
    site.mkdir()
    content = {"resources": ["../plain"], "components": ["../../components/node-reports"]}
    (site / "kustomization.yaml").write_text(yaml.safe_dump(content))
    text = run(kustomize(), "build", site)
    by_chart = render(
        tmp_path, {"events": True, "nodeCondition": True, "startupTaint": "fpga.xilinx.com/starting"}
    )
    of_both = [
        {(each["kind"], each["metadata"]["name"]): each for each in valid(manifests, KUBERNETES[:1])}
        for manifests in (text, by_chart)
    ]
    for found in of_both:
        pod = found["DaemonSet", "xilinx-fpga-dp"]["spec"]["template"]["spec"]
        pod["containers"][0]["env"].sort(key=lambda each: each["name"])
    assert of_both[0] == of_both[1]


def test_operator_gets_the_tested_rules() -> None:
    rule = only("PrometheusRule", overlay("prometheus-operator"))
    assert rule["spec"] == yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())


def test_each_overlay_and_component_has_a_test() -> None:
    folders = {each.name for each in (DEPLOY / "kustomize" / "overlays").iterdir()}
    assert folders == {"plain", "cdi", "dra", "prometheus-operator"}
    assert {each.name for each in (DEPLOY / "kustomize" / "components").iterdir()} == {
        "node-reports",
        "selinux-none",
        "selinux-spc",
    }


def test_static_manifest_and_examples_are_valid() -> None:
    for file in [STATIC, *(DEPLOY / "examples").glob("*.yaml")]:
        valid(file.read_text())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("readOnlyRootFilesystem: true", "readOnlyRootFileSystem: true"),
        ("maxSurge: 1", "maxSurge: [1]"),
        ("containerPort: 8080", "containerPort: http"),
        ("enableServiceLinks", "serviceLinks"),
        ("kind: DaemonSet", "kind: DaemonSet\nreplicas: 1"),
    ],
)
def test_field_missing_from_the_api_is_found(old: str, new: str) -> None:
    [document] = documents(STATIC.read_text().replace(old, new))
    assert all(complaint(document, release) for release in KUBERNETES)


def test_kinds_of_the_operator_are_checked_strictly() -> None:
    monitor = only("PodMonitor", overlay("prometheus-operator"))
    monitor["spec"]["podMetricsEndpoints"][0]["intervall"] = "30s"
    assert "intervall" in str(complaint(monitor, KUBERNETES[0]))
