"""Faults of the DRA driver: `python -m tests.faults.drivers`; see docs/development/faults.md.

The driver is a process of its own, between a kubelet and an API server that share no code with it. A claim is
prepared all the time. A fault begins, lasts and ends; then slice, documents, checkpoint, sockets and health
must be as before within the limit of the fault. Two claims never have one card.
"""

import argparse
import itertools
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from tests.faults.stage import wait_until
from tests.faults.watching import figures
from tests.support.api_server import RunningApiServer
from tests.support.dra_kubelet import NODE, SLICES, ClaimName, DraKubelet, HealthStream
from tests.support.dra_stage import SLICE, cdi, checkpoint, data, published, registry, spec_path, store_claim
from tests.support.paths import PROJECT
from tests.support.podresources import PodResourcesDouble
from tests.support.process import Service, remove
from tests.support.running import settings_for
from xilinx_fpga_dp.apiserver.client import CALL_LIMIT
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode

A, B, C = "pci-0000-11-00-1", "pci-0000-21-00-1", "pci-0000-31-00-1"

_INSIDE = Path(__file__).with_name("inside")
_SETTLED = 0.3  # seconds for which the state must stay good
_SEEN = 3.0  # seconds until a change of a card is known everywhere: writes are a second apart
_START = 10.0  # seconds from a start to a good state on a busy machine
_CALL = 25.0  # seconds: a prepare has a limit of 20
_LASTS = 0.7
_WITHOUT_RIGHT = "2"  # seconds between two attempts without a right, in place of a minute
_BACK = 2.0  # seconds from the end of a fault to a good state: a write, and the next one a second later
_CLOCK_STEP = 3600.0  # seconds: more than a busy machine takes, and less than the clock jumps
_KILLS = 8  # times that the driver is killed within a call, for each of the two calls
_DIES = 2.0  # seconds until a killed process is gone, on a busy machine
_LINES = 600  # more than a call takes in the threads that write files
_MOST_MEMORY = 12.0  # MB more than at first
_SPARE = 6  # descriptors: kept connections to the API server, and of calls in progress
_OWN = {"dra.sock", "dra-instances", "checkpoint.json", "serialize.lock", "dra-device-metadata"}


class Broken(AssertionError):  # noqa: N818 - a result
    """A violated guarantee."""


class Kubelet(DraKubelet):
    """A kubelet that follows the sockets by itself, in a thread."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.socket: tuple[str, int, int] | None = None  # of the driver that is registered
        self.health: HealthStream | None = None
        self._folder = folder
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ending.set()
        self._thread.join(10)
        self.stop()

    def forget(self) -> None:
        """Register everything again, as a kubelet that has just started."""
        self.socket = None

    def _follow(self) -> None:
        while not self._ending.wait(0.01):
            there = identities(self._folder)
            if not there or there[0] == self.socket:
                continue
            with suppress(grpc.RpcError, grpc.FutureTimeoutError, OSError):
                self._register(there[0][0], None)
                self.health = self.watch_health()
                self.socket = there[0]


def identities(folder: Path) -> list[tuple[str, int, int]]:
    """Return what tells each file of a folder from an earlier one: an inode's number is used again."""
    found = []
    with suppress(OSError):
        for path in sorted(folder.iterdir()):
            with suppress(OSError):
                status = path.lstat()
                found.append((path.name, status.st_ino, status.st_ctime_ns))
    return found


