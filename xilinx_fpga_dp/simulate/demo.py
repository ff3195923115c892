"""The whole job on any machine: a sample node, an embedded kubelet, the real service between them.

The service is a process of its own, started as on a node; only its settings differ.
"""

import asyncio
import json
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from xilinx_fpga_dp.observe.table import columns
from xilinx_fpga_dp.settings import Settings
from xilinx_fpga_dp.simulate.kubelet import AdmissionError, Allocation, Kubelet
from xilinx_fpga_dp.simulate.sysfs.sample_node import (
    STATES,
    SampleCard,
    SampleNode,
    XrtCard,
    is_known,
    known_boards,
)

# Two of one shell, one of another, and one whose timestamp is 0.
DEFAULT_BOARDS = ("u200", "u200", "u250", "u55c")

_STEP_LIMIT = 15.0  # seconds any step of the story may take
_RESET = 1.0  # seconds the card's reset takes; a real one takes up to a minute
_ANOTHER_RENDER_NODE = 140
_FIRST_WITH_HEALTH = "2019.1"  # drivers before this one have no health attributes
_END_LIMIT = 10.0  # seconds the service may take to end: the contract allows 2; a busy machine takes more
_PROGRAM = (sys.executable, "-m", "xilinx_fpga_dp")


class StepFailed(Exception):  # noqa: N818 - what the story finds out
    """A step of the story that did not come out as it should."""


class UnknownBoard(Exception):  # noqa: N818 - the user's, not ours
    """A board that no sample card is known of."""


def build_node(directory: str, boards: Sequence[str]) -> int:
    """Build a sample node and print the settings to run against it, ``NAME=value`` a line."""
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


