"""The DRA driver when it is killed, and when pods are deleted by force."""

import itertools
import json
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ..namespace import wait_for
from ..report import Report
from . import kill_at_write
from .api import ApiError
from .card_holders import never_two
from .cluster import Cluster
from .deployed import DRIVER_NAME, NAME, NAMESPACE, nodes_in, plugins, wait_available
from .driver import DRIVER, claiming, run

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("driver", "pods")]

MERGE = "application/merge-patch+json"
FAULTS = "/run/faults"  # of the node

# Process 1 can't kill itself, and kubelet would wait longer with each kill.
AGAIN = """
trap 'kill $driver; wait $driver; exit' TERM
while :; do
    python -m xilinx_fpga_dp &
    driver=$!
    wait $driver
done
"""


@pytest.fixture
def kill(cluster: Cluster, driver: None) -> Iterator[Callable[[int], Path]]:
    """The driver as a process that is started again; a function that has it killed after some writes.

    That function returns a file, which is gone once it was killed.
    """
    folder = cluster.path(FAULTS)
    folder.mkdir()
    shutil.copy(kill_at_write.__file__, folder / "sitecustomize.py")
    container = {
        "name": NAME,
        "command": ["/bin/sh", "-c", AGAIN],
        "env": [{"name": "PYTHONPATH", "value": FAULTS}],
        "volumeMounts": [{"name": "faults", "mountPath": FAULTS}],
    }
    volume = {"name": "faults", "hostPath": {"path": FAULTS}}
    patch = {"spec": {"template": {"spec": {"containers": [container], "volumes": [volume]}}}}
    path = f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets/{DRIVER_NAME}"
    cluster.api("PATCH", path, patch, "application/strategic-merge-patch+json")
    wait_available(cluster, DRIVER_NAME)
    wait_for(lambda: len(plugins(cluster)) == 1, "one instance", 60)

    def after(writes: int) -> Path:
        left = folder / Path(kill_at_write.LEFT).name
        left.write_text(str(writes))
        return left

    yield after
    cluster.kubectl("rollout", "undo", "-n", NAMESPACE, f"daemonset/{DRIVER_NAME}")
    wait_available(cluster, DRIVER_NAME)
    wait_for(lambda: len(plugins(cluster)) == 1, "one instance", 60)
    shutil.rmtree(folder)


def prepared(cluster: Cluster) -> dict[str, list[str]]:
    """Return the addresses of the devices of each claim in the checkpoint, by the uid of the claim."""
    checkpoint = cluster.path(f"/var/lib/kubelet/plugins/{DRIVER}/checkpoint.json")
    claims = json.loads(checkpoint.read_text())["claims"] if checkpoint.exists() else {}
    return {uid: [each["address"] for each in claim["results"]] for uid, claim in claims.items()}


def documents(cluster: Cluster) -> dict[str, set[str]]:
    """Return the kinds of files that each claim has, by its uid."""
    found = defaultdict(set)
    for path in cluster.path("/run/cdi").glob("*.json"):
        kind, _, rest = path.name.removesuffix(".json").partition(
            "claim_" if "claim_" in path.name else "metadata_"
        )
        found[rest.partition("_")[0]].add(kind)
    return found


def nudged(cluster: Cluster, name: str, ask: Callable[[Any], bool]) -> None:
    """Wait until a pod is as wanted; changes let kubelet try again now, not 10 s after an error."""
    numbers = itertools.count()

    def try_again() -> bool:
        pod = cluster.pod(name)
        if ask(pod):
            return True
        if pod is not None:
            patch = {"metadata": {"annotations": {"number": str(next(numbers))}}}
            with suppress(ApiError):  # it may be gone meanwhile
                cluster.api("PATCH", f"/api/v1/namespaces/default/pods/{name}", patch, MERGE)
        return False

    wait_for(try_again, f"pod {name}", 120, 0.3)


def test_driver_killed_at_each_write_loses_no_card_and_gives_none_twice(
    cluster: Cluster, kill: Callable[[int], Path], report: Report
) -> None:
    run(cluster, "other")
    others, other_documents = prepared(cluster), documents(cluster)
    kills = {"prepare": 0, "unprepare": 0}
    for writes in itertools.count():
        name, before = f"pod-{writes}", sum(kills.values())
        left = kill(writes)
        cluster.run_pod(claiming(name))
        nudged(cluster, name, lambda pod: pod["status"]["phase"] == "Running")
        kills["prepare"] += not left.exists()
        claims = prepared(cluster)
        assert len(claims) == 2
        assert others.items() <= claims.items()
        assert len({address for each in claims.values() for address in each}) == 2
        assert documents(cluster).keys() == claims.keys()
        [node], [other] = nodes_in(cluster, name), nodes_in(cluster, "other")
        assert node != other
        left = kill(writes)
        cluster.kubectl("delete", "pod", name, "--now", "--wait=false")
        nudged(cluster, name, lambda pod: pod is None)
        kills["unprepare"] += not left.exists()
        left.unlink(missing_ok=True)
        assert prepared(cluster) == others
        assert documents(cluster) == other_documents
        if sum(kills.values()) == before:
            break
    report.note(
        f"driver killed before a write {kills['prepare']} times in prepare, {kills['unprepare']} in unprepare"
    )
    # Checkpoint, metadata and two CDI specs: each file is opened and renamed, and removed again.
    assert kills["prepare"] >= 8
    assert kills["unprepare"] >= 5


STUBBORN = "trap '' TERM; while :; do sleep 1; done"
REFUSED = "reconcile loop failed, will retry"  # of kubelet: a pod still runs
ROUNDS, MOST_ROUNDS = 17, 80  # of a pod for each of three cards
GAP = 1.6  # seconds between their ends; a container lives on for 2


def test_pods_that_are_deleted_by_force_never_share_a_card(cluster: Cluster, report: Report) -> None:
    boards = ("u200", "u200", "u250")
    with never_two() as found:
        for number in itertools.count(1):
            names = [f"{board}-{number}-{index}" for index, board in enumerate(boards)]
            began = time.monotonic()
            for name, board in zip(names, boards, strict=True):
                cluster.run_pod(claiming(name, STUBBORN, board=board))
            for name in names:
                nudged(cluster, name, lambda pod: pod["status"].get("phase") == "Running")
            report.time("pods after others deleted by force, all three Running", time.monotonic() - began)
            for name in names:
                cluster.kubectl("delete", "pod", name, "--force", "--grace-period=0", "--wait=false")
                time.sleep(GAP)
            # Each minute kubelet has the claims of such pods unprepared, also of those that still run.
            if number >= ROUNDS and REFUSED in cluster.kubelet.output():
                break
            assert number < MOST_ROUNDS
    seen = {container for each in found for containers in each.values() for container in containers}
    assert len(seen) > ROUNDS  # a busy machine may miss some
