"""Changes of cards reach kubelet: another shell, hot unplug, reset, offline."""

import time
from collections.abc import Callable

from .namespace import wait_for
from .stage import U200, U250, Stage


def test_reprogrammed_card_moves_to_another_resource(stage: Stage) -> None:
    name, _ = stage.run_pod({U200: 1})
    [held] = stage.held(name)
    free = next(card for card in stage.cards[:2] if card.address != held)
    with stage.undisturbed(name):
        began = time.time()
        free.reprogram("u250")
        stage.report.time("card reprogrammed: until it is listed as new", stage.came(U250, 2, began))
        stage.wait_counts(U200, 1, 1)
        stage.wait_counts(U250, 2, 2)
    assert stage.node.allocatable(U200) == {held}
    assert stage.node.allocatable(U250) == {free.address, stage.cards[2].address}
    assert stage.rejected({U200: 1}).reason == "UnexpectedAdmissionError"
    other, seen = stage.run_pod({U250: 2})
    assert stage.held(other) == {free.address, stage.cards[2].address}
    assert free.render_node in seen.cards


def test_resource_without_cards_has_no_capacity(stage: Stage) -> None:
    u50 = "xilinx.com/fpga-xilinx_u50_gen3x16_xdma_201920_3-0"
    stage.cards[2].reprogram("u50")
    stage.node.wait_allocatable(u50, 1)
    assert stage.counts(u50) == (1, 1)
    stage.wait_counts(U250, 0, 0)
    _, seen = stage.run_pod({u50: 1})
    assert seen.cards == {stage.cards[2].render_node}
    # And back again.
    stage.node.remove(*stage.pods)
    stage.pods.clear()
    stage.cards[2].reprogram("u250")
    stage.node.wait_allocatable(U250, 1)
    stage.wait_counts(u50, 0, 0)
    _, seen = stage.run_pod({U250: 1})
    assert seen.cards == {stage.cards[2].render_node}


def test_pod_keeps_running_after_its_card_is_pulled(stage: Stage) -> None:
    name, _ = stage.run_pod({U200: 1})
    [held] = stage.held(name)
    card = next(card for card in stage.cards[:2] if card.address == held)
    with stage.undisturbed(name):
        began = time.time()
        card.remove()
        stage.report.time("card pulled: until it is no longer offered", stage.came(U200, 1, began))
        stage.wait_counts(U200, 1, 1)
        assert held not in stage.node.allocatable(U200)
        assert stage.counts(U250) == (1, 1)
        # The other card is free: the allocation of the pulled card does not affect it.
        other, _ = stage.run_pod({U200: 1})
        assert held not in stage.held(other)
        card.plug()
        stage.wait_counts(U200, 2, 2)
    # kubelet still knows the allocation: no other pod gets the card.
    assert stage.rejected({U200: 1}).reason == "UnexpectedAdmissionError"


def test_rejection_of_faulty_card_carries_the_message_of_the_plugin(
    empty_stage: Stage,
) -> None:
    stage = empty_stage
    stage.add_cards()
    # With these long intervals kubelet still has the card as Healthy.
    stage.start_service(SCAN_INTERVAL="600", HEALTH_INTERVAL="600")
    stage.wait_all()
    time.sleep(2)  # a new serial number starts a scan, which would find the fault first
    stage.sample.files.drop(f"{stage.cards[2].user}/drm")  # a reset begins; the device node is still present
    status = stage.rejected({U250: 1})
    assert status.reason == "UnexpectedAdmissionError"
    refusal = (
        "Allocate failed due to rpc error: code = FailedPrecondition desc = device 0000:67:00.1 is Unhealthy"
    )
    assert refusal in status.message


def test_card_in_reset_is_unhealthy_until_it_has_a_new_render_node(stage: Stage) -> None:
    card = stage.cards[2]
    before = card.render_node
    card.reset_begin()
    stage.wait_counts(U250, 1, 0)
    assert stage.rejected({U250: 1}).reason == "UnexpectedAdmissionError"
    assert stage.counts(U200) == (2, 2)
    began = time.time()
    card.reset_end(render=140)
    stage.report.time("card back from reset: until it can be allocated", stage.came(U250, 1, began))
    stage.wait_counts(U250, 1, 1)
    _, seen = stage.run_pod({U250: 1})
    assert card.render_node == "/dev/dri/renderD140" != before
    assert seen.cards == {card.render_node}
    assert seen.opened[card.render_node] == "ok"


def test_pods_get_the_right_render_nodes_after_a_swap(stage: Stage) -> None:
    first, second, _ = stage.cards
    before = first.render_node, second.render_node
    first.reset_begin()
    second.reset_begin()
    stage.wait_counts(U200, 2, 0)
    second.reset_end(render=129)
    first.reset_end(render=130)
    stage.wait_counts(U200, 2, 2)
    assert before == (second.render_node, first.render_node)
    for _ in range(2):
        name, seen = stage.run_pod({U200: 1})
        card = next(card for card in (first, second) if {card.address} == stage.held(name))
        assert seen.cards == {card.render_node}


def test_pod_status_shows_an_offline_card(stage: Stage, needs: Callable[[str], None]) -> None:
    needs("ResourceHealthStatus")
    name, _ = stage.run_pod({U250: 1})
    with stage.undisturbed(name):
        stage.cards[2].offline()
        _wait_health(stage, name, "Unhealthy")
        stage.cards[2].mend()
        _wait_health(stage, name, "Healthy")


def _wait_health(stage: Stage, name: str, health: str) -> None:
    """Wait for this health in the status of a pod."""

    def ask() -> bool:
        status = stage.node.pod(name)
        statuses = status.container().get("allocatedResourcesStatus", ()) if status else ()
        return {device["health"] for each in statuses for device in each.get("resources", ())} == {health}

    wait_for(ask, f"{name} shows {health}", 15, 0.2)
