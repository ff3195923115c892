"""The parts as the settings want them: what the service and the one-off commands are built of alike."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from xilinx_fpga_dp.discovery.health import Rules
from xilinx_fpga_dp.discovery.scanner import Scanner
from xilinx_fpga_dp.kubelet.podresources import PodResources
from xilinx_fpga_dp.model import Device, Held, Inventory, Offers
from xilinx_fpga_dp.operate.files import HostPaths
from xilinx_fpga_dp.operate.followed import Followed, FollowedFile
from xilinx_fpga_dp.resources import compat, renames
from xilinx_fpga_dp.resources.grants import Grants
from xilinx_fpga_dp.resources.naming import SHARED, Names, Naming
from xilinx_fpga_dp.resources.offers import held_elsewhere, offers_of
from xilinx_fpga_dp.settings import Settings

# Of REQUEST_TIMEOUT, what looking at the devices may take: the rest is for saying which one hangs.
_LOOK_SHARE = 0.9
# Seconds a single look waits for late drivers and serial numbers.
_LOOK_LIMIT = 3.0

RulesFile = tuple[renames.Rule, ...] | compat.Customize
"""What the file of RESOURCE_RENAMES says: our rules, or the names of plugin 1.3.0."""

NO_RULES: Final[Followed[RulesFile]] = Followed()


def scanner_of(settings: Settings, wake: Callable[[], None] = lambda: None) -> Scanner:
    """The scanner of this node."""
    rules = Rules(settings.recovery_checks, settings.reset_grace)
    return Scanner(settings.sysfs_root, settings.dev_root, rules, wake)


def rules_of(settings: Settings, news: Callable[[], None] = lambda: None) -> FollowedFile[RulesFile] | None:
    """The file of rules for names, if there is to be one."""
    if not settings.resource_renames:
        return None

    def parse(text: bytes) -> RulesFile:
        if settings.compat == "none" or not text.lstrip().startswith(b"{"):
            return renames.parse(text)
        if names := compat.parse(text):
            return names
        raise renames.BadRenames(
            "is no JSON object of names, as plugin 1.3.0 had it: see to quotes and commas"
        )

    return FollowedFile(settings.resource_renames, parse, renames.MAX_BYTES, news)


def offers_by(settings: Settings, found: Inventory, rules: Followed[RulesFile] = NO_RULES) -> Offers:
    """What is offered of an inventory."""
    prefix = settings.resource_prefix
    suffix = SHARED if settings.shared_replicas > 1 else ""
    base: Names = Naming(prefix, settings.resource_name_template, suffix)
    old_names = None
    if settings.compat != "none":
        old = compat.Old.of(os.environ)
        suffix = "" if old.virtual else suffix
        customize = rules.value if isinstance(rules.value, compat.Customize) else None
        base = old_names = compat.OldNames(prefix, old, customize, suffix=suffix).among(found.devices)
    own = rules.value if isinstance(rules.value, tuple) else ()
    naming = renames.Renaming(base, prefix, suffix, own).among(found.devices)
    offers = offers_of(found, naming, settings.shared_replicas)
    if old_names:
        offers = compat.as_listed(offers, old_names, cards=settings.u30_unit == "card")
    said = *_problems(settings.resource_renames, rules), *naming.warnings
    return replace(offers, warnings=(*offers.warnings, *said))


def _problems(path: str, rules: Followed[RulesFile]) -> list[str]:
    """What is wrong with the file of rules."""
    meanwhile = "no rules count until it is mended" if rules.value is None else "what it said before counts"
    left_out = rules.value.problems if isinstance(rules.value, compat.Customize) else ()
    return [
        *(f"{path}: {problem}; {meanwhile}" for problem in rules.problems),
        *(f"{path}: {problem}" for problem in left_out),
    ]


def grants_of(
    settings: Settings,
    scanner: Scanner,
    everything: Callable[[], tuple[Device, ...]],
    in_spec: Callable[[tuple[Device, ...]], Awaitable[bool]],
) -> Grants:
    """What answers which container gets what."""
    return Grants(
        refresh=scanner.refresh,
        time_limit=settings.request_timeout * _LOOK_SHARE,
        expose_mgmt=settings.expose_mgmt,
        strategy=settings.device_strategy,
        everything=everything if settings.shared_grant == "all" else None,
        mounts=HostPaths(settings.host_root, settings.extra_mounts).there,
        in_spec=in_spec,
    )


async def look_once(settings: Settings, scanner: Scanner) -> tuple[Offers, Held]:
    """One look at the node: what would be offered, and who holds what.

    Raises:
        ScanFailed: the bus could not be listed.
    """
    rules = NO_RULES
    if file := rules_of(settings):
        await file.look()
        rules = file.known
    deadline = time.monotonic() + _LOOK_LIMIT
    found = await scanner.scan()
    while not scanner.complete and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
        found = await scanner.scan()
    held: Held = {}
    # A node without kubelet has no such socket, and that is nothing to complain of.
    if await asyncio.to_thread(os.path.exists, settings.pod_resources_socket):
        held = await PodResources(settings.pod_resources_socket).held() or {}
    elsewhere = held_elsewhere(offers_by(settings, found, rules), held)
    return offers_by(settings, scanner.hold(elsewhere), rules), held
