"""``list``: every device with its resource and health, and every function left out with the reason."""

import argparse
import asyncio
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple

from xilinx_fpga_dp.cli.command import FROM_OPTION, SCAN_SETTINGS, Command, output_option
from xilinx_fpga_dp.cli.screen import is_terminal
from xilinx_fpga_dp.cli.watch import watch
from xilinx_fpga_dp.discovery.sensor_texts import Value
from xilinx_fpga_dp.model import Held, Offers
from xilinx_fpga_dp.observe import logs, state
from xilinx_fpga_dp.observe.table import columns, printable
from xilinx_fpga_dp.resources.offers import warnings_of
from xilinx_fpga_dp.settings import Settings

_READ_LIMIT: Final = 3.0  # seconds to read which claims are prepared
_WATCH: Final = 1.0  # seconds between two tables
_SAMPLE_LIMIT: Final = 2.0  # seconds a table waits for sensors
_SAMPLE_INTERVAL: Final = 10.0  # seconds between two reads of a card's sensors


def run(settings: Settings, options: argparse.Namespace) -> int:
    if options.archive is None:
        return _list(settings, options)
    from xilinx_fpga_dp.simulate.captured_node import unpacked

    with unpacked(options.archive) as node:
        no_kubelet = {"pod_resources_socket": f"{node.root}/pod-resources.sock"}
        return _list(settings.model_copy(update=node.settings() | no_kubelet), options)


def _list(settings: Settings, options: argparse.Namespace) -> int:
    logs.set_up("error", settings.log_format)
    listing = _Listing(settings, options.output)
    with suppress(KeyboardInterrupt):
        asyncio.run(listing.watch() if options.watch else listing.show())
    return 0


class Sensors(NamedTuple):
    """What the sensors of a unit show, as text; ``-`` for what is not known."""

    power: str
    temperature: str
    link: str


class _Listing:
    """Scans the node and prints it, once or again and again."""

    def __init__(self, settings: Settings, output: str) -> None:
        from xilinx_fpga_dp.wiring import build_scanner

        self._settings = settings
        self._output = output
        self._scanner = build_scanner(settings)
        self._offers = Offers({})
        self._problem = ""  # why nothing is found
        self._claims_problem = ""  # why the claims are not known
        self._on_terminal = is_terminal(sys.stdout)
        self._telemetry = None
        if settings.telemetry != "none" and output == "wide":
            from xilinx_fpga_dp.discovery.telemetry import Telemetry

            # Only what disturbs no application, whatever the service reads.
            self._telemetry = Telemetry(
                settings.sysfs_root,
                lambda: self._offers.devices,
                everything=False,
                interval=_SAMPLE_INTERVAL,
            )

    async def show(self) -> None:
        """Print the node as it is now."""
        print(await self._text())

    async def watch(self) -> None:
        """Print the node every second: on a terminal in place, else where it has changed."""
        await watch(partial(self._text, check=True), _WATCH, end="\n" if self._output == "json" else "\n\n")

    async def _text(self, *, check: bool = False) -> str:
        from xilinx_fpga_dp.discovery.scanner import ScanFailed
        from xilinx_fpga_dp.wiring import scan_once

        held: Held = {}
        problem = ""
        try:
            self._offers, held = await scan_once(self._settings, self._scanner, check=check)
        except ScanFailed as error:
            problem = f"nothing found: {error}"
            self._offers = Offers({})
        if problem != self._problem and not self._on_terminal:
            print(problem or "found again", file=sys.stderr)
        self._problem = problem
        document = state.document(
            self._offers,
            expose_mgmt=self._settings.expose_mgmt,
            held=held,
            dra=await self._unit_states() if self._settings.mode == "dra" else None,
        )
        if self._output == "json":
            return json.dumps(document, indent=2)
        warnings = [*([problem] if problem and self._on_terminal else []), *warnings_of(self._offers)]
        return table(document, warnings, await self._sensors() if self._output == "wide" else None)

    async def _unit_states(self) -> Mapping[str, Mapping[str, Any]]:
        """Return what the DRA driver makes of each unit, with the claims of its checkpoint."""
        from xilinx_fpga_dp.aio.blocking_reader import run_blocking
        from xilinx_fpga_dp.dra.checkpoint import prepared_claims
        from xilinx_fpga_dp.dra.documents import PreparedClaim
        from xilinx_fpga_dp.dra.units import unit_states

        driver = self._settings.dra_driver_name
        claims: Mapping[str, PreparedClaim] = {}
        try:
            directory = f"{self._settings.plugins_dir}/{driver}"
            claims = await run_blocking(partial(prepared_claims, directory), _READ_LIMIT)
            self._claims_problem = ""
        except OSError as error:
            if str(error) != self._claims_problem:
                print(f"the claims are not known: {error}", file=sys.stderr)
            self._claims_problem = str(error)
        return unit_states(self._offers, driver, claims.values())

    async def _sensors(self) -> Mapping[str, Sensors]:
        """Return what the sensors of each unit show, by its id."""
        if self._telemetry:
            await self._telemetry.once(_SAMPLE_LIMIT)
        cards = self._telemetry.cards if self._telemetry else {}
        shown = {}
        for offer in self._offers.by_resource.values():
            for unit in offer.units:
                each = [
                    _sensors_of(cards[device.address].values() if device.address in cards else ())
                    for device in unit.devices
                ]
                powers = [power for power, _, _ in each if power is not None]
                shown[unit.id] = Sensors(
                    f"{max(powers):.1f} W" if powers else "-",  # the devices of a card share its supplies
                    " + ".join(temperature for _, temperature, _ in each),
                    " + ".join(link for _, _, link in each),
                )
        return shown


