"""The story of the DRA driver: the service between a sample node, an embedded kubelet and an API server.

It lists the cards, starts kubelet and the service, applies the DeviceClasses of ``classes``, lets a pod have
a device by a claim, breaks the card and repairs it, restarts kubelet, deletes the pod and sends SIGTERM to
the service. A stand-in for the scheduler allocates the claims. The steps show what ``kubectl`` would show and
what a container would get. They wait for their outcome in the objects of the API server, in the directory of
CDI specs and in what the embedded kubelet has heard, never in the service.
"""

import asyncio
import json
import os
import time
from collections.abc import Mapping
from typing import Any

from xilinx_fpga_dp.observe.table import columns
from xilinx_fpga_dp.settings import Settings
from xilinx_fpga_dp.simulate.api_server import Json
from xilinx_fpga_dp.simulate.cdi_runtime import Container, Unresolvable, container
from xilinx_fpga_dp.simulate.dra_kubelet import (
    CLAIMS,
    HEALTHY,
    SLICES,
    DraKubelet,
    NotAdmitted,
    PreparedClaim,
)
from xilinx_fpga_dp.simulate.scheduler import CLASSES, Scheduler, Unschedulable
from xilinx_fpga_dp.simulate.stage import (
    LOG_DELAY,
    Stage,
    StepFailed,
    fault_of,
    print_headline,
    print_indented,
)
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleCard

_POD, _CLAIM = "mypod", "mypod-fpga"
_SHOWN = ("board", "resource.kubernetes.io/numaNode", "driverVersion")  # attributes of a device
_METADATA = "-metadata.json"


