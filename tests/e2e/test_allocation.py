"""Allocation to pods: by NUMA node, by preference, by CDI, and of a shared card."""

from collections.abc import Callable, Iterator

import pytest

from .namespace import wait_for
from .stage import U200, U250, Stage

SHARED = ".shared"


@pytest.fixture
def single_numa_node(empty_stage: Stage) -> Iterator[Stage]:
    """A stage whose kubelet has the policy single-numa-node; the default is restored afterwards."""
    before = empty_stage.node.config
    empty_stage.node.stop_kubelet()
    empty_stage.node.start_kubelet({**before, "topologyManagerPolicy": "single-numa-node"})
    yield empty_stage
    empty_stage.node.remove(*empty_stage.pods)
    empty_stage.pods.clear()
    empty_stage.node.stop_kubelet()
    empty_stage.node.start_kubelet(before)


def test_card_without_numa_node_is_allocated_beside_one_with_it(single_numa_node: Stage) -> None:
    stage = single_numa_node
    known = stage.sample.add_card("u250", numa_node=0)
    unknown = stage.sample.add_card("u250", numa_node=-1)
    stage.start_service()
    stage.node.wait_allocatable(U250, 2)
    for _ in range(2):
        stage.run_pod({U250: 1})
    held = frozenset[str]().union(*(stage.held(name) for name in stage.pods))
    assert held == {known.address, unknown.address}


def test_cards_without_numa_nodes_are_allocated(single_numa_node: Stage) -> None:
    stage = single_numa_node
    stage.sample.add_card("u250", numa_node=-1)
    stage.start_service()
    stage.node.wait_allocatable(U250, 1)
    stage.run_pod({U250: 1})


def test_kubelet_follows_the_preferred_allocation(empty_stage: Stage) -> None:
    stage = empty_stage
    near, far, as_near = [stage.sample.add_card("u200", numa_node=node) for node in (0, 1, 0)]
    stage.start_service()
    stage.node.wait_allocatable(U200, 3)
    name, _ = stage.run_pod({U200: 2})
    assert stage.held(name) == {near.address, as_near.address}
    other, _ = stage.run_pod({U200: 1})
    assert stage.held(other) == {far.address}


@pytest.mark.parametrize("strategy", ["cdi", "both"])
def test_pod_gets_card_by_cdi_name(empty_stage: Stage, needs: Callable[[str], None], strategy: str) -> None:
    needs("DevicePluginCDIDevices")
    stage = empty_stage
    stage.add_cards()
    stage.start_service(DEVICE_STRATEGY=strategy, CDI_DIR=str(stage.node.cdi_dir))
    stage.wait_all()
    name, seen = stage.run_pod({U250: 1})
    assert seen.cards == {stage.cards[2].render_node}
    assert seen.opened[str(stage.cards[2].render_node)] == "ok"
    assert stage.held(name) == {stage.cards[2].address}


def test_two_pods_share_one_card(empty_stage: Stage) -> None:
    stage = empty_stage
    stage.add_cards()
    stage.start_service(SHARED_REPLICAS="2")
    stage.node.wait_allocatable(U250 + SHARED, 2)
    stage.wait_counts(U200 + SHARED, 4, 4)
    seen = [stage.run_pod({U250 + SHARED: 1})[1] for _ in range(2)]
    assert [each.cards for each in seen] == [{stage.cards[2].render_node}] * 2
    assert stage.rejected({U250 + SHARED: 1}).reason == "UnexpectedAdmissionError"
    name, _ = stage.run_pod({U200 + SHARED: 2})
    assert len({each.partition("::")[0] for each in stage.held(name)}) == 2


def test_prestart_check_refuses_a_faulty_card(empty_stage: Stage) -> None:
    stage = empty_stage
    stage.add_cards()
    stage.start_service(PRESTART_CHECK="true")
    stage.wait_all()
    name, _ = stage.run_pod({U250: 1})
    stage.cards[2].offline()
    stage.wait_counts(U250, 1, 0)
    stage.node.kill_container(name)
    wait_for(lambda: "is Unhealthy: offline" in _container(stage, name), "the refusal", 30, 0.2)
    stage.cards[2].mend()
    stage.wait_seen(name, starts=2, limit=60)


def _container(stage: Stage, name: str) -> str:
    """Return the status of the container of a pod."""
    status = stage.node.pod(name)
    return str(status.container()) if status else ""
