"""What the node offers at one moment: the one value that every front end subscribes to.

From an inventory to a snapshot:

1. pair devices to cards and decide which serial numbers count (`CardPairing` remembers that);
2. name them, by the template, the file of rules or plugin 1.3.0, and group them by name;
3. confirm the units: podresources has been asked since each was new;
4. mark as held what a container has under a name or id that the device no longer has.

The functions of `resources` do that, pure; the builder keeps what has to be remembered. A snapshot is
replaced as a whole, so a subscriber that compares it with the last one it has seen misses nothing.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from xilinx_fpga_dp.hostfiles.watched_file import FileState, WatchedFile
from xilinx_fpga_dp.kubelet.allocation_tracker import AllocationTracker
from xilinx_fpga_dp.model import Device, Held, Inventory, Offers
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.resources import rename_rules
from xilinx_fpga_dp.resources.card_pairing import WAIT, CardAssignment, CardPairing
from xilinx_fpga_dp.resources.compat_1_3_0 import names as compat
from xilinx_fpga_dp.resources.naming import DEFAULT_TEMPLATE, SHARED, Naming
from xilinx_fpga_dp.resources.offers import (
    claim_names,
    held_elsewhere,
    names_of,
    offers_of,
    only,
    representatives,
    same_variables,
    with_devices,
    without_management,
)
from xilinx_fpga_dp.settings import Settings, variable

if TYPE_CHECKING:
    from xilinx_fpga_dp.resources.device_rules import DeviceRules

log = logging.getLogger(__name__)

# Plugin 1.3.0 took a late serial number for a missing one; it may be some seconds late.
_COMPAT_WAIT: Final = 5.0
# Seconds the first read of the file of rules may take; then devices are offered without it.
_FIRST_READ: Final = 10.0
# Seconds that all devices wait for podresources' answer about a new one; then the new one waits alone.
_CONFIRM_PATIENCE: Final = 0.2

_FIXED: Final = "is mounted by itself (subPath), so a changed one never gets here; mount its directory"

NameRules = tuple[rename_rules.Rule, ...] | compat.NameCustomize
"""The content of the file of RESOURCE_RENAMES: our rules, or the names of plugin 1.3.0."""

Hold = Callable[[frozenset[str]], Inventory]
"""Marks devices as held; returns the inventory with that (`Scanner.hold`)."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the node offers at one moment, and what it waits for."""

    offers: Offers | None = None  # what Kubernetes may allocate from; None before the first scan
    known: Offers | None = None  # the same with the units that are not confirmed yet
    unconfirmed: frozenset[str] = frozenset()  # ids of those units
    unnamed: frozenset[str] = frozenset()  # devices that wait since the start for a serial number
    scan_error: str | None = None  # why the newest scan failed

    @property
    def not_ready(self) -> str | None:
        """Why not everything on the node is offered yet; None if it is."""
        if self.offers is None:
            return "the node has not been scanned yet" + (f": {self.scan_error}" if self.scan_error else "")
        if self.unnamed:
            return f"waiting for the serial number of {', '.join(sorted(self.unnamed))}"
        if self.unconfirmed:
            return f"podresources has not been asked who holds {', '.join(sorted(self.unconfirmed))}"
        return None


