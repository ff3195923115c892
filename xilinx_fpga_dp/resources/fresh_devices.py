"""Devices that were read again for a grant, and are newer than the last scan. Pure.

What is made of them stays so until a scan of the whole bus that began later has seen them: a health check may
still show a device's old node.
"""

from collections.abc import Iterable

from xilinx_fpga_dp.model import Device


class FreshDevices:
    """Keeps these devices, each with the time at which it was read."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[Device, float]] = {}  # by address

    def note(self, devices: Iterable[Device], now: float) -> None:
        """Keep devices that were read at this time."""
        self._read |= {device.address: (device, now) for device in devices}

    def scanned(self, began: float) -> bool:
        """Forget what was read before a scan began. Return whether there was any."""
        before = self._read
        self._read = {address: each for address, each in before.items() if each[1] > began}
        return len(self._read) < len(before)

    def newest(self, device: Device) -> Device:
        """Return a device of the last scan, or its newer state."""
        read = self._read.get(device.address)
        return read[0] if read else device

    def over(self, devices: Iterable[Device]) -> dict[str, Device]:
        """Return devices by address, the newer state in place of each; also those that are not among them."""
        scanned = {device.address: device for device in devices}
        return scanned | {address: device for address, (device, _) in self._read.items()}
