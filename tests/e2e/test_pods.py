"""Real pods with cards: accessible and inaccessible devices."""

import json

from .stage import U200, U250, Stage

VARIABLE = "PCIDEVICE_XILINX_COM_FPGA_XILINX_U200_XDMA_201830_2_1561465320"
DENIED, ABSENT = "Operation not permitted", "no such file"  # EPERM and ENOENT in the words of busybox


def test_two_shells_are_two_resources(stage: Stage) -> None:
    assert stage.counts(U200) == (2, 2)
    assert stage.counts(U250) == (1, 1)
    u200, other, u250 = (card.address for card in stage.cards)
    assert stage.node.allocatable(U200) == {u200, other}
    assert stage.node.allocatable(U250) == {u250}
    assert stage.registrations(U200) >= 1


def test_pod_has_only_the_node_and_variables_of_its_card(stage: Stage) -> None:
    _, plain = stage.run_pod()
    name, seen = stage.run_pod({U200: 1})

    [address] = stage.held(name)
    card = next(card for card in stage.cards if card.address == address)
    assert card.render_node
    assert seen.nodes - plain.nodes == {card.render_node}
    assert seen.envs.keys() - plain.envs.keys() == {VARIABLE, f"{VARIABLE}_INFO"}
    assert seen.envs[VARIABLE] == address
    info = json.loads(seen.envs[f"{VARIABLE}_INFO"])
    assert info[address]["shell"] == "xilinx_u200_xdma_201830_2"
    assert info[address]["nodes"] == [card.render_node]


def test_pod_can_open_only_its_card(stage: Stage) -> None:
    _, plain = stage.run_pod()
    name, seen = stage.run_pod({U200: 1})

    [address] = stage.held(name)
    own = next(card.render_node for card in stage.cards if card.address == address)
    # By path, and by a node that the container creates, which its device cgroup controls.
    numbers = {path: f"{device >> 8}:{device & 0xFF}" for path, device in stage.sample.devices().items()}
    assert own in numbers
    assert len(numbers) == 4  # three cards and the node's GPU
    for path, number in numbers.items():
        reached = (seen.opened[path], seen.opened[number])
        assert reached == (("ok", "ok") if path == own else (ABSENT, DENIED))
        assert (plain.opened[path], plain.opened[number]) == (ABSENT, DENIED)


def test_pod_with_two_cards_has_both(stage: Stage) -> None:
    name, seen = stage.run_pod({U200: 2})
    first, second, _ = stage.cards
    assert stage.held(name) == {first.address, second.address}
    assert seen.cards == {first.render_node, second.render_node}
    assert seen.envs[VARIABLE] == f"{first.address},{second.address}"
    assert all(seen.opened[node] == "ok" for node in seen.cards)


def test_pod_with_cards_of_both_shells_has_both(stage: Stage) -> None:
    name, seen = stage.run_pod({U200: 1, U250: 1})
    assert stage.cards[2].address in stage.held(name)
    assert len(stage.held(name)) == len(seen.cards) == 2


def test_pod_that_requests_too_many_cards_is_rejected(stage: Stage) -> None:
    status = stage.rejected({U200: 3})
    assert status.reason == "UnexpectedAdmissionError"
    assert "Requested: 3, Available: 2" in status.message


def test_pod_is_rejected_while_all_cards_are_allocated(stage: Stage) -> None:
    name, _ = stage.run_pod({U250: 1})
    status = stage.rejected({U250: 1})
    assert status.reason == "UnexpectedAdmissionError"
    assert "Requested: 1, Available: 0" in status.message
    stage.node.remove(name)
    stage.pods.remove(name)
    _, seen = stage.run_pod({U250: 1})
    assert seen.cards == {stage.cards[2].render_node}
