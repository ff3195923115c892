"""What goes wrong on the node: its limits, its clock, its cards and files, and signals."""

import contextlib
import itertools
import os
import random
import resource
import signal
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from tests.faults.fault import EVER, Catalogue
from tests.faults.kubelets import ALL, no_mounts, remove
from tests.faults.stage import EVENT, Stage, own_namespaces, wait_until
from xilinx_fpga_dp.simulate.node import DAMAGES

faults = Catalogue()
fault = faults.fault

_INSTANCES = Path("/proc/sys/user/max_inotify_instances")
# Seconds until an instance that is started has its first list, on a busy machine; the bench measures that.
_START = 10.0


# The kernel's limits


def no_limits() -> str | None:
    return None if own_namespaces() else "no user namespace of its own to limit"


def no_events() -> str | None:
    return None if os.access(EVENT, os.W_OK) else "no event can be made in sysfs"


@fault("inotify used up, kubelet restarted", touches=ALL, gap=EVER, place="inotify", missing=no_limits)
def inotify_used_up(stage: Stage) -> Iterator[None]:
    before = _INSTANCES.read_text()
    _INSTANCES.write_text("0")
    try:
        stage.kubelet_anew()
        yield
        stage.kubelet_anew()  # it comes back although nothing wakes
        back = stage.kubelet_is_down or wait_until(stage.all_full, 1.5)
    finally:
        _INSTANCES.write_text(before)
    assert back or stage.paired, "not back 1.5 s after kubelet"


@fault("inotify's queue overflows", deaf=True, place="inotify")
def inotify_overflows(stage: Stage) -> Iterator[None]:
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    with stopped(stage):
        for number in range(most // 2 + 1):
            path = f"{stage.sockets}/event-{number}"
            try:
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
                os.unlink(path)
            except OSError:
                break  # another fault has the directory
    yield


@fault("netlink's buffer overflows", deaf=True, place="netlink", missing=no_events)
def netlink_overflows(stage: Stage) -> Iterator[None]:
    with stopped(stage):
        for _ in range(1500):
            EVENT.write_text("change")
    yield


@fault("file descriptors used up", deaf=True, place="descriptors")
def descriptors_used_up(stage: Stage) -> Iterator[None]:
    for service in stage.services:
        pid = service.process.pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        used = set(map(int, os.listdir(f"/proc/{pid}/fd")))
        unused = next(number for number in itertools.count() if number not in used)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (unused, hard))  # what is open stays open
    yield
    for service in stage.services:
        _, hard = resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE, (min(1024, hard), hard))


@fault("file descriptors used up, streams cut", touches=ALL, gap=EVER, deaf=True, place="descriptors")
def descriptors_used_up_and_cut(stage: Stage) -> Iterator[None]:
    steps = descriptors_used_up(stage)
    next(steps)
    stage.cut("u200", "u250")
    yield
    next(steps, None)


# Time


