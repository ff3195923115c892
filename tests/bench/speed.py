"""Rows of latency: from a start, a kubelet restart, a call or a fault to its effect at kubelet."""

import os
import random
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeAlias

import grpc

from tests.bench import woken
from tests.bench.figures import Figure, quantile
from tests.bench.stage import Process, Stage, cards, children_cpu_seconds, cpu_seconds, waited
from tests.support.wire import pb

_Call: TypeAlias = "grpc.UnaryUnaryMultiCallable[bytes, bytes]"
_LISTED = pb.ListAndWatchResponse(devices=[pb.Device(ID="0", health="Healthy")]).SerializeToString()
_WARM_UP = 300  # calls
_BLOCK = 250  # calls to one server in a row
_PAUSE = 0.3  # seconds before a call, as kubelet's are rare: caches are cold and threads asleep


def start(quick: bool) -> Iterator[Figure]:
    """Measure the start with four cards of two shells until all are listed, and the end after SIGTERM.

    In turn with the reference, which is the same service in one process.
    """
    ends: list[float] = []
    modules = ("xilinx_fpga_dp", "tests.bench.one_process")
    wall: list[list[float]] = [[] for _ in modules]
    cpu: list[list[float]] = [[] for _ in modules]
    with Stage(cards(4, shells=2)) as stage:
        for run in range(6 if quick else 21):
            for side, module in enumerate(modules):
                service = stage.start(module)
                listed = stage.listed_since(service.began)
                used = cpu_seconds(service.pid) + children_cpu_seconds(service.pid)
                signalled = time.monotonic()
                service.end()
                if run == 0:  # the first run compiles
                    continue
                wall[side].append((listed - service.began) * 1000)
                ends.append((time.monotonic() - signalled) * 1000)
                cpu[side].append(used * 1000)
    compared = "in one process"
    for what, (values, reference), factor in (
        ("start to first list, wall", wall, 0.8),
        ("start to first list, CPU of all processes", cpu, 1.1),
    ):
        one = _median(reference)
        yield Figure(what, "ms", values, factor * one, "median", one, compared)
    yield Figure("SIGTERM to the end", "ms", ends, 2000, "worst")


def back(quick: bool) -> Iterator[Figure]:
    """Measure from the start of kubelet to the last list; this includes the start itself."""
    for shells, target in ((2, 15.0), (16, 100.0)):
        values: list[float] = []
        own: list[float] = []
        with Stage(cards(max(shells, 4), shells)) as stage:
            stage.running()
            minimal = _reference(stage, "minimal", b"", _LISTED)
            for _ in range(5 if quick else 25):
                stage.kubelet.kill()
                time.sleep(random.uniform(0.1, 0.6))  # noqa: S311
                began = time.monotonic()
                stage.kubelet.start()
                own.append((time.monotonic() - began) * 1000)
                values.append((stage.listed_since(began) - began) * 1000)
            reference = [_register_minimal(stage, shells) for _ in values]
            minimal.end()
        yield Figure(
            f"kubelet back to all listed, {shells} shells", "ms", values, target, "median",
            _median(reference), f"{shells} at once by a minimal plugin, served already",
        )  # fmt: skip
        yield Figure("- of it the double's own start", "ms", own)


def allocate(quick: bool) -> Iterator[Figure]:
    """Measure sequential calls of one client, in turn to the service, the reference and bare grpclib."""
    with Stage(cards(4, shells=2)) as stage:
        service = stage.running()
        resource = min(stage.resources)
        newest = [each for each in stage.kubelet.registrations if each.resource == resource][-1]
        ids = [min(stage.kubelet.resources()[resource])]
        container = pb.ContainerAllocateRequest(devices_ids=ids)
        request = pb.AllocateRequest(container_requests=[container]).SerializeToString()
        answer = stage.kubelet.allocate_raw(resource, ids)
        minimal = _reference(stage, "minimal", answer, _LISTED)
        bare = _reference(stage, "bare", answer)
        sides = [
            (_call(f"{stage.node.socket_dir}/{newest.endpoint}"), service.pid),
            (_call(stage.path("minimal.sock")), minimal.pid),
            (_call(stage.path("bare.sock")), bare.pid),
        ]
        times: list[list[float]] = [[] for _ in sides]
        cpu = [0.0 for _ in sides]
        for call, _ in sides:
            for _ in range(_WARM_UP):
                assert call(request) == answer
        for _ in range(4 if quick else 24):
            for side, (call, pid) in enumerate(sides):
                before = cpu_seconds(pid)
                times[side] += [1000 * waited(lambda c=call: c(request)) for _ in range(_BLOCK)]  # type: ignore[misc]
                cpu[side] += cpu_seconds(pid) - before
        rare: list[list[float]] = [[] for _ in sides]
        for turn in range(15 if quick else 90):
            side = turn % len(sides)
            time.sleep(_PAUSE)
            rare[side].append(1000 * waited(lambda c=sides[side][0]: c(request)))  # type: ignore[misc]
    ours, theirs, bares = times
    compared = f"grpcio.aio, {len(answer)} bytes"
    for name, share, factor in (("p50", 0.5, 1.9), ("p99", 0.99, 1.5)):
        reference = _median(_blocks(theirs, share))
        yield Figure(
            f"Allocate {name} of {_BLOCK} calls", "us", _blocks(ours, share), factor * reference, "median",
            reference, compared,
        )  # fmt: skip
        yield Figure(
            f"- {name} of grpclib with nothing of ours", "us", _blocks(bares, share), None, "median",
            reference, compared,
        )  # fmt: skip
    our_first, their_first, bare_first = rare
    first = _median(their_first)
    pause = f"first call after {_PAUSE} s"
    yield Figure(f"- {pause}", "us", our_first, None, "median", first, compared)
    yield Figure(f"- {pause} of grpclib", "us", bare_first, None, "median", first, compared)
    used, their_cpu, bare_cpu = (seconds / len(ours) * 1e6 for seconds in cpu)
    yield Figure("- CPU of the server a call", "us", [used], None, "median", their_cpu, compared)
    yield Figure("- the same of grpclib", "us", [bare_cpu], None, "median", their_cpu, compared)