class Stage:
    """A node with three cards, of which one is prepared for a claim."""

    def __init__(self) -> None:
        self.directory = tempfile.mkdtemp(prefix="dra-")
        self.node = SampleNode(self.directory)
        self.node.add_ordinary_devices()
        for index, board in enumerate(("u200", "u200", "u250")):
            self.node.add_card(board, f"0000:{0x10 * (index + 1) + 1:02x}:00", numa_node=index % 2)
        self.kill = Path(self.directory, "kill")
        self.clock = Path(self.directory, "clock")
        self.api = RunningApiServer(Path(tempfile.mkdtemp(dir=self.directory)))
        self.api.put(f"/api/v1/nodes/{NODE}", {"metadata": {"name": NODE, "uid": "node-uid"}})
        self.pods = PodResourcesDouble(f"{self.directory}/pods.sock")
        self.pods.start()
        self.dice = random.Random(0)
        self.services: list[Service] = []
        self.kubelet = Kubelet(registry(self.node))
        self.documents: dict[str, str] = {}
        self.quiet: Any = None
        self.killed = 0  # times within a call
        self._numbers = itertools.count()

    def __enter__(self) -> Self:
        registry(self.node).mkdir(exist_ok=True)
        self.start()
        self._until(lambda: published(self.api).keys() == {A, B, C}, "the slice", _START)
        self.claim = self.prepared(A)
        self.rival = self.stored(A)
        self.documents = self._documents()
        self.prove_life()
        self._until(lambda: self.problem() is None, lambda: str(self.problem()), _START)
        self.quiet = self._figures()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kubelet.end()
        self.service.__exit__(kind, error, trace)
        self.api.__exit__(None, None, None)
        self.pods.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    # The driver

    @property
    def service(self) -> Service:
        return self.services[-1]

    def start(self) -> None:
        settings = settings_for(
            self.node,
            MODE="dra",
            NODE_NAME=NODE,
            RECOVERY_CHECKS="1",
            PLUGINS_REGISTRY_DIR=str(registry(self.node)),
            CDI_DIR=str(cdi(self.node)),
            POD_RESOURCES_SOCKET=self.pods.path,
        )
        own = {
            # The checkout too: it is not yet in the path when sitecustomize is imported
            "PYTHONPATH": os.pathsep.join((str(_INSIDE), str(PROJECT))),
            "FAULTS_CLOCK": str(self.clock),
            "FAULTS_KILL": str(self.kill),
            "FAULTS_RIGHT": _WITHOUT_RIGHT,
        }
        self.services.append(Service(settings, environment=self.api.environment | own))

    def end(self, number: signal.Signals) -> None:
        """End the driver by a signal."""
        self.service.process.send_signal(number)
        self.service.process.wait(_START)
        self._closed()

    def restart(self) -> None:
        """Start a new one in place of one that has ended, and wait until it stands."""
        self._closed()
        self.kubelet.forget()  # the sockets of a killed one are still there
        self.start()
        self._until(
            lambda: self.problem(prepared=False) is None, lambda: str(self.problem(prepared=False)), _START
        )
        self.quiet = None

    def _closed(self) -> None:
        self.service.process.wait(_START)
        self.service.__exit__(None, None, None)

    # What kubelet asks

    def stored(self, device: str) -> ClaimName:
        """Store another claim, under a name of its own."""
        return store_claim(self.api, f"claim-{next(self._numbers)}", device)

    def prepared(self, device: str) -> ClaimName:
        """Store another claim and prepare it."""
        claim = self.stored(device)
        self.prepare(claim)
        return claim

    def prepare(self, claim: ClaimName) -> None:
        """Prepare a claim, again and again as kubelet does, until it succeeds."""
        answer = ""

        def succeeds() -> bool:
            nonlocal answer
            try:
                answer = self.kubelet.prepare(claim)[claim.uid].error
            except (grpc.RpcError, ValueError, AttributeError) as error:  # no connection, or a closed one
                answer = repr(error)
            return not answer

        self._until(succeeds, lambda: f"{claim.name} prepared: {answer}", _CALL)

    def unprepare(self, claim: ClaimName) -> None:
        require(self.kubelet.unprepare(claim) == {claim.uid: ""}, f"{claim.name} is not unprepared")
        require(not spec_path(self.node, claim).exists(), f"the spec of {claim.name} is left")

    def never_shared(self) -> None:
        """Require that the card of the prepared claim is refused to another one."""
        with suppress(grpc.RpcError, ValueError):
            require(bool(self.kubelet.prepare(self.rival)[self.rival.uid].error), "two claims have a card")

    # The good state

    def problem(self, *, prepared: bool = True) -> str | None:
        """Return what is wrong; None if nothing is. ``prepared``: also with what the claim has."""
        if self.service.process.poll() is not None:
            return f"the process ended with {self.service.process.returncode}"
        sockets = identities(registry(self.node))
        if sockets != [self.kubelet.socket]:
            return f"kubelet knows {self.kubelet.socket}, there is {sockets}"
        entries = published(self.api)
        if entries.keys() != {A, B, C} or any(each.get("taints") for each in entries.values()):
            return f"published: {entries}"
        health = self.kubelet.health.lists[-1:] if self.kubelet.health else []
        if not health or health[0].keys() != {A, B, C} or any(each.message for each in health[0].values()):
            return f"the health at kubelet is {health}"
        if not prepared:
            return None
        # A write that a kill has cut off leaves its file until the next one
        if strays := set(os.listdir(data(self.node))) - _OWN:
            return f"in the driver's directory: {strays}"
        try:
            entries_kept, documents = set(checkpoint(self.node)), self._documents()
        except (OSError, ValueError) as error:
            return repr(error)
        if entries_kept != {self.claim.uid}:
            return f"the checkpoint has {entries_kept}"
        if documents != self.documents:
            return f"the documents are {sorted(documents)}, or differ"
        return None

    def _documents(self) -> dict[str, str]:
        files = [*cdi(self.node).iterdir(), *(data(self.node) / "dra-device-metadata").rglob("*.json")]
        return {str(path): path.read_text() for path in files}

    def prove_life(self) -> None:
        """Require that claims are prepared and unprepared, and that a fault of a card is known and goes."""
        self.never_shared()
        self.unprepare(self.prepared(B))
        with self.broken_card():
            pass
        self._until(lambda: not self._tainted(), "no taint", _SEEN)

    @contextmanager
    def broken_card(self, back: float = _SEEN) -> Iterator[None]:
        """Break a card and wait until kubelet knows; in the end wait for its taint, and mend it.

        Args:
            back: seconds until the taint, from the end of a fault on.
        """
        card = self.node.cards[2]
        card.offline()
        try:
            self._until(lambda: self._message(C) == "offline", "the health at kubelet", _SEEN)
            yield
            self._until(self._tainted, "a taint", back)
        finally:
            card.mend()

    def _tainted(self) -> bool:
        return bool(published(self.api).get(C, {}).get("taints"))

    def _message(self, device: str) -> str:
        lists = self.kubelet.health.lists if self.kubelet.health else []
        return str(lists[-1][device].message) if lists else ""

    def health_time(self, device: str) -> float:
        """Return the driver's time at the last health of a device."""
        return float(self.kubelet.health.lists[-1][device].last_updated_time) if self.kubelet.health else 0.0

    def nothing_left(self) -> None:
        """Require no leak and no logged error."""
        if self.quiet is None:
            self.quiet = self._figures()
        now = self.quiet

        def settled() -> bool:
            nonlocal now
            now = self._figures()
            return bool(now.descriptors <= self.quiet.descriptors + _SPARE)

        wait_until(settled, _SEEN)
        require(settled(), f"{now.descriptors - self.quiet.descriptors} descriptors more than at first")
        require(
            now.memory < self.quiet.memory + _MOST_MEMORY, f"{now.memory - self.quiet.memory:.1f} MB more"
        )
        for service in self.services:
            errors = [each for each in list(service.events) if each["level"] in ("error", "critical")]
            require(not errors, f"logged: {errors[:1]}")
            strange = [line for line in list(service.raw) if not line.startswith("{")]
            require(not strange, f"printed: {''.join(strange[:20])}")

    def _figures(self) -> Any:
        return figures(self.service.process.pid)

    @staticmethod
    def _until(holds: Callable[[], bool], what: str | Callable[[], str], limit: float) -> None:
        if not wait_until(holds, limit):
            raise Broken(f"not within {limit:g} s: {what if isinstance(what, str) else what()}")


