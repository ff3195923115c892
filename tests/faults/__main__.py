"""Inject faults: `python -m tests.faults {each,pairs,soak}`; see docs/development/faults.md."""

import argparse
import contextlib
import itertools
import json
import os
import queue
import random
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tests.faults.catalogue import FAULTS, named, pairs
from tests.faults.fault import Fault, NotDone
from tests.faults.stage import SHELLS, Setting, Stage, descriptors
from tests.faults.trial import Broken, Outcome, tried

Job = tuple[tuple[Fault, ...], Setting]
"""Simultaneous faults, and the setting in which they happen."""

_SETTINGS = (Setting(), Setting(2), Setting(2, by_socket=True), Setting(by_socket=True, api=True))
_CHANGES = 0.1  # the probability of another setting in a soak; each change needs a new stage

_NAMESPACES = ("unshare", "--user", "--map-root-user", "--mount", "--propagation", "private")


def main() -> int:
    options = _options()
    if options.lane is not None:
        return _lane(options)
    lanes = 1 if options.what == "soak" else options.lanes
    print(f"seed {options.seed}", flush=True)
    enter = [*_NAMESPACES, "--"] if _namespaces() else []
    inside = ["--in-namespaces"] if enter else []
    lane = [*enter, sys.executable, "-m", "tests.faults", *sys.argv[1:], *inside]
    processes = [
        subprocess.Popen(
            [*lane, f"--seed={options.seed}", f"--lane={number}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(lanes)
    ]
    outcomes = list(_read(processes))
    required = os.environ.get("FAULTS_REQUIRED") == "1"
    for each in outcomes:
        if required and each["missing"]:
            each["problem"] = f"not possible here: {each['skipped']}"
    failed = [each for each in outcomes if each["problem"]]
    skipped = sum(each["skipped"] is not None for each in outcomes)
    ended_well = all(process.wait() == 0 for process in processes)
    print(f"{len(outcomes)} trials, {len(failed)} broken, {skipped} not possible here")
    for each in failed:
        print(f"BROKEN, {Setting(*each['setting'])}: {' + '.join(each['faults'])}: {each['problem']}")
    if options.table:
        print(*_table(outcomes), sep="\n")
    return 0 if ended_well and not failed and outcomes else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("what", choices=["each", "pairs", "soak"])
    parser.add_argument("--only", action="append", default=[], help="only faults whose name begins with this")
    parser.add_argument("--long", action="store_true", help="include long faults")
    parser.add_argument("--instances", type=int, choices=[1, 2], help="of the service; default: both")
    parser.add_argument("--sample", type=int, help="the number of pairs; default: all")
    parser.add_argument("--minutes", type=float, default=10.0, help="the duration of a soak")
    parser.add_argument("--seed", type=int, default=1, help="of the random choices")
    parser.add_argument("--table", action="store_true", help="print a table of the figures at the end")
    parser.add_argument("--lanes", type=int, default=3, help="the number of parallel trials")
    parser.add_argument("--lane", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--in-namespaces", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _namespaces() -> bool:
    """Return whether a process can have its own user and mount namespace on this machine."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*_NAMESPACES, "--", "true"], capture_output=True, check=False).returncode == 0


def _read(processes: Sequence["subprocess.Popen[str]"]) -> Iterator[dict[str, Any]]:
    """Print and yield the outcomes of all lanes as they arrive."""
    lines: queue.Queue[str | None] = queue.Queue()

    def pass_on(process: "subprocess.Popen[str]") -> None:
        for line in process.stdout or ():
            lines.put(line)
        lines.put(None)

    for process in processes:
        threading.Thread(target=pass_on, args=(process,), daemon=True).start()
    open_ones = len(processes)
    while open_ones:
        line = lines.get()
        if line is None:
            open_ones -= 1
        elif line.startswith("{"):
            outcome = json.loads(line)
            print(_row(outcome), flush=True)
            yield outcome
        else:
            print(line, end="", flush=True)


def _row(outcome: dict[str, Any]) -> str:
    name = f"{' + '.join(outcome['faults'])} ({Setting(*outcome['setting'])})"
    if outcome["skipped"]:
        return f"{name}: not possible here: {outcome['skipped']}"
    if outcome["problem"]:
        return f"{name}: BROKEN: {outcome['problem']}"
    return (
        f"{name}: back {1000 * outcome['back']:.0f} ms, lost {1000 * outcome['lost']:.0f} ms, "
        f"{outcome['memory']:+.1f} MB, {100 * outcome['cpu']:.0f} % CPU"
    )


def _table(outcomes: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a table of single faults in each setting."""
    measured = {
        (each["faults"][0], Setting(*each["setting"])): each for each in outcomes if len(each["faults"]) == 1
    }
    heads = [f"{setting}: {what}" for setting in _SETTINGS for what in ("back after, ms", "lost, ms")]
    yield f"| {' | '.join(('fault', *heads, 'affected resources'))} |"
    yield f"|{' --- |' * (len(heads) + 2)}"
    for fault in FAULTS:
        cells = []
        for setting in _SETTINGS:
            if (each := measured.get((fault.name, setting))) is None or each["problem"] or each["skipped"]:
                cells += ["-", "-"]
            else:
                cells += [f"{1000 * each['back']:.0f}", f"{1000 * each['lost']:.0f}"]
        affected = {0: "none", len(SHELLS): "all"}.get(len(fault.touches), "its own")
        yield f"| {' | '.join((fault.name, *cells, affected))} |"


# A lane has its own namespaces and stages and runs its trials in sequence.


def _lane(options: argparse.Namespace) -> int:
    dice = random.Random(f"{options.seed}/{options.what}")
    stages = _Stages()
    jobs: Iterable[Job] = _jobs(options, dice)
    if options.what == "soak":
        jobs = _until(time.monotonic() + 60 * options.minutes, jobs)
    else:
        jobs = itertools.islice(jobs, options.lane, None, options.lanes)
    try:
        for number, (faults, setting) in enumerate(jobs):
            seed = f"{options.seed}/{'/'.join(fault.name for fault in faults)}/{setting}"
            if options.what == "soak":
                seed += f"/{number}"
            outcome = stages.outcome(faults, setting, seed)
            if options.what == "soak" and outcome.problem:
                outcome.problem += stages.smaller(faults, setting, seed)
            print(json.dumps(outcome.as_json()), flush=True)
    finally:
        stages.close()
    return 0


def _jobs(options: argparse.Namespace, dice: random.Random) -> Iterator[Job]:
    chosen = [each for each in FAULTS if options.long or not each.long]
    if options.only:
        chosen = [named(name) for name in options.only]
    settings = [each for each in _SETTINGS if options.instances in (None, each.instances)]
    if options.what == "each":
        yield from (
            ((fault,), setting) for setting in settings for fault in chosen if setting.api == fault.api
        )
    elif options.what == "pairs" and options.only:
        yield from ((tuple(chosen), setting) for setting in _fitting(chosen, settings))
    elif options.what == "pairs":
        # One fault within the other in random order, and for two instances a random kubelet
        both = [tuple(dice.sample(pair, 2)) for pair in pairs(chosen)]
        several = [
            (pair, dice.choice(fitting))
            for of in _by_instances(settings)
            for pair in both
            if (fitting := _fitting(pair, of))
        ]
        several = dice.sample(several, options.sample) if options.sample else several
        yield from sorted(several, key=lambda job: job[1])
    else:
        settings = [each for each in settings if each.instances == (options.instances or 2) and not each.api]
        chosen = [each for each in chosen if not each.api]
        setting = settings[0]
        while True:
            faults = tuple(dice.sample(chosen, dice.choice((1, 1, 2, 2, 3))))
            if len({fault.place for fault in faults}) == len(faults):
                if dice.random() < _CHANGES:
                    setting = dice.choice(settings)
                yield faults, setting


def _fitting(faults: Iterable[Fault], settings: Iterable[Setting]) -> list[Setting]:
    """Return the settings in which all faults are possible: with an API server if one of them needs it."""
    api = any(fault.api for fault in faults)
    return [setting for setting in settings if setting.api == api]


def _by_instances(settings: Sequence[Setting]) -> list[list[Setting]]:
    ordered = sorted(settings)
    return [list(group) for _, group in itertools.groupby(ordered, lambda each: each.instances)]


def _until(deadline: float, jobs: Iterable[Job]) -> Iterator[Job]:
    return itertools.takewhile(lambda _: time.monotonic() < deadline, jobs)


class _Stages:
    """The stage of a lane: reused until a trial breaks or has another setting."""

    def __init__(self) -> None:
        self._stage: Stage | None = None

    def outcome(self, faults: Sequence[Fault], setting: Setting, seed: str) -> Outcome:
        """Run a trial; the seed determines its random choices."""
        missing = [why for fault in faults if (why := fault.missing())]
        names = tuple(fault.name for fault in faults)
        if missing:
            return Outcome(names, setting, skipped=missing[0], missing=True)
        try:
            return tried(self._for(setting), faults, random.Random(seed))
        except NotDone as error:
            self._drop()
            return Outcome(names, setting, skipped=str(error))
        except Broken as error:
            return self._broken(names, setting, str(error))
        except Exception:
            return self._broken(names, setting, traceback.format_exc())

    def smaller(self, faults: Sequence[Fault], setting: Setting, seed: str) -> str:
        """Return which fewer faults also break, after one try of each combination."""
        for size in range(1, len(faults)):
            for fewer in itertools.combinations(faults, size):
                if self.outcome(fewer, setting, seed).problem:
                    return f"; so did {' + '.join(fault.name for fault in fewer)} alone"
        return "; none of fewer did" if len(faults) > 1 else ""

    def close(self) -> None:
        if self._stage is not None:
            self._stage.__exit__(None, None, None)
            self._stage = None

    def _for(self, setting: Setting) -> Stage:
        # Reports to the API server are limited, so a stage with one is used once.
        if self._stage is None or self._stage.setting != setting or setting.api:
            self.close()
            self._stage = Stage(setting)
            self._stage.__enter__()
        return self._stage

    def _broken(self, names: tuple[str, ...], setting: Setting, why: str) -> Outcome:
        if self._stage is not None:
            for life in self._stage.lives:
                print(*life.service.raw[-15:], sep="", file=sys.stderr)
                with contextlib.suppress(Exception):  # it has ended or does not respond
                    pid = life.service.process.pid
                    tasks, threads = self._stage.tasks(pid)
                    print(*descriptors(pid).items(), *tasks, threads, sep="\n", file=sys.stderr)
        self._drop()
        return Outcome(names, setting, problem=why)

    def _drop(self) -> None:
        with contextlib.suppress(Exception):
            self.close()
        self._stage = None


if __name__ == "__main__":
    sys.exit(main())
