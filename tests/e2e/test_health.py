"""Health of cards, and changes of cards that a pod holds, at kubelet and in pods."""

from .stage import U200, U250, Stage


def test_faulty_card_is_not_allocated_and_its_pod_keeps_running(stage: Stage) -> None:
    name, _ = stage.run_pod({U200: 1})
    [held] = stage.held(name)
    card = next(card for card in stage.cards[:2] if card.address == held)
    with stage.undisturbed(name):
        card.offline()
        stage.wait_counts(U200, 2, 1)
        other, _ = stage.run_pod({U200: 1})
        assert held not in stage.held(other)
        stage.node.remove(other)
        card.mend()
        stage.wait_counts(U200, 2, 2)


def test_reset_of_all_cards_keeps_the_capacity(stage: Stage) -> None:
    for card in stage.cards:
        card.reset_begin()
    stage.wait_counts(U200, 2, 0)
    stage.wait_counts(U250, 1, 0)
    for card in stage.cards:
        card.reset_end()
    stage.wait_counts(U200, 2, 2)
    stage.wait_counts(U250, 1, 1)


def test_reprogrammed_card_of_a_pod_is_not_allocated_twice(stage: Stage) -> None:
    name, _ = stage.run_pod({U250: 1})
    with stage.undisturbed(name):
        stage.cards[2].reprogram("u200")
        stage.wait_counts(U200, 3, 2)
        assert stage.rejected({U200: 3}).reason == "UnexpectedAdmissionError"
        other, _ = stage.run_pod({U200: 2})
        assert stage.cards[2].address not in stage.held(other)
        stage.node.remove(other)
    stage.node.remove(name)
    stage.wait_counts(U200, 3, 3)
    last, _ = stage.run_pod({U200: 3})
    assert stage.cards[2].address in stage.held(last)


def test_renamed_card_of_a_pod_is_not_allocated_twice(stage: Stage) -> None:
    name, _ = stage.run_pod({U250: 1})
    renamed = U250.replace("xilinx.com/fpga-", "amd.com/")
    with stage.undisturbed(name):
        stage.service.terminate()
        stage.start_service(RESOURCE_PREFIX="amd.com/")
        stage.wait_counts(renamed, 1, 0)
        assert stage.rejected({renamed: 1}).reason == "UnexpectedAdmissionError"
    stage.node.remove(name)
    stage.wait_counts(renamed, 1, 1)
    _, seen = stage.run_pod({renamed: 1})
    assert stage.cards[2].render_node in seen.cards