def require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Broken(otherwise)


@dataclass(frozen=True)
class Fault:
    """A fault.

    Attributes:
        name: the name for `--only`.
        steps: begins the fault, yields while it lasts, and ends it.
        back: the seconds from its end to a good state.
    """

    name: str
    steps: Callable[[Stage], Iterator[None]]
    back: float


FAULTS: list[Fault] = []
Steps = Callable[[Stage], Iterator[None]]


def fault(name: str, back: float = _BACK) -> Callable[[Steps], Steps]:
    def enter(steps: Steps) -> Steps:
        FAULTS.append(Fault(name, steps, back))
        return steps

    return enter


# The API server


@fault("API server stopped")
def stopped(stage: Stage) -> Iterator[None]:
    other = stage.prepared(B)
    stage.api.stop()
    with stage.broken_card(_BACK):
        stage.unprepare(other)
        answer = stage.kubelet.prepare(stage.rival)[stage.rival.uid]
        require("API server: " in answer.error, f"prepare without API server: {answer}")
        yield
        stage.api.start()


def _answers(name: str, *, back: float = _BACK, **what: Any) -> None:
    @fault(f"API server {name}")
    def steps(stage: Stage) -> Iterator[None]:
        other = stage.prepared(B)
        trouble = stage.api.trouble(**what)
        with stage.broken_card(back):
            stage.unprepare(other)
            require(wait_until(lambda: trouble.hits > 0, _SEEN), "no call")
            yield
            stage.api.do(lambda: stage.api.api.troubles.remove(trouble))


