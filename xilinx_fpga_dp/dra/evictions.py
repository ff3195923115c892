"""The effect of a device's taint: by DRA_EVICT_ON it evicts pods, once its reason has lasted.

A fault is older than this process if the device has had it since the first look: the instance before has
published its taint. Of that slice the age is taken over, by the clock of the API server alone, so that
neither a restart nor another instance restarts the time. kubelet removes the slices of a driver that is
away for 30 s, so the device was unobserved for no longer. A device that this process has seen with another
reason, or Healthy, has a new fault.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from xilinx_fpga_dp.dra.devices import PoolDevice, taint_key
from xilinx_fpga_dp.model import History, Reason

EVICT_AFTER: Final = 30.0  # seconds of the same reason until its taint evicts pods
NO_SCHEDULE: Final = "NoSchedule"
NO_EXECUTE: Final = "NoExecute"
_PRECISION: Final = 1.0  # seconds of the server's times


class Evictions:
    """Knows since when each device has its reason.

    Args:
        driver: the name of the DRA driver.
        evict_on: the reasons that evict.
        histories: returns those of all devices, by address.
        clock: returns the time of the histories.
    """

    def __init__(
        self,
        driver: str,
        evict_on: Collection[str],
        histories: Callable[[], Mapping[str, History]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._driver = driver
        self._evict_on = evict_on
        self._histories = histories
        self._clock = clock
        # What slices of earlier instances prove: since when a device has had its reason, with its history
        self._proven: dict[str, tuple[History, float]] = {}

    def effect(self, device: PoolDevice, reason: Reason) -> str:
        """Return the effect of the taint for a reason of a device."""
        if reason not in self._evict_on:
            return NO_SCHEDULE
        return NO_EXECUTE if self._clock() - self._since(device, reason) >= EVICT_AFTER else NO_SCHEDULE

    def take_over(self, slices: Iterable[Mapping[str, Any]], devices: Iterable[PoolDevice], now: str) -> None:
        """Take over the age of the faults that slices of an earlier instance tell of.

        Args:
            slices: as the API server has them.
            devices: as they are now.
            now: the time of the API server.
        """
        found = {each["name"]: each for one in slices for each in one["spec"].get("devices") or ()}
        for device in devices:
            for taint in found.get(device.name, {}).get("taints") or ():
                for each in device.devices:
                    history = self._histories().get(each.address)
                    if (
                        history
                        and each.reason
                        and not history.changes  # since the first look
                        and taint["key"] == taint_key(self._driver, each.reason)
                        and not taint.get("value")
                    ):
                        self._proven[each.address] = history, self._clock() - _age(taint, now)

    def _since(self, device: PoolDevice, reason: Reason) -> float:
        histories = self._histories()
        return min(
            (
                self._began(each.address, histories[each.address])
                for each in device.devices
                if each.reason is reason and each.address in histories
            ),
            default=self._clock(),
        )

    def _began(self, address: str, history: History) -> float:
        known, proven = self._proven.get(address, (None, history.since))
        return min(proven, history.since) if known == history else history.since


def _age(taint: Mapping[str, Any], now: str) -> float:
    """Return how old the reason of a taint is at least, in seconds."""
    lasted = EVICT_AFTER if taint.get("effect") == NO_EXECUTE else 0.0  # when the taint was added
    try:
        since = datetime.fromisoformat(now) - datetime.fromisoformat(taint["timeAdded"])
    except (KeyError, TypeError, ValueError):
        return lasted
    return lasted + max(since.total_seconds() - _PRECISION, 0.0)
