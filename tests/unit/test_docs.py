"""The documentation: its links, its tables, and the names of commands, tests and files in it."""

import json
import re
import shlex

import pytest
import yaml

from tests.support.pages import PAGES, WITH_COMMANDS, blocks, text
from tests.support.paths import PROJECT
from xilinx_fpga_dp import cli
from xilinx_fpga_dp.cli.diagnose.checks import CHECKS
from xilinx_fpga_dp.model import Reason
from xilinx_fpga_dp.observe.events import Event, NodeEvent

README = (PROJECT / "README.md").read_text()
# Commands that no test runs: they need a cluster, a node or a card.
ELSEWHERE = {
    *("kubectl", "xbutil", "xbmgmt", "modprobe", "mokutil", "lspci", "udevadm", "systemctl", "journalctl"),
    "setsebool",
}
_FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)


def test_pages_with_commands_are_those_expected() -> None:
    assert len(WITH_COMMANDS) >= 7


def test_readme_lists_every_command_and_existing_targets_and_files() -> None:
    rows = re.findall(r"^\| `(\w+)(?: ID\.\.\.| FILE)?` \|", README, re.MULTILINE)
    assert set(rows) == set(cli.COMMANDS)
    for path in re.findall(r"\bdeploy/[\w./-]*\w", README):
        assert (PROJECT / path).exists(), path
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_exists(page: str) -> None:
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^|\$ )make ([a-z][a-z0-9-]*)", text(page), re.MULTILINE))
    assert named <= targets


def test_cluster_steps_are_in_order_and_name_their_requirements() -> None:
    page = text("docs/getting-started.md")
    start = page.partition("\n## In a cluster\n")[2].partition("\n## ")[0]
    assert "needs a cluster with cards" in start.strip().splitlines()[0]
    steps = re.findall(r"^ +(kubectl (?:\S+ )*?\S+)$", start, re.MULTILINE)
    assert [step for step in steps if " -- python " not in step] == [
        "kubectl create -f deploy/fpga-device-plugin.yml",
        "kubectl get daemonset -n kube-system xilinx-fpga-dp",
        "kubectl describe node NODE",
        "kubectl create -f deploy/examples/dp-pod.yaml",
        "kubectl get pod mypod",
        "kubectl exec -it mypod -- bash",
    ]
    daemonset = yaml.safe_load((PROJECT / "deploy/fpga-device-plugin.yml").read_text())
    where = daemonset["metadata"]
    assert (where["name"], where["namespace"]) == ("xilinx-fpga-dp", "kube-system")
    # The only line that the `sed` of the page changes.
    assert len(re.findall("image: .*", (PROJECT / "deploy/fpga-device-plugin.yml").read_text())) == 1


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/operating/")])
def test_operating_page_names_the_tools_it_needs(page: str) -> None:
    head = text(page).partition("\n## ")[0]
    for code in re.findall(r"`([^`\n]+)`", text(page)):
        word = code.split()[0] if code.split() else ""
        if " " in code and word in ELSEWHERE:
            assert f"`{word}`" in head, f"{code}: the page does not name the tool"


def test_every_reason_has_a_row() -> None:
    page = text("docs/operating/troubleshooting.md")
    for reason in Reason:
        assert f"| `{reason}` |" in page