for _code in (401, 404, 409, 410, 422, 500):
    _answers(f"answers {_code}", code=_code)
# A right comes by hand, so the next attempt is a minute later; here two seconds.
_answers("answers 403", code=403, back=4.0)
for _code in (429, 503):
    _answers(f"answers {_code} with Retry-After", code=_code, retry_after=1, back=3.0)
_answers("cuts before it answers", cut="before")
_answers("cuts after it has written", cut="after")
_answers("is slow", delay=20.0, back=CALL_LIMIT + 2.0)


@fault("API server breaks idle connections")
def connections_broken(stage: Stage) -> Iterator[None]:
    with stage.broken_card():
        for _ in range(20):
            stage.api.do(stage.api.api.break_connections)
            time.sleep(0.02)
        yield


@fault("API server drops taints", back=3.0)
def dropped(stage: Stage) -> Iterator[None]:
    """Another one takes its place, with the feature gate off, and the first comes back."""

    def replaced(*fields: str) -> None:
        stage.api.stop()
        stage.api.do(lambda: stage.api.api.dropped.__setitem__(slice(None), fields))
        stage.api.start()

    with stage.broken_card(3.0):
        replaced("spec.devices.*.taints")
        require(
            wait_until(lambda: published(stage.api).keys() == {A, B}, _SEEN), "a broken card is published"
        )
        yield
        replaced()


@fault("API server refuses one device", back=3.0)
def refused(stage: Stage) -> Iterator[None]:
    """It is left out while the server refuses it, the others are not."""

    def tainted(item: dict[str, Any]) -> list[str]:
        found = enumerate(item["spec"].get("devices", ()))
        return [f"spec.devices[{number}].taints" for number, each in found if each.get("taints")]

    stage.api.api.invalid = tainted
    card = stage.node.cards[2]
    card.offline()
    require(
        wait_until(lambda: published(stage.api).keys() == {A, B}, _SEEN), "the wrong devices are published"
    )
    yield
    card.mend()
    stage.api.api.invalid = None


@fault("Node made again", back=3.0)
def made_again(stage: Stage) -> Iterator[None]:
    path = f"/api/v1/nodes/{NODE}"
    stage.api.remove(path)
    uid = stage.api.put(path, {"metadata": {"name": NODE}})["metadata"]["uid"]
    stage.api.remove(SLICE)  # as the garbage collector does
    yield

    def owned() -> bool:
        found = stage.api.do(lambda: stage.api.api.get(SLICE)) or {}
        return [each["uid"] for each in found.get("metadata", {}).get("ownerReferences", ())] == [uid]

    require(wait_until(owned, _SEEN), "the slice is not the Node's")


@fault("token and authority rotated")
def rotated(stage: Stage) -> Iterator[None]:
    stage.api.stop()
    stage.api.rotate_token(f"token-{time.monotonic_ns()}")
    stage.api.new_authority(identified=False)  # as of some clusters; Python 3.13 would refuse it by default
    with stage.broken_card():
        stage.api.start()
        yield


def _watch(name: str, break_it: Callable[[Stage], None]) -> None:
    @fault(f"watch {name}", back=3.0)
    def steps(stage: Stage) -> Iterator[None]:
        stage.api.do(lambda: break_it(stage))
        yield
        stage.api.remove(SLICE)  # the watch or the wish has to notice
        with stage.broken_card():
            pass


