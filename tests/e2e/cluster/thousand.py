"""A thousand nodes against one API server: `python -m tests.e2e.cluster.thousand [NODES]`, on demand.

Real are etcd, API server and what talks with it on each node: the driver's publisher of slices, Events and
client with its own connections, as a service account. One process has all of them. The Nodes are objects
without kubelet, and their cards are made up.
"""

import argparse
import asyncio
import os
import resource
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from xilinx_fpga_dp.apiserver import access
from xilinx_fpga_dp.apiserver.access import Access, Connection, Credentials
from xilinx_fpga_dp.apiserver.client import ApiServer, Change, Kind, Listing
from xilinx_fpga_dp.apiserver.events import NodeEvents, Occurrence
from xilinx_fpga_dp.dra.devices import PoolDevice, Stored, published
from xilinx_fpga_dp.dra.front_end import example
from xilinx_fpga_dp.dra.pool import Json
from xilinx_fpga_dp.dra.slices import SlicePublisher
from xilinx_fpga_dp.model import Device, Reason, Shell
from xilinx_fpga_dp.observe.events import NodeEvent
from xilinx_fpga_dp.resources.pool_names import device_name

from ..build import binaries, control_plane, install_packages
from .cluster import PACKAGES, Cluster
from .driver import DRIVER

CARDS = 8  # of a node
AWAY = 10.0  # seconds of the API server
REST = 20.0  # seconds in which nothing happens
LIMIT = 300.0  # seconds for each stage
RIGHTS = (
    ("resourceslices.resource.k8s.io", "get,list,watch,create,update,delete"),
    ("events.events.k8s.io", "create,patch"),
)


class Counted(ApiServer):
    """A client that counts calls, and notes when it lists.

    Attributes:
        calls: of all clients, by method.
        wide: lists of all clients that are not of one node.
        listed: when its watch has begun.
    """

    calls: ClassVar[Counter[str]] = Counter()
    wide = 0

    def __init__(self, access: Access) -> None:
        # All share a process, so a call takes longer than on a node.
        super().__init__(access, call_limit=60.0)
        self.listed = 0.0

    async def call(self, method: str, path: str, *args: Any, **options: Any) -> bytes:
        dry = "dryRun" in (options.get("query") or {})
        self.calls[f"{method} dry run" if dry else method] += 1
        return await super().call(method, path, *args, **options)

    async def list(self, path: str, *, fields: str = "", labels: str = "") -> Listing:
        self.calls["list"] += 1
        Counted.wide += "spec.nodeName=node-" not in fields
        return await super().list(path, fields=fields, labels=labels)

    async def watch(self, path: str, *, fields: str = "", labels: str = "") -> AsyncGenerator[Change, None]:
        async with aclosing(super().watch(path, fields=fields, labels=labels)) as changes:
            async for change in changes:
                if change.kind is Kind.LISTED:
                    self.listed = time.monotonic()
                yield change


class Driver:
    """What of a node's driver talks with the API server."""

    def __init__(self, api: Counted, node: str, uid: str) -> None:
        async def node_uid() -> str:  # of the token, in a pod
            return uid

        shell = Shell("xilinx_u250_gen3x16_xdma_shell_4_1", "0", "97088961feaeda9152a21d9dfd63ccef")
        self._devices = [
            Device(f"0000:{0x40 + number:02x}:00.1", shell, "u250", "xocl", serial=f"21320{number:07d}X")
            for number in range(CARDS)
        ]
        self.publisher = SlicePublisher(
            api,
            DRIVER,
            node,
            node_uid,
            describe=self._describe,
            take_over=lambda *_: None,
            example=example(DRIVER),
        )
        self.events = NodeEvents(api, node, DRIVER)
        self.api = api

    def _describe(self, stored: Stored) -> Sequence[Json]:
        pool = (
            PoolDevice(device_name(each.address), "xilinx.com/fpga-u250", (each,)) for each in self._devices
        )
        entries = (published(each, DRIVER, {}, lambda *_: "NoSchedule", stored) for each in pool)
        return [each for each in entries if each]

    def set(self, reason: Reason | None) -> None:
        """Let its first card break or recover."""
        first = self._devices[0] = replace(self._devices[0], reason=reason)
        event = NodeEvent.UNHEALTHY if reason else NodeEvent.RECOVERED
        self.events.tell(Occurrence(event, first.address, "a case"))
        self.publisher.wake()


