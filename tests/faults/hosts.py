"""Faults of the node: limits, clock, signals, cards and files."""

import contextlib
import errno
import itertools
import os
import re
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from tests.faults.fault import EVER, PACED, Catalogue
from tests.faults.kubelets import ALL, no_mounts
from tests.faults.stage import EVENT, Stage, descriptors, own_namespaces, wait_until
from tests.support.process import remove
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.simulate.sysfs.sample_node import DAMAGES

faults = Catalogue()
fault = faults.fault

_INSTANCES = Path("/proc/sys/user/max_inotify_instances")
_WATCHES = Path("/proc/sys/user/max_inotify_watches")
# Errors of reads by a driver (xocl: mailbox, clocks, a card in reset) and by the kernel.
_ERRNOS = (
    *(errno.EIO, errno.EINVAL, errno.EACCES, errno.EPERM, errno.ENODEV, errno.ENXIO),
    *(errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR, errno.ENOMEM, errno.EBUSY, errno.ENOSYS),
)
_ATTRIBUTES = (
    "ready", "dev_offline", "rom/VBNV", "rom/timestamp", "mailbox_connect_state", "logic_uuids",
    "xmc/serial_num", "numa_node", "vendor", "device", "firewall/level",
)  # fmt: skip
# Seconds from a start to the first list on a busy machine.
_START = 10.0


# The kernel's limits


def no_limits() -> str | None:
    return None if own_namespaces() else "no user namespace of its own to limit"


def no_events() -> str | None:
    return None if os.access(EVENT, os.W_OK) else "no event can be made in sysfs"


@contextmanager
def none_left(limit: Path) -> Iterator[None]:
    """Set a limit of this user namespace to 0."""
    before = limit.read_text()
    limit.write_text("0")
    try:
        yield
    finally:
        limit.write_text(before)


