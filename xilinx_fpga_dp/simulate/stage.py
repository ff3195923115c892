"""The stage of the demo: a node, an API server, and the service in its own process, whose log is printed.

Each story plays on it: the device plugin's and the DRA driver's. A step opens with a headline, and waits for
its outcome. A step that misses its time limit raises `StepFailed`.
"""

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.request import urlopen

from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.resources.card_pairing import WAIT
from xilinx_fpga_dp.settings import Settings
from xilinx_fpga_dp.simulate.activity import Activity, trip
from xilinx_fpga_dp.simulate.api_server import ApiServer
from xilinx_fpga_dp.simulate.captured_node import CapturedNode
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleCard, SampleNode, XrtCard

STEP_LIMIT = 15.0
"""Seconds that a step may take."""

LOG_DELAY = 0.1
"""Seconds: the service may log an event after others have seen its effect."""

PROGRAM = (sys.executable, "-m", "xilinx_fpga_dp")

_LOOK_EVERY = 0.02  # seconds between two looks at what nothing announces
_RESET = 1.0  # seconds that the reset of the card takes; a real reset takes up to a minute
_ANOTHER_RENDER_NODE = 140
_FIRST_WITH_HEALTH = "2019.1"  # older XRT releases have no health attributes
_FIRST_WITH_FIREWALL = "2019.2"  # older XRT releases show no firewall in the user function
_FIRST_WITH_RECORD = "2021.2"  # older XRT releases keep no record of errors
_SAMPLE_INTERVAL = 1.0  # seconds between two samples of the sensors
_ERRORS_KEPT = 100  # lines
_END_LIMIT = 10.0  # seconds that the service may take to end: 2 s suffice on an idle machine
_REASON = re.compile(r'\breason(?:": "|=)([a-z-]+)')
_LOG_LEVEL = "XILINX_FPGA_DP_LOG_LEVEL"


class StepFailed(Exception):  # noqa: N818 - a result of the demo
    """A step of the demo without the expected outcome."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of a card, and the recovery from it with its headline; whether its driver records the fault."""

    begin: Callable[[], None]
    recovery_headline: str
    recover: Callable[[], Awaitable[None]]
    recorded: bool = False


class ServiceLog:
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
                print_indented([f"service | {text}"])
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
        print_indented(f"service | {line}" for line in self._held or ())
        self._held = None


