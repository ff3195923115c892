"""The demo: the real service between a sample node and an embedded kubelet, on any machine.

The demo lists the cards, starts kubelet and the service, lets a pod allocate a device, breaks one card and
repairs it, restarts kubelet and sends SIGTERM to the service. Each step opens with a headline, shows the
log of the service and what ``kubectl describe node`` would show, and waits for its outcome in the counts
of the embedded kubelet. The headline of a fault says what the service logs of it. A step that misses its time
limit raises `StepFailed` and ends the demo with 1.
The service runs in its own process, as on a node; only its settings differ. Cancelling the demo kills the
service and removes the sample node.
"""

import asyncio
import json
import os
import re
import shlex
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.observe.table import columns
from xilinx_fpga_dp.resources.card_pairing import WAIT
from xilinx_fpga_dp.settings import Settings
from xilinx_fpga_dp.simulate.captured_node import CapturedNode, unpacked
from xilinx_fpga_dp.simulate.kubelet import AdmissionError, Allocation, Kubelet
from xilinx_fpga_dp.simulate.sysfs.sample_node import (
    STATES,
    SampleCard,
    SampleNode,
    XrtCard,
    is_known,
    known_boards,
)

# Two cards of one shell, one of another shell, and one whose shell has timestamp 0.
DEFAULT_BOARDS = ("u200", "u200", "u250", "u55c")

_STEP_LIMIT = 15.0  # seconds that a step may take
_LOG_DELAY = 0.1  # seconds: the service may log an event after kubelet has seen its effect
_RESET = 1.0  # seconds that the reset of the card takes; a real reset takes up to a minute
_ANOTHER_RENDER_NODE = 140
_FIRST_WITH_HEALTH = "2019.1"  # older XRT releases have no health attributes
_FIRST_WITH_FIREWALL = "2019.2"  # older XRT releases show no firewall in the user function
_END_LIMIT = 10.0  # seconds that the service may take to end: 2 s suffice on an idle machine
_REASON = re.compile(r'\breason(?:": "|=)([a-z-]+)')
_PROGRAM = (sys.executable, "-m", "xilinx_fpga_dp")


class StepFailed(Exception):  # noqa: N818 - a result of the demo
    """A step of the demo without the expected outcome."""


class UnknownBoard(Exception):  # noqa: N818 - a mistake of the user
    """A board that the sample node does not have or cannot take."""


def build_node(directory: str, boards: Sequence[str]) -> int:
    """Build a sample node and print the settings to run against it, one ``NAME=value`` a line.

    Return the exit code.
    """
    if not directory:
        print("--node: must name a directory, which is made if it is missing", file=sys.stderr)
        return 2
    try:
        if os.path.isdir(directory) and os.listdir(directory):
            print(f"--node: {directory}: is not empty, and nothing is written over", file=sys.stderr)
            return 1
        node, _ = _sample_node(os.path.abspath(directory), boards)
    except UnknownBoard as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"--node: {directory}: {error.strerror}", file=sys.stderr)
        return 1
    print("\n".join(_assignments(node)))
    return 0


