"""All faults there are."""

import itertools

from tests.faults import hosts, kubelets, wires
from tests.faults.fault import Fault

FAULTS: list[Fault] = [*kubelets.faults, *wires.faults, *hosts.faults]


def pairs() -> list[tuple[Fault, Fault]]:
    """Every two faults that can happen at once: not two to the same thing."""
    quick = [fault for fault in FAULTS if not fault.long]
    return [(one, other) for one, other in itertools.permutations(quick, 2) if one.place != other.place]


def named(name: str) -> Fault:
    """A fault by the beginning of its name."""
    return next(fault for fault in FAULTS if fault.name.startswith(name))