_watch("cut in the middle of a line", lambda stage: stage.api.api.cut_watches())
_watch("ended within a line", lambda stage: stage.api.api.end_watches_within_a_line())
_watch("expired", lambda stage: stage.api.api.expire_watches())
_watch("silent", lambda stage: stage.api.api.silence_watches())


@fault("etcd restored, slice of others' making", back=3.0)
def restored(stage: Stage) -> Iterator[None]:
    def back_in_time() -> None:
        stage.api.api.go_back(2)
        stage.api.api.end_watches()

    stage.api.do(back_in_time)
    yield
    found = stage.api.do(lambda: stage.api.api.get(SLICE)) or {}
    stage.api.put(SLICE, {**found, "spec": {**found["spec"], "devices": []}})


# kubelet


@fault("kubelet restarted 5 times", back=3.0)
def kubelet_restarted(stage: Stage) -> Iterator[None]:
    for _ in range(5):
        for each in stage.api.do(lambda: stage.api.api.all(SLICES)):
            stage.api.remove(f"{SLICES}/{each['metadata']['name']}")
        stage.kubelet.forget()
        time.sleep(stage.dice.uniform(0, 0.3))
    yield


@fault("registration socket removed", back=2.0)
def registration_removed(stage: Stage) -> Iterator[None]:
    for path in registry(stage.node).iterdir():
        path.unlink()
    yield


@fault("driver's socket removed", back=2.0)
def socket_removed(stage: Stage) -> Iterator[None]:
    (data(stage.node) / "dra.sock").unlink()
    yield


@fault("directory of registrations removed", back=3.0)
def registry_removed(stage: Stage) -> Iterator[None]:
    remove(registry(stage.node))
    yield
    registry(stage.node).mkdir(exist_ok=True)


@fault("podresources hangs", back=3.0)
def podresources_hangs(stage: Stage) -> Iterator[None]:
    stage.pods.hangs.clear()
    with stage.broken_card():
        yield
    stage.pods.hangs.set()


# Files


@fault("directory of CDI specs wiped")
def cdi_wiped(stage: Stage) -> Iterator[None]:
    remove(cdi(stage.node))
    yield


@fault("documents scribbled on")
def scribbled(stage: Stage) -> Iterator[None]:
    for path in stage.documents:
        Path(path).write_text("{")
    yield


@fault("checkpoint removed")
def checkpoint_removed(stage: Stage) -> Iterator[None]:
    (data(stage.node) / "checkpoint.json").unlink()
    stage.never_shared()
    yield


@fault("no file can be written")
def unwritable(stage: Stage) -> Iterator[None]:
    pid = stage.service.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    other = stage.stored(B)
    try:
        error = stage.kubelet.prepare(other)[other.uid].error
        require(bool(error), "a claim was prepared without a file")
        stage.never_shared()
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    stage.prepare(other)
    stage.unprepare(other)


# The process


@fault("stopped by a debugger", back=2.0)
def paused(stage: Stage) -> Iterator[None]:
    stage.service.process.send_signal(signal.SIGSTOP)
    yield
    stage.service.process.send_signal(signal.SIGCONT)


@fault("the clock jumps a day forth and two back")
def clock_jumps(stage: Stage) -> Iterator[None]:
    for seconds in (86_400, -86_400):
        stage.clock.write_text(str(seconds))
        stage.unprepare(stage.prepared(B))
        stage.never_shared()
        with stage.broken_card():
            told = stage.health_time(C) - time.time()
            require(abs(told - seconds) < _CLOCK_STEP, f"the driver's clock is {told:.0f} s off")
    yield
    stage.clock.write_text("0")


@fault("SIGHUP ten times")
def hung_up(stage: Stage) -> Iterator[None]:
    for _ in range(10):
        stage.service.process.send_signal(signal.SIGHUP)
        time.sleep(stage.dice.uniform(0, 0.1))
    yield


def _ended(number: signal.Signals) -> None:
    @fault(f"{number.name}, and started again")
    def steps(stage: Stage) -> Iterator[None]:
        stage.end(number)
        require(published(stage.api).keys() == {A, B, C}, "the slice went with the driver")
        yield
        stage.restart()


_ended(signal.SIGTERM)
_ended(signal.SIGKILL)


