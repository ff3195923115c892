"""The health of the pool's devices, as kubelet shows it in the status of pods (KEP-4680).

The complete list is sent at once, when it changes, and every ten seconds: kubelet takes a device of which it
hears nothing for 30 s for unknown. When any stream of a driver ends, kubelet forgets all its health
(cm/dra/manager.go), so after another instance has left this one sends at once,
and once more half a second later.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Final

from xilinx_fpga_dp.aio.latest import Closed, Latest
from xilinx_fpga_dp.aio.race import race
from xilinx_fpga_dp.dra.devices import PoolDevice
from xilinx_fpga_dp.model import Reason
from xilinx_fpga_dp.rpc.api import dra_health_v1 as api

_EVERY: Final = 10.0  # seconds between two lists
_MAX_MESSAGE: Final = 1024  # characters, of which kubelet keeps no more

Health = Mapping[str, tuple[Reason | None, str | None]]
"""The reason and the note of each device, by its name."""


def health_of(pool: Mapping[str, PoolDevice]) -> Health:
    """Return the health of all devices."""
    return {
        name: (device.reason, next((each.note for each in device.devices if each.reason), None))
        for name, device in pool.items()
    }


def encoded(health: Health, pool: str, now: float) -> bytes:
    """Encode the list. Its bytes are the same in v1 and v1alpha1 of the API.

    Args:
        health: that of all devices.
        pool: the name of the pool.
        now: seconds since 1970.
    """
    return bytes(
        api.NodeWatchResourcesResponse(
            devices=[
                api.DeviceHealth(
                    device=api.DeviceIdentifier(pool_name=pool, device_name=name),
                    health=api.HealthStatus.UNHEALTHY if reason else api.HealthStatus.HEALTHY,
                    last_updated_time=int(now),
                    message=": ".join(filter(None, (reason, note)))[:_MAX_MESSAGE] if reason else "",
                )
                for name, (reason, note) in health.items()
            ]
        )
    )


class HealthReport:
    """The health that all streams send."""

    def __init__(self, pool: str) -> None:
        self._pool = pool
        # With a number that changes where the list is to be sent again
        self._current: Latest[tuple[Health | None, int]] = Latest((None, 0))

    def set(self, health: Health) -> None:
        """Report this health from now on."""
        self._current.set((health, self._current.value[1]))

    def repeat(self) -> None:
        """Send the list again at once."""
        health, number = self._current.value
        self._current.set((health, number + 1))

    async def lists(self, ending: Latest[bool]) -> AsyncIterator[bytes]:
        """Yield the encoded list whenever it is to be sent, until ``ending`` is closed."""
        seen = None
        while True:
            try:
                async with asyncio.timeout(_EVERY):
                    await self._changed_or_ended(seen, ending)
            except TimeoutError:
                pass
            except Closed:
                return
            seen = self._current.value
            if seen[0] is not None:
                yield encoded(seen[0], self._pool, time.time())

    async def _changed_or_ended(self, seen: tuple[Health | None, int] | None, ending: Latest[bool]) -> None:
        await race(self._current.other_than(seen), ending.until(lambda _: False))
