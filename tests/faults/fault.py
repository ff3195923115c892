"""What a fault is: how it begins and ends, and what may happen to whom meanwhile."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.faults.stage import Stage

Steps = Callable[["Stage"], Iterator[None]]
"""Begins the fault, yields while it lasts, and ends it."""

EVER = float("inf")
# Seconds until all is as before where a card has changed often: then its lists come a second apart.
PACED = 1.5


class NotDone(Exception):  # noqa: N818 - no fault of anybody's
    """A fault can't be done as it should: kubelet can't start on what another has made read-only."""


@dataclass(frozen=True, eq=False)
class Fault:
    """One thing that goes wrong.

    Attributes:
        name: what it is, for a table.
        steps: how it begins and ends.
        touches: the shells whose resources may notice, `u200`, `u250`; of others kubelet hears nothing.
        devices: the devices in their lists may change.
        gap: seconds a resource that is touched may be lost while it lasts.
        shared_gap: the same where a second instance stands by.
        deaf: an instance, or kubelet, can't be reached while it lasts, so nothing else is mended either.
        back: seconds after its end until all is as before.
        brief: over as soon as it has begun, so that counts as its end where it is alone.
        lasts: seconds.
        place: what it changes; two that change the same can't be told apart and are not paired.
        long: takes too long for a short run.
        missing: why it can't be done here; None: it can.
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
    missing: Callable[[], str | None]

    def __str__(self) -> str:
        return self.name


class Catalogue(list[Fault]):
    """The faults there are, in the order they are written down."""

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
        missing: Callable[[], str | None] = lambda: None,
    ) -> Callable[[Steps], Steps]:
        """Enter a fault; the function is its steps."""

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
                    missing=missing,
                )
            )
            return steps

        return enter
