"""The commands and the outputs in the documentation, against the running service."""

import ast
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.double import KubeletDouble
from tests.support.pages import WITH_COMMANDS, blocks, commands, text
from tests.support.paths import PROJECT
from tests.support.probed import Probed
from tests.support.process import Service, clean_environment
from tests.support.running import settings_for
from tests.support.waiting import wait_for
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.resources.documents import nfd as labels
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode


def printed(command: str, node: SampleNode, **settings: str) -> str:
    """Run a command of a page on a node and return its output; the command has to succeed."""
    done = subprocess.run(
        ["sh", "-c", command],
        env=clean_environment(settings_for(node, **settings)),
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert done.returncode == 0, (command, done)
    return done.stdout


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_every_command_works(page: str, node: SampleNode, kubelet: KubeletDouble) -> None:
    card = node.add_card("u200", release="2023.2")
    kubelet.start()
    probed = Probed(node)
    with Service(probed.settings) as service:
        service.logged(Event.SERVING_HTTP)
        wait_for(lambda: probed.get("readyz")[0] == 200, "ready")
        for command in commands(page):
            here = re.sub(r"\bpython ", f"{shlex.quote(sys.executable)} ", command)
            here = here.replace("127.0.0.1:8080", probed.address).replace("0000:11:00.1", card.address)
            # The directories of pytest are too long for the path of a socket.
            output = printed(here.replace("/tmp/node", f"{node.root}/new"), node)
            assert output or " > " in command, command


def test_documented_feature_file_equals_the_written_one(node: SampleNode) -> None:
    for slot in ("0000:11:00", "0000:21:00"):
        node.add_card("u200", slot, release="2023.2")
    folder = Path(node.root) / "features.d"
    with Service(settings_for(node, NFD_FEATURES_DIR=str(folder))):
        wait_for((folder / labels.FILE).exists, "written")
        written = (folder / labels.FILE).read_text()
    page = "docs/operating/maintenance.md"
    [shown] = [block for block in blocks(page, "text") if "fpga.count" in block]
    assert written == shown
    known = {line.partition("=")[0] for line in written.splitlines()}
    examples = "".join(blocks(page, "yaml"))
    used = set(re.findall(r"xilinx\.com/fpga\.[\w.]+", examples))
    assert used
    assert used <= known, "the examples select by existing labels"
    for label, value in re.findall(r'(xilinx\.com/fpga\.\S+): "(.*)"', examples):
        assert f"{label}={value}\n" in written


def names_of(node: SampleNode, **settings: str) -> dict[str, set[str]]:
    """Return the resource names of a node by board."""
    listed = json.loads(
        printed(f"{shlex.quote(sys.executable)} -m xilinx_fpga_dp list --output json", node, **settings)
    )
    names: dict[str, set[str]] = {}
    for device in listed["devices"]:
        names.setdefault(device["board"], set()).add(device["resource"])
    return names


def test_rules_of_migration_keep_the_names_of_other_plugins(node: SampleNode) -> None:
    for board in ("ma35d", "v80", "u55c"):
        node.add_card(board)
    for slot in ("0000:91:00", "0000:92:00"):
        node.add_card("u30", slot, serial="XFL1")
    page = "docs/reference/migration.md"
    [generic] = [block for block in blocks(page, "yaml") if "amdama" in block]
    [u30] = [block for block in blocks(page, "yaml") if "ama_u30" in block]
    rules = Path(node.root) / "rules.yaml"
    rules.write_text(generic)
    found = names_of(node, RESOURCE_PREFIX="squat.ai/", RESOURCE_RENAMES=str(rules))
    assert (found["ma35d"], found["v80"]) == ({"squat.ai/amdama"}, {"squat.ai/ami-fpga"})
    rules.write_text(u30)
    found = names_of(node, RESOURCE_PREFIX="amd.com/", RESOURCE_RENAMES=str(rules))
    assert found["u55c"] == {"amd.com/xilinx_u55c_gen3x16_xdma_base_3-0"}
    assert found["u30"] == {"amd.com/ama_u30"}
    for names in (*found.values(), {"squat.ai/amdama", "squat.ai/ami-fpga"}):
        assert all(name in text(page) for name in names - {"amd.com/xilinx_v80"})


def test_pods_left_by_a_reboot_are_deleted_one_by_one(node: SampleNode) -> None:
    page = "docs/operating/troubleshooting.md"
    [command] = [block for block in blocks(page, "sh") if "UnexpectedAdmissionError" in block]
    programs = Path(node.root) / "bin"
    programs.mkdir()
    kubectl = programs / "kubectl"
    kubectl.write_text('#!/bin/sh\n[ "$1" = get ] && printf "a x-1\\nb y-2\\n" || echo "$@"\n')
    kubectl.chmod(0o755)
    output = printed(f"PATH={shlex.quote(str(programs))}:$PATH\n{command}", node)
    assert output.splitlines() == ["delete pod -n a x-1", "delete pod -n b y-2"]


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


def test_every_log_call_names_a_member_of_the_enum() -> None:
    code = [ast.parse(path.read_text()) for path in (PROJECT / "xilinx_fpga_dp").rglob("*.py")]
    calls = [ast.unparse(node) for module in code for node in ast.walk(module) if isinstance(node, ast.Call)]
    logged = [call for call in calls if call.startswith("log.")]
    assert len(logged) > 30
    assert [call for call in logged if "Event." not in call and not call.startswith("log.info(event,")] == []
