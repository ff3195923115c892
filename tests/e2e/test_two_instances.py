"""Two instances at once, as in a rolling update with surge: the newer serves, the older sends nothing.

kubelet before 1.37 removes the endpoint of the newer instance when the stream of the older one ends, and
does not call the older one after the end of the newer one (kubernetes#135437). All cases run with all
releases.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from .namespace import Process
from .stage import ONCE, U200, U250, Stage

# The maximum seconds without allocatable devices; milliseconds on an idle machine.
GAP_LIMIT = 5.0


@contextmanager
def _gap(stage: Stage, what: str) -> Iterator[None]:
    """Record the longest time without allocatable devices and check its limit."""
    stage.wait_all()
    with stage.node.timeline(U200) as timeline:
        time.sleep(0.1)
        yield
        time.sleep(0.6)  # also covers late effects
    gap = timeline.longest(lambda healthy: healthy != 2)
    stage.report.time(f"{what}: not all allocatable", gap)
    assert gap <= GAP_LIMIT, timeline.changes()
    stage.wait_all()


def _start_newer(stage: Stage) -> Process:
    """Start another instance and wait for its registrations."""
    before = stage.registrations(U200), stage.registrations(U250)
    newer = stage.start_service()
    stage.wait_registrations(before[0] + 1, U200)
    stage.wait_registrations(before[1] + 1, U250)
    return newer


def _kill(process: Process) -> None:
    process.kill()


def _terminate(process: Process) -> None:
    assert process.terminate() == 0


_ENDS = pytest.mark.parametrize("end", [_terminate, _kill], ids=["by SIGTERM", "by SIGKILL"])


@_ENDS
def test_rolling_update(stage: Stage, end: Callable[[Process], None]) -> None:
    name, _ = stage.run_pod({U200: 1})
    with stage.undisturbed(name):
        for _ in range(3):
            older = stage.service
            with _gap(stage, "newer instance starts"):
                _start_newer(stage)
            with _gap(stage, f"older instance leaves {_how(end)}"):
                end(older)
    other, _ = stage.run_pod({U200: 1})
    assert stage.held(name) | stage.held(other) == {card.address for card in stage.cards[:2]}


@_ENDS
def test_older_instance_takes_over_after_newer_one_ends(stage: Stage, end: Callable[[Process], None]) -> None:
    name, _ = stage.run_pod({U200: 1})
    older = stage.service
    with stage.undisturbed(name):
        for _ in range(3):
            newer = _start_newer(stage)
            with _gap(stage, f"newer instance leaves {_how(end)}"):
                end(newer)
            assert older.running
    # It serves calls, and its lists arrive.
    other, seen = stage.run_pod({U200: 1})
    assert stage.held(name) | stage.held(other) == {card.address for card in stage.cards[:2]}
    assert len(seen.cards) == 1
    stage.cards[2].offline()
    stage.wait_counts(U250, 1, 0)


def _how(end: Callable[[Process], None]) -> str:
    return "by -9" if end is _kill else "by SIGTERM"


def test_newer_instance_serves_and_older_one_sends_nothing(empty_stage: Stage) -> None:
    stage = empty_stage
    stage.add_cards()
    # The instances see different devices, so the counts of kubelet identify the sender.
    twin = stage.twin()
    stage.start_service(twin)
    stage.wait_all()
    _start_newer(stage)
    with stage.node.timeline(U200) as timeline:
        twin.cards[0].offline()
        time.sleep(1.5)  # the older instance checks every 0.2 s
        twin.cards[1].reprogram("u250")
        time.sleep(1.5)
    assert {sample.healthy for sample in timeline.samples} == {2}
    assert stage.counts(U200) == (2, 2)
    assert stage.counts(U250) == (1, 1)

    _, seen = stage.run_pod({U250: 1})
    [info] = [json.loads(value) for name, value in seen.envs.items() if name.endswith("_INFO")]
    assert not str(info[stage.cards[2].address]["serial"]).startswith("TWIN")

    stage.cards[0].offline()
    stage.wait_counts(U200, 2, 1)


def test_instances_register_in_order_after_kubelet_restarts(stage: Stage) -> None:
    older, newer = stage.service, _start_newer(stage)
    for _ in range(2):
        stage.node.kill_kubelet()
        stage.node.start_kubelet()  # it removes all files of the directory
        stage.wait_all()
        time.sleep(0.3)
        assert stage.times_registered() == ONCE
        assert len(stage.sockets()) == 2, "only the newer comes back"
    assert older.running
    before = stage.registrations(U200)
    with _gap(stage, "newer instance leaves after a kubelet restart"):
        newer.kill()
    assert stage.registrations(U200) == before + 1


def test_older_instance_takes_over_during_kubelet_downtime(stage: Stage) -> None:
    newer = _start_newer(stage)
    stage.node.kill_kubelet()
    newer.kill()
    stage.node.start_kubelet()
    stage.wait_all()
    assert stage.times_registered() == ONCE
    _, seen = stage.run_pod({U200: 2})
    assert len(seen.cards) == 2


def test_end_of_two_older_instances_changes_no_count(stage: Stage) -> None:
    first = stage.service
    second = _start_newer(stage)
    _start_newer(stage)
    with _gap(stage, "oldest of three leaves"):
        first.kill()
    with _gap(stage, "middle of three leaves"):
        second.terminate()
    _, seen = stage.run_pod({U200: 2})
    assert len(seen.cards) == 2
