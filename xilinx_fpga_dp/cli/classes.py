"""``classes``: the DeviceClasses for the devices of this node or of all nodes, printed or applied."""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, Final

from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.aio.race import race
from xilinx_fpga_dp.cli.command import SCAN_SETTINGS, BadUse, Command, output_option
from xilinx_fpga_dp.observe import logs
from xilinx_fpga_dp.observe.table import printable
from xilinx_fpga_dp.settings import Settings

if TYPE_CHECKING:  # it loads `ssl`
    from xilinx_fpga_dp.apiserver.client import ApiServer

_API: Final = "/apis/resource.k8s.io/v1"
_LABEL: Final = "app.kubernetes.io/name"


def run(settings: Settings, options: argparse.Namespace) -> int:
    logs.set_up("warning", settings.log_format)
    if options.from_cluster or options.apply or options.follow:
        return _with_api_server(settings, options)
    return _of_node(settings, options)


def _of_node(settings: Settings, options: argparse.Namespace) -> int:
    try:
        _show(_classes(asyncio.run(_resources_of_node(settings)), settings), options.output)
    except NothingFoundError as error:
        print(f"nothing found: {error}", file=sys.stderr)
        return 1
    return 0


def _with_api_server(settings: Settings, options: argparse.Namespace) -> int:
    from xilinx_fpga_dp.apiserver.errors import ApiServerError, NoAccess

    try:
        return asyncio.run(_through_api_server(settings, options, os.path.expanduser("~")))
    except NoAccess as error:
        raise BadUse(f"classes: {printable(str(error))}") from None
    except ApiServerError as error:
        print(printable(str(error)), file=sys.stderr)
    except NothingFoundError as error:
        print(f"nothing found: {error}", file=sys.stderr)
    return 1


async def _through_api_server(settings: Settings, options: argparse.Namespace, home: str) -> int:
    from xilinx_fpga_dp.apiserver import access
    from xilinx_fpga_dp.apiserver.client import CALL_LIMIT, COMMAND_LIMIT, ApiServer

    limit = CALL_LIMIT if options.follow else COMMAND_LIMIT
    async with ApiServer(access.find(os.environ, home=home), call_limit=limit) as api:
        if options.follow:
            await _until_signalled(_follow(api, settings))
            return 0
        found = await (
            _resources_of_cluster(api, settings) if options.from_cluster else _resources_of_node(settings)
        )
        classes = _classes(found, settings)
        if not options.apply:
            _show(classes, options.output)
            return 0
        results = [await _apply(api, each) for each in classes]
    for each, result in zip(classes, results, strict=True):
        print(f"deviceclass {each['metadata']['name']}: {result}")
    return 1 if _FOREIGN in results else 0


class NothingFoundError(Exception):
    """The node can't be scanned."""


async def _resources_of_node(settings: Settings) -> Iterable[str]:
    from xilinx_fpga_dp.discovery.scanner import ScanFailed
    from xilinx_fpga_dp.wiring import build_scanner, scan_once

    try:
        offers, _ = await scan_once(settings, build_scanner(settings))
    except ScanFailed as error:
        raise NothingFoundError(str(error)) from None
    return offers.by_resource


async def _resources_of_cluster(api: "ApiServer", settings: Settings) -> Iterable[str]:
    """Return the resource names that the slices of the driver have, of whatever nodes."""
    listing = await api.list(f"{_API}/resourceslices", fields=f"spec.driver={settings.dra_driver_name}")
    return _resources_of(listing.objects)


def _resources_of(slices: Iterable[Mapping[str, Any]]) -> list[str]:
    attributes = [
        device.get("attributes") or {} for each in slices for device in each["spec"].get("devices") or ()
    ]
    names = {tuple(_text(each, name) for name in ("resourcePrefix", "resourceName")) for each in attributes}
    return ["/".join(each) for each in names if all(each)]


def _text(attributes: Mapping[str, Any], name: str) -> str:
    return str((attributes.get(name) or {}).get("string", ""))