class Scene:
    """The cluster, its drivers, and what a stage costs."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def stage(self, what: str, act: Callable[[], object], done: Callable[[], bool]) -> None:
        """Act, wait until all is done, and print what it took."""
        Counted.calls.clear()
        busy, began = self._cpu(), time.monotonic()
        act()
        while not done():
            if time.monotonic() - began > LIMIT:
                raise TimeoutError(f"{what}: {dict(Counted.calls)}")
            await asyncio.sleep(0.05)
        took = time.monotonic() - began
        memory = self._cluster.memory()["kube-apiserver"]
        say(
            f"{what}: {took:.1f} s; calls {dict(Counted.calls)}; "
            f"API server {self._cpu() - busy:.1f} s CPU, {memory:.0f} MiB"
        )

    def _cpu(self) -> float:
        pid = self._cluster.processes["kube-apiserver"].pid
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def say(what: str) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


async def gathered(calls: Iterable[Awaitable[Json]]) -> list[Json]:
    """Await calls, some at a time."""
    gate = asyncio.Semaphore(32)

    async def one(call: Awaitable[Json]) -> Json:
        async with gate:
            return await call

    return await asyncio.gather(*map(one, calls))


def credentials(cluster: Cluster) -> tuple[Access, Access]:
    """Return the access of the administrator and that of a service account with the driver's rights."""
    cluster.kubectl("create", "serviceaccount", "driver")
    for number, (what, verbs) in enumerate(RIGHTS):
        cluster.kubectl("create", "clusterrole", f"driver-{number}", f"--verb={verbs}", f"--resource={what}")
        subject = ("--serviceaccount=default:driver", f"--clusterrole=driver-{number}")
        cluster.kubectl("create", "clusterrolebinding", f"driver-{number}", *subject)
    connection = Connection(cluster.server, cluster.authority.read_bytes())
    token = cluster.kubectl("create", "token", "driver", "--duration=2h").strip()
    driver = Credentials(connection, token)
    return access.kubeconfig([str(cluster.kubeconfig())]), Access(lambda: (driver, ()))


async def main(cluster: Cluster, count: int) -> int:
    """Play all stages; return the exit code."""
    admin, own = credentials(cluster)
    scene = Scene(cluster)
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        api = await stack.enter_async_context(ApiServer(admin, call_limit=60, connections=32))
        bodies = [{"metadata": {"name": f"node-{number:04}"}} for number in range(count)]
        nodes = await gathered(api.create("/api/v1/nodes", body) for body in bodies)
        drivers = [Driver(Counted(own), node["metadata"]["name"], node["metadata"]["uid"]) for node in nodes]
        tasks: list[asyncio.Task[None]] = []

        def start() -> None:
            for driver in drivers:
                tasks.extend(
                    group.create_task(task) for task in (driver.publisher.run(), driver.events.run())
                )

        def standing(writes: int) -> Callable[[], bool]:
            def all_stand() -> bool:
                return all(
                    each.publisher.standing.value.as_wanted
                    and each.publisher.standing.value.written >= writes
                    for each in drivers
                )

            return all_stand

        def each(reason: Reason | None) -> Callable[[], None]:
            def act() -> None:
                for driver in drivers:
                    driver.set(reason)

            return act

        await scene.stage(f"{count} drivers start", start, standing(1))
        await scene.stage("a card of each node breaks", each(Reason.OFFLINE), standing(2))
        await scene.stage("all recover", each(None), standing(3))
        ends = time.monotonic() + REST
        await scene.stage(f"rest of {REST:g} s", lambda: None, lambda: time.monotonic() > ends)
        cluster.kill("kube-apiserver")
        await asyncio.sleep(AWAY)
        for driver in drivers:
            driver.api.listed = 0.0
        await asyncio.to_thread(cluster.start, "kube-apiserver")
        began = time.monotonic()
        await scene.stage(
            f"API server back after {AWAY:g} s",
            lambda: None,
            lambda: all(each.api.listed for each in drivers),
        )
        after = sorted(driver.api.listed - began for driver in drivers)
        say(
            f"watches stand again after it serves: first {after[0]:.1f} s, median "
            f"{statistics.median(after):.1f} s, last {after[-1]:.1f} s"
        )
        await scene.stage("a card of each node breaks again", each(Reason.OFFLINE), standing(4))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*(driver.api.close() for driver in drivers))
    say(f"lists of slices of all nodes: {Counted.wide}")
    return 1 if Counted.wide else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.cluster.thousand", description=main.__doc__)
    parser.add_argument("nodes", nargs="?", type=int, default=1000)
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (20000, 20000))
    built = binaries()
    plane = control_plane(built.kubernetes)
    install_packages(PACKAGES)
    with Cluster(built, plane) as made:
        sys.exit(asyncio.run(main(made, given.nodes)))
