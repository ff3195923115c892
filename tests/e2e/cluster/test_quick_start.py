"""The commands of README.md and docs/getting-started.md for a cluster, as they stand there.

Only what a reader replaces is replaced: REGISTRY, NODE, PLUGIN-POD.
"""

import re

import pytest

from tests.support.pages import blocks, text

from ..namespace import wait_for
from .cluster import Cluster
from .deployed import DRIVER_NAME, U200, VARIABLE, only_card, plugins, wait_available, wait_offered
from .user import User, commands, manifest

README, GUIDE = "README.md", "docs/getting-started.md"


pytestmark = pytest.mark.usefixtures("bare", "pods")


def test_readme_installs_the_chart_and_a_pod_gets_a_card(cluster: Cluster, user: User) -> None:
    build, push, install, *_ = commands(README)
    assert (build.split()[0], push.split()[0], install.split()[0]) == ("make", "buildah", "helm")
    user.run(install)  # the image fixture has run the two before it
    wait_available(cluster)
    wait_offered(cluster)
    [describe] = commands(README, "Use a card")
    described = user.run(describe)
    [shown] = blocks(README, "text", "Use a card")
    assert re.sub(r"\s+", " ", shown.split("\n")[1]) in re.sub(r"\s+", " ", described)

    pod = manifest(README, "my/fpga-application")
    cluster.kubectl("create", "-f", "-", stdin=pod)
    cluster.wait_pod("mypod", "Running")
    environment = cluster.kubectl("exec", "mypod", "--", "env")
    card = only_card(cluster, "mypod")
    assert f"{VARIABLE}={card.address}\n" in environment
    assert f"{VARIABLE}_INFO=" in environment


def test_readme_installs_the_static_manifest(cluster: Cluster, user: User) -> None:
    create, get, describe = commands(README)[3:]
    assert [describe] == commands(README, "Use a card"), "the case above runs it"
    user.run(create)
    wait_offered(cluster)
    wait_available(cluster)
    assert user.run(get).split("\n")[1].split()[:4] == ["xilinx-fpga-dp", "1", "1", "1"]


def test_getting_started_reaches_a_pod_with_a_card(cluster: Cluster, user: User) -> None:
    build, push, edit, create, get, describe, list_, diagnose, example, get_pod, *claims = commands(GUIDE)
    assert [build, push] == commands(README, "Install")[:2]
    assert claims == commands(GUIDE, "With claims")
    inline = commands(README, "Install")[2]
    assert inline in " ".join(text(GUIDE).split()), "the way with the chart, which another case goes"
    user.run(edit)
    user.run(create)
    wait_offered(cluster)
    wait_available(cluster)
    assert user.run(get).split("\n")[1].split()[:4] == ["xilinx-fpga-dp", "1", "1", "1"]
    assert U200 in user.run(describe)
    [plugin] = plugins(cluster)
    assert plugin["spec"]["containers"][0]["image"].startswith(user.registry)
    name = plugin["metadata"]["name"]
    assert U200 in user.run(list_, PLUGIN_POD=name)
    said = user.run(diagnose, PLUGIN_POD=name)
    assert [line for line in said.splitlines() if not line.startswith("ok ")] == []
    user.run(example)
    wait_for(lambda: "Running" in user.run(get_pod) or None, "mypod Running", 60)


def test_getting_started_publishes_cards_for_claims(cluster: Cluster, user: User) -> None:
    install, get = commands(GUIDE, "With claims")
    user.run(install)
    wait_available(cluster, DRIVER_NAME)
    assert " fpga.xilinx.com " in user.run(get)
    user.remove_plugin()
    cluster.kubectl("delete", "resourceslices", "--all", "--wait")
