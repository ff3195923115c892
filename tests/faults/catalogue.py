"""The list of all faults."""

import itertools
from collections.abc import Sequence

from tests.faults import hosts, kubelets, servers, wires
from tests.faults.fault import Fault

FAULTS: list[Fault] = [*kubelets.faults, *wires.faults, *hosts.faults, *servers.faults]


def pairs(faults: Sequence[Fault]) -> list[tuple[Fault, Fault]]:
    """Return all pairs of faults that change different things."""
    return [pair for pair in itertools.combinations(faults, 2) if pair[0].place != pair[1].place]


def named(name: str) -> Fault:
    """Return the first fault whose name begins with ``name``."""
    return next(fault for fault in FAULTS if fault.name.startswith(name))
