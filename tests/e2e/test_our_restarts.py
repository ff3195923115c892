"""Restarts of the service and SIGHUP: the effects on kubelet and pods."""

import signal
import time

from .stage import U200, U250, Stage

STOP_LIMIT = 10.0  # seconds; 2 s on an idle machine, see the report


def test_service_killed_and_restarted(stage: Stage) -> None:
    name, _ = stage.run_pod({U200: 1})
    with stage.undisturbed(name):
        for _ in range(5):
            stage.service.kill()
            stage.node.wait_allocatable(U200, 0)
            stage.node.wait_allocatable(U250, 0)
            started = time.time()
            stage.start_service()
            for resource, healthy in ((U200, 2), (U250, 1)):
                took = stage.came(resource, healthy, started)
                stage.report.time("our process -9: its start to resource back", took)
            stage.wait_all()
    stage.wait_swept()
    # The new process allocates the remaining card.
    other, _ = stage.run_pod({U200: 1})
    assert stage.held(name) | stage.held(other) == {card.address for card in stage.cards[:2]}


def test_service_stopped_leaves_the_capacity_and_no_socket(stage: Stage) -> None:
    name, _ = stage.run_pod({U200: 1})
    with stage.undisturbed(name):
        began = time.monotonic()
        assert stage.service.terminate(STOP_LIMIT) == 0
        stage.report.time("our process SIGTERM: until it has ended", time.monotonic() - began)
        assert stage.sockets() == []
        # kubelet keeps the capacity for five minutes; an empty list would have removed it.
        stage.wait_counts(U200, 2, 0)
        stage.wait_counts(U250, 1, 0)
        started = time.time()
        stage.start_service()
        took = stage.came(U200, 2, started)
        stage.report.time("our process restarted: its start to resource back", took)
        stage.wait_all()
    assert stage.counts(U200) == (2, 2)


def test_pod_is_rejected_only_while_the_service_is_down(stage: Stage) -> None:
    stage.service.terminate()
    stage.node.wait_allocatable(U200, 0)
    assert stage.rejected({U200: 1}).reason == "UnexpectedAdmissionError"
    stage.start_service()
    stage.wait_all()
    _, seen = stage.run_pod({U200: 1})
    assert len(seen.cards) == 1


def test_hang_up_registers_again_at_once(stage: Stage) -> None:
    name, _ = stage.run_pod({U200: 1})
    before = stage.registrations(U200), stage.registrations(U250)
    with stage.undisturbed(name), stage.node.timeline(U200) as timeline:
        time.sleep(0.2)
        sent = time.time()
        stage.service.send(signal.SIGHUP)
        for resource, healthy in ((U200, 2), (U250, 1)):
            took = stage.came(resource, healthy, sent)
            stage.report.time("our process SIGHUP: until listed again", took)
        time.sleep(0.5)
    gap = timeline.longest(lambda healthy: healthy == 0)
    stage.report.time("our process SIGHUP: allocatable 0", gap)
    assert gap < 5
    assert (stage.registrations(U200), stage.registrations(U250)) == (before[0] + 1, before[1] + 1)
    assert stage.service.running
    stage.wait_all()