class DraStory:
    """One run of the story. It starts without a slice, and ends with the slice of a driver that has ended."""

    def __init__(self, stage: Stage, settings: Settings) -> None:
        self._stage = stage
        self._api = stage.api
        self._driver = settings.dra_driver_name
        self._node = settings.node_name
        self._metadata = settings.dra_metadata
        self._scheduler = Scheduler(stage.api)
        self._kubelet = self._new_kubelet()

    def _new_kubelet(self) -> DraKubelet:
        stage = self._stage
        return DraKubelet(stage.directory, stage.registry, stage.pod_resources, self._node, stage.api)

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
            offered = sum(resource["devices"] for resource in found["resources"].values())
            if not offered:
                await stage.end_without_cards(stop)
                return
            await self._start()
            await self._apply_classes()
            prepared = await self._run_pod()
            if prepared and stage.held_card:
                await self._break_and_repair(stage.held_card, prepared)
            await self._restart_kubelet(prepared)
            if stop:
                stage.suggest_commands()
                stage.start_incidents()
            await stage.wait_for_stop(stop)
            await self._delete_pod(prepared)
            await stage.terminate(self._sockets)
        finally:
            await self._kubelet.stop()
            await stage.clean_up()

    async def _start(self) -> None:
        print_headline("API server and kubelet start; the driver registers and publishes its devices (run)")
        await self._stage.start_api_server(self._node)
        await self._kubelet.start()
        await self._stage.start_service()
        await self._stage.until(lambda: self._driver in self._kubelet.drivers.value, "the driver registered")
        await self._stage.until(lambda: bool(self._slices()), "a ResourceSlice")
        await self._show_slices()
        self._stage.start_activity()

    async def _apply_classes(self) -> None:
        print_headline("The DeviceClasses of this node are applied (classes)")
        listing = json.loads(await self._stage.output_of("classes", "--output", "json"))
        rows: list[tuple[str, ...]] = []
        for each in listing["items"]:
            self._api.put(f"{CLASSES}/{each['metadata']['name']}", each)
            rows.append((each["metadata"]["name"], each["spec"].get("extendedResourceName", "")))
        print_indented(
            ["kubectl get deviceclasses:", *columns(("  NAME", "EXTENDED RESOURCE"), _indented(rows))]
        )

    async def _run_pod(self) -> PreparedClaim | None:
        """Let a pod have the first device that is good; return its claim, None if all have a fault."""
        good = next((each for each in self._devices().values() if not each.get("taints")), None)
        if good is None:
            print_headline("No device is free of faults: a pod would wait")
            return None
        wanted = f"{_text(good, 'resourcePrefix')}/{_text(good, 'resourceName')}"
        device_class = next(
            each["metadata"]["name"]
            for each in self._api.all(CLASSES)
            if each["spec"].get("extendedResourceName") == wanted
        )
        print_headline(f"A pod claims a device of the class {device_class}")
        self._claim(_CLAIM, device_class)
        prepared = await self._admit(_POD, _CLAIM)
        [device] = prepared.devices
        print_indented([
            f"The scheduler allocates {device.device}, and the driver prepares it.",
            "The container gets by CDI:",
            *self._shown(prepared),
        ])  # fmt: skip
        variables = self._container(prepared).variables
        [addresses] = [text for name, text in variables.items() if not name.endswith("_INFO")]
        address = addresses.partition(",")[0]
        self._stage.held_card = self._stage.card_of([address])
        # podresources has the name of the device, which leads back to a PCI address only
        if self._stage.scraped and device.device.startswith("pci-"):
            await self._stage.until_scraped(
                f'allocated{{device="{address}"', "the pod of the device", bool, show=True
            )
        return prepared

    def _claim(self, name: str, device_class: str) -> None:
        request = {"name": "fpga", "exactly": {"deviceClassName": device_class}}
        self._api.put(
            f"{CLAIMS}/{name}",
            {"kind": "ResourceClaim", "spec": {"devices": {"requests": [request]}}, "status": {}},
        )

    async def _admit(self, pod: str, claim: str) -> PreparedClaim:
        try:
            self._scheduler.allocate(claim, pod)
            return await self._kubelet.admit(pod, claim)
        except (NotAdmitted, Unschedulable) as error:
            raise StepFailed(f"{pod}: {error}") from None

    def _container(self, prepared: PreparedClaim) -> Container:
        """Return what the container runtime gives the container of the pod now."""
        try:
            return container(
                self._stage.cdi_dir, [name for each in prepared.devices for name in each.cdi_ids]
            )
        except (OSError, Unresolvable) as error:
            raise StepFailed(f"{_POD}: CreateContainerError: {error}") from None

    def _shown(self, prepared: PreparedClaim) -> list[str]:
        inside = self._container(prepared)
        lines = [
            *(f"  {name}={value}" for name, value in sorted(inside.variables.items())),
            *(f"  device {path} ({permissions})" for path, permissions in inside.nodes.items()),
            *(f"  mount {path}" for path in inside.mounts),
        ]
        files = [host for path, host in inside.mounts.items() if path.endswith(_METADATA)]
        if bool(files) != self._metadata:
            raise StepFailed(f"the container gets the metadata files {files}")
        return [*lines, *(f"  in it: {_summary(path)}" for path in files)]

    async def _break_and_repair(self, card: SampleCard, prepared: PreparedClaim) -> None:
        fault = fault_of(card)
        [device] = prepared.devices
        before = self._container(prepared)

        async def reached() -> None:
            await self._stage.until(lambda: not self._allocatable(device.device), "a taint of the device")

        await self._stage.break_card(card, fault, reached)
        await self._show_slices()
        await self._show_health(device.device, healthy=False)
        self._claim("another", self._api_class(_CLAIM))
        try:
            self._scheduler.allocate("another", "another")
        except Unschedulable as error:
            print_indented([f"Another pod of this class stays Pending: {error}"])
        else:
            [got] = self._results("another")
            if got == device.device:
                raise StepFailed(f"the scheduler gave {got} to another pod")
            print_indented([f"Another pod of this class gets {got}."])
        self._api.remove(f"{CLAIMS}/another")
        print_headline(fault.recovery_headline)
        await fault.recover()
        await self._stage.until(lambda: self._allocatable(device.device), "no taint of the device")
        await self._show_slices()
        await self._show_health(device.device, healthy=True)
        self._stage.check_log(card, fault)
        nodes = set(card.nodes)
        await self._stage.until(
            lambda: nodes & self._container(prepared).nodes.keys() != set(),
            "the nodes of the card in its CDI spec",
        )
        if self._container(prepared).nodes != before.nodes:
            lines = [f"  device {path}" for path in self._container(prepared).nodes]
            print_indented(["A container of mypod that starts again gets:", *lines])

    async def _show_health(self, device: str, *, healthy: bool) -> None:
        """Show the health of a device as the status of its pod has it, once kubelet has heard of it."""
        await self._stage.until(
            lambda: (self._kubelet.health(self._driver, device)[0] == HEALTHY) is healthy,
            "the health of the device at kubelet",
        )
        health, message = self._kubelet.health(self._driver, device)
        shown = f"{health}, {message}" if message else health
        print_indented([f"kubectl get pod {_POD}: its device {device} is {shown}"])

    async def _restart_kubelet(self, prepared: PreparedClaim | None) -> None:
        print_headline("kubelet restarts: it removes the slices of the node, and the driver publishes again")
        before = self._slices()
        documents = self._documents()
        await self._kubelet.stop()
        self._kubelet = self._new_kubelet()
        await self._kubelet.start()
        began = time.monotonic()
        if self._slices():
            raise StepFailed("the slices of the node outlived the start of kubelet")
        await self._stage.until(lambda: bool(self._slices()), "the ResourceSlice again")
        print_indented([f"The slice is back after {1000 * (time.monotonic() - began):.0f} ms."])
        await self._show_slices()
        if _entries(self._slices()) != _entries(before):
            raise StepFailed("the devices differ from those before the restart")
        await self._stage.until(lambda: self._driver in self._kubelet.drivers.value, "the driver registered")
        if prepared:
            if self._documents() != documents or await self._admit_again() != prepared:
                raise StepFailed(f"{_POD} has something else than before the restart")
            print_indented([f"{_POD} still has {', '.join(each.device for each in prepared.devices)}"])

    async def _admit_again(self) -> PreparedClaim:
        try:
            return await self._kubelet.admit(_POD, _CLAIM)
        except NotAdmitted as error:
            raise StepFailed(f"{_POD}: {error}") from None

    async def _delete_pod(self, prepared: PreparedClaim | None) -> None:
        if prepared is None:
            return
        print_headline("The pod is deleted: its claim is unprepared")
        try:
            await self._kubelet.remove(_POD)
        except NotAdmitted as error:
            raise StepFailed(str(error)) from None
        self._api.remove(f"{CLAIMS}/{_CLAIM}")
        if left := self._documents():
            raise StepFailed(f"left in {self._stage.cdi_dir}: {', '.join(left)}")
        print_indented(["No CDI spec is left."])
        await asyncio.sleep(LOG_DELAY)

    # What the API server and the node show

    def _slices(self) -> list[Json]:
        return self._api.all(SLICES)

    def _devices(self) -> dict[str, Json]:
        return _entries(self._slices())

    def _allocatable(self, device: str) -> bool:
        entry = self._devices().get(device)
        return entry is not None and not entry.get("taints")

    def _results(self, claim: str) -> list[str]:
        found = self._api.get(f"{CLAIMS}/{claim}") or {}
        return [each["device"] for each in found["status"]["allocation"]["devices"]["results"]]

    def _api_class(self, claim: str) -> str:
        found = self._api.get(f"{CLAIMS}/{claim}") or {}
        return str(found["spec"]["devices"]["requests"][0]["exactly"]["deviceClassName"])

    def _documents(self) -> dict[str, str]:
        """Return the files in the directory of CDI specs, without hidden ones."""
        found = {}
        for entry in sorted(os.scandir(self._stage.cdi_dir), key=lambda each: each.name):
            if not entry.name.startswith("."):
                with open(entry.path) as file:
                    found[entry.name] = file.read()
        return found

    async def _show_slices(self) -> None:
        """Show what ``kubectl get resourceslices`` shows and the devices, after the log of the same step."""
        await asyncio.sleep(LOG_DELAY)
        slices = self._slices()
        rows: list[tuple[str, ...]] = [
            (each["metadata"]["name"], spec["nodeName"], spec["driver"], spec["pool"]["name"])
            for each in slices
            for spec in [each["spec"]]
        ]
        head: tuple[str, ...] = ("  NAME", "NODE", "DRIVER", "POOL")
        print_indented(["kubectl get resourceslices:", *columns(head, _indented(rows))])
        devices = [
            (
                name,
                *(_text(entry, each) for each in _SHOWN),
                str((entry.get("capacity") or {}).get("memory", {}).get("value", "")),
                ", ".join(f"{each['key']}:{each['effect']}" for each in entry.get("taints") or ()),
            )
            for name, entry in _entries(slices).items()
        ]
        head = ("  DEVICE", "BOARD", "NUMA", "DRIVER VERSION", "MEMORY", "TAINTS")
        print_indented(["their devices:", *columns(head, _indented(devices))])

    def _sockets(self) -> list[str]:
        return os.listdir(self._stage.registry)


def _entries(slices: list[Json]) -> dict[str, Json]:
    """Return the devices of slices by name, without the times that the server stamps."""
    return {device["name"]: device for each in slices for device in each["spec"].get("devices") or ()}


def _text(entry: Mapping[str, Any], attribute: str) -> str:
    """Return an attribute of a device as text; empty if it has none."""
    return "".join(str(value) for value in (entry.get("attributes") or {}).get(attribute, {}).values())


def _summary(path: str) -> str:
    """Return the attributes of the first device in a metadata file."""
    with open(path) as file:
        content = json.loads(file.readline())
    [device] = content["requests"][0]["devices"]
    names = ("board", "serial", "devNode", "resource.kubernetes.io/numaNode")
    return " ".join(
        f"{name.rpartition('/')[2]}={_text(device, name)}" for name in names if _text(device, name)
    )


def _indented(rows: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    return [(f"  {first}", *rest) for first, *rest in rows]
