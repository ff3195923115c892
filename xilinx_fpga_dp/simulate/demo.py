"""The demo: the real service between a sample node and an embedded kubelet, on any machine.

The demo lists the cards, starts kubelet and the service, lets a pod allocate a device, shows what the sensors
of its card say, breaks one card and repairs it, restarts kubelet and sends SIGTERM to the service. Each step
opens with a headline, shows the log of the service and what ``kubectl describe node`` or the page /metrics
would show, and waits for its outcome in the counts of the embedded kubelet or on that page. The headline of a
fault says what the service logs of it. A step that misses its time limit raises `StepFailed` and ends the
demo with 1.
The service runs in its own process, as on a node; only its settings differ. Cancelling the demo kills the
service and removes the sample node.
"""

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import sys
import tempfile
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from urllib.request import urlopen

from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.observe.table import columns
from xilinx_fpga_dp.resources.card_pairing import WAIT
from xilinx_fpga_dp.settings import Settings
from xilinx_fpga_dp.simulate.activity import Activity, trip
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
_FIRST_WITH_RECORD = "2021.2"  # older XRT releases keep no record of errors
_SAMPLE_INTERVAL = 1.0  # seconds between two samples of the sensors
_ERRORS_KEPT = 100  # lines
_HOT = 90.0  # degrees Celsius, from which on the alert FpgaCardHot fires
_SHOWN = ("power_watts", "pcie_link_lanes", "allocated")  # series of a card
_END_LIMIT = 10.0  # seconds that the service may take to end: 2 s suffice on an idle machine
_REASON = re.compile(r'\breason(?:": "|=)([a-z-]+)')
_LOG_LEVEL = "XILINX_FPGA_DP_LOG_LEVEL"
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
    """A fault of a card, and the recovery from it with its headline; whether its driver records the fault."""

    begin: Callable[[], None]
    recovery_headline: str
    recover: Callable[[], Awaitable[None]]
    recorded: bool = False