def _watched_inodes(stage: Stage) -> set[int]:
    """Return the inodes that the active instance watches by inotify."""
    found: set[int] = set()
    for each in Path(f"/proc/{stage.active.process.pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed by now
            found |= {int(inode, 16) for inode in re.findall(r"inotify wd:\w+ ino:(\w+)", each.read_text())}
    return found


@fault(
    "inotify's watches used up, directory created again",
    touches=ALL,
    gap=EVER,
    place="directory",
    missing=no_limits,
)
def watches_used_up(stage: Stage) -> Iterator[None]:
    with none_left(_WATCHES):
        stage.kubelet_down()
        remove(stage.sockets)
        stage.sockets.mkdir()
        stage.kubelet_up()
        yield
        nothing = not stage.services or stage.sockets.stat().st_ino not in _watched_inodes(stage)
        stage.restart_kubelet()  # it comes back although nothing wakes
        back = stage.kubelet_is_down or wait_until(stage.all_full, 1.5)
    stage.expect(nothing, "the new directory is watched")
    assert back or stage.paired, "not back 1.5 s after kubelet"


@fault("inotify used up when an instance starts", touches=ALL, gap=EVER, place="processes", back=_START,
       missing=no_limits)  # fmt: skip
def inotify_used_up(stage: Stage) -> Iterator[None]:
    with none_left(_INSTANCES):
        if stage.services:
            stage.end(stage.active, signal.SIGTERM)
        stage.start().logged(Event.STARTED, limit=_START)
        stage.restart_kubelet()
        yield
        nothing = not _watched_inodes(stage)
        stage.restart_kubelet()  # it comes back although nothing wakes
        back = stage.kubelet_is_down or wait_until(stage.all_full, 1.5)
    stage.expect(nothing, "it has watches")
    assert back or stage.paired, "not back 1.5 s after kubelet"


@fault("inotify's queue overflows", deaf=True, place="inotify", brief=True)
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
    stage.expect(number == most // 2, "some files could not be made")
    yield


@fault("netlink's buffer overflows", deaf=True, place="netlink", missing=no_events, brief=True)
def netlink_overflows(stage: Stage) -> Iterator[None]:
    before = _dropped(stage)
    with stopped(stage):
        for _ in range(1500):
            EVENT.write_text("change")
        stage.expect(_dropped(stage) > before, "the kernel dropped no event")
    yield


def _dropped(stage: Stage) -> int:
    """Return the number of events that the kernel dropped for the netlink sockets of the instances."""
    pids = (service.process.pid for service in stage.services)
    own = {link for pid in pids for link in descriptors(pid).values()}
    rows = [line.split() for line in Path("/proc/net/netlink").read_text().splitlines()[1:]]
    return sum(int(row[8]) for row in rows if f"socket:[{row[9]}]" in own)


@fault("file descriptors used up", deaf=True, place="descriptors")
def descriptors_used_up(stage: Stage) -> Iterator[None]:
    for service in stage.services:
        pid = service.process.pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        used = set(map(int, os.listdir(f"/proc/{pid}/fd")))
        unused = next(number for number in itertools.count() if number not in used)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (unused, hard))  # open descriptors stay open
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


class stopped:  # noqa: N801 - used like a function
    """Stop all instances by SIGSTOP, as a debugger does."""

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
        stage.restart_kubelet()
        yield


@fault("the active instance is stopped", deaf=True, place="processes", lasts=1.5)
def active_stopped(stage: Stage) -> Iterator[None]:
    active = stage.active.process
    active.send_signal(signal.SIGSTOP)
    yield
    active.send_signal(signal.SIGCONT)


@fault("the clock jumps a day forth and two back", place="clock", lasts=1.5)
def clock_jumps(stage: Stage) -> Iterator[None]:
    before = stage.since()
    for seconds in (+86_400, -86_400):
        stage.set_clock(seconds)
        time.sleep(0.5)
        assert stage.paired or _follows(stage, before, seconds), "/state does not follow the clock"
    yield
    stage.set_clock(0)


def _follows(stage: Stage, before: datetime | None, seconds: int) -> bool:
    now = stage.since()
    return before is not None and now is not None and abs((now - before).total_seconds() - seconds) < 10


# Signals


@fault("SIGHUP twenty times at any moment", touches=ALL, gap=1.0, place="processes", brief=True)
def hung_up(stage: Stage) -> Iterator[None]:
    for _ in range(20):
        stage.send(signal.SIGHUP)
        time.sleep(stage.dice.uniform(0, 0.1))
    yield


@fault("SIGTERM, and started again", touches=ALL, gap=EVER, shared_gap=1.0, place="processes", back=_START)
def ended(stage: Stage) -> Iterator[None]:
    stage.end(stage.active, signal.SIGTERM)
    yield
    stage.start()


@fault("SIGKILL, and started again", touches=ALL, gap=EVER, shared_gap=1.0, place="processes", back=_START)
def killed(stage: Stage) -> Iterator[None]:
    stage.end(stage.active, signal.SIGKILL)
    yield
    stage.start()


@fault("SIGTERM during a start, at any moment", touches=ALL, gap=1.0, place="processes", brief=True)
def ended_at_start(stage: Stage) -> Iterator[None]:
    for _ in range(4):
        service = stage.launch()
        time.sleep(stage.dice.uniform(0.1, 1.2))
        service.process.send_signal(signal.SIGTERM)
        code = service.process.wait(_START)
        service.__exit__(None, None, None)
        # The signal has its default action until the service has installed its handler.
        assert code == 0 or (code == -signal.SIGTERM and not service.events), f"ended with {code}"
    yield


@fault("SIGTERM while a read hangs, and started again", touches=ALL, gap=EVER, shared_gap=1.0,
       place="processes", back=_START)  # fmt: skip
def ended_while_a_read_hangs(stage: Stage) -> Iterator[None]:
    card = stage.cards("u200")[0]
    card.hang("dev_offline")  # `ready` belongs to another fault
    time.sleep(0.05)
    try:
        stage.end(stage.active, signal.SIGTERM)
    finally:
        card.unhang("dev_offline")
    yield
    stage.start()


# Cards


@fault(
    "every attribute of a card refused, blank, binary, huge, a loop",
    touches="u250",
    devices=True,
    gap=EVER,
    place="cards",
    back=PACED,
    brief=True,
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


@fault("each attribute of a card answers each error of a driver", touches="u250", devices=True, gap=EVER,
       place="cards", back=PACED, brief=True)  # fmt: skip
def failing(stage: Stage) -> Iterator[None]:
    card = stage.cards("u250")[0]
    numbers = list(_ERRNOS)
    stage.dice.shuffle(numbers)
    by_bus = f"{stage.node.sysfs_root}/bus/pci/devices/{card.address}"
    paths = [path.replace(card.user, by_bus) for path in map(card.path, (*_ATTRIBUTES, "", "drm"))]
    for path, number in zip(paths, itertools.cycle(numbers), strict=False):
        stage.fail({path: number})
        time.sleep(0.12)
    stage.fail({})
    yield


@fault("reading a card hangs", touches="u250", devices=True, gap=EVER, place="cards", lasts=2.7)
def hanging(stage: Stage) -> Iterator[None]:
    card = stage.cards("u250")[0]
    attribute = stage.dice.choice(("ready", "dev_offline", "rom/VBNV", "mailbox_connect_state"))
    card.hang(attribute)
    yield
    card.unhang(attribute)


@fault("threads used up, two cards hang, kubelet restarts", touches=ALL, devices=True, gap=EVER, deaf=True,
       place="cards")  # fmt: skip
def threads_used_up(stage: Stage) -> Iterator[None]:
    cards = (stage.cards("u200")[0], stage.cards("u250")[0])
    stage.fail({}, threadless=True)
    for card in cards:
        card.hang("ready")
    time.sleep(0.3)  # existing threads are blocked in the reads then
    stage.restart_kubelet()
    yield
    for card in cards:
        card.unhang("ready")
    stage.fail({})


@fault(
    "a card unplugged in the middle of a scan",
    touches="u250",
    devices=True,
    gap=EVER,
    place="cards",
    back=PACED,
    brief=True,
)
def unplugged(stage: Stage) -> Iterator[None]:
    card = stage.cards("u250")[0]
    for _ in range(10):
        card.remove()
        time.sleep(stage.dice.uniform(0, 0.1))
        card.plug()
        time.sleep(stage.dice.uniform(0, 0.1))
    yield


@fault("the bus cannot be read", deaf=True, place="bus")
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
        while True:  # page by page, to use up all pages
            file.write(bytes(4096))
    for path in (stage.spec, stage.features):
        with path.open("r+") as file:  # same size: a shorter file would free space
            file.write("!" * path.stat().st_size)
    yield
    mended = stage.spec_is_whole() or stage.features_are_whole()
    filler.unlink()
    assert not mended or stage.paired, "a file was written on a full disk"


@fault("CDI spec and feature file scribbled on, then their directories removed", place="files")
def files_removed(stage: Stage) -> Iterator[None]:
    for file in (stage.spec, stage.features):
        file.write_text("{")
    yield
    for file in (stage.spec, stage.features):
        remove(file.parent)