class stopped:  # noqa: N801 - reads as a word
    """All instances held by SIGSTOP, as by a debugger."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def __enter__(self) -> None:
        self._stage.send(signal.SIGSTOP)

    def __exit__(self, *_: object) -> None:
        self._stage.send(signal.SIGCONT)


@fault("stopped by a debugger", deaf=True, place="processes", lasts=1.5)
def stopped_and_continued(stage: Stage) -> Iterator[None]:
    with stopped(stage):
        yield


@fault("stopped while kubelet restarts", touches=ALL, gap=EVER, place="processes")
def stopped_while_kubelet_restarts(stage: Stage) -> Iterator[None]:
    with stopped(stage):
        stage.kubelet_anew()
        yield


@fault("the one that speaks is stopped", deaf=True, place="processes", lasts=1.5)
def voice_stopped(stage: Stage) -> Iterator[None]:
    voice = stage.voice.process
    voice.send_signal(signal.SIGSTOP)
    yield
    voice.send_signal(signal.SIGCONT)


@fault("the clock jumps a day forth and two back", place="clock", lasts=1.5)
def clock_jumps(stage: Stage) -> Iterator[None]:
    before = stage.since()
    for seconds in (+86_400, -86_400):
        stage.set_clock(seconds)
        time.sleep(0.5)
        assert stage.paired or _believes(stage, before, seconds), "it does not believe its clock"
    yield
    stage.set_clock(0)


def _believes(stage: Stage, before: datetime | None, seconds: int) -> bool:
    now = stage.since()
    return before is not None and now is not None and abs((now - before).total_seconds() - seconds) < 10


# Signals


@fault("SIGHUP twenty times at any moment", touches=ALL, gap=1.0, place="processes")
def hung_up(stage: Stage) -> Iterator[None]:
    dice = random.Random(stage.seed)
    for _ in range(20):
        stage.send(signal.SIGHUP)
        time.sleep(dice.uniform(0, 0.1))
    yield


@fault("SIGTERM, and started again", touches=ALL, gap=EVER, shared_gap=1.0, place="processes", back=_START)
def ended(stage: Stage) -> Iterator[None]:
    stage.end(stage.voice, signal.SIGTERM)
    yield
    stage.start()


@fault("SIGKILL, and started again", touches=ALL, gap=EVER, shared_gap=1.0, place="processes", back=_START)
def killed(stage: Stage) -> Iterator[None]:
    stage.end(stage.voice, signal.SIGKILL)
    yield
    stage.start()


@fault("SIGTERM to one that starts, at any moment", touches=ALL, gap=1.0, place="processes")
def ended_at_start(stage: Stage) -> Iterator[None]:
    dice = random.Random(stage.seed)
    for _ in range(4):
        service = stage.launch()
        time.sleep(dice.uniform(0.1, 1.2))
        service.process.send_signal(signal.SIGTERM)
        code = service.process.wait(_START)
        service.__exit__(None, None, None)
        # Before the interpreter has begun with us a signal does what it does to any process.
        assert code == 0 or (code == -signal.SIGTERM and not service.events), f"ended with {code}"
    yield


@fault("SIGTERM while a read hangs, and started again", touches=ALL, gap=EVER, shared_gap=1.0,
       place="processes", back=_START)  # fmt: skip
def ended_while_a_read_hangs(stage: Stage) -> Iterator[None]:
    card = stage.cards("u200")[0]
    card.hang("ready")
    time.sleep(0.05)
    try:
        stage.end(stage.voice, signal.SIGTERM)
    finally:
        card.unhang("ready")
    yield
    stage.start()


# Cards


@fault(
    "every attribute of a card refused, blank, binary, huge, a loop",
    touches="u250",
    devices=True,
    gap=EVER,
    place="cards",
)
def damaged(stage: Stage) -> Iterator[None]:
    card = stage.cards("u250")[0]
    attributes = (
        "ready",
        "dev_offline",
        "rom/VBNV",
        "rom/timestamp",
        "device_bad_state",
        "numa_node",
        "vendor",
    )
    for damage in DAMAGES:
        for attribute in attributes:
            card.corrupt(attribute, damage)
        time.sleep(0.15)
        card.mend()
        for name, text in (("numa_node", "0"), ("vendor", f"0x{card.board.vendor}")):
            card.write(name, text)
    yield


@fault("reading a card hangs", touches="u250", devices=True, gap=EVER, place="cards", lasts=2.7)
def hanging(stage: Stage) -> Iterator[None]:
    card = stage.cards("u250")[0]
    card.hang("ready")
    yield
    card.unhang("ready")


@fault(
    "a card unplugged in the middle of a scan",
    touches="u250",
    devices=True,
    gap=EVER,
    place="cards",
    back=1.5,
)
def unplugged(stage: Stage) -> Iterator[None]:
    dice = random.Random(stage.seed)
    card = stage.cards("u250")[0]
    for _ in range(10):
        card.remove()
        time.sleep(dice.uniform(0, 0.1))
        card.plug()
        time.sleep(dice.uniform(0, 0.1))
    yield


# A scan that is under way finds some cards without a driver then.
@fault("the bus cannot be read", touches=ALL, devices=True, gap=EVER, place="bus")
def bus_unreadable(stage: Stage) -> Iterator[None]:
    bus = Path(stage.node.sysfs_root, "bus")
    bus.rename(bus.with_name("away"))
    yield
    bus.with_name("away").rename(bus)


# Files


@fault("no room for the CDI spec and the feature file", place="files", missing=no_mounts)
def disk_full(stage: Stage) -> Iterator[None]:
    filler = stage.cdi.parent / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:  # page by page, or some are left
            file.write(bytes(4096))
    for path in (stage.spec, stage.features):
        with path.open("r+") as file:  # cut off, it would make room
            file.write("!" * path.stat().st_size)
    yield
    mended = stage.spec_is_whole() or stage.features_are_whole()
    filler.unlink()
    assert not mended, "there was room"


@fault("CDI spec and feature file scribbled on, then their directories removed", place="files")
def files_removed(stage: Stage) -> Iterator[None]:
    for file in (stage.spec, stage.features):
        file.write_text("{")
    yield
    for file in (stage.spec, stage.features):
        remove(file.parent)
