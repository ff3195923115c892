"""The commands of the documentation work, its links lead somewhere, and its examples are what is printed."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import settings_for
from tests.double import KubeletDouble
from tests.process import Service, clean_environment, eventually
from tests.test_probes import Probed
from xilinx_fpga_dp import cli
from xilinx_fpga_dp.cli.diagnose.checks import CHECKS
from xilinx_fpga_dp.model import Reason
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.resources.documents import nfd as labels
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / ".github").rglob("*.md")]
)
README = (ROOT / "README.md").read_text()
# Commands that no test can run here: they need a cluster, a node, a card.
ELSEWHERE = {"kubectl", "xbutil", "xbmgmt", "modprobe", "lspci", "udevadm", "systemctl", "journalctl"}
_FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)


def text(page: str) -> str:
    return (ROOT / page).read_text()


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", text(page), re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    """Return the commands that a page marks with `$` in a console block, except those of make."""
    return [
        line.removeprefix("$ ")
        for block in blocks(page, "console")
        for line in block.splitlines()
        if line.startswith("$ ") and not line.startswith("$ make ")
    ]


def printed(command: str, node: SampleNode) -> str:
    """Run a command of a page on a node and return its output; the command has to succeed."""
    done = subprocess.run(
        ["sh", "-c", command],
        env=clean_environment(settings_for(node)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, (command, done)
    return done.stdout


WITH_COMMANDS = [page for page in PAGES if commands(page)]


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_every_command_works(page: str, node: SampleNode, kubelet: KubeletDouble) -> None:
    card = node.add_card("u200", release="2023.2")
    kubelet.start()
    probed = Probed(node)
    with Service(probed.settings) as service:
        service.logged(Event.SERVING_HTTP)
        eventually(lambda: probed.get("readyz")[0] == 200, "ready")
        for command in commands(page):
            here = re.sub(r"\bpython ", f"{shlex.quote(sys.executable)} ", command)
            here = here.replace("127.0.0.1:8080", probed.address).replace("0000:11:00.1", card.address)
            # pytest's own directories are too long for a socket's path
            output = printed(here.replace("/tmp/node", f"{node.root}/new"), node)
            assert output or " > " in command, command


def test_pages_with_commands_are_those_expected() -> None:
    assert len(WITH_COMMANDS) >= 7


def test_readme_lists_every_command_and_existing_targets_and_files() -> None:
    rows = re.findall(r"^\| `(\w+)(?: ID\.\.\.)?` \|", README, re.MULTILINE)
    assert set(rows) == set(cli.COMMANDS)
    for path in re.findall(r"\bdeploy/[\w./-]*\w", README):
        assert (ROOT / path).exists(), path
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_exists(page: str) -> None:
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^|\$ )make ([a-z][a-z0-9-]*)", text(page), re.MULTILINE))
    assert named - {"test-fast", "test-service"} <= targets  # until the tiers are there


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
    daemonset = yaml.safe_load((ROOT / "deploy/fpga-device-plugin.yml").read_text())
    where = daemonset["metadata"]
    assert (where["name"], where["namespace"]) == ("xilinx-fpga-dp", "kube-system")
    # The one line that the `sed` of the page changes.
    assert len(re.findall("image: .*", (ROOT / "deploy/fpga-device-plugin.yml").read_text())) == 1


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/operating/")])
def test_operating_page_names_the_tools_it_needs(page: str) -> None:
    head = text(page).partition("\n## ")[0]
    for code in re.findall(r"`([^`\n]+)`", text(page)):
        word = code.split()[0] if code.split() else ""
        if " " in code and word in ELSEWHERE:
            assert f"`{word}`" in head, f"{code}: the page does not name what it needs"


def test_the_feature_file_is_as_it_is_shown(node: SampleNode) -> None:
    for slot in ("0000:11:00", "0000:21:00"):
        node.add_card("u200", slot, release="2023.2")
    folder = Path(node.root) / "features.d"
    with Service(settings_for(node, NFD_FEATURES_DIR=str(folder))):
        eventually((folder / labels.FILE).exists, "written")
        written = (folder / labels.FILE).read_text()
    page = "docs/operating/maintenance.md"
    [shown] = [block for block in blocks(page, "text") if "fpga.count" in block]
    assert written == shown
    known = {line.partition("=")[0] for line in written.splitlines()}
    examples = "".join(blocks(page, "yaml"))
    used = set(re.findall(r"xilinx\.com/fpga\.[\w.]+", examples))
    assert used
    assert used <= known, "the examples select by labels that exist"
    for label, value in re.findall(r'(xilinx\.com/fpga\.\S+): "(.*)"', examples):
        assert f"{label}={value}\n" in written


def test_every_reason_has_a_row() -> None:
    page = text("docs/operating/troubleshooting.md")
    for reason in Reason:
        assert f"| `{reason}` |" in page


def test_every_metric_has_a_row(node: SampleNode, kubelet: KubeletDouble) -> None:
    node.add_card("u200")
    kubelet.start()
    probed = Probed(node)
    with Service(probed.settings) as service:
        service.logged(Event.REGISTERED)
        service.logged(Event.SERVING_HTTP)
        names = {re.split(r"[{ ]", name)[0] for name in probed.series()}
    for name in names:
        base = re.sub(r"_(bucket|count|sum|created)$", "", name)
        assert base in text("docs/reference/metrics.md"), name


def test_every_log_event_has_a_row_and_every_row_an_event() -> None:
    page = text("docs/reference/log-events.md")
    rows = [row.split("|")[1] for row in page.splitlines() if row.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`([^`]+)`", row)} == {str(event) for event in Event}


def test_every_log_call_names_a_member_of_the_enum() -> None:
    code = [ast.parse(path.read_text()) for path in (ROOT / "xilinx_fpga_dp").rglob("*.py")]
    calls = [ast.unparse(node) for module in code for node in ast.walk(module) if isinstance(node, ast.Call)]
    logged = [call for call in calls if call.startswith("log.")]
    assert len(logged) > 30
    assert [call for call in logged if "Event." not in call and not call.startswith("log.info(event,")] == []


def test_every_check_of_diagnose_has_a_row() -> None:
    page = text("docs/operating/troubleshooting.md")
    [table] = re.findall(r"\| check \| `fail` .*?\n\n", page, re.DOTALL)
    assert len(table.strip().splitlines()) - 2 == len(CHECKS) + 1  # files() has two rows


def test_every_test_that_is_named_exists() -> None:
    named = set(re.findall(r"`(test_[a-z_0-9]+|Test[A-Za-z]+)`", text("docs/development/security-design.md")))
    assert len(named) > 30
    code = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert named <= set(re.findall(r"\b(?:def|class) (\w+)", code))


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_page_and_an_anchor(page: str) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", text(page)):
        path = ((ROOT / page).parent / target) if target else ROOT / page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.read_text()), f"{target}#{anchor}"


def anchors(page: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_in_the_index() -> None:
    linked = re.findall(r"\]\(([^)#]+)", text("docs/index.md"))
    listed = {str(((ROOT / "docs") / link).resolve().relative_to(ROOT.resolve())) for link in linked}
    assert {page for page in PAGES if page.startswith("docs/")} - listed == {"docs/index.md"}


def test_every_page_named_in_code_or_manifests_exists() -> None:
    """A path to a page, with an anchor in the runbooks of the alerts."""
    folders = ("xilinx_fpga_dp", "deploy", "tests", "docs", ".github")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    named = set()
    for path in [*files, ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / "Containerfile"]:
        if path.suffix in (".py", ".yaml", ".yml", ".json", ".tpl", ".toml", ""):
            named |= set(re.findall(r"\b(docs/[\w/-]+\.\w+)(?:#([\w-]+))?", path.read_text(errors="ignore")))
    assert len(named) > 15
    for page, anchor in named - {("docs/XRT_installation_instructions.md", "")}:
        assert (ROOT / page).exists(), page
        assert not anchor or anchor in anchors(text(page)), f"{page}#{anchor}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/development/")])
def test_every_source_file_that_is_named_exists(page: str) -> None:
    roots = [ROOT, ROOT / "xilinx_fpga_dp", ROOT / "xilinx_fpga_dp" / "discovery", ROOT / "tests"]
    for path in set(re.findall(r"`([\w/]+\.py)`", text(page))):
        assert any((root / path).exists() for root in roots), path


@pytest.mark.parametrize("page", PAGES)
def test_lines_wrap_at_100_columns(page: str) -> None:
    prose = _FENCE.sub("", text(page))
    long = [line for line in prose.splitlines() if len(line) > 100 and not line.startswith("|")]
    assert [
        line for line in long if " " in line.strip() and not re.search(r"https?://|`[^`]{60,}`", line)
    ] == []
