"""Rows of what the device plugin tells the API server: Events, the node's condition, the startup taint."""

import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack

from tests.bench.api import Api, api_server
from tests.bench.figures import Figure
from tests.bench.stage import IN_POD, Stage, cards, children_cpu_seconds, cpu_seconds
from tests.support.waiting import wait_for

_NODE = "reporting"
_PATH = f"/api/v1/nodes/{_NODE}"
_TAINT = "fpga.xilinx.com/starting"
_EVENTS = "/apis/events.k8s.io/"
_CARDS = 16
_QUIET = 2.0  # seconds in which one more write would come
_WITHOUT = "without"


class Reporting(Stage):
    """A node with 16 cards whose device plugin reports everything.

    Args:
        api: the API server.
        functions: as of a stage.
    """

    module = IN_POD

    def __init__(self, api: Api, *, functions: int = 0) -> None:
        super().__init__(
            cards(_CARDS, shells=4), functions=functions,
            NODE_NAME=_NODE, EVENTS="true", NODE_CONDITION="true", STARTUP_TAINT=_TAINT,
        )  # fmt: skip
        self.variables = api.pod()
        self._api = api
        self.taint()

    def taint(self) -> None:
        """Make the node as it is before the plugin starts, but that kubelet counts the cards already."""
        units = dict.fromkeys(self.resources, str(_CARDS // len(self.resources)))
        taints = [{"key": _TAINT, "effect": "NoSchedule"}]
        self._api.put(_PATH, {"spec": {"taints": taints}, "status": {"capacity": units}})

    def writes(self, since: float) -> list[str]:
        """Return the kind of each write after a moment: ``event``, ``condition`` or ``taint``."""
        paths = [each.path for each in self._api.writes(since)]
        kinds = {f"{_PATH}/status": "condition", _PATH: "taint"}
        return [kinds.get(path, "event") for path in paths if path.startswith((_PATH, _EVENTS))]

    def wait_for(self, since: float, **counts: int) -> None:
        """Wait until there are so many writes of each kind."""

        def written() -> bool:
            found = self.writes(since)
            return all(found.count(kind) >= count for kind, count in counts.items())

        wait_for(written, lambda: f"{counts} in {self.writes(since)}")


def reports(quick: bool) -> Iterator[Figure]:
    """Measure the start and the writes of a change with all reports on, beside a service without reports."""
    with ExitStack() as stack:
        plain = stack.enter_context(Stage(cards(_CARDS, shells=4)))
        api = stack.enter_context(api_server(plain.path("api")))
        full = stack.enter_context(Reporting(api))
        wall: list[list[float]] = [[], []]
        cpu: list[list[float]] = [[], []]
        for run in range(3 if quick else 8):
            for side, stage in enumerate((full, plain)):
                full.taint()
                service = stage.start()
                listed = stage.listed_since(service.began)
                used = cpu_seconds(service.pid) + children_cpu_seconds(service.pid)
                service.end()
                if run:  # the first run compiles
                    wall[side].append((listed - service.began) * 1000)
                    cpu[side].append(used * 1000)
        full.taint()
        began = time.monotonic()
        full.running(0)
        full.wait_for(began, condition=1, taint=1)
        time.sleep(_QUIET)
        starting = len(full.writes(began))
        each: list[float] = []
        for card in full.node.cards[: 1 if quick else 2]:  # an equal Event would be written in ten minutes
            for change in (card.offline, card.online):
                began = time.monotonic()
                change()
                full.wait_for(began, event=1, condition=1)
                time.sleep(_QUIET)
                written = full.writes(began)
                each += [written.count("event"), written.count("condition")]
    for what, (ours, theirs) in (("wall", wall), ("CPU of all processes", cpu)):
        yield Figure(
            f"reports: start to first list, {what}", "ms", ours, None, "median", statistics.median(theirs),
            _WITHOUT,
        )  # fmt: skip
    yield Figure("reports: writes of a start: condition and taint", "", [starting], 2)
    yield Figure("reports: Events for a change, and writes of the condition", "", each, 1, "worst")
