"""The story of the device plugin: the service between a sample node and an embedded kubelet.

It lists the cards, starts kubelet and the service, lets a pod allocate a device, shows what the sensors of
its card say, breaks one card and repairs it, restarts kubelet and sends SIGTERM to the service. The steps
show what ``kubectl describe node`` or the page /metrics would show, and wait for their outcome in the counts
of the embedded kubelet or on that page. The headline of a fault says what the service logs of it.
"""

import asyncio
import os
from collections.abc import Callable

from xilinx_fpga_dp.observe.table import columns
from xilinx_fpga_dp.settings import Settings
from xilinx_fpga_dp.simulate.kubelet import AdmissionError, Allocation, Kubelet
from xilinx_fpga_dp.simulate.stage import (
    LOG_DELAY,
    Stage,
    StepFailed,
    fault_of,
    print_headline,
    print_indented,
)
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleCard

_EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"
_HOT = 90.0  # degrees Celsius, from which on the alert FpgaCardHot fires
_SHOWN = ("power_watts", "pcie_link_lanes", "allocated")  # series of a card


class PluginStory:
    """One run of the story. It starts and ends with an empty socket directory."""

    def __init__(self, stage: Stage, settings: Settings) -> None:
        self._stage = stage
        self._count = 0  # device ids: a U30 card may count as one, a shared device as several
        self._replicas = settings.shared_replicas
        self._node_name = settings.node_name
        self._events = settings.events
        self._reports = bool(settings.events or settings.node_condition or settings.startup_taint)
        self._kubelet = Kubelet(stage.node.socket_dir, stage.pod_resources)

    async def run(self, stop: asyncio.Event | None) -> None:
        """Run all steps.

        Args:
            stop: wait for this event before the last step; None: do not wait.

        Raises:
            StepFailed: a step has another outcome than expected.
        """
        stage = self._stage
        try:
            found = await stage.list_cards()
            self._count = sum(resource["healthy"] for resource in found["resources"].values())
            if not self._count:
                await stage.end_without_cards(stop)
                return
            await self._start()
            pod = await self._allocate()
            stage.held_card = stage.card_of(each.partition("::")[0] for each in pod[1].ids)
            if stage.scraped and stage.held_card:
                await self._show_sensors(stage.held_card)
            if card := stage.breakable:
                await self._break_and_repair(card)
            await self._restart_kubelet(*pod)
            if stop:
                sockets = f"{stage.node.socket_dir}/*-fpga.sock"
                stage.suggest_commands(f"rm {sockets}   # the service binds and registers again")
                stage.start_incidents()
            await stage.wait_for_stop(stop)
            await stage.terminate(self._sockets)
        finally:
            await stage.clean_up()
            await self._kubelet.stop()

    async def _start(self) -> None:
        print_headline("kubelet starts, the service starts and registers every resource (run)")
        if self._reports:
            await self._stage.start_api_server(self._node_name)
        await self._kubelet.start()
        await self._stage.start_service()
        await self._until(lambda: self._allocatable() == self._count, f"{self._count} devices allocatable")
        self._stage.start_activity()

    async def _allocate(self) -> tuple[str, Allocation]:
        resource = next(iter(self._kubelet.allocatable()))
        print_headline(f"A pod requests one {resource}")
        allocation = await self._admit("mypod", resource)
        response = allocation.response
        print_indented([
            "Its container gets:",
            *(f"  {name}={value}" for name, value in sorted(response.envs.items())),
            *(f"  device {each.host_path} ({each.permissions})" for each in response.devices),
            *(f"  CDI device {each.name}" for each in response.cdi_devices),
            *(f"  mount {each.host_path}" for each in response.mounts),
        ])  # fmt: skip
        await self._describe_node()
        return resource, allocation

    async def _show_sensors(self, card: SampleCard) -> None:
        """Show what /metrics says of a card while its sensors move, it runs hot, and its link trains down."""
        stage = self._stage
        device = f'device="{card.address}"'
        link, power = f"pcie_link_lanes{{{device}}}", f"power_watts{{{device}}}"
        temperatures = f"temperature_celsius{{{device}"
        _, lanes = await stage.until_scraped(link, "the link of the card")
        await stage.until_scraped(f"allocated{{{device}", "the pod of the card", bool)
        found = await stage.scrape()
        print_headline(f"The sensors of the {card.title} at {card.address}, which mypod has (/metrics)")
        stage.print_series(found, device, *_SHOWN)
        # Others are read once a minute
        read_often = {f'telemetry_success{{{device},source="{each}"}}' for each in ("hwmon", "board")}
        if power in found and read_often & found.keys() and stage.activity:
            print_indented(["a second later:"])
            before = found[power]
            await stage.until_scraped(power, "power that changes", lambda value: value != before, show=True)
            stage.activity.hot.add(card)
            print_headline("It runs hot")
            await stage.until_scraped(temperatures, "a hot sensor", lambda value: value >= _HOT, show=True)
            stage.activity.hot.discard(card)
        card.train_link(max(1, int(lanes) // 2))
        print_headline("Its PCIe link trains down to half of its lanes")
        await stage.until_scraped(link, "a link with fewer lanes", lambda value: value < lanes)
        stage.print_series(await stage.scrape(), device, "pcie_link_lanes", "pcie_link_lanes_max")
        card.train_link()

    async def _break_and_repair(self, card: SampleCard) -> None:
        fault = fault_of(card)
        before = self._allocatable()
        left = before - self._replicas

        async def reached() -> None:
            await self._reach(lambda: self._allocatable() == left, "one device Unhealthy")

        await self._stage.break_card(card, fault, reached)
        await self._describe_node()
        print_headline(fault.recovery_headline)
        await fault.recover()
        await self._until(lambda: self._allocatable() == before, "all devices Healthy again")
        self._stage.check_log(card, fault)
        if self._events:
            await self._show_events()

    async def _show_events(self) -> None:
        api = self._stage.api
        await self._stage.until(lambda: bool(api.all(_EVENTS)), "an Event of the node")
        lines = [f"  {each['type']}  {each['reason']}  {each['note']}" for each in api.all(_EVENTS)]
        print_indented(["its Events:", *lines])

    async def _restart_kubelet(self, resource: str, allocation: Allocation) -> None:
        print_headline("kubelet restarts: it removes every socket, and the service registers again")
        capacity = self._kubelet.capacity()
        await self._kubelet.stop()
        self._kubelet = Kubelet(self._stage.node.socket_dir, self._stage.pod_resources)
        await self._kubelet.start()
        await self._until(lambda: self._kubelet.capacity() == capacity, "all resources registered again")
        again = await self._admit("mypod", resource)
        if again.ids != allocation.ids:
            raise StepFailed(f"mypod held {allocation.ids} before the restart and {again.ids} after it")
        print_indented([f"mypod still holds {', '.join(allocation.ids)}"])

    def _sockets(self) -> list[str]:
        return [name for name in os.listdir(self._stage.node.socket_dir) if name.endswith("-fpga.sock")]

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
            async with asyncio.timeout(self._stage.step_limit):
                await self._kubelet.changes.until(lambda _: holds())
        except TimeoutError:
            raise StepFailed(
                f"{outcome}: not within {self._stage.step_limit:g} s; capacity {self._kubelet.capacity()}, "
                f"allocatable {self._kubelet.allocatable()}"
            ) from None

    def _allocatable(self) -> int:
        return sum(self._kubelet.allocatable().values())

    async def _describe_node(self) -> None:
        """Show what ``kubectl describe node`` would show, after the log of the same step."""
        await asyncio.sleep(LOG_DELAY)
        allocatable, allocated = self._kubelet.allocatable(), self._kubelet.allocated()
        rows = [
            (f"  {name}", str(count), str(allocatable.get(name, 0)), str(allocated.get(name, 0)))
            for name, count in self._kubelet.capacity().items()
        ]
        table = columns(("  RESOURCE", "CAPACITY", "ALLOCATABLE", "REQUESTS"), rows)
        print_indented(["kubectl describe node:", *table])
