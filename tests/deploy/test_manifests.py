"""The files in deploy/, the Containerfile and the workflows; tests/deploy/rendered tests rendered ones."""

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.deploy.manifests import CHART, DEPLOY, STATIC, documents, faults, only
from tests.support.paths import PROJECT
from tests.support.process import cli
from tests.support.running import settings_for
from xilinx_fpga_dp import __version__
from xilinx_fpga_dp.cli import program
from xilinx_fpga_dp.settings import variable
from xilinx_fpga_dp.settings_model import Settings
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode

DAEMONSET = only("DaemonSet", STATIC.read_text())
# The chart writes these files from resourceRenames and deviceRules.
RULE_FILES = {"RESOURCE_RENAMES", "DEVICE_RULES"}
# Values of the chart set these, with the rights and mounts that they need.
REPORTS = {"NODE_NAME", "EVENTS", "NODE_CONDITION", "STARTUP_TAINT"}
REPORTS |= {"MODE", "POD_UID", "DRA_DRIVER_NAME", "DRA_EVICT_ON", "DRA_METADATA"}
EXAMPLES = sorted((DEPLOY / "examples").glob("*.yaml"))


def test_static_manifest_has_the_required_fields() -> None:
    assert len(documents(STATIC.read_text())) == 1
    assert faults(DAEMONSET) == []


def test_defaults_are_those_of_the_last_release() -> None:
    text = (PROJECT / "tests" / "data" / "release-0.2.0.yaml").read_text()
    [kept] = documents(text.replace("0.2.0", __version__))
    now = copy.deepcopy(DAEMONSET)
    del _spec(now)["affinity"]  # keeps it off virtual nodes
    assert now == kept


def test_pods_have_the_label_by_which_the_cluster_command_finds_them() -> None:
    name, _, value = program.load("cluster").options["--selector"]["default"].partition("=")
    for path in (STATIC, DEPLOY / "kustomize" / "base" / "daemonset.yaml"):
        daemonset = only("DaemonSet", path.read_text())
        assert daemonset["spec"]["template"]["metadata"]["labels"][name] == value


def _spec(daemonset: dict[str, Any]) -> Any:
    return daemonset["spec"]["template"]["spec"]


def _ours(daemonset: dict[str, Any]) -> Any:
    return _spec(daemonset)["containers"][0]


def _terms(daemonset: dict[str, Any]) -> Any:
    affinity = _spec(daemonset)["affinity"]["nodeAffinity"]
    return affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]


def _mount(daemonset: dict[str, Any], path: str) -> None:
    _ours(daemonset)["volumeMounts"].append({"name": "more", "mountPath": path})
    _spec(daemonset)["volumes"].append({"name": "more", "emptyDir": {}})


@pytest.mark.parametrize(
    ("what", "damage"),
    [
        ("privileged", lambda d: _ours(d)["securityContext"].update(privileged=True)),
        ("privilege escalation", lambda d: _ours(d)["securityContext"].update(allowPrivilegeEscalation=True)),
        ("root filesystem", lambda d: _ours(d)["securityContext"].update(readOnlyRootFilesystem=False)),
        ("capabilities", lambda d: _ours(d)["securityContext"].update(capabilities={"add": ["SYS_ADMIN"]})),
        ("seccomp", lambda d: _spec(d)["securityContext"].update(seccompProfile={"type": "Unconfined"})),
        ("host namespaces", lambda d: _spec(d).update(hostNetwork=True)),
        ("mounts", lambda d: (_ours(d)["volumeMounts"].pop(), _spec(d)["volumes"].pop())),
        ("mounts", lambda d: _ours(d)["volumeMounts"][2].pop("readOnly")),
        ("hidden mounts", lambda d: _mount(d, "/sys/firmware")),
        ("probes", lambda d: _ours(d)["livenessProbe"]["httpGet"].update(path="/readyz")),
        ("update", lambda d: d["spec"]["updateStrategy"]["rollingUpdate"].update(maxUnavailable=1)),
        ("priority", lambda d: _spec(d).update(priorityClassName="")),
        ("nodes", lambda d: _spec(d)["nodeSelector"].clear()),
        ("virtual nodes", lambda d: _terms(d)[0]["matchExpressions"].pop()),
        ("service links", lambda d: _spec(d).update(enableServiceLinks=True)),
    ],
)
def test_broken_manifest_is_found(what: str, damage: Callable[[dict[str, Any]], object]) -> None:
    broken = copy.deepcopy(DAEMONSET)
    damage(broken)
    assert faults(broken) == [what]


def test_all_files_have_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)
    image = _ours(DAEMONSET)["image"]
    assert image.rpartition(":")[2] == __version__
    assert DAEMONSET["metadata"]["labels"]["app.kubernetes.io/version"] == __version__


def test_chart_has_every_setting() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    known = {*schema["properties"]["settings"]["properties"], *RULE_FILES, *REPORTS}
    assert known == {name.upper() for name in Settings.model_fields}