class _ServiceLog:
    """Prints each line that the service logs as soon as it arrives, except while it is held.

    Life: `run` reads until the service closes its end; `hold` collects the lines, `release` prints them.

    Attributes:
        card_errors: the newest lines of errors that a card's driver recorded.
    """

    def __init__(self, stream: asyncio.StreamReader) -> None:
        self._stream = stream
        self._held: list[str] | None = None
        self.card_errors: deque[str] = deque(maxlen=_ERRORS_KEPT)

    async def run(self) -> None:
        """Read to the end."""
        while line := await self._stream.readline():
            text = line.decode(errors="replace").rstrip()
            if Event.CARD_ERROR in text:
                self.card_errors.append(text)
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
        self._held_card: SampleCard | None = None  # by mypod
        self._count = 0  # device ids: a U30 card may count as one, a shared device as several
        self._replicas = settings.shared_replicas
        # A captured node may lack the serial numbers that pair the devices of a card.
        self._step_limit = _STEP_LIMIT if cards else _STEP_LIMIT + WAIT
        self._pod_resources = f"{node.root}/pod-resources/kubelet.sock"
        self._kubelet = Kubelet(node.socket_dir, self._pod_resources)
        self._environment = {
            **os.environ,
            "XILINX_FPGA_DP_SCAN_INTERVAL": "1",
            "XILINX_FPGA_DP_HEALTH_INTERVAL": "0.3",
            "XILINX_FPGA_DP_HTTP_ADDRESS": f"127.0.0.1:{_free_port()}",
            "XILINX_FPGA_DP_TELEMETRY_INTERVAL": str(_SAMPLE_INTERVAL),
            "XILINX_FPGA_DP_LOG_FORMAT": "text",
            # The CDI files and pods of this machine are separate from those of the demo.
            "XILINX_FPGA_DP_CDI_DIR": f"{node.root}/cdi",
            "XILINX_FPGA_DP_POD_RESOURCES_SOCKET": self._pod_resources,
            **settings.environment(),
            **node.environment(),
        }
        self._service: asyncio.subprocess.Process | None = None
        self._log: _ServiceLog | None = None
        self._printing: asyncio.Task[None] | None = None  # prints the log of the service
        address = self._environment["XILINX_FPGA_DP_HTTP_ADDRESS"]
        self._scraped = bool(address) and settings.telemetry != "none"
        self._metrics = f"http://{address}/metrics"
        self._activity: Activity | None = None
        self._active: list[asyncio.Task[None]] = []
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
                card = self._held_card = self._held(pod[1])
                if self._scraped and card:
                    await self._show_sensors(card)
                await self._break_and_repair(card if card and _has_firewall(card) else self._offered[-1])
            await self._restart_kubelet(*pod)
            if stop:
                self._suggest_commands()
                if self._activity and self._scraped:
                    self._active.append(asyncio.create_task(self._activity.happen(_print_headline)))
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
        if self._offered:
            self._activity = Activity(self._offered)
            self._active.append(asyncio.create_task(self._activity.move()))

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

    def _held(self, allocation: Allocation) -> SampleCard | None:
        """Return the card that a pod holds; None if it is not one of the sample node."""
        addresses = {device_id.partition("::")[0] for device_id in allocation.ids}
        return next((card for card in self._offered if card.address in addresses), None)

    async def _show_sensors(self, card: SampleCard) -> None:
        """Show what /metrics says of a card while its sensors move, it runs hot, and its link trains down."""
        device = f'device="{card.address}"'
        link, power = f"pcie_link_lanes{{{device}}}", f"power_watts{{{device}}}"
        temperatures = f"temperature_celsius{{{device}"
        _, lanes = await self._until_scraped(link, "the link of the card")
        found = await self._scrape()
        _print_headline(f"The sensors of the {card.title} at {card.address}, which mypod has (/metrics)")
        _print_series(found, device, *_SHOWN)
        # Others are read once a minute
        read_often = {f'telemetry_success{{{device},source="{each}"}}' for each in ("hwmon", "board")}
        if power in found and read_often & found.keys() and self._activity:
            _print_indented(["a second later:"])
            before = found[power]
            await self._until_scraped(power, "power that changes", lambda value: value != before, show=True)
            self._activity.hot.add(card)
            _print_headline("It runs hot")
            await self._until_scraped(temperatures, "a hot sensor", lambda value: value >= _HOT, show=True)
            self._activity.hot.discard(card)
        card.train_link(max(1, int(lanes) // 2))
        _print_headline("Its PCIe link trains down to half of its lanes")
        await self._until_scraped(link, "a link with fewer lanes", lambda value: value < lanes)
        _print_series(await self._scrape(), device, "pcie_link_lanes", "pcie_link_lanes_max")
        card.train_link()

    async def _break_and_repair(self, card: SampleCard) -> None:
        fault = _fault_of(card)
        before = self._allocatable()
        await self._break(card, fault, before - self._replicas)
        await self._describe_node()
        _print_headline(fault.recovery_headline)
        await fault.recover()
        await self._until(lambda: self._allocatable() == before, "all devices Healthy again")
        if self._is_logged(fault):
            self._check_log(card)

    async def _break(self, card: SampleCard, fault: _Fault, left: int) -> None:
        """Begin a fault; print its headline, which says what the log says, when kubelet has it."""
        if (lines := self._log) is None:
            return
        counted = fault.recorded and self._scraped
        lines.hold()
        try:
            fault.begin()
            await self._reach(lambda: self._allocatable() == left, "one device Unhealthy")
            if counted:
                await self._until_scraped(
                    f'errors_total{{device="{card.address}",kind="firewall"}}', "a trip"
                )
            if self._is_logged(fault):
                await _until(lambda: bool(lines.card_errors), "the error in the log")
            await asyncio.sleep(_LOG_DELAY)
        finally:
            _print_headline(f"The {card.title} at {card.address} {lines.outcome(card.address)}")
            lines.release()
        if counted:
            _print_series(await self._scrape(), f'device="{card.address}"', "errors_total")

    def _is_logged(self, fault: _Fault) -> bool:
        return fault.recorded and self._scraped and self._environment.get(_LOG_LEVEL) != "error"

    def _check_log(self, card: SampleCard) -> None:
        """Check that the log has the trip of a card once, with kind, time and the pod that held it."""
        lines = list(self._log.card_errors if self._log else ())
        held = card is self._held_card
        words = (card.address, "firewall", "time", *(["default/mypod"] if held else []))
        if len(lines) != 1 or not all(word in lines[0] for word in words):
            raise StepFailed(f"the log should have one error with {', '.join(words)}; it has {lines}")

    async def _scrape(self) -> dict[str, float]:
        """Return the values of all series of cards, by name without prefix and with labels."""
        text = await asyncio.to_thread(_get, self._metrics)
        lines = [line.removeprefix("xilinx_fpga_") for line in text.splitlines() if line[:1] != "#"]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    async def _until_scraped(
        self, start: str, outcome: str, holds: Callable[[float], bool] = lambda _: True, *, show: bool = False
    ) -> tuple[str, float]:
        """Wait until a series that begins so is on the page /metrics; return it, and show it if wanted."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._step_limit):
                while True:
                    with suppress(OSError):  # the service may wait for its address
                        series = (await self._scrape()).items()
                        found = [(name, value) for name, value in series if name.startswith(start)]
                        for name, value in found:
                            if holds(value):
                                _print_indented([f"xilinx_fpga_{name} {value:g}"] if show else [])
                                return name, value
                    await asyncio.sleep(_LOG_DELAY)
        raise StepFailed(f"{outcome}: not on /metrics within {self._step_limit:g} s")

    async def _restart_kubelet(self, resource: str, allocation: Allocation) -> None:
        _print_headline("kubelet restarts: it removes every socket, and the service registers again")
        capacity = self._kubelet.capacity()
        await self._kubelet.stop()
        self._kubelet = Kubelet(self._node.socket_dir, self._pod_resources)
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
        if self._scraped:
            _print_indented([f"curl -s {self._metrics} | grep xilinx_fpga_   # the sensors move"])
        xrt = next((card for card in self._offered if isinstance(card, XrtCard)), None)
        if xrt:
            _print_indented([f"echo 1 > {xrt.path('dev_offline')}   # a card goes offline; echo 0 ends it"])
        _print_indented([
            f"rm {self._node.socket_dir}/*-fpga.sock   # the service binds and registers again",
            f"env {' '.join(_assignments(self._node))} \\",
            f"  {' '.join(_PROGRAM)} list --output wide --watch",
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
        for task in self._active:
            task.cancel()
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
    if _has_firewall(card):
        return _Fault(lambda: trip(card), recovery, reset, card.release >= _FIRST_WITH_RECORD)
    return _Fault(card.offline, recovery, reset)


def _has_firewall(card: SampleCard) -> bool:
    """Whether the driver of a card shows that its firewall has tripped."""
    return isinstance(card, XrtCard) and card.board.firewall and card.release >= _FIRST_WITH_FIREWALL


async def _until(holds: Callable[[], bool], outcome: str) -> None:
    """Wait for an outcome that nothing announces."""
    try:
        async with asyncio.timeout(_STEP_LIMIT):
            while not holds():  # noqa: ASYNC110
                await asyncio.sleep(_LOG_DELAY)
    except TimeoutError:
        raise StepFailed(f"{outcome}: not within {_STEP_LIMIT:g} s") from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _get(url: str) -> str:
    with urlopen(url, timeout=_STEP_LIMIT) as answer:  # noqa: S310 - the address of our own service
        return str(answer.read().decode())


def _print_series(series: Mapping[str, float], device: str, *names: str) -> None:
    """Print the series of a device with these names."""
    _print_indented(
        f"xilinx_fpga_{name} {value:g}"
        for name, value in series.items()
        if name.partition("{")[0] in names and device in name
    )


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
