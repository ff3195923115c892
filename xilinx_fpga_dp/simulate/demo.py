"""The demo: the real service on a sample node, with all that it speaks to, on any machine.

It plays one story for each mode: with the device plugin, an embedded kubelet is the other side; with the DRA
driver, an embedded kubelet, an API server and a stand-in for the scheduler. The service runs in its own
process, as on a node; only its settings differ. A step that fails ends the demo with 1. Cancelling the demo
kills the service and removes the sample node.
"""

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack

from xilinx_fpga_dp.settings import Settings
from xilinx_fpga_dp.simulate.captured_node import CapturedNode, unpacked
from xilinx_fpga_dp.simulate.dra_story import DraStory
from xilinx_fpga_dp.simulate.plugin_story import PluginStory
from xilinx_fpga_dp.simulate.stage import Stage, StepFailed, assignments
from xilinx_fpga_dp.simulate.sysfs.sample_node import (
    STATES,
    SampleCard,
    SampleNode,
    is_known,
    known_boards,
)

# Two cards of one shell, one of another shell, and one whose shell has timestamp 0.
DEFAULT_BOARDS = ("u200", "u200", "u250", "u55c")


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
    print("\n".join(assignments(node)))
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
        stage = Stage(node, cards, settings)
        story = DraStory(stage, settings) if settings.mode == "dra" else PluginStory(stage, settings)
        steps = asyncio.create_task(story.run(stop=None if once else stop))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({steps, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not steps.done() and not stage.waiting_for_stop:
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
