"""One trial: faults begin, last and end, one within the other; then all must be as before."""

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

_SETTLED = 0.3  # seconds that all has to stay well
# Looks until what was needed for a moment is given back (descriptors, threads, tasks), and seconds of one.
_LOOKS = 12
_LEAST = 0.25
_SPINNING = 0.6  # of a core, while nothing happens
_MOST_MEMORY = 12.0  # MB more than at first, whatever has happened since
# Seconds between the looks of whoever measures, and what of a list is on its way.
_UNSHARP = 0.05


_MENDED = 1.0  # seconds a resource may be lost once a fault is over

_POOLS = {"worker": IDLE_WORKERS}  # idle threads, which are no leak


class Broken(AssertionError):  # noqa: N818 - a word is enough
    """Something did not hold."""


@dataclass
class Outcome:
    """What was measured.

    Attributes:
        faults: their names.
        setting: of the stage.
        back: seconds from the end until all was as before.
        lost: the longest that a resource was lost while it lasted, seconds.
        memory: MB more than when a process was first looked at, of all instances the most.
        cpu: of a core while nothing happened but the fault lasted.
        stalled: seconds that the measuring itself was held up.
        problem: what did not hold; None: all did.
        skipped: why it was not tried.
        missing: it can't be tried on this machine at all.
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
    """Let faults happen, and say what was seen.

    Args:
        stage: to whom.
        faults: which, each within the one before.
        dice: of what they leave to chance.

    Raises:
        Broken: something did not hold; the stage is of no more use.
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
        stage.quiet = least(stage, [stage.voice.process.pid], 0.3)[stage.voice.process.pid]
    heard = _Heard(stage)
    with Watching(stage) as watching:
        under_way: list[Iterator[None]] = []
        for fault in faults:
            steps = fault.steps(stage)
            try:
                next(steps)
            except (OSError, RuntimeError) as error:  # RuntimeError: kubelet itself can't begin
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
        # Of two the end of one may be what the other's mending has waited for.
        limit = sum(fault.back for fault in faults)
        problem = _lasting_problem(stage, limit + 2.0)
        outcome.back = time.monotonic() - over
        _require(problem is None, f"{limit + 2.0:g} s after its end: {problem}")
        time.sleep(_SETTLED)
        problem = stage.problem()
        _require(problem is None, f"it did not stay well: {problem}")
        outcome.stalled = watching.stalled()
        allowed = limit + watching.stalled(over, over + outcome.back) + _UNSHARP
        _require(outcome.back <= allowed, f"back after {outcome.back:.2f} s, not {limit:g} s")
        _bounded_loss(stage, faults, watching, ending, outcome)
        if all(fault.brief for fault in faults):
            after = watching.back(begun)
            _require(
                after <= limit + _UNSHARP, f"the last resource was back after {after:.2f} s, not {limit:g} s"
            )
    heard.check(faults)
    stage.prove_life()
    _nothing_left(stage, outcome)


def _lasting_problem(stage: Stage, limit: float) -> str | None:
    """What is still wrong after some seconds; None as soon as all is well."""
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
    """Nothing may be lost for longer than it has to be, while a fault lasts and when it ends."""
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
        _require(lost <= sum(gaps) + _UNSHARP, f"{shell} lost for {lost:.2f} s, not {sum(gaps):g} s")
        lost = watching.longest(resource, since=ending)
        mended = _MENDED * len(gaps)
        _require(lost <= mended + _UNSHARP, f"{shell} lost for {lost:.2f} s at the end, not {mended:g} s")


def _busiest(stage: Stage, seconds: float) -> float:
    """Let time pass; what of a core the busiest instance used, the first moment apart."""
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
    """No more descriptors, threads, tasks or memory than at first, no core spinning, no error in the log."""
    assert stage.quiet is not None
    for _ in range(_LOOKS):
        after = least(stage, _pids(stage), _LEAST)
        # One that stands by may have the sockets and streams of before, or not.
        spare = {pid: 0 if pid == stage.voice.process.pid else 2 * len(SHELLS) for pid in after}
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


class _Heard:
    """What kubelet hears during a trial: of whom, and by whom."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._lists = {resource: len(stage.kubelet.lists(resource)) for resource in stage.wanted}
        self._registrations = len(stage.kubelet.registrations)

    def check(self, faults: Sequence[Fault]) -> None:
        """Nothing of a resource that was not touched, no other device, and one voice."""
        touched = {SHELLS[shell] for fault in faults for shell in fault.touches}
        cards_change = any(fault.devices for fault in faults)
        again = [each.resource for each in self._stage.kubelet.registrations[self._registrations :]]
        for resource, wanted in self._stage.wanted.items():
            lists = self._stage.kubelet.lists(resource)[self._lists[resource] :]
            if resource not in touched:
                _require(not lists, f"kubelet heard {len(lists)} lists of {resource}")
                _require(resource not in again, f"{resource} registered again")
            for each in lists:
                strange = each.health.keys() - wanted
                _require(not strange, f"devices {strange} in {resource}")
                changed = each.health != dict.fromkeys(wanted, "Healthy")
                _require(not changed or cards_change, f"{resource} listed {each.health}")
            registered = self._stage.kubelet.registrations[self._registrations :]
            self._one_voice(resource, [*lists, *(each for each in registered if each.resource == resource)])

    def _one_voice(self, resource: str, said: Sequence[Any]) -> None:
        """An instance is silent as soon as a newer one has spoken, for as long as that one lives."""
        owners = self._stage.owners
        pids = [life.service.process.pid for life in self._stage.lives]
        first = dict.fromkeys(pids, EVER)
        for each in self._stage.kubelet.lists(resource):
            if (pid := owners.get(each.endpoint)) in first:
                first[pid] = min(first[pid], each.time)
        for each in said:
            pid = owners.get(each.endpoint)
            _require(pid is not None, f"{resource} heard from {each.endpoint}, which is nobody's")
            if pid not in pids:
                continue  # one that was started and ended at once
            for newer in self._stage.lives[pids.index(pid) + 1 :]:
                alive = newer.ended is None or each.time < newer.ended
                _require(
                    not (alive and first[newer.service.process.pid] < each.time - _UNSHARP),
                    f"{resource} heard from the older of two instances",
                )


def _pids(stage: Stage) -> list[int]:
    return [service.process.pid for service in stage.services if service.process.poll() is None]


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Broken(otherwise)