def _classes(resources: Iterable[str], settings: Settings) -> list[dict[str, Any]]:
    from xilinx_fpga_dp.dra.classes import device_classes

    return device_classes(resources, settings.dra_driver_name)


def _show(classes: list[dict[str, Any]], output: str) -> None:
    if output == "json":
        print(json.dumps({"apiVersion": "v1", "kind": "List", "items": classes}, indent=2))
    else:
        import yaml

        print(yaml.safe_dump_all(classes, sort_keys=False, width=1000), end="")


_FOREIGN: Final = "left as it is: the cluster has one of this name that is not of this program (its labels)"


async def _apply(api: "ApiServer", wanted: dict[str, Any]) -> str:
    """Create a class, or give it the wanted spec; return what was done."""
    from xilinx_fpga_dp.apiserver.client import path
    from xilinx_fpga_dp.apiserver.errors import Conflict

    try:
        await api.create(f"{_API}/deviceclasses", wanted)
    except Conflict:  # it exists
        own = path(_API[1:], "deviceclasses", wanted["metadata"]["name"])
        found = await api.get(own)
        if (found["metadata"].get("labels") or {}).get(_LABEL) != wanted["metadata"]["labels"][_LABEL]:
            return _FOREIGN
        if found["spec"] == wanted["spec"]:
            return "unchanged"
        await api.replace(own, {**found, "spec": wanted["spec"]})
        return "changed"
    return "created"


async def _follow(api: "ApiServer", settings: Settings) -> None:
    """Apply the class of each resource name that appears in slices. Endless."""
    known: Latest[frozenset[str] | None] = Latest(None)
    await race(_follow_slices(api, settings, known), _keep_applied(api, settings, known))


async def _follow_slices(api: "ApiServer", settings: Settings, known: Latest[frozenset[str] | None]) -> None:
    """Add the resource names of each slice. Endless."""
    from xilinx_fpga_dp.apiserver.client import Kind

    slices = api.watch(f"{_API}/resourceslices", fields=f"spec.driver={settings.dra_driver_name}")
    async with aclosing(slices) as changes:
        async for change in changes:
            if change.error:
                print(printable(str(change.error)), file=sys.stderr)
            if change.kind not in (Kind.DELETED, Kind.LOST):
                known.set((known.value or frozenset()).union(_resources_of(change.objects)))


async def _keep_applied(api: "ApiServer", settings: Settings, known: Latest[frozenset[str] | None]) -> None:
    """Apply the missing classes after each change, and again some time after a failure. Endless."""
    from xilinx_fpga_dp.apiserver.backoff import Backoff
    from xilinx_fpga_dp.apiserver.errors import ApiServerError

    applied: list[dict[str, Any]] = []
    backoff = Backoff()
    while True:
        seen = await known.until(lambda names: names is not None)
        failure: ApiServerError | None = None
        for each in _classes(seen or (), settings)[1:]:  # the first is for all, `generalClass` of the chart
            if each in applied:
                continue
            try:
                result = await _apply(api, each)
            except ApiServerError as error:
                print(printable(str(error)), file=sys.stderr)
                failure = error
                continue
            applied.append(each)
            print(f"deviceclass {each['metadata']['name']}: {result}", flush=True)
        if not failure:
            backoff.reset()
        delay = backoff.after(failure) if failure else None
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await known.other_than(seen)


async def _until_signalled(work: Coroutine[Any, Any, None]) -> None:
    """Run until SIGINT or SIGTERM, which process 1 of a container would ignore."""
    running = asyncio.ensure_future(work)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    with suppress(asyncio.CancelledError):
        await running


COMMAND = Command(
    run,
    SCAN_SETTINGS,
    options={
        **output_option("yaml", "json"),
        "--from-cluster": {
            "action": "store_true",
            "help": "for the devices of all nodes, by their ResourceSlices; with a kubeconfig",
        },
        "--apply": {
            "action": "store_true",
            "help": "create them in the cluster, change those that differ; removes none",
        },
        "--follow": {
            "action": "store_true",
            "help": "as --from-cluster --apply, without the one for all, then for new ones, until SIGTERM",
        },
    },
)