def test_values_show_the_defaults_of_settings() -> None:
    text = (CHART / "values.yaml").read_text()
    shown = dict(re.findall(r"^  (?:# )?([A-Z][A-Z0-9_]+): (.+?)(?: +#.*)?$", text, re.MULTILINE))
    assert {name.upper() for name in Settings.model_fields} - RULE_FILES - REPORTS == shown.keys()
    # The chart sets these; the others have the defaults of the program, as text for the environment.
    chosen = {"HTTP_ADDRESS", "SYSFS_ROOT", "DEV_ROOT", "HOST_ROOT"}
    for name, value in shown.items():
        if name not in chosen:
            parsed = yaml.safe_load(value)
            text = ",".join(parsed) if isinstance(parsed, list) else str(parsed)
            default = Settings.model_fields[name.lower()].get_default()
            assert getattr(Settings.load({name.lower(): text}), name.lower()) == default, name


def test_environment_of_the_manifest_has_valid_settings() -> None:
    variables = {each["name"]: each["value"] for each in _ours(DAEMONSET)["env"]}
    known = {variable(name): name for name in Settings.model_fields}
    settings = Settings.load({known[name]: value for name, value in variables.items()})
    assert settings.sysfs_root == "/host/sys"
    assert settings.dev_root == "/host/dev"
    assert settings.http_address == "0.0.0.0:8080"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_requests_a_resource_of_a_sample_node(example: Any, node: SampleNode) -> None:
    node.add_card("u200")
    node.add_card("u250")
    shared = "shared" in example.stem
    found = cli(
        "list", "--output", "json", settings=settings_for(node, SHARED_REPLICAS="2" if shared else "1")
    )
    [pod] = documents(example.read_text())
    [container] = pod["spec"]["containers"]
    requested = {name for name in container["resources"]["limits"] if "/" in name}
    assert requested
    assert requested <= json.loads(found.stdout)["resources"].keys()
    assert "privileged" not in str(container.get("securityContext"))


def test_each_shipped_rule_has_an_example() -> None:
    rules = yaml.safe_load((DEPLOY / "device-rules.yaml").read_text())
    found = {}
    for file in (DEPLOY / "examples" / "rules").glob("*.yaml"):
        [pod] = documents(file.read_text())
        [container] = pod["spec"]["containers"]
        [found[file.stem]] = container["resources"]["limits"]
    names = [rule["name"] for rule in rules]
    assert found == {f"dp-pod-{name}": f"xilinx.com/fpga-{name}" for name in names}


def test_chart_takes_the_shipped_rules() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]["deviceRules"]
    Draft202012Validator(schema).validate(yaml.safe_load((DEPLOY / "device-rules.yaml").read_text()))


def test_examples_are_those_of_the_documentation() -> None:
    assert {each.name for each in EXAMPLES} == {
        "dp-pod.yaml",
        "dp-pod-two-cards.yaml",
        "dp-pod-numa.yaml",
        "dp-pod-shared.yaml",
        "dp-pod-non-root.yaml",
    }


def test_containerfile_uses_locked_wheels_and_no_shell() -> None:
    joined = (PROJECT / "Containerfile").read_text().replace("\\\n", " ")
    lines = [line for line in joined.splitlines() if not line.startswith("#")]
    assert [line for line in lines if line.startswith("FROM")] == ["FROM ${BASE} AS build", "FROM ${BASE}"]
    installs = [part for line in lines for part in line.split("&&") if "pip" in part and " install " in part]
    assert installs
    assert all("--require-hashes" in part or "--no-deps" in part for part in installs)
    [entrypoint] = [line.removeprefix("ENTRYPOINT ") for line in lines if line.startswith("ENTRYPOINT")]
    assert json.loads(entrypoint) == ["python", "-m", "xilinx_fpga_dp"]
    final = lines[lines.index("FROM ${BASE}") :]
    assert not any(line.startswith("RUN") and not line.startswith('RUN ["') for line in final)
    assert "USER 0:0" in final


def test_build_context_has_each_copied_file() -> None:
    allowed = {
        line.removeprefix("!")
        for line in (PROJECT / ".containerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = set()
    for line in (PROJECT / "Containerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            copied.update(line.split()[1:-1])
    assert copied == allowed
    assert all((PROJECT / each).exists() for each in copied)


def test_workflows_call_existing_targets() -> None:
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    called_by = {}
    for file in sorted((PROJECT / ".github" / "workflows").glob("*.yml")):
        jobs = yaml.safe_load(file.read_text())["jobs"].values()
        scripts = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
        called = [
            word
            for script in scripts
            for word in re.findall(r"\bmake (?:--silent )?([a-z][a-z0-9-]*)", script)
        ]
        assert set(called) <= targets
        called_by[file.stem] = set(called)
    sum_of_all = set(
        re.findall(r"^tier make ([a-z][a-z0-9-]*)", (PROJECT / ".ci" / "run").read_text(), re.MULTILINE)
    )
    # .ci/run runs the jobs of CI for a change on one machine.
    assert called_by["ci"] - {"test-fast", "test-service"} | {"test", "run"} == sum_of_all
    assert "release" in called_by["release"]
