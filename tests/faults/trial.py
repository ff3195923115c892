"""A trial: faults begin, last and end, nested in each other; then the state must be as before."""

import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tests.faults.fault import EVER, Fault, NotDone
from tests.faults.stage import SHELLS, Setting, Stage, wait_until
from tests.faults.watching import Figures, Watching, figures, least
from xilinx_fpga_dp.aio.daemon_threads import IDLE_WORKERS

_SETTLED = 0.3  # seconds for which the state must stay good
# Samples until temporary descriptors, threads and tasks are released, and the seconds of one sample.
_SAMPLES = 12
_LEAST = 0.25
_SPINNING = 0.6  # of a core, without activity
_MOST_MEMORY = 12.0  # MB more than at the first sample
# Seconds: the sampling interval and the latency of a list.
_TOLERANCE = 0.05


_MENDED = 1.0  # seconds for which a resource may be lost after a fault

_POOLS = {"worker": IDLE_WORKERS}  # idle threads, which are not a leak


class Broken(AssertionError):  # noqa: N818 - a result
    """A violated guarantee."""


@dataclass
class Outcome:
    """The result of a trial.

    Attributes:
        faults: the names of the faults.
        setting: of the stage.
        back: the seconds from the end of the faults to full recovery.
        lost: the maximum seconds for which a resource was lost during the faults.
        memory: the maximum growth of an instance since its first sample, in MB.
        cpu: the share of a core during the faults.
        stalled: the seconds for which this process did not run.
        problem: the violated guarantee; None if all hold.
        skipped: why the trial was skipped; None if it ran.
        missing: whether the trial is impossible on this machine.
    """

    faults: tuple[str, ...]
    setting: Setting
    back: float = 0.0
    lost: float = 0.0
    memory: float = 0.0
    cpu: float = 0.0
    stalled: float = 0.0
    problem: str | None = None
    skipped: str | None = None
    missing: bool = False

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def tried(stage: Stage, faults: Sequence[Fault], dice: random.Random) -> Outcome:
    """Run a trial.

    Args:
        stage: the stage of the trial.
        faults: the faults, each nested in the one before.
        dice: the source of random choices.

    Raises:
        Broken: a guarantee is violated; the stage must not be used again.
    """
    outcome = Outcome(tuple(fault.name for fault in faults), stage.setting)
    stage.dice = dice
    try:
        _try(stage, faults, outcome)
    except Broken:
        raise
    except AssertionError as error:
        raise Broken(str(error) or repr(error)) from error
    return outcome


def _try(stage: Stage, faults: Sequence[Fault], outcome: Outcome) -> None:
    problem = stage.problem()
    _require(problem is None, f"before: {problem}")
    stage.paired = len(faults) > 1
    stage.kubelet_restarted = False
    if stage.quiet is None:
        stage.quiet = least(stage, [stage.active.process.pid], 0.3)[stage.active.process.pid]
    received = _Received(stage)
    with Watching(stage) as watching:
        under_way: list[Iterator[None]] = []
        for fault in faults:
            steps = fault.steps(stage)
            try:
                next(steps)
            except (OSError, RuntimeError) as error:  # RuntimeError: kubelet cannot start
                if not under_way:
                    raise
                raise NotDone(f"not while the other lasts: {error}") from error
            under_way.append(steps)
        begun = time.monotonic()
        outcome.cpu = _busiest(stage, max(fault.lasts for fault in faults))
        ending = time.monotonic()
        for steps in reversed(under_way):
            try:
                next(steps, None)
            except (OSError, RuntimeError) as error:
                if not stage.paired:
                    raise
                raise NotDone(f"can't end while the other lasts: {error}") from error
        over = time.monotonic()
        # The recovery from one fault may begin only at the end of the other.
        limit = sum(fault.back for fault in faults)
        problem = _lasting_problem(stage, limit + 2.0)
        outcome.back = time.monotonic() - over
        _require(problem is None, f"{limit + 2.0:g} s after its end: {problem}")
        time.sleep(_SETTLED)
        problem = stage.problem()
        _require(problem is None, f"it did not stay well: {problem}")
        outcome.stalled = watching.stalled()
        allowed = limit + watching.stalled(over, over + outcome.back) + _TOLERANCE
        _require(outcome.back <= allowed, f"back after {outcome.back:.2f} s, not {limit:g} s")
        _bounded_loss(stage, faults, watching, ending, outcome)
        if all(fault.brief for fault in faults):
            after = watching.back(begun)
            _require(
                after <= limit + _TOLERANCE,
                f"the last resource was back after {after:.2f} s, not {limit:g} s",
            )
    received.check(faults)
    stage.prove_life()
    _nothing_left(stage, outcome)


def _lasting_problem(stage: Stage, limit: float) -> str | None:
    """Wait for a good state; return the problem that remains at the limit, None if none does."""
    problem: str | None = None

    def well() -> bool:
        nonlocal problem
        problem = stage.problem()
        return problem is None

    wait_until(well, limit)
    return problem


