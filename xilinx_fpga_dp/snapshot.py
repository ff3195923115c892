"""From an inventory to what is offered of it, by the settings: cards, names, the file of rules, plugin 1.3.0.

It keeps what has to be remembered for that, and lets the pure functions of `resources` do the rest.
"""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from xilinx_fpga_dp.hostfiles.watched_file import FileState, WatchedFile
from xilinx_fpga_dp.model import Device, Held, Inventory, Offers
from xilinx_fpga_dp.resources import rename_rules as renames
from xilinx_fpga_dp.resources.card_pairing import WAIT, CardAssignment, CardPairing
from xilinx_fpga_dp.resources.compat_1_3_0 import names as compat
from xilinx_fpga_dp.resources.compat_1_3_0 import settings as compat_settings
from xilinx_fpga_dp.resources.naming import SHARED, Naming
from xilinx_fpga_dp.resources.offers import held_elsewhere, offers_of, representatives, same_variables
from xilinx_fpga_dp.settings import Settings, variable

log = logging.getLogger(__name__)

# Plugin 1.3.0 took a serial number that was not there yet for none; it may be some seconds late.
_OLD_WAIT: Final = 5.0

# Seconds the file of rules may take before anything is offered without it.
_FIRST_LOOK: Final = 10.0

_FIXED: Final = "is mounted by itself (subPath), so a changed one never gets here; mount its directory"

Rules = tuple[renames.Rule, ...] | compat.NameCustomize
"""What the file of RESOURCE_RENAMES says: our rules, or the names of plugin 1.3.0."""


@dataclass(frozen=True, slots=True)
class Basis:
    """What an inventory is offered by at one moment."""

    settled: CardAssignment
    rules: FileState[Rules]


class Offering:
    """What one node offers.

    Args:
        settings: the settings.
        environment: where the variables of plugin 1.3.0 stand.
        news: called when the file of rules says something else.
        patient: wait for late serial numbers; a single look takes what is there.
    """

    def __init__(
        self,
        settings: Settings,
        environment: Mapping[str, str] = os.environ,
        news: Callable[[], None] = lambda: None,
        *,
        patient: bool = True,
    ) -> None:
        self._settings = settings
        self._environment = environment
        self._news = news
        self._old = compat_settings.Compat130Settings.of(environment) if settings.compat != "none" else None
        self._file = (
            WatchedFile(settings.resource_renames, self._parse, renames.MAX_BYTES, self._rules_read)
            if settings.resource_renames
            else None
        )
        by_card = settings.u30_unit == "card"
        wait = _OLD_WAIT if self._old else WAIT
        # Plugin 1.3.0 put devices together name by name, so that is done when they have their names.
        self._cards = CardPairing(pair=by_card and not self._old, wait=wait if patient else 0)
        self._old_cards = by_card and self._old is not None

    async def look(self) -> None:
        """Read the file of rules once."""
        if self._file:
            await self._file.look(_FIRST_LOOK)

    async def run(self) -> None:
        """Follow the file of rules, for ever; ends at once where there is none."""
        if self._file:
            await self._file.run()

    def basis(self, found: Inventory, now: float) -> Basis:
        """By what this inventory is offered now."""
        rules: FileState[Rules] = self._file.known if self._file else FileState()
        fields = self._names(found, rules).fields

        def named_by_serial(device: Device) -> bool:
            return "serial" in fields or (self._old_cards and compat.is_u30(device))

        return Basis(self._cards.assign(found.devices, now, named_by_serial), rules)

    def offers(self, found: Inventory, basis: Basis) -> Offers:
        """What is offered of an inventory, and what an operator should know of it."""
        settled = basis.settled
        names = self._names(found, basis.rules, settled)
        offers = offers_of(found, names, self._settings.shared_replicas, settled)
        if isinstance(names.base, compat.Compat130Names):
            offers = compat.apply(offers, names.base, settled.serials, cards=self._old_cards)
        said = (*_problems(self._settings.resource_renames, basis.rules), *names.warnings)
        return replace(offers, warnings=(*settled.warnings, *said, *same_variables(offers)))

    def held_elsewhere(self, offers: Offers, basis: Basis, held: Held) -> frozenset[str]:
        """The devices of these offers that a pod holds under a name or id that they do not have."""
        whole_cards = self._settings.u30_unit == "card"
        return held_elsewhere(offers, held, basis.settled.singles if whole_cards else None)

    def tell_old_ways(self) -> None:
        """Say of each variable of plugin 1.3.0 what to write now, or that it counts for nothing."""
        if self._old is None:
            for name in compat_settings.VARIABLES:
                if name in self._environment:
                    log.warning("ignored: it needs XILINX_FPGA_DP_COMPAT=1.3.0", extra={"variable": name})
            return
        own = (
            self._settings.resource_prefix != compat_settings.PREFIX
            or variable("resource_prefix") in self._environment
        )
        from xilinx_fpga_dp.resources.compat_1_3_0.advice import advice  # noqa: PLC0415

        for was, write in advice(self._old, self._environment, own_prefix=own):
            log.info("COMPAT: what to write now", extra={"was": was, "write": write})
        if "resource_name_template" in self._settings.model_fields_set:
            log.warning(
                "ignored: names are those of plugin 1.3.0 with COMPAT",
                extra={"variable": variable("resource_name_template")},
            )

    def _names(
        self, found: Inventory, rules: FileState[Rules], settled: CardAssignment | None = None
    ) -> renames.Renaming:
        """The names of these devices; without what is settled of them only good for the fields they need."""
        prefix = self._settings.resource_prefix
        suffix = (
            SHARED if self._settings.shared_replicas > 1 and not (self._old and self._old.virtual) else ""
        )
        own, customize = (
            ((), rules.value) if isinstance(rules.value, compat.NameCustomize) else (rules.value or (), None)
        )
        base: Naming | compat.Compat130Names = Naming(prefix, self._settings.resource_name_template, suffix)
        if self._old:
            base = compat.Compat130Names(prefix, self._old, customize, suffix=suffix)
        among = representatives(found.devices, settled) if settled else []
        return renames.Renaming(base, prefix, suffix, own).among(among)

    def _parse(self, text: bytes) -> Rules:
        if self._old is None or not text.lstrip().startswith(b"{"):
            return renames.parse(text)
        return compat.parse(text)

    def _rules_read(self) -> None:
        """Name everything anew; what is wrong with the file stands in the offers."""
        if self._file and not self._file.known.problems:
            log.info("rules for names read", extra={"path": self._file.path})
            value = self._file.known.value
            if self._old and isinstance(value, compat.NameCustomize):
                from xilinx_fpga_dp.resources.compat_1_3_0.advice import as_rules  # noqa: PLC0415

                rules = as_rules(value, self._old)
                log.info("COMPAT: NameCustomize.json as rules", extra={"write": rules})
        self._news()


def _problems(path: str, rules: FileState[Rules]) -> list[str]:
    """What is wrong with the file of rules."""
    meanwhile = "no rules count until it is mended" if rules.value is None else "what it said before counts"
    left_out = rules.value.problems if isinstance(rules.value, compat.NameCustomize) else ()
    return [
        *(f"{path}: {problem}; {meanwhile}" for problem in rules.problems),
        *(f"{path}: {problem}" for problem in left_out),
        *([f"{path}: {_FIXED}"] if rules.fixed else ()),
    ]