def test_every_log_event_has_a_row_and_every_row_an_event() -> None:
    page = text("docs/reference/log-events.md")
    rows = [row.split("|")[1] for row in page.splitlines() if row.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`([^`]+)`", row)} == {str(event) for event in Event}


def test_every_event_of_the_node_has_a_row_and_every_row_an_event() -> None:
    page = text("docs/operating/monitoring.md")
    rows = re.findall(r"^\| `(FPGA\w+)` \| (?:Normal|Warning) \|", page, re.MULTILINE)
    assert sorted(rows) == sorted(NodeEvent)


def test_every_check_of_diagnose_has_a_row() -> None:
    page = text("docs/operating/troubleshooting.md")
    [table] = re.findall(r"\| check \| `fail` .*?\n\n", page, re.DOTALL)
    assert len(table.strip().splitlines()) - 2 == len(CHECKS) + 1  # files() has two rows


def test_every_test_that_is_named_exists() -> None:
    named = set(re.findall(r"`(test_[a-z_0-9]+|Test[A-Za-z]+)`", text("docs/development/security-design.md")))
    assert len(named) > 30
    code = "".join(path.read_text() for path in (PROJECT / "tests").rglob("test_*.py"))
    assert named <= set(re.findall(r"\b(?:def|class) (\w+)", code))


def test_patch_of_migration_removes_an_old_resource_from_a_node() -> None:
    [command] = [block for block in blocks("docs/reference/migration.md", "sh") if "kubectl patch" in block]
    *options, patch = shlex.split(command)
    assert options == ["kubectl", "patch", "node", "NODE", "--subresource=status", "--type=json", "-p"]
    resources = {"amd.com/ama_u30": "0", "xilinx.com/fpga-u30": "2", "cpu": "8"}
    node = {"status": {"capacity": dict(resources), "allocatable": dict(resources)}}
    for operation in json.loads(patch):
        assert operation.keys() == {"op", "path"}
        assert operation["op"] == "remove"
        # RFC 6901, section 4
        empty, *parents, last = [
            each.replace("~1", "/").replace("~0", "~") for each in operation["path"].split("/")
        ]
        assert empty == ""
        assert parents[0] == "status"
        del node["status"][parents[1]][last]
    left = {"xilinx.com/fpga-u30": "2", "cpu": "8"}
    assert node == {"status": {"capacity": left, "allocatable": left}}


def test_constraints_of_openshift_are_those_of_the_chart() -> None:
    page = "docs/operating/install.md"
    [shown] = [yaml.safe_load(each) for each in blocks(page, "yaml") if "SecurityContextConstraints" in each]
    template = (PROJECT / "deploy/helm/xilinx-fpga-dp/templates/openshift.yaml").read_text()
    [rendered] = re.findall(r"^allow.*?(?=^users:)", template, re.MULTILINE | re.DOTALL)
    rendered = re.sub(r"{{ if .*?{{ end }}", "", rendered)  # with other values
    fields = {"apiVersion", "kind", "metadata", "users"}
    assert {name: value for name, value in shown.items() if name not in fields} == yaml.safe_load(rendered)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_has_an_existing_page_and_anchor(page: str) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", text(page)):
        path = ((PROJECT / page).parent / target) if target else PROJECT / page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.read_text()), f"{target}#{anchor}"


def anchors(page: str) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub generates them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_in_the_index() -> None:
    linked = re.findall(r"\]\(([^)#]+)", text("docs/index.md"))
    listed = {str(((PROJECT / "docs") / link).resolve().relative_to(PROJECT.resolve())) for link in linked}
    assert {page for page in PAGES if page.startswith("docs/")} - listed == {"docs/index.md"}


def test_every_page_named_in_code_or_manifests_exists() -> None:
    """Runbooks of the alerts also name an anchor."""
    folders = ("xilinx_fpga_dp", "deploy", "tests", "docs", ".github")
    files = [path for folder in folders for path in (PROJECT / folder).rglob("*") if path.is_file()]
    named = set()
    for path in [*files, PROJECT / "Makefile", PROJECT / "pyproject.toml", PROJECT / "Containerfile"]:
        if path.suffix in (".py", ".yaml", ".yml", ".json", ".tpl", ".toml", ""):
            named |= set(re.findall(r"\b(docs/[\w/-]+\.\w+)(?:#([\w-]+))?", path.read_text(errors="ignore")))
    assert len(named) > 15
    for page, anchor in named - {("docs/XRT_installation_instructions.md", "")}:
        assert (PROJECT / page).exists(), page
        assert not anchor or anchor in anchors(text(page)), f"{page}#{anchor}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/development/")])
def test_every_source_file_that_is_named_exists(page: str) -> None:
    roots = [PROJECT, PROJECT / "xilinx_fpga_dp", PROJECT / "xilinx_fpga_dp" / "discovery"]
    for path in set(re.findall(r"`([\w/]+\.py)`", text(page))):
        assert any((root / path).exists() for root in roots), path


@pytest.mark.parametrize("page", PAGES)
def test_lines_wrap_at_100_columns(page: str) -> None:
    prose = _FENCE.sub("", text(page))
    long = [line for line in prose.splitlines() if len(line) > 100 and not line.startswith("|")]
    assert [
        line for line in long if " " in line.strip() and not re.search(r"https?://|`[^`]{60,}`", line)
    ] == []