def _bounded_loss(
    stage: Stage, faults: Sequence[Fault], watching: Watching, ending: float, outcome: Outcome
) -> None:
    """Require that no resource is lost longer than permitted during and after the faults."""
    for shell, resource in SHELLS.items():
        gaps = [
            fault.shared_gap if stage.instances > 1 else fault.gap
            for fault in faults
            if shell in fault.touches
        ]
        lost = watching.longest(resource, until=ending)
        outcome.lost = max(outcome.lost, lost)
        if len(faults) > 1 and gaps and any(fault.deaf for fault in faults):
            continue
        _require(lost <= sum(gaps) + _TOLERANCE, f"{shell} lost for {lost:.2f} s, not {sum(gaps):g} s")
        lost = watching.longest(resource, since=ending)
        mended = _MENDED * len(gaps)
        _require(lost <= mended + _TOLERANCE, f"{shell} lost for {lost:.2f} s at the end, not {mended:g} s")


def _busiest(stage: Stage, seconds: float) -> float:
    """Wait; return the share of a core that the busiest instance uses after the first 0.2 s."""
    time.sleep(min(0.2, seconds / 2))
    used = {pid: figures(pid).cpu for pid in _pids(stage)}
    began = time.monotonic()
    time.sleep(seconds - min(0.2, seconds / 2))
    share = max(
        ((figures(pid).cpu - before) / (time.monotonic() - began) for pid, before in used.items()),
        default=0.0,
    )
    _require(share < _SPINNING, f"{100 * share:.0f} % of a core while it lasted")
    return share


def _nothing_left(stage: Stage, outcome: Outcome) -> None:
    """Require no leak of descriptors, threads, tasks or memory, no busy loop and no logged error."""
    assert stage.quiet is not None
    for _ in range(_SAMPLES):
        after = least(stage, _pids(stage), _LEAST)
        # A standby instance may have its earlier sockets and streams, or not.
        spare = {pid: 0 if pid == stage.active.process.pid else 2 * len(SHELLS) for pid in after}
        spare = {pid: number + stage.kept_connections for pid, number in spare.items()}
        more = [text for pid, now in after.items() if (text := _more(stage.quiet, now, spare[pid]))]
        if not more:
            break
    _require(not more, "; ".join(more))
    for now in after.values():
        _require(now.cpu < _SPINNING, f"{100 * now.cpu:.0f} % of a core afterwards")
        outcome.memory = max(outcome.memory, now.memory - stage.quiet.memory)
    _require(outcome.memory < _MOST_MEMORY, f"{outcome.memory:.1f} MB more than at first")
    for life in stage.lives:
        errors = [each for each in list(life.service.events) if each["level"] in ("error", "critical")]
        _require(not errors, f"logged: {errors[:1]}")
        strange = [line for line in list(life.service.raw) if not line.startswith("{")]
        _require(not strange, f"printed: {''.join(strange[:20])}")


def _more(before: Figures, now: Figures, spare: int) -> str | None:
    if now.descriptors > before.descriptors + spare:
        return f"{now.descriptors - before.descriptors} descriptors more than at first"
    if more := now.threads - (before.threads | Counter(_POOLS)):
        return f"threads more than at first: {dict(more)}"
    if now.tasks > before.tasks + spare:
        return f"{now.tasks - before.tasks} tasks more than at first"
    return None


class _Received:
    """The lists and registrations that kubelet receives during a trial."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._lists = {resource: len(stage.kubelet.lists(resource)) for resource in stage.wanted}
        self._registrations = len(stage.kubelet.registrations)

    def check(self, faults: Sequence[Fault]) -> None:
        """Require no message of an unaffected resource, no other device and only one active instance."""
        touched = {SHELLS[shell] for fault in faults for shell in fault.touches}
        cards_change = any(fault.devices for fault in faults)
        again = [each.resource for each in self._stage.kubelet.registrations[self._registrations :]]
        for resource, wanted in self._stage.wanted.items():
            lists = self._stage.kubelet.lists(resource)[self._lists[resource] :]
            if resource not in touched:
                _require(not lists, f"kubelet received {len(lists)} lists of {resource}")
                _require(resource not in again, f"{resource} registered again")
            for each in lists:
                strange = each.health.keys() - wanted
                _require(not strange, f"devices {strange} in {resource}")
                changed = each.health != dict.fromkeys(wanted, "Healthy")
                _require(not changed or cards_change, f"{resource} listed {each.health}")
            registered = self._stage.kubelet.registrations[self._registrations :]
            self._one_active(resource, [*lists, *(each for each in registered if each.resource == resource)])

    def _one_active(self, resource: str, messages: Sequence[Any]) -> None:
        """Require that an instance sends nothing while a newer instance is active."""
        owners = self._stage.owners
        pids = [life.service.process.pid for life in self._stage.lives]
        first = dict.fromkeys(pids, EVER)
        for each in self._stage.kubelet.lists(resource):
            if (pid := owners.get(each.endpoint)) in first:
                first[pid] = min(first[pid], each.time)
        for each in messages:
            pid = owners.get(each.endpoint)
            _require(pid is not None, f"{resource}: message of {each.endpoint}, whose process is unknown")
            if pid not in pids:
                continue  # an instance that was ended during its start
            for newer in self._stage.lives[pids.index(pid) + 1 :]:
                alive = newer.ended is None or each.time < newer.ended
                _require(
                    not (alive and first[newer.service.process.pid] < each.time - _TOLERANCE),
                    f"{resource}: message of the older of two instances",
                )


def _pids(stage: Stage) -> list[int]:
    return [service.process.pid for service in stage.services if service.process.poll() is None]


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Broken(otherwise)