class SnapshotBuilder:
    """Makes snapshots of inventories.

    Args:
        settings: the settings.
        rules_changed: called when the file of rules has changed.
        patient: wait for late serial numbers; a command that scans once does not.
    """

    def __init__(
        self,
        settings: Settings,
        rules_changed: Callable[[], None] = lambda: None,
        *,
        patient: bool = True,
    ) -> None:
        self._settings = settings
        self._rules_changed = rules_changed
        self._compat = compat.Compat130Settings.of(os.environ) if settings.compat != "none" else None
        self._file = (
            WatchedFile(settings.resource_renames, self._parse, rename_rules.MAX_BYTES, self._rules_read)
            if settings.resource_renames
            else None
        )
        self._device_rules = (
            WatchedFile(
                settings.device_rules, _parse_device_rules, rename_rules.MAX_BYTES, self._device_rules_read
            )
            if settings.device_rules
            else None
        )
        self._whole_cards = settings.u30_unit == "card"
        wait = _COMPAT_WAIT if self._compat else WAIT
        # Plugin 1.3.0 put devices together name by name, so that is done when they have their names.
        self._pairing = CardPairing(pair=self._whole_cards and not self._compat, wait=wait if patient else 0)
        # The newest snapshot, and everything that it is made of
        self._snapshot = Snapshot()
        self._inputs: tuple[object, ...] = ()

    @property
    def device_rules(self) -> "DeviceRules | None":
        """The newest good rules for other devices; None if there are none."""
        return self._device_rules.state.value if self._device_rules else None

    @property
    def device_rule_problems(self) -> tuple[str, ...]:
        """What is wrong with the file of rules for other devices."""
        state = self._device_rules.state if self._device_rules else FileState()
        return (*state.problems, *(() if state.value is None else state.value.problems))

    async def read_rules(self) -> None:
        """Read the files of rules once, before anything is offered otherwise."""
        await asyncio.gather(*(file.read(_FIRST_READ) for file in (self._file, self._device_rules) if file))

    async def follow_rules(self) -> None:
        """Follow the files of rules. Endless; ends at once if there are none."""
        async with asyncio.TaskGroup() as group:
            for file in (self._file, self._device_rules):
                if file:
                    group.create_task(file.run())

    async def build(self, found: Inventory, tracker: AllocationTracker, hold: Hold) -> Snapshot:
        """Return the snapshot of an inventory: the last one if nothing it is made of has changed."""
        cards, rules = self._decide(found, asyncio.get_running_loop().time())
        devices = self._device_rules.state if self._device_rules else None
        if self._inputs != (found, cards, rules, devices, tracker.held, tracker.confirmed):
            offers = self._offers(found, cards, rules)
            confirmed = await tracker.confirm(names_of(offers), _CONFIRM_PATIENCE)
            elsewhere = self._held_elsewhere(offers, cards, tracker.held)
            tracker.held_elsewhere = bool(elsewhere)
            known = with_devices(offers, hold(elsewhere))
            self._inputs = (found, cards, rules, devices, tracker.held, tracker.confirmed)
            first = self._snapshot.offers is None
            self._snapshot = Snapshot(
                offers=only(known, confirmed),
                known=known,
                unconfirmed=frozenset(unit_id for _, unit_id in names_of(offers) - confirmed),
                # A device that comes later does not make the node unready.
                unnamed=cards.waiting if first or self._snapshot.unnamed else frozenset(),
            )
        return self._snapshot

    def build_once(self, found: Inventory, held: Held, hold: Hold, now: float) -> Offers:
        """Return the offers of an inventory where nothing is remembered and nothing is waited for."""
        cards, rules = self._decide(found, now)
        offers = self._offers(found, cards, rules)
        return with_devices(offers, hold(self._held_elsewhere(offers, cards, held)))

    def log_migration(self) -> None:
        """Log for each variable of plugin 1.3.0 what to write instead, or that it has no effect."""
        if self._compat is None:
            for name in compat.VARIABLES:
                if name in os.environ:
                    log.warning(Event.COMPAT_NEEDED, extra={"variable": name})
            return
        is_set = variable("resource_prefix") in os.environ
        own_prefix = is_set or self._settings.resource_prefix != compat.PREFIX
        from xilinx_fpga_dp.resources.compat_1_3_0.advice import advice  # noqa: PLC0415

        for was, write in advice(self._compat, os.environ, own_prefix=own_prefix):
            log.info(Event.COMPAT_ADVICE, extra={"was": was, "write": write})
        if self._settings.resource_name_template != DEFAULT_TEMPLATE:
            extra = {"variable": variable("resource_name_template")}
            log.warning(Event.COMPAT_TEMPLATE_IGNORED, extra=extra)

    def _decide(self, found: Inventory, now: float) -> tuple[CardAssignment, FileState[NameRules]]:
        """Decide which devices are one card, and by which rules they are named."""
        rules: FileState[NameRules] = self._file.state if self._file else FileState()
        by_serial = "serial" in self._names(found, rules).fields

        def needs_serial(device: Device) -> bool:
            return by_serial or (self._compat is not None and self._whole_cards and compat.is_u30(device))

        return self._pairing.assign(found.devices, now, needs_serial), rules

    def _offers(self, found: Inventory, cards: CardAssignment, rules: FileState[NameRules]) -> Offers:
        names = self._names(found, rules, cards)
        offers = offers_of(found, names, self._settings.shared_replicas, cards)
        if isinstance(names.base, compat.Compat130Names):
            offers = compat.apply(offers, names.base, cards.serials, cards=self._whole_cards)
        warnings = [*cards.warnings, *_problems(self._settings.resource_renames, rules), *names.warnings]
        if self._device_rules:
            path = self._settings.device_rules
            warnings += _problems(path, self._device_rules.state, "; that rule is left out")
        if self._settings.expose_mgmt:
            warnings += without_management(offers.devices)
        return replace(offers, warnings=(*warnings, *same_variables(offers)))

    def _held_elsewhere(self, offers: Offers, cards: CardAssignment, held: Held) -> frozenset[str]:
        """Return the devices that a container holds under a name or id that they do not have."""
        singles = cards.singles if self._whole_cards else None
        claims = self._settings.mode == "dra"
        driver = self._settings.dra_driver_name
        known = claim_names(offers, driver) if claims else names_of(offers)
        return held_elsewhere(offers, held, known, singles, driver)

    def _names(
        self, found: Inventory, rules: FileState[NameRules], cards: CardAssignment | None = None
    ) -> rename_rules.Renaming:
        """Return the names of these devices; without their cards, only the fields of the names count."""
        prefix = self._settings.resource_prefix
        virtual = self._compat is not None and self._compat.virtual
        suffix = SHARED if self._settings.shared_replicas > 1 and not virtual else ""
        own, customize = (
            ((), rules.value) if isinstance(rules.value, compat.NameCustomize) else (rules.value or (), None)
        )
        base: Naming | compat.Compat130Names = Naming(prefix, self._settings.resource_name_template, suffix)
        if self._compat:
            base = compat.Compat130Names(prefix, self._compat, customize, suffix=suffix)
        among = representatives(found.devices, cards) if cards else []
        return rename_rules.Renaming(base, own).among(among)

    def _parse(self, text: bytes) -> NameRules:
        if self._compat is None or not text.lstrip().startswith(b"{"):
            return rename_rules.parse(text)
        return compat.parse(text)

    def _device_rules_read(self) -> None:
        if self._device_rules and not self._device_rules.state.problems:
            log.info(Event.DEVICE_RULES_READ, extra={"path": self._device_rules.path})
        self._rules_changed()

    def _rules_read(self) -> None:
        if self._file and not self._file.state.problems:
            log.info(Event.RENAME_RULES_READ, extra={"path": self._file.path})
            rules = self._file.state.value
            if self._compat and isinstance(rules, compat.NameCustomize):
                from xilinx_fpga_dp.resources.compat_1_3_0.advice import as_rules  # noqa: PLC0415

                log.info(Event.COMPAT_RULES, extra={"write": as_rules(rules, self._compat)})
        self._rules_changed()


def _parse_device_rules(text: bytes) -> "DeviceRules":
    from xilinx_fpga_dp.resources import device_rules  # noqa: PLC0415

    return device_rules.parse(text)


def _problems(
    path: str, rules: "FileState[NameRules] | FileState[DeviceRules]", of_a_rule: str = ""
) -> list[str]:
    """Return what is wrong with a file of rules; the last argument ends what is said of one rule."""
    effect = "no rules count until it is mended" if rules.value is None else "what it said before counts"
    left_out = () if rules.value is None or isinstance(rules.value, tuple) else rules.value.problems
    return [
        *(f"{path}: {problem}; {effect}" for problem in rules.problems),
        *(f"{path}: {problem}{of_a_rule}" for problem in left_out),
        *([f"{path}: {_FIXED}"] if rules.fixed else ()),
    ]
