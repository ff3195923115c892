"""All faults there are."""

import itertools

from tests.faults import hosts, kubelets, wires
from tests.faults.fault import Fault

FAULTS: list[Fault] = [*kubelets.faults, *wires.faults, *hosts.faults]


def pairs() -> list[tuple[Fault, Fault]]:
    """Every two faults that can happen at once: not two to the same thing. The first begins first."""
    quick = [fault for fault in FAULTS if not fault.long]
    both = [pair for pair in itertools.combinations(quick, 2) if pair[0].place != pair[1].place]
    return [(one, other) if number % 2 else (other, one) for number, (one, other) in enumerate(both)]


def named(name: str) -> Fault:
    """A fault by the beginning of its name."""
    return next(fault for fault in FAULTS if fault.name.startswith(name))