class Stage:
    """The node and the service.

    Args:
        node: the node.
        cards: those of a sample node; a captured node has none that could break.
        settings: of the service.

    Attributes:
        directory: for what belongs to the story.
        pod_resources: the socket of the podresources API.
        registry: the directory in which kubelet finds a DRA driver.
        cdi_dir: where the service writes its CDI specs.
        api: the API server, which `start_api_server` starts.
        offered: the cards with a device that can be allocated.
        held_card: the card that mypod has.
        step_limit: the seconds that a step may take.
        scraped: whether the page /metrics has the sensors, at `metrics`.
        activity: what the cards do by themselves; None before the service has started.
        waiting_for_stop: all steps but the last are done, and the demo waits for the signal to stop.
    """

    def __init__(
        self, node: SampleNode | CapturedNode, cards: Sequence[SampleCard], settings: Settings
    ) -> None:
        self.node = node
        self.directory = str(node.root)
        self.pod_resources = f"{node.root}/pod-resources/kubelet.sock"
        self.registry = f"{node.root}/plugins_registry"
        self.cdi_dir = f"{node.root}/cdi"
        self.api = ApiServer()
        self.offered: list[SampleCard] = []
        self.held_card: SampleCard | None = None
        # A captured node may lack the serial numbers that pair the devices of a card.
        self.step_limit = STEP_LIMIT if cards else STEP_LIMIT + WAIT
        self.waiting_for_stop = False
        self._cards = cards
        self._environment = {
            **os.environ,
            "XILINX_FPGA_DP_SCAN_INTERVAL": "1",
            "XILINX_FPGA_DP_HEALTH_INTERVAL": "0.3",
            "XILINX_FPGA_DP_HTTP_ADDRESS": _own_address(),
            "XILINX_FPGA_DP_TELEMETRY_INTERVAL": str(_SAMPLE_INTERVAL),
            "XILINX_FPGA_DP_LOG_FORMAT": "text",
            # The CDI files and pods of this machine are separate from those of the demo.
            "XILINX_FPGA_DP_CDI_DIR": self.cdi_dir,
            "XILINX_FPGA_DP_POD_RESOURCES_SOCKET": self.pod_resources,
            "XILINX_FPGA_DP_PLUGINS_REGISTRY_DIR": self.registry,
            **settings.environment(),
            **node.environment(),
            # Never the cluster of the user
            "KUBECONFIG": f"{node.root}/kubeconfig",
        }
        self.cdi_dir = self._environment["XILINX_FPGA_DP_CDI_DIR"]
        self._service: asyncio.subprocess.Process | None = None
        self._log: ServiceLog | None = None
        self._printing: asyncio.Task[None] | None = None  # prints the log of the service
        address = self._environment["XILINX_FPGA_DP_HTTP_ADDRESS"]
        self.scraped = bool(address) and settings.telemetry != "none"
        self.metrics = f"http://{address}/metrics"
        self.activity: Activity | None = None
        self._active: list[asyncio.Task[None]] = []

    async def wait_for_stop(self, stop: asyncio.Event | None) -> None:
        """Wait for the signal to stop; with None, return at once."""
        if stop:
            self.waiting_for_stop = True
            await stop.wait()

    async def end_without_cards(self, stop: asyncio.Event | None) -> None:
        """Say that nothing can be offered, and wait for the signal to stop."""
        wait = "; Ctrl-C ends the demo" if stop else ""
        print_headline(f"None of these can be offered, for the reasons above{wait}")
        await self.wait_for_stop(stop)

    async def list_cards(self) -> dict[str, Any]:
        """Show what ``list`` finds; return it."""
        print_headline("The cards found on this node (list)")
        print_indented((await self.output_of("list")).splitlines())
        found: dict[str, Any] = json.loads(await self.output_of("list", "--output", "json"))
        nodes = {node for device in found["devices"] for node in device["nodes"] if not device["reason"]}
        self.offered = [card for card in self._cards if nodes & set(card.nodes)]
        return found

    async def output_of(self, *arguments: str) -> str:
        """Run a command of the program on the node and return what it prints."""
        process = await asyncio.create_subprocess_exec(
            *PROGRAM, *arguments, env=self._environment,
            stdout=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        text, _ = await asyncio.wait_for(process.communicate(), STEP_LIMIT)
        if process.returncode or not text:
            raise StepFailed(f"{arguments[0]} found nothing")
        return text.decode()

    async def start_api_server(self, node_name: str) -> None:
        """Start the API server, with the object of the node, and write a kubeconfig for it."""
        self.api.put(f"/api/v1/nodes/{node_name}", {"kind": "Node", "spec": {}, "status": {}})
        port = await self.api.start()
        document = {
            "clusters": [{"name": "demo", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "contexts": [{"name": "demo", "context": {"cluster": "demo", "user": "demo"}}],
            "users": [{"name": "demo", "user": {}}],
            "current-context": "demo",
        }
        with open(self._environment["KUBECONFIG"], "w") as file:  # noqa: ASYNC230 - a small new file
            json.dump(document, file)

    async def start_service(self) -> None:
        """Start the service, and print its log from now on."""
        self._service = await asyncio.create_subprocess_exec(
            *PROGRAM, "run", env=self._environment, stderr=asyncio.subprocess.PIPE, start_new_session=True
        )
        if self._service.stderr:
            self._log = ServiceLog(self._service.stderr)
            self._printing = asyncio.create_task(self._log.run())

    def start_activity(self) -> None:
        """Let the sensors of the cards move."""
        if self.offered:
            self.activity = Activity(self.offered)
            self._active.append(asyncio.create_task(self.activity.move()))

    def start_incidents(self) -> None:
        """Let something happen to the cards now and then."""
        if self.activity and self.scraped:
            self._active.append(asyncio.create_task(self.activity.happen(print_headline)))

    def card_of(self, addresses: Iterable[str]) -> SampleCard | None:
        """Return the offered card with one of these addresses; None if there is none."""
        there = set(addresses)
        return next((card for card in self.offered if card.address in there), None)

    @property
    def breakable(self) -> SampleCard | None:
        """The card to break: the one that mypod has, if its driver shows a firewall; None if none can."""
        if self.held_card and _has_firewall(self.held_card):
            return self.held_card
        return self.offered[-1] if self.offered else None

    async def break_card(
        self, card: SampleCard, fault: Fault, reached: Callable[[], Awaitable[None]]
    ) -> None:
        """Begin a fault; print its headline, which says what the log says, when others have seen it.

        Args:
            card: the card.
            fault: the fault.
            reached: waits until the other side has seen the fault.
        """
        if (lines := self._log) is None:
            return
        counted = fault.recorded and self.scraped
        lines.hold()
        try:
            fault.begin()
            await reached()
            if counted:
                await self.until_scraped(f'errors_total{{device="{card.address}",kind="firewall"}}', "a trip")
            if self._is_logged(fault):
                await self.until(lambda: bool(lines.card_errors), "the error in the log")
            await asyncio.sleep(LOG_DELAY)
        finally:
            print_headline(f"The {card.title} at {card.address} {lines.outcome(card.address)}")
            lines.release()
        if counted:
            self.print_series(await self.scrape(), f'device="{card.address}"', "errors_total")

    def check_log(self, card: SampleCard, fault: Fault) -> None:
        """Check that the log has the trip of a card once, with kind, time and the pod that held it."""
        if not self._is_logged(fault):
            return
        lines = list(self._log.card_errors if self._log else ())
        words = (card.address, "firewall", "time", *(["default/mypod"] if card is self.held_card else []))
        if len(lines) != 1 or not all(word in lines[0] for word in words):
            raise StepFailed(f"the log should have one error with {', '.join(words)}; it has {lines}")

    def _is_logged(self, fault: Fault) -> bool:
        return fault.recorded and self.scraped and self._environment.get(_LOG_LEVEL) != "error"

    async def terminate(self, sockets: Callable[[], Sequence[str]]) -> None:
        """Send SIGTERM to the service, which must end well and leave none of its sockets."""
        print_headline("The service receives SIGTERM")
        if self._service is None or self._printing is None:
            return
        self._service.send_signal(signal.SIGTERM)
        try:
            code = await asyncio.wait_for(self._service.wait(), _END_LIMIT)
        except TimeoutError:
            raise StepFailed(f"the service did not end within {_END_LIMIT:g} s") from None
        await self._printing
        left = sockets()
        if code or left:
            raise StepFailed(f"the service ended with {code} and left {left}")
        print_indented(["It ended with 0 and left no socket."])

    async def clean_up(self) -> None:
        """Kill the service and stop what else runs."""
        for task in self._active:
            task.cancel()
        if self._service and self._service.returncode is None:
            with suppress(ProcessLookupError):
                self._service.kill()
            await self._service.wait()
        await self.api.stop()

    def suggest_commands(self, *more: str) -> None:
        """Say what can be tried on the node in another terminal."""
        print_headline("All steps passed. Ctrl-C ends the demo; until then, try in another terminal:")
        if self.scraped:
            print_indented([f"curl -s {self.metrics} | grep xilinx_fpga_   # the sensors move"])
        xrt = next((card for card in self.offered if isinstance(card, XrtCard)), None)
        if xrt:
            print_indented([f"echo 1 > {xrt.path('dev_offline')}   # a card goes offline; echo 0 ends it"])
        print_indented([
            *more,
            f"env {' '.join(assignments(self.node))} \\",
            f"  {' '.join(PROGRAM)} list --output wide --watch",
        ])  # fmt: skip

    # The page /metrics

    async def scrape(self) -> dict[str, float]:
        """Return the values of all series of cards, by name without prefix and with labels."""
        text = await asyncio.to_thread(_get, self.metrics)
        lines = [line.removeprefix("xilinx_fpga_") for line in text.splitlines() if line[:1] != "#"]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    async def until_scraped(
        self, start: str, outcome: str, holds: Callable[[float], bool] = lambda _: True, *, show: bool = False
    ) -> tuple[str, float]:
        """Wait until a series that begins so is on the page /metrics; return it, and show it if wanted."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.step_limit):
                while True:
                    with suppress(OSError):  # the service may wait for its address
                        series = (await self.scrape()).items()
                        found = [(name, value) for name, value in series if name.startswith(start)]
                        for name, value in found:
                            if holds(value):
                                print_indented([f"xilinx_fpga_{name} {value:g}"] if show else [])
                                return name, value
                    await asyncio.sleep(LOG_DELAY)
        raise StepFailed(f"{outcome}: not on /metrics within {self.step_limit:g} s")

    @staticmethod
    def print_series(series: Mapping[str, float], device: str, *names: str) -> None:
        """Print the series of a device with these names."""
        print_indented(
            f"xilinx_fpga_{name} {value:g}"
            for name, value in series.items()
            if name.partition("{")[0] in names and device in name
        )

    async def until(self, holds: Callable[[], bool], outcome: str) -> None:
        """Wait for an outcome that nothing announces."""
        try:
            async with asyncio.timeout(self.step_limit):
                while not holds():  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK_EVERY)
        except TimeoutError:
            raise StepFailed(f"{outcome}: not within {self.step_limit:g} s") from None


def fault_of(card: SampleCard) -> Fault:
    """Return a fault that the driver of the card reports."""
    if not isinstance(card, XrtCard) or card.release < _FIRST_WITH_HEALTH:

        async def bind() -> None:
            card.bind()

        return Fault(card.unbind, "Its driver binds to it again", bind)

    async def reset() -> None:
        card.reset_begin()
        await asyncio.sleep(_RESET)
        card.reset_end(render=_ANOTHER_RENDER_NODE)
        card.mend()

    recovery = "It is reset and returns with another render node"
    if _has_firewall(card):
        return Fault(lambda: trip(card), recovery, reset, card.release >= _FIRST_WITH_RECORD)
    return Fault(card.offline, recovery, reset)


def _has_firewall(card: SampleCard) -> bool:
    """Whether the driver of a card shows that its firewall has tripped."""
    return isinstance(card, XrtCard) and card.board.firewall and card.release >= _FIRST_WITH_FIREWALL


def assignments(node: SampleNode | CapturedNode) -> list[str]:
    """Return the settings to run against a node, quoted for a shell."""
    return [f"{name}={shlex.quote(value)}" for name, value in node.environment().items()]


def print_headline(text: str) -> None:
    """Print the headline of a step."""
    print(f"\n=== {text}", flush=True)


def print_indented(lines: Iterable[str]) -> None:
    """Print lines below a headline."""
    for line in lines:
        print(f"    {line}", flush=True)


def _own_address() -> str:
    """Return a loopback address that no other process chooses, with a free port."""
    pid = os.getpid()  # at most 22 bits: include/linux/threads.h PID_MAX_LIMIT
    host = f"127.{64 + (pid >> 16)}.{pid >> 8 & 255}.{pid & 255}"
    with socket.socket() as probe:
        probe.bind((host, 0))
        return f"{host}:{probe.getsockname()[1]}"


def _get(url: str) -> str:
    with urlopen(url, timeout=STEP_LIMIT) as answer:  # noqa: S310 - the address of our own service
        return str(answer.read().decode())
