"""What the documents tell an operator to type works, and what they quote is what is printed."""

import os
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
from xilinx_fpga_dp.resources.documents import nfd as labels
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode

ROOT = Path(__file__).parents[1]
PAGES = ("configuration", "operating", "security")
README = (ROOT / "README.md").read_text()
# What no test can run here: it needs a cluster, a node, a card.
ELSEWHERE = {
    "kubectl",
    "xbutil",
    "xbmgmt",
    "modprobe",
    "lspci",
    "udevadm",
    "systemctl",
    "journalctl",
    "rollout",
    "ausearch",
}


def text(page: str) -> str:
    return (ROOT / "docs" / f"{page}.md").read_text()


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", text(page), re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    return [
        line.removeprefix("$ ")
        for block in blocks(page, "console")
        for line in block.splitlines()
        if line.startswith("$ ")
    ]


def shown(command: str, node: SampleNode) -> str:
    """What a command of a page prints on a node; it has to end well."""
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


@pytest.mark.parametrize("page", ["configuration", "operating"])
def test_every_command_works(page: str, node: SampleNode, kubelet: KubeletDouble) -> None:
    node.add_card("u200", release="2023.2")
    kubelet.start()
    probed = Probed(node)
    with Service(probed.settings) as service:
        service.logged("serving HTTP")
        eventually(lambda: probed.get("readyz")[0] == 200, "ready")
        assert commands(page)
        for command in commands(page):
            here = command.replace("127.0.0.1:8080", probed.address)
            here = here.replace("python ", f"{shlex.quote(sys.executable)} ", 1)
            assert shown(here, node), command


def test_every_command_of_the_readme_works(node: SampleNode) -> None:
    node.add_card("u200")
    written = re.findall(r"^[$#] ((?:python|\().*)$|`(python -m [^`]*)`", README, re.MULTILINE)
    asked = ["".join(each) for each in written]
    assert len(asked) > 4
    for command in asked:
        here = command.replace("python ", f"{shlex.quote(sys.executable)} ")
        # pytest's own folders are too long for a socket's path
        here = here.replace("/tmp/node", f"{node.root}/new").replace("DIR", f"{node.root}/other")
        if command.endswith("xilinx_fpga_dp run"):  # ends when it is told to
            here = f"{here} & sleep 3; kill $!; wait $!"
        elif "--board" in command:
            here += " --once"
        shown(here, node)


def test_the_readme_tells_of_commands_targets_and_files_that_there_are() -> None:
    rows = re.findall(r"^\| `(\w+)(?: ID\.\.\.)?` \|", README, re.MULTILINE)
    assert set(rows) == set(cli.COMMANDS)
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = set(re.findall(r"(?:`|^|\$ )make ([a-z][a-z0-9-]*)", README, re.MULTILINE))
    assert {"run", "test", "image", "check", "e2e"} <= asked <= targets
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    for path in [*links, *re.findall(r"\bdeploy/[\w./-]*\w", README)]:
        assert (ROOT / path).exists(), path
    for page, anchor in re.findall(r"\]\(docs/(\w+)\.md#([^)]+)\)", README):
        headings = re.findall(r"^#+ (.+)$", text(page), re.MULTILINE)
        assert anchor in [heading.lower().replace(" ", "-") for heading in headings]


def test_the_quick_start_has_its_steps_in_order_and_says_what_it_needs() -> None:
    _, start = README.split("## Quick start in a cluster\n")
    start = start.partition("\n## ")[0]
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
    elsewhere = README.replace(start, "")
    assert not re.search(r"\bkubectl (?!describe node` would say)", elsewhere.replace("\n", " "))
    daemonset = yaml.safe_load((ROOT / "deploy/fpga-device-plugin.yml").read_text())
    where = daemonset["metadata"]
    assert (where["name"], where["namespace"]) == ("xilinx-fpga-dp", "kube-system")
    # The one line that sed is told to change.
    assert len(re.findall("image: .*", (ROOT / "deploy/fpga-device-plugin.yml").read_text())) == 1


@pytest.mark.parametrize("page", PAGES)
def test_every_other_command_is_marked(page: str) -> None:
    marked = text(page).partition("\n## ")[0]
    for code in re.findall(r"`([^`\n]+)`", text(page)):
        word = code.split()[0] if code.split() else ""
        if " " in code and word in ELSEWHERE - {"rollout", "ausearch"}:
            assert f"`{word}`" in marked, f"{code}: the page does not say what it needs"


def test_the_feature_file_is_as_it_is_shown(node: SampleNode) -> None:
    for slot in ("0000:11:00", "0000:21:00"):
        node.add_card("u200", slot, release="2023.2")
    folder = Path(node.root) / "features.d"
    with Service(settings_for(node, NFD_FEATURES_DIR=str(folder))):
        eventually((folder / labels.FILE).exists, "written")
        written = (folder / labels.FILE).read_text()
    [shown] = [block for block in blocks("operating", "text") if "fpga.count" in block]
    assert written == shown
    known = {line.partition("=")[0] for line in written.splitlines()}
    examples = "".join(blocks("operating", "yaml"))
    used = set(re.findall(r"xilinx\.com/fpga\.[\w.]+", examples))
    assert used
    assert used <= known, "the examples select by labels that there are"
    for label, value in re.findall(r'(xilinx\.com/fpga\.\S+): "(.*)"', examples):
        assert f"{label}={value}\n" in written


def test_every_reason_and_every_metric_is_told(node: SampleNode, kubelet: KubeletDouble) -> None:
    told = text("operating")
    for reason in Reason:
        assert f"| `{reason}` |" in told
    node.add_card("u200")
    kubelet.start()
    probed = Probed(node)
    with Service(probed.settings) as service:
        service.logged("registered")
        service.logged("serving HTTP")
        names = {re.split(r"[{ ]", name)[0] for name in probed.series()}
    for name in names:
        base = re.sub(r"_(bucket|count|sum|created)$", "", name)
        assert base in told, name


def test_every_rule_of_diagnose_is_told() -> None:
    [table] = re.findall(r"\| it looks at .*?\n\n", text("operating"), re.DOTALL)
    assert len(table.strip().splitlines()) - 2 == len(CHECKS) + 1  # files() has two rows


def test_tests_that_are_named_exist() -> None:
    named = re.findall(r"tests/(\w+\.py)(?:::(\w+))?", text("security"))
    assert len(named) > 20
    for name in named:
        path = ROOT / "tests" / name[0]
        assert path.exists() or (ROOT / "tests" / "kubelet" / name[0]).exists(), name
        if name[1]:
            assert re.search(rf"(def|class) {name[1]}\b", path.read_text()), name


def test_every_page_that_is_linked_is_there() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", text(page)):
            assert os.path.exists(ROOT / "docs" / link), (page, link)
        for link in re.findall(r"docs/(\w+)\.md", text(page)):
            assert (ROOT / "docs" / f"{link}.md").exists(), (page, link)