async def run_demo(settings: Settings, boards: Sequence[str], archive: str | None, *, once: bool) -> int:
    """Run all steps; then, unless ``once``, wait for Ctrl-C. Return the exit code.

    Args:
        settings: of the service.
        boards: the cards of the sample node.
        archive: play this archive of `capture` instead. Its cards cannot be broken and repaired.
        once: end after the last step.

    Raises:
        BadArchive: the archive is no capture.
    """
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with ExitStack() as stack:
        node: SampleNode | CapturedNode
        cards: Sequence[SampleCard] = ()
        if archive is None:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="xilinx-fpga-dp-"))
            try:
                node, cards = _sample_node(directory, boards)
            except UnknownBoard as error:
                print(error, file=sys.stderr)
                return 2
        else:
            node = stack.enter_context(unpacked(archive))
        demo = Demo(node, cards, settings)
        steps = asyncio.create_task(demo.run(stop=None if once else stop))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({steps, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not steps.done() and not demo.waiting_for_stop:
            steps.cancel()
        try:
            await steps
        except StepFailed as failure:
            print(f"\nFAILED: {failure}")
            return 1
        except asyncio.CancelledError:
            return int(once)  # interrupted; no step has failed
        finally:
            stopped.cancel()
    return 0


@dataclass(frozen=True, slots=True)
class _Fault:
    """A fault of a card, and the recovery from it with its headline."""

    begin: Callable[[], None]
    recovery_headline: str
    recover: Callable[[], Awaitable[None]]


class _ServiceLog:
    """Prints each line that the service logs as soon as it arrives, except while it is held.

    Life: `run` reads until the service closes its end; `hold` collects the lines, `release` prints them.
    """

    def __init__(self, stream: asyncio.StreamReader) -> None:
        self._stream = stream
        self._held: list[str] | None = None

    async def run(self) -> None:
        """Read to the end."""
        while line := await self._stream.readline():
            text = line.decode(errors="replace").rstrip()
            if self._held is None:
                _print_indented([f"service | {text}"])
            else:
                self._held.append(text)

    def hold(self) -> None:
        """Hold all lines from now on."""
        self._held = []

    def outcome(self, device: str) -> str:
        """Return what the held lines, in text or in JSON, say has become of a device."""
        lines = [line for line in self._held or () if device in line]
        if any(Event.DEVICE_GONE in line for line in lines):
            return "is gone"
        unhealthy = (_REASON.search(line) for line in lines if Event.DEVICE_UNHEALTHY in line)
        reasons = dict.fromkeys(match[1] for match in unhealthy if match)
        return "becomes Unhealthy" + (f": {', then '.join(reasons)}" if reasons else "")

    def release(self) -> None:
        """Print the held lines, and each further one as it arrives."""
        _print_indented(f"service | {line}" for line in self._held or ())
        self._held = None


class Demo:
    """One run of the demo. It starts and ends with an empty socket directory.

    Attributes:
        waiting_for_stop: all steps but the last are done, and the demo waits for the signal to stop.
    """

    def __init__(
        self, node: SampleNode | CapturedNode, cards: Sequence[SampleCard], settings: Settings
    ) -> None:
        self._node = node
        self._cards = cards
        self._offered: list[SampleCard] = []
        self._count = 0  # device ids: a U30 card may count as one, a shared device as several
        self._replicas = settings.shared_replicas
        # A captured node may lack the serial numbers that pair the devices of a card.
        self._step_limit = _STEP_LIMIT if cards else _STEP_LIMIT + WAIT
        self._kubelet = Kubelet(node.socket_dir)
        self._environment = {
            **os.environ,
            "XILINX_FPGA_DP_SCAN_INTERVAL": "1",
            "XILINX_FPGA_DP_HEALTH_INTERVAL": "0.3",
            "XILINX_FPGA_DP_HTTP_ADDRESS": "",
            "XILINX_FPGA_DP_LOG_FORMAT": "text",
            # The CDI files and pods of this machine are separate from those of the demo.
            "XILINX_FPGA_DP_CDI_DIR": f"{node.root}/cdi",
            "XILINX_FPGA_DP_POD_RESOURCES_SOCKET": f"{node.root}/pod-resources/kubelet.sock",
            **settings.environment(),
            **node.environment(),
        }
        self._service: asyncio.subprocess.Process | None = None
        self._log: _ServiceLog | None = None
        self._printing: asyncio.Task[None] | None = None  # prints the log of the service
        self.waiting_for_stop = False

    async def run(self, stop: asyncio.Event | None) -> None:
        """Run all steps.

        Args:
            stop: wait for this event before the last step; None: do not wait.

        Raises:
            StepFailed: a step has another outcome than expected.
        """
        try:
            await self._list_cards()
            if not self._count:
                wait = "; Ctrl-C ends the demo" if stop else ""
                _print_headline(f"None of these can be offered, for the reasons above{wait}")
                await self._wait_for(stop)
                return
            await self._start()
            pod = await self._allocate()
            if self._offered:
                await self._break_and_repair()
            await self._restart_kubelet(*pod)
            if stop:
                self._suggest_commands()
            await self._wait_for(stop)
            await self._terminate()
        finally:
            await self._clean_up()

    async def _wait_for(self, stop: asyncio.Event | None) -> None:
        if stop:
            self.waiting_for_stop = True
            await stop.wait()

    async def _list_cards(self) -> None:
        _print_headline("The cards found on this node (list)")
        _print_indented((await self._list("table")).splitlines())
        found = json.loads(await self._list("json"))
        self._count = sum(resource["healthy"] for resource in found["resources"].values())
        nodes = {node for device in found["devices"] for node in device["nodes"] if not device["reason"]}
        self._offered = [card for card in self._cards if nodes & set(card.nodes)]

    async def _list(self, output: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *_PROGRAM, "list", "--output", output, env=self._environment,
            stdout=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        text, _ = await asyncio.wait_for(process.communicate(), _STEP_LIMIT)
        if process.returncode or not text:
            raise StepFailed("list found nothing")
        return text.decode()

    async def _start(self) -> None:
        _print_headline("kubelet starts, the service starts and registers every resource (run)")
        await self._kubelet.start()
        self._service = await asyncio.create_subprocess_exec(
            *_PROGRAM, "run", env=self._environment, stderr=asyncio.subprocess.PIPE, start_new_session=True
        )
        if self._service.stderr:
            self._log = _ServiceLog(self._service.stderr)
            self._printing = asyncio.create_task(self._log.run())
        await self._until(lambda: self._allocatable() == self._count, f"{self._count} devices allocatable")

    async def _allocate(self) -> tuple[str, Allocation]:
        resource = next(iter(self._kubelet.allocatable()))
        _print_headline(f"A pod requests one {resource}")
        allocation = await self._admit("mypod", resource)
        response = allocation.response
        _print_indented([
            "Its container gets:",
            *(f"  {name}={value}" for name, value in sorted(response.envs.items())),
            *(f"  device {each.host_path} ({each.permissions})" for each in response.devices),
            *(f"  CDI device {each.name}" for each in response.cdi_devices),
            *(f"  mount {each.host_path}" for each in response.mounts),
        ])  # fmt: skip
        await self._describe_node()
        return resource, allocation

    async def _break_and_repair(self) -> None:
        card = self._offered[-1]
        fault = _fault_of(card)
        before = self._allocatable()
        await self._break(card, fault, before - self._replicas)
        await self._describe_node()
        _print_headline(fault.recovery_headline)
        await fault.recover()
        await self._until(lambda: self._allocatable() == before, "all devices Healthy again")

    async def _break(self, card: SampleCard, fault: _Fault, left: int) -> None:
        """Begin a fault; print its headline, which says what the log says, when kubelet has it."""
        if self._log is None:
            return
        self._log.hold()
        try:
            fault.begin()
            await self._reach(lambda: self._allocatable() == left, "one device Unhealthy")
            await asyncio.sleep(_LOG_DELAY)
        finally:
            _print_headline(f"The {card.title} at {card.address} {self._log.outcome(card.address)}")
            self._log.release()

    async def _restart_kubelet(self, resource: str, allocation: Allocation) -> None:
        _print_headline("kubelet restarts: it removes every socket, and the service registers again")
        capacity = self._kubelet.capacity()
        await self._kubelet.stop()
        self._kubelet = Kubelet(self._node.socket_dir)
        await self._kubelet.start()
        await self._until(lambda: self._kubelet.capacity() == capacity, "all resources registered again")
        again = await self._admit("mypod", resource)
        if again.ids != allocation.ids:
            raise StepFailed(f"mypod held {allocation.ids} before the restart and {again.ids} after it")
        _print_indented([f"mypod still holds {', '.join(allocation.ids)}"])

    async def _terminate(self) -> None:
        _print_headline("The service receives SIGTERM")
        if self._service is None or self._printing is None:
            return
        self._service.send_signal(signal.SIGTERM)
        try:
            code = await asyncio.wait_for(self._service.wait(), _END_LIMIT)
        except TimeoutError:
            raise StepFailed(f"the service did not end within {_END_LIMIT:g} s") from None
        await self._printing
        left = [name for name in os.listdir(self._node.socket_dir) if name.endswith("-fpga.sock")]
        if code or left:
            raise StepFailed(f"the service ended with {code} and left {left}")
        _print_indented(["It ended with 0 and left no socket."])

    def _suggest_commands(self) -> None:
        _print_headline("All steps passed. Ctrl-C ends the demo; until then, try in another terminal:")
        xrt = next((card for card in self._offered if isinstance(card, XrtCard)), None)
        if xrt:
            _print_indented([f"echo 1 > {xrt.path('dev_offline')}   # a card goes offline; echo 0 ends it"])
        _print_indented([
            f"rm {self._node.socket_dir}/*-fpga.sock   # the service binds and registers again",
            f"env {' '.join(_assignments(self._node))} \\",
            f"  {' '.join(_PROGRAM)} list",
        ])  # fmt: skip

    async def _admit(self, pod: str, resource: str) -> Allocation:
        try:
            return (await self._kubelet.admit(pod, {resource: 1}))[resource]
        except AdmissionError as error:
            raise StepFailed(f"{pod}: {error}") from None

    async def _until(self, holds: Callable[[], bool], outcome: str) -> None:
        """Wait for an outcome in the counts of kubelet; then show the node."""
        await self._reach(holds, outcome)
        await self._describe_node()

    async def _reach(self, holds: Callable[[], bool], outcome: str) -> None:
        """Wait for an outcome in the counts of kubelet."""
        try:
            async with asyncio.timeout(self._step_limit):
                await self._kubelet.changes.until(lambda _: holds())
        except TimeoutError:
            raise StepFailed(
                f"{outcome}: not within {self._step_limit:g} s; capacity {self._kubelet.capacity()}, "
                f"allocatable {self._kubelet.allocatable()}"
            ) from None
        await self._describe_node()

    def _allocatable(self) -> int:
        return sum(self._kubelet.allocatable().values())

    async def _describe_node(self) -> None:
        """Show what ``kubectl describe node`` would show, after the log of the same step."""
        await asyncio.sleep(_LOG_DELAY)
        allocatable, allocated = self._kubelet.allocatable(), self._kubelet.allocated()
        rows = [
            (f"  {name}", str(count), str(allocatable.get(name, 0)), str(allocated.get(name, 0)))
            for name, count in self._kubelet.capacity().items()
        ]
        table = columns(("  RESOURCE", "CAPACITY", "ALLOCATABLE", "REQUESTS"), rows)
        _print_indented(["kubectl describe node:", *table])

    async def _clean_up(self) -> None:
        if self._service and self._service.returncode is None:
            with suppress(ProcessLookupError):
                self._service.kill()
            await self._service.wait()
        await self._kubelet.stop()


def _fault_of(card: SampleCard) -> _Fault:
    """Return a fault that the driver of the card reports."""
    if not isinstance(card, XrtCard) or card.release < _FIRST_WITH_HEALTH:

        async def bind() -> None:
            card.bind()

        return _Fault(card.unbind, "Its driver binds to it again", bind)

    async def reset() -> None:
        card.reset_begin()
        await asyncio.sleep(_RESET)
        card.reset_end(render=_ANOTHER_RENDER_NODE)
        card.mend()

    recovery = "It is reset and returns with another render node"
    if card.board.firewall and card.release >= _FIRST_WITH_FIREWALL:
        return _Fault(card.firewall_trip, recovery, reset)
    return _Fault(card.offline, recovery, reset)


def _sample_node(directory: str, boards: Sequence[str]) -> tuple[SampleNode, list[SampleCard]]:
    names = list(boards) or list(DEFAULT_BOARDS)
    for name in names:
        if not is_known(name):
            raise UnknownBoard(
                f"--board: {name!r} is not known; known are {', '.join(known_boards())}; a board of XRT "
                f"also with {', '.join(f'-{state}' for state in STATES)} behind its name"
            )
    node = SampleNode(directory, sensors=True)
    node.add_ordinary_devices()
    cards: list[SampleCard] = []
    for index, name in enumerate(names):
        try:
            cards += node.plug(name, numa_node=index % 2)
        except ValueError as error:
            raise UnknownBoard(f"--board: {name!r}: {error}") from None
    return node, cards


def _assignments(node: SampleNode | CapturedNode) -> list[str]:
    """Return the settings to run against a node, quoted for a shell."""
    return [f"{name}={shlex.quote(value)}" for name, value in node.environment().items()]


def _print_headline(text: str) -> None:
    print(f"\n=== {text}", flush=True)


def _print_indented(lines: Iterable[str]) -> None:
    for line in lines:
        print(f"    {line}", flush=True)