@fault("killed at any line of prepare")
def killed_in_prepare(stage: Stage) -> Iterator[None]:
    yield
    most, stage.killed = _LINES, 0
    for _ in range(_KILLS):
        other = stage.stored(B)
        most = _killed(stage, most, lambda: stage.kubelet.prepare(other))  # noqa: B023 - called here
        stage.never_shared()
        stage.prepare(other)
        rival = stage.stored(B)
        require(bool(stage.kubelet.prepare(rival)[rival.uid].error), "two claims have a card")
        stage.unprepare(other)
    require(stage.killed > 0, "it was not killed once")


@fault("killed at any line of unprepare")
def killed_in_unprepare(stage: Stage) -> Iterator[None]:
    yield
    most, stage.killed = _LINES, 0
    for _ in range(_KILLS):
        other = stage.prepared(B)
        most = _killed(stage, most, lambda: stage.kubelet.unprepare(other))  # noqa: B023 - called here
        stage.unprepare(other)
        stage.unprepare(stage.prepared(B))
    require(stage.killed > 0, "it was not killed once")


def _killed(stage: Stage, most: int, call: Callable[[], object]) -> int:
    """Make a call, in which the driver is killed at a random line; return how many lines it may take."""
    line = stage.dice.randrange(most)
    stage.kill.write_text(str(line))
    with suppress(grpc.RpcError):
        call()
    stage.kill.unlink()
    if not wait_until(lambda: stage.service.process.poll() is not None, _DIES):
        return max(line, 20)  # it takes fewer lines
    stage.killed += 1
    stage.restart()
    return most


def tried(stage: Stage, fault: Fault, dice: random.Random) -> float:
    """Run a trial; return the seconds until all was good again."""
    problem = stage.problem()
    require(problem is None, f"before: {problem}")
    stage.dice = dice
    steps = fault.steps(stage)
    next(steps)
    time.sleep(_LASTS)
    next(steps, None)
    over = time.monotonic()
    wait_until(lambda: stage.problem() is None, fault.back + 3.0)
    back = time.monotonic() - over
    problem = stage.problem()
    require(problem is None, f"{fault.back + 3.0:g} s after its end: {problem}")
    require(back <= fault.back, f"back after {back:.2f} s, not {fault.back:g} s")
    time.sleep(_SETTLED)
    problem = stage.problem()
    require(problem is None, f"it did not stay well: {problem}")
    stage.prove_life()
    stage.nothing_left()
    return back


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.drivers", description=__doc__)
    parser.add_argument("--only", action="append", default=[], help="only faults whose name begins with this")
    parser.add_argument("--seed", type=int, default=1, help="of the random choices")
    parser.add_argument("--lanes", type=int, default=3, help="the number of parallel trials")
    options = parser.parse_args()
    chosen = [each for each in FAULTS if not options.only or each.name.startswith(tuple(options.only))]
    print(f"seed {options.seed}", flush=True)
    # The longest first: they are the last of the list
    parts = [chosen[::-1][lane :: options.lanes] for lane in range(options.lanes)]
    with ThreadPoolExecutor(options.lanes) as pool:
        broken = sum(pool.map(lambda part: _lane(part, options.seed), parts))
    print(f"{len(chosen)} trials with MODE=dra, {broken} broken")
    return 1 if broken or not chosen else 0


def _lane(chosen: Sequence[Fault], seed: int) -> int:
    """Run trials on one stage, which a broken one replaces; return how many are broken."""
    broken = 0
    stage: Stage | None = None
    for each in chosen:
        try:
            if stage is None:
                (stage := Stage()).__enter__()
            back = tried(stage, each, random.Random(f"{seed}/{each.name}"))
            print(f"{each.name} (DRA): back {1000 * back:.0f} ms", flush=True)
        except Exception:
            broken += 1
            print(f"{each.name} (DRA): BROKEN: {traceback.format_exc(limit=-4)}", flush=True)
            if stage:
                print(*stage.service.raw[-15:], sep="", file=sys.stderr)
                with suppress(Exception):
                    stage.__exit__(None, None, None)
            stage = None
    if stage:
        stage.__exit__(None, None, None)
    return broken


if __name__ == "__main__":
    sys.exit(main())
