"""The back-end for devices that a file of rules names, whatever their driver.

A rule takes PCI functions or class devices, the first rule that matches counts, and it comes before the
drivers' back-ends. A device keeps its rule if its driver is unbound: it is Unhealthy until that is back.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Final

from xilinx_fpga_dp.discovery import attributes, sysfs
from xilinx_fpga_dp.discovery.backend import Probe
from xilinx_fpga_dp.discovery.health import Observation
from xilinx_fpga_dp.discovery.owned_nodes import MAX_NODES, Nodes
from xilinx_fpga_dp.discovery.sysfs import ADDRESS, Bus, ClassDevice, Function, Unreadable, Wanted, slot_of
from xilinx_fpga_dp.model import Device, Reason, Shell
from xilinx_fpga_dp.resources.device_rules import DeviceRule, NodeGlob
from xilinx_fpga_dp.resources.naming import render

_SEPARATORS: Final = "-_."

FindNode = Callable[[Function, Bus], str | None]


@dataclass(frozen=True, slots=True)
class _Taken:
    """A device and its rule."""

    rule: DeviceRule
    id: str
    path: str  # its directory
    function: Function | None  # itself, or the parent of a class device
    class_device: ClassDevice | None = None
    shared: tuple[str, ...] = ()  # directories of functions of its slot whose nodes may be its too
    manager: Function | None = None  # the management function of its slot


class DeviceRuleBackend:
    """The devices of some rules.

    Args:
        rules: the rules, in their order.
        builtin: what the drivers' back-ends want of the bus.
        management: for each driver of management functions, what finds a function's node; blocks.
    """

    def __init__(
        self, rules: tuple[DeviceRule, ...], builtin: Wanted, management: Mapping[str, FindNode]
    ) -> None:
        self._rules = rules
        self._builtin = builtin
        self._management = management
        self._for_functions = [rule for rule in rules if rule.subsystem is None]
        self._for_classes = [rule for rule in rules if rule.subsystem is not None]
        self.wanted = replace(
            builtin,
            takes=self._may_take if self._for_functions else None,
            class_globs=tuple(dict.fromkeys(rule.subsystem for rule in rules if rule.subsystem)),
        )

    def probes(
        self, bus: Bus, remembered: Mapping[str, str], addresses: Collection[str]
    ) -> tuple[list[Probe], Bus]:
        """Return the probes for what the rules take, and the bus that is left for the drivers' back-ends.

        Args:
            bus: all that is wanted of the bus.
            remembered: the name of the rule that took each known device, by address.
            addresses: those of all PCI functions.
        """
        taken = self._take(bus)
        rest = self._rest(bus, taken)
        nodes = Nodes(bus.root, bus.dev_root, addresses)
        found = [
            Probe(
                each.id,
                partial(_observe, each, nodes, partial(self._mgmt_node, each, bus)),
                unchanged=partial(_is_unchanged, each, nodes.dev_root),
            )
            for each in self._with_slots(bus, rest, taken, addresses)
        ]
        ids = {each.id for each in taken}
        for function in rest.functions:
            rule = self._remembered(function, remembered.get(function.address))
            if rule and function.address not in ids and function.driver not in self._builtin.drivers:
                ids.add(function.address)
                found.append(Probe(function.address, partial(_observe_lost, function, rule)))
        by_rule = bus.by_rule | ids
        left = tuple(function for function in rest.functions if function.address not in by_rule)
        return found, replace(rest, functions=left, by_rule=by_rule)

    def _may_take(self, function: Function) -> bool:
        """Whether a rule takes the function with one driver or another."""
        values = _values(function)
        del values["driver"]
        return any(rule.matches(values) for rule in self._for_functions)

    def _remembered(self, function: Function, name: str | None) -> DeviceRule | None:
        if name is None:
            return None
        values = _values(function)
        del values["driver"]
        return next(
            (each for each in self._for_functions if each.name == name and each.matches(values)), None
        )

    def _take(self, bus: Bus) -> list[_Taken]:
        """Find what each rule takes; of a function and a class device of it, the earlier rule."""
        functions = {function.address: function for function in bus.functions}
        of_functions = {
            function.address: rule
            for function in bus.functions
            if (rule := next((each for each in self._for_functions if each.matches(_values(function))), None))
        }
        taken: dict[str, _Taken] = {}
        for kind, devices in bus.classes.items() if self._for_classes else ():
            for device in devices:
                parent = functions.get(device.parent or "")
                rule = self._for_class_device(kind, device, parent)
                if rule is None or device.name in taken or ADDRESS.fullmatch(device.name):
                    continue
                if parent and (other := of_functions.get(parent.address)):
                    if other.number < rule.number:
                        continue
                    del of_functions[parent.address]
                taken[device.name] = _Taken(rule, device.name, device.path, parent, device)
        for address, rule in of_functions.items():
            function = functions[address]
            taken[address] = _Taken(rule, address, function.path, function)
        return list(taken.values())

    def _for_class_device(self, kind: str, device: ClassDevice, parent: Function | None) -> DeviceRule | None:
        values = {"driver": parent.driver if parent else device.driver, "address": device.name}
        for rule in self._for_classes:
            if fnmatchcase(kind, rule.subsystem or "") and (
                rule.matches(values) or rule.matches(values | {"driver": _last_part(values["driver"])})
            ):
                return rule
        return None

    def _rest(self, bus: Bus, taken: Collection[_Taken]) -> Bus:
        """Return the bus without what rules took, nor the management functions of what they took."""
        hidden = {each.function.address for each in taken if each.function}
        names = {each.id for each in taken if each.class_device}
        slots = {slot_of(address) for address in hidden}
        users = {
            function.slot
            for function in bus.functions
            if function.driver in self._builtin.drivers
            and function.driver not in self._management
            and function.address not in hidden
        }
        functions = tuple(
            function
            for function in bus.functions
            if function.address not in hidden
            and not (function.driver in self._management and function.slot in slots - users)
        )
        classes = {
            kind: left
            for kind, devices in bus.classes.items()
            if (pattern := self._builtin.classes.get(kind))
            and (
                left := tuple(
                    each for each in devices if pattern.fullmatch(each.name) and each.name not in names
                )
            )
        }
        return replace(bus, functions=functions, classes=classes, by_rule=frozenset(hidden | names))

    def _with_slots(
        self, bus: Bus, rest: Bus, taken: Iterable[_Taken], addresses: Collection[str]
    ) -> Iterator[_Taken]:
        """Give the functions that are no device to the first device of their slot whose rule wants them."""
        wants = [each for each in taken if each.function and any(node.slot for node in each.rule.nodes)]
        slots: dict[str, list[str]] = {}
        if wants:
            busy = {each.id for each in taken} | {
                each.address for each in rest.functions if each.driver in self._builtin.drivers
            }
            for address in sorted(addresses):
                if address not in busy:
                    slots.setdefault(slot_of(address), []).append(address)
        first = sorted(wants, key=lambda each: (each.rule.number, each.id))
        heirs = {each.function.slot: each.id for each in reversed(first) if each.function}
        managers = {each.slot: each for each in bus.functions if each.driver in self._management}
        for each in taken:
            slot = each.function.slot if each.function else ""
            shared = slots.get(slot, ()) if heirs.get(slot) == each.id else ()
            paths = tuple(f"{bus.root}/bus/pci/devices/{address}" for address in shared)
            yield replace(each, shared=paths, manager=managers.get(slot))

    def _mgmt_node(self, taken: _Taken, bus: Bus) -> str | None:
        """Find the node that EXPOSE_MGMT grants; None if there is none. Blocks."""
        manager = taken.manager
        if manager is None or manager.address == taken.id:
            return None
        return self._management[manager.driver or ""](manager, bus)


def _values(function: Function) -> dict[str, str | None]:
    return {
        "vendor": function.vendor,
        "device": function.device,
        "subsystem_vendor": function.subsystem_vendor,
        "subsystem_device": function.subsystem_device,
        "class": function.pci_class,
        "driver": function.driver,
        "address": function.address,
    }


def _last_part(driver: str | None) -> str | None:
    """Return the driver's own name: on the auxiliary bus it begins with its module's (base/auxiliary.c)."""
    return driver.rpartition(".")[2] if driver else None


# All functions below block.


def _observe(taken: _Taken, nodes: Nodes, mgmt_node: Callable[[], str | None]) -> Observation:
    found: dict[str, None] = {}
    missing = []
    own_place = [os.path.realpath(taken.path)]
    shared = [os.path.realpath(path) for path in taken.shared]
    for spec in taken.rule.nodes:
        own = _find(taken, spec, nodes, [*own_place, *(shared if spec.slot else ())])
        found |= dict.fromkeys(own)
        if not own and not spec.optional:
            missing.append(spec.glob)
    reason, note = None, None
    if missing:
        reason, note = Reason.NO_NODE, f"rule {taken.rule.name}: no node of it matches {', '.join(missing)}"
    if bad := _bad_attribute(taken):
        reason, note = reason or Reason.BAD_STATE, "; ".join(filter(None, (note, bad)))
    function = taken.function
    device = Device(
        address=taken.id,
        shell=Shell(taken.rule.name, None, None),
        board=taken.rule.name,
        driver=_driver(taken) or "",
        device_id=function.device if function else None,
        numa_node=sysfs.numa_node_of(function) if function else None,
        pcie_path=function.pcie_path if function else (),
        nodes=tuple(found)[:MAX_NODES],
        mgmt_node=mgmt_node(),
        mounts=taken.rule.mounts,
        rule=taken.rule.name,
        rule_number=taken.rule.number,
        note=note,
    )
    name = render(taken.rule.name, device).strip(_SEPARATORS) or taken.rule.name
    device = replace(device, shell=Shell(name, None, None), board=name)
    return Observation(taken.id, device, reason, slow=frozenset())


def _observe_lost(function: Function, rule: DeviceRule) -> Observation:
    driver = f"bound to {function.driver}" if function.driver else "no driver"
    why = f"{driver}, and rule {rule.name} wants another one: bind that again"
    return Observation(function.address, reason=Reason.NO_DRIVER, why=why)


def _driver(taken: _Taken) -> str | None:
    if taken.function:
        return taken.function.driver
    return taken.class_device.driver if taken.class_device else None


def _find(taken: _Taken, spec: NodeGlob, nodes: Nodes, places: list[str]) -> tuple[str, ...]:
    address = taken.function.address if taken.function else taken.id
    if (glob := spec.for_address(address)) is None:
        return ()
    unique = spec.has_domain or nodes.is_unique(address)
    carries = spec.carries_address and taken.class_device is None and unique
    return nodes.find(glob, places, carries=carries)


def _bad_attribute(taken: _Taken) -> str | None:
    """Return what an attribute says that is not healthy; None if all are, or missing."""
    top = os.path.realpath(taken.path) if taken.rule.health else ""
    for each in taken.rule.health:
        path = os.path.realpath(f"{top}/{each.attribute}")
        if not path.startswith(f"{top}/") or os.path.basename(path) in attributes.NEVER:
            continue
        try:
            value = sysfs.read_attribute(path)
        except Unreadable as error:
            return f"rule {taken.rule.name}: {error}"
        if value is not None and value not in each.healthy:
            return (
                f"rule {taken.rule.name}: {each.attribute} is {value[:80]!r}, not {' or '.join(each.healthy)}"
            )
    return None


def _is_unchanged(taken: _Taken, dev_root: str, last: Observation, exact: bool) -> bool:
    """Whether driver, nodes and attributes are as they were; of nodes that are new only a scan tells."""
    if exact or last.device is None:
        return False
    function = taken.function
    if function and sysfs.driver_of(function.path) != function.driver:
        return False
    if not os.path.lexists(taken.path):
        return False
    there = all(os.path.exists(dev_root + node.removeprefix("/dev")) for node in last.device.nodes)
    return there and _bad_attribute(taken) is None