async def run_demo(settings: Settings, boards: Sequence[str], *, once: bool) -> int:
    """Play the story; then, unless ``once``, stay up until Ctrl-C. Return the exit code."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with tempfile.TemporaryDirectory(prefix="xilinx-fpga-dp-") as directory:
        try:
            node, cards = _sample_node(directory, boards)
        except UnknownBoard as error:
            print(error, file=sys.stderr)
            return 2
        story = Demo(node, cards, settings)
        telling = asyncio.create_task(story.tell(stay=None if once else stop))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({telling, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not telling.done() and not story.staying:
            telling.cancel()
        try:
            await telling
        except StepFailed as failure:
            print(f"\nFAILED: {failure}")
            return 1
        except asyncio.CancelledError:
            return int(once)  # told to end before the end; no step has failed
        finally:
            stopped.cancel()
    return 0


class Demo:
    """One play, from an empty socket directory to an empty socket directory."""

    def __init__(self, node: SampleNode, cards: Sequence[SampleCard], settings: Settings) -> None:
        self._node = node
        self._cards = cards
        self._offered: list[SampleCard] = []
        self._count = 0  # device ids: two devices of one card may be one, and one device several
        self._replicas = settings.shared_replicas
        self._kubelet = Kubelet(node.socket_dir)
        self._environment = {
            **os.environ,
            "XILINX_FPGA_DP_SCAN_INTERVAL": "1",
            "XILINX_FPGA_DP_HEALTH_INTERVAL": "0.3",
            "XILINX_FPGA_DP_HTTP_ADDRESS": "",
            "XILINX_FPGA_DP_LOG_FORMAT": "text",
            # Not the host's: nothing here is for its containers, and nothing of theirs counts here
            "XILINX_FPGA_DP_CDI_DIR": f"{node.root}/cdi",
            "XILINX_FPGA_DP_POD_RESOURCES_SOCKET": f"{node.root}/pod-resources/kubelet.sock",
            **settings.environment(),
            **node.environment(),
        }
        self._service: asyncio.subprocess.Process | None = None
        self.staying = False  # all is told, and it waits to be stopped

    async def tell(self, stay: asyncio.Event | None) -> None:
        """Play all steps.

        Args:
            stay: wait for this before the end.

        Raises:
            StepFailed: one did not come out as it should; says which.
        """
        try:
            await self._cards_found()
            if not self._offered:
                up = "; this stays up until Ctrl-C" if stay else ""
                _title(f"None of these can be offered: list says why{up}")
                await self._stay(stay)
                return
            await self._registered()
            pod = await self._allocated()
            await self._fault_and_recovery()
            await self._kubelet_restarted(*pod)
            if stay:
                self._how_to_play()
            await self._stay(stay)
            await self._ended()
        finally:
            await self._clean_up()

    async def _stay(self, stay: asyncio.Event | None) -> None:
        if stay:
            self.staying = True
            await stay.wait()

    async def _cards_found(self) -> None:
        _title("The cards found on this node (list)")
        _say((await self._list("table")).splitlines())
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

    async def _registered(self) -> None:
        _title("kubelet starts, the service starts and registers what is there (run)")
        await self._kubelet.start()
        self._service = await asyncio.create_subprocess_exec(
            *_PROGRAM, "run", env=self._environment, stderr=asyncio.subprocess.PIPE, start_new_session=True
        )
        self._log = asyncio.create_task(_pass_on(self._service.stderr))
        await self._until(
            lambda: sum(self._kubelet.allocatable().values()) == self._count,
            f"{self._count} devices allocatable",
        )
        self._describe()

    async def _allocated(self) -> tuple[str, Allocation]:
        resource = next(iter(self._kubelet.allocatable()))
        _title(f"A pod asks for one {resource}")
        held = await self._admit("mypod", resource)
        _say(["Its container gets:"])
        _say(f"  {name}={value}" for name, value in sorted(held.answer.envs.items()))
        _say(f"  device {each.host_path} ({each.permissions})" for each in held.answer.devices)
        _say(f"  CDI device {each.name}" for each in held.answer.cdi_devices)
        _say(f"  mount {each.host_path}" for each in held.answer.mounts)
        self._describe()
        return resource, held

    async def _fault_and_recovery(self) -> None:
        card = self._offered[-1]
        before = sum(self._kubelet.allocatable().values())
        trips = isinstance(card, XrtCard) and card.release >= _FIRST_WITH_HEALTH
        what = "goes offline" if trips else "loses its driver"
        _title(f"The {card.title} at {card.address} {what}")
        if trips and isinstance(card, XrtCard):
            card.firewall_trip()
        else:
            card.unbind()
        await self._until(
            lambda: sum(self._kubelet.allocatable().values()) == before - self._replicas,
            "one device Unhealthy",
        )
        self._describe()
        _title("It is reset, and comes back with another render node" if trips else "It gets its driver back")
        if trips and isinstance(card, XrtCard):
            card.reset_begin()
            await asyncio.sleep(_RESET)
            card.reset_end(render=_ANOTHER_RENDER_NODE)
            card.mend()
        else:
            card.bind()
        await self._until(lambda: sum(self._kubelet.allocatable().values()) == before, "all Healthy again")
        self._describe()

    async def _kubelet_restarted(self, resource: str, held: Allocation) -> None:
        _title("kubelet restarts: it removes every socket and forgets every plugin")
        capacity = self._kubelet.capacity()
        await self._kubelet.stop()
        self._kubelet = Kubelet(self._node.socket_dir)
        await self._kubelet.start()
        await self._until(lambda: self._kubelet.capacity() == capacity, "all resources back")
        again = await self._admit("mypod", resource)
        if again.ids != held.ids:
            raise StepFailed(f"mypod held {held.ids} before the restart and {again.ids} after it")
        _say([f"mypod still holds {', '.join(held.ids)}"])
        self._describe()

    async def _ended(self) -> None:
        _title("The service is told to end (SIGTERM)")
        if self._service is None:
            return
        self._service.send_signal(signal.SIGTERM)
        try:
            code = await asyncio.wait_for(self._service.wait(), _END_LIMIT)
        except TimeoutError:
            raise StepFailed(f"it did not end within {_END_LIMIT:g} s") from None
        await self._log
        left = [name for name in os.listdir(self._node.socket_dir) if name.endswith("-fpga.sock")]
        if code or left:
            raise StepFailed(f"it ended with {code} and left {left}")
        _say(["It ended with 0 and left no socket."])

    def _how_to_play(self) -> None:
        _title("All well. This stays up until Ctrl-C; play with it from another terminal")
        xrt = next((card for card in self._offered if isinstance(card, XrtCard)), None)
        if xrt:
            _say([f"echo 1 > {xrt.path('dev_offline')}   # a card breaks; echo 0 mends it"])
        _say([
            f"rm {self._node.socket_dir}/*-fpga.sock   # the sockets vanish",
            f"env {' '.join(_assignments(self._node))} \\",
            f"  {' '.join(_PROGRAM)} list",
        ])  # fmt: skip

    async def _admit(self, pod: str, resource: str) -> Allocation:
        try:
            return (await self._kubelet.admit(pod, {resource: 1}))[resource]
        except AdmissionError as error:
            raise StepFailed(f"{pod}: {error}") from None

    async def _until(self, holds: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(_STEP_LIMIT):
                await self._kubelet.changes.until(lambda _: holds())
        except TimeoutError:
            raise StepFailed(
                f"{what}: not within {_STEP_LIMIT:g} s; capacity {self._kubelet.capacity()}, "
                f"allocatable {self._kubelet.allocatable()}"
            ) from None

    def _describe(self) -> None:
        """What ``kubectl describe node`` would show of it."""
        capacity, allocatable, held = (
            self._kubelet.capacity(),
            self._kubelet.allocatable(),
            self._kubelet.held(),
        )
        _say(["kubectl describe node:"])
        rows = [
            (f"  {name}", str(count), str(allocatable.get(name, 0)), str(held.get(name, 0)))
            for name, count in capacity.items()
        ]
        _say(columns(("  RESOURCE", "CAPACITY", "ALLOCATABLE", "REQUESTS"), rows))

    async def _clean_up(self) -> None:
        if self._service and self._service.returncode is None:
            with suppress(ProcessLookupError):
                self._service.kill()
            await self._service.wait()
        await self._kubelet.stop()


def _sample_node(directory: str, boards: Sequence[str]) -> tuple[SampleNode, list[SampleCard]]:
    names = list(boards) or list(DEFAULT_BOARDS)
    for name in names:
        if not is_known(name):
            raise UnknownBoard(
                f"--board: {name!r} is not known; known are {', '.join(known_boards())}; a board of XRT "
                f"also with {', '.join(f'-{state}' for state in STATES)} behind its name"
            )
    node = SampleNode(directory)
    node.add_ordinary_devices()
    cards: list[SampleCard] = []
    for index, name in enumerate(names):
        try:
            cards += node.plug(name, numa_node=index % 2)
        except ValueError as error:
            raise UnknownBoard(f"--board: {name!r}: {error}") from None
    return node, cards


def _assignments(node: SampleNode) -> list[str]:
    """The settings to run against a node, for a shell."""
    return [f"{name}={shlex.quote(value)}" for name, value in node.environment().items()]


async def _pass_on(stream: asyncio.StreamReader | None) -> None:
    """Show the service's log as it comes."""
    while stream and (line := await stream.readline()):
        _say([f"service | {line.decode(errors='replace').rstrip()}"])


def _title(text: str) -> None:
    print(f"\n=== {text}", flush=True)


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        print(f"    {line}", flush=True)
