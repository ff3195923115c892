"""A fault: its steps, and its permitted effects on the resources."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.faults.stage import Stage

Steps = Callable[["Stage"], Iterator[None]]
"""Begins the fault, yields while it lasts, and ends it."""

EVER = float("inf")
# Seconds until recovery after frequent changes of a card: its lists are then one second apart.
PACED = 1.5


class NotDone(Exception):  # noqa: N818 - a result, not an error
    """A fault that cannot be injected, as a kubelet start in a directory that another made read-only."""


@dataclass(frozen=True, eq=False)
class Fault:
    """A fault and its permitted effects.

    Attributes:
        name: the name for tables and `--only`.
        steps: the injection.
        touches: the shells whose resources it may affect, `u200`, `u250`; no other resource sends a list.
        devices: whether the devices in their lists may change.
        gap: the seconds for which an affected resource may be lost during the fault.
        shared_gap: the same with a second instance.
        deaf: whether an instance or kubelet is unreachable during the fault; this delays other recoveries.
        back: the seconds from its end to full recovery.
        brief: whether it ends as soon as it begins; if it is alone, its begin counts as its end.
        lasts: its duration in seconds.
        place: what it changes; two faults in one place are not paired.
        long: whether it takes too long for a short run.
        api: whether it needs the setting with an API server.
        missing: returns why it is impossible on this machine; None if it is possible.
    """

    name: str
    steps: Steps
    touches: frozenset[str]
    devices: bool
    gap: float
    shared_gap: float
    deaf: bool
    back: float
    brief: bool
    lasts: float
    place: str
    long: bool
    api: bool
    missing: Callable[[], str | None]

    def __str__(self) -> str:
        return self.name


class Catalogue(list[Fault]):
    """A list of faults in the order of their definition."""

    def fault(
        self,
        name: str,
        *,
        touches: str = "",
        devices: bool = False,
        gap: float = 0.0,
        shared_gap: float | None = None,
        deaf: bool = False,
        back: float = 1.0,
        brief: bool = False,
        lasts: float = 0.7,
        place: str = "",
        long: bool = False,
        api: bool = False,
        missing: Callable[[], str | None] = lambda: None,
    ) -> Callable[[Steps], Steps]:
        """Add a fault; the decorated function is its steps."""

        def enter(steps: Steps) -> Steps:
            self.append(
                Fault(
                    name,
                    steps,
                    touches=frozenset(touches.split()),
                    devices=devices,
                    gap=gap,
                    shared_gap=gap if shared_gap is None else shared_gap,
                    deaf=deaf,
                    back=back,
                    brief=brief,
                    lasts=lasts,
                    place=place or name,
                    long=long,
                    api=api,
                    missing=missing,
                )
            )
            return steps

        return enter
