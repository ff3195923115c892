"""The example pods for cards without XRT, with the rules that deploy/ ships, through the chart."""

import json
import shutil
from collections.abc import Iterator
from fnmatch import fnmatch

import pytest
import yaml

from ..image import PROJECT
from ..namespace import wait_for
from ..pods import open_each
from .cluster import Cluster
from .deployed import EXAMPLES
from .user import User, commands

# By rule: the board of the sample node, the nodes of its card, and how many of them a pod gets.
CARDS = {
    "accel": ("vek385", "/dev/accel/*", 1),
    "aws-f2-slot": ("f2-hdk", "", 0),
    "coyote": ("coyote", "/dev/coyote_*_v*", 1),
    "opennic": ("opennic", "", 0),
    "qdma": ("qdma", "/dev/qdma*", 2),
    "ul3524": ("ul3524-xdma", "/dev/xdma*", 4),
    "v80-qdma": ("v80-qdma", "/dev/qdma*", 2),
    "v80-slash": ("v80-slash", "/dev/slash_*ctl*", 2),
    "xdma": ("xdma", "/dev/xdma*", 4),
}


@pytest.fixture(scope="module")
def rules(cluster: Cluster, user: User, image: None) -> Iterator[None]:
    """The plugin with all rules."""
    values = user.checkout / "rules.json"
    shipped = yaml.safe_load((PROJECT / "deploy" / "device-rules.yaml").read_text())
    values.write_text(json.dumps({"deviceRules": shipped}))
    assert {rule["name"] for rule in shipped} == CARDS.keys()
    cluster.sample.every_node = cluster.sample.own_numbers = True
    user.run(f"{commands('README.md', 'Install')[2]} --values {values.name}")
    yield
    user.remove_plugin()
    cluster.sample.every_node = cluster.sample.own_numbers = False


@pytest.mark.usefixtures("rules", "pods")
@pytest.mark.parametrize("rule", CARDS)
def test_example_pod_gets_the_nodes_of_its_rule(cluster: Cluster, rule: str) -> None:
    board, pattern, count = CARDS[rule]
    before = cluster.sample.devices().keys()
    cards = cluster.sample.plug(board)
    try:
        name = cluster.create(EXAMPLES / "rules" / f"dp-pod-{rule}.yaml")
        cluster.wait_pod(name, "Running")
        own = cluster.sample.devices().keys() - before
        inside = own & set(cluster.kubectl("exec", name, "--", "find", "/dev", "-type", "c").split())
        assert len(inside) == count
        assert all(fnmatch(node, pattern) for node in inside)
        opened = cluster.kubectl("exec", name, "--", "sh", "-c", open_each(sorted(inside))).splitlines()
        assert opened == [f"open {node} ok" for node in sorted(inside)]
        variables = cluster.kubectl("exec", name, "--", "env")
        assert f"PCIDEVICE_XILINX_COM_FPGA_{rule.upper().replace('-', '_')}=" in variables
        cluster.kubectl("delete", "pod", name, "--now", "--wait")
    finally:
        for card in cards:
            card.remove()
        shutil.rmtree(f"{cluster.sample.sysfs_root}/firmware", ignore_errors=True)  # of an embedded board
    wait_for(lambda: cluster.counts(f"xilinx.com/fpga-{rule}").allocatable == 0, "the card gone", 60)