def _sensors_of(values: Iterable[Value]) -> tuple[float | None, str, str]:
    """Return the power in watts, None if it is not known; and the temperature and the link as text."""
    found: dict[str, float] = {}
    temperatures: dict[str, float] = {}
    for metric, labels, value in values:
        if metric == "temperature_celsius":
            temperatures[labels[0][1]] = value
        elif not labels:
            found[metric] = value
    # The chip's own, if the driver names it so; else the hottest
    hottest = temperatures.get("fpga", max(temperatures.values(), default=None))
    return found.get("power_watts"), "-" if hottest is None else f"{hottest:.0f} C", _link(found)


def _link(found: Mapping[str, float]) -> str:
    """Return speed and width of a link, with those it is capable of if they are higher."""
    names = ("pcie_link_transfers_per_second", "pcie_link_lanes")
    speed, lanes = (found.get(name) for name in names)
    if speed is None or lanes is None:
        return "-"
    best_speed, best_lanes = (found.get(f"{name}_max", 0.0) for name in names)
    text = f"{speed / 1e9:g} GT/s x{lanes:g}"
    return (
        text
        if speed >= best_speed and lanes >= best_lanes
        else f"{text} of {best_speed / 1e9:g} x{best_lanes:g}"
    )


def table(
    document: Mapping[str, Any], warnings: Sequence[str], sensors: Mapping[str, Sensors] | None = None
) -> str:
    """Render the JSON document as text for a terminal: devices, functions left out, warnings.

    With ``sensors``, by the id of the unit, also what these show.
    """
    dra = "mode" in document
    rows = [
        (
            row["id"],
            f"{row['board']} (experimental)" if "experimental" in row else row["board"],
            f"{row['health']} ({row['reason']})" if row["reason"] else row["health"],
            "-" if row["numa_node"] is None else str(row["numa_node"]),
            row["serial"] or "-",
            " ".join(row["nodes"]) or "-",
            *(() if sensors is None else sensors[row["id"]]),
            row["resource"],
            *(_of_dra(row["dra"]) if dra else ()),
        )
        for row in document["devices"]
    ]
    more = () if sensors is None else ("POWER", "TEMP", "LINK")
    head = (
        "DEVICE",
        "BOARD",
        "HEALTH",
        "NUMA",
        "SERIAL",
        "NODES",
        *more,
        "RESOURCE",
        *(("DRA NAME", "CLAIM") if dra else ()),
    )
    lines = columns(head, rows) if rows else ["no device to offer"]
    if document["left_out"]:
        lines += ["", "left out:"]
        lines += [f"  {entry['function']}  {printable(entry['reason'])}" for entry in document["left_out"]]
    if warnings:
        lines += ["", *(f"warning: {warning}" for warning in warnings)]
    return "\n".join(lines)


def _of_dra(unit: Mapping[str, Any]) -> tuple[str, str]:
    """Return the name in the pool and the claims."""
    return unit["name"], " ".join(f"{each['namespace']}/{each['name']}" for each in unit["claims"]) or "-"


_WATCH_OPTION: Final[dict[str, Mapping[str, Any]]] = {
    "--watch": {"action": "store_true", "help": "again every second; piped, when something has changed"}
}
COMMAND = Command(
    run,
    settings=SCAN_SETTINGS | {"telemetry", "plugins_dir"},
    options=output_option("table", "wide", "json") | _WATCH_OPTION | FROM_OPTION,
)