def fault(quick: bool) -> Iterator[Figure]:
    """Measure from a card going offline to the list with it Unhealthy, at HEALTH_INTERVAL 1."""
    with Stage(cards(16, shells=4), HEALTH_INTERVAL="1") as stage:
        stage.running()
        values = list(_faults(stage, 4 if quick else 16, lambda: None))
    yield Figure("device fault to kubelet", "ms", values, 1500, "worst")
    events: list[list[float]] = []
    for level in ("safe", "none"):
        with Stage(cards(16, shells=4), HEALTH_INTERVAL="1", TELEMETRY=level) as stage:
            os.environ["BENCH_EVENTS"] = stage.path("events")
            stage.running(module=woken.__name__)
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as kernel:
                wake = partial(kernel.sendto, woken.EVENT, stage.path("events"))
                events.append(list(_faults(stage, 4 if quick else 16, wake)))
    with_telemetry, without = events
    yield Figure(
        "device fault with a kernel event to kubelet", "ms", with_telemetry, 200, "worst", _median(without),
        "with TELEMETRY=none",
    )  # fmt: skip


def _faults(stage: Stage, count: int, notify: Callable[[], object]) -> Iterator[float]:
    for card in stage.node.cards[:count]:
        time.sleep(random.uniform(1.0, 2.0))  # noqa: S311 - at any moment between two checks
        began = time.monotonic()
        card.offline()
        notify()
        resource = next(name for name, ids in stage.kubelet.resources().items() if card.address in ids)

        def listed(resource: str = resource, began: float = began, address: str = card.address) -> float:
            newest = stage.kubelet.lists(resource)[-1]
            return newest.time if newest.time > began and newest.health[address] == "Unhealthy" else 0

        yield (stage.kubelet.wait_for(listed) - began) * 1000


def _reference(stage: Stage, module: str, *answers: bytes) -> Process:
    """Start a reference server; return it when it accepts connections."""
    path = stage.path(f"{module}.sock")
    process = stage.start(f"tests.bench.{module}", path, *(answer.hex() for answer in answers))
    with grpc.insecure_channel(f"unix:{path}") as channel:
        grpc.channel_ready_future(channel).result(20)
    return process


def _register_minimal(stage: Stage, count: int) -> float:
    """Register ``count`` resources of the minimal plugin; return the milliseconds until all are listed."""
    names = [f"example.com/minimal-{number}" for number in range(count)]
    endpoint = os.path.relpath(stage.path("minimal.sock"), stage.kubelet.directory)
    with grpc.insecure_channel(f"unix:{stage.kubelet.socket}") as channel:
        grpc.channel_ready_future(channel).result(5)
        register: _Call = channel.unary_unary("/v1beta1.Registration/Register")
        began = time.monotonic()
        calls = [
            register.future(
                pb.RegisterRequest(
                    version="v1beta1", endpoint=endpoint, resource_name=name
                ).SerializeToString()
            )
            for name in names
        ]
        for call in calls:
            call.result(5)

        def listed() -> float:
            times = [[each.time for each in stage.kubelet.lists(name)][-1:] for name in names]
            new = [time[0] for time in times if time and time[0] > began]
            return max(new) if len(new) == count else 0

        return (stage.kubelet.wait_for(listed) - began) * 1000


def _call(path: str) -> Callable[[bytes], bytes]:
    channel = grpc.insecure_channel(f"unix:{path}")
    call: _Call = channel.unary_unary("/v1beta1.DevicePlugin/Allocate")
    return lambda request: call(request, timeout=10)


def _blocks(times: list[float], share: float) -> list[float]:
    return [quantile(times[n : n + _BLOCK], share) for n in range(0, len(times), _BLOCK)]


def _median(values: list[float]) -> float:
    return statistics.median(values)
