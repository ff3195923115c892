"""Restarts of kubelet: resources return, and pods are unaffected."""

import time

from .stage import ONCE, U200, U250, Stage, made_at

# Seconds from the new kubelet.sock to the list of the service; kubelet is busy during its start.
BACK_LIMIT = 10.0


def _start_kubelet(stage: Stage, what: str) -> None:
    """Start kubelet; wait for both resources and record the time since its socket appeared."""
    stage.node.start_kubelet()
    bound = made_at(stage.node.plugin_dir / "kubelet.sock")
    for resource, healthy in ((U200, 2), (U250, 1)):
        took = stage.came(resource, healthy, bound)
        stage.report.time(f"{what}: kubelet's socket to resource back", took)
        assert took < BACK_LIMIT
    stage.wait_all()
    assert stage.times_registered() == ONCE


def test_kubelet_killed_and_restarted(stage: Stage) -> None:
    name, _ = stage.run_pod({U200: 1})
    with stage.undisturbed(name):
        stage.node.kill_kubelet()
        _start_kubelet(stage, "kubelet -9")
    assert stage.counts(U200) == (2, 2)
    # kubelet knows the allocated card: the next pod gets the other one.
    other, _ = stage.run_pod({U200: 1})
    assert stage.held(name) | stage.held(other) == {card.address for card in stage.cards[:2]}


def test_kubelet_away_for_20_seconds(stage: Stage) -> None:
    name, _ = stage.run_pod({U250: 1})
    with stage.undisturbed(name):
        stage.node.kill_kubelet()
        time.sleep(20)
        assert stage.service.running
        assert stage.node.tasks(name), "the pod's processes ended with kubelet"
        _start_kubelet(stage, "kubelet away for 20 s")


def test_resources_return_after_ten_kubelet_restarts(stage: Stage) -> None:
    name, _ = stage.run_pod({U200: 1})
    pid = stage.service.pid
    with stage.undisturbed(name):
        for _ in range(10):
            stage.node.stop_kubelet()
            _start_kubelet(stage, "kubelet restarted")
    assert stage.service.running
    assert stage.service.pid == pid
    assert len(stage.sockets()) == 2


def test_resources_return_after_quick_kubelet_restarts(stage: Stage) -> None:
    for _ in range(3):
        stage.node.kill_kubelet()
        stage.node.start_kubelet()
    stage.wait_all()
    assert stage.times_registered() == ONCE
    assert len(stage.sockets()) == 2
