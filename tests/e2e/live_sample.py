"""A sample node whose render nodes are devices in the /dev of kubelet and pods."""

import os
from collections.abc import Mapping
from pathlib import Path

from xilinx_fpga_dp.simulate.sysfs.files import Content
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode

from .host import Host
from .namespace import fake_devices


class LiveSample(SampleNode):
    """A sample node with a distinct device for each render node, in the /dev of kubelet and pods.

    Where they are more than the harmless devices of this machine, several are the same one.

    Attributes:
        every_node: whether nodes other than render nodes are created too.
        own_numbers: whether class devices have the numbers of their nodes, which rules compare. Of cards of
            the other drivers several would have one number.
    """

    every_node = False
    own_numbers = False

    def __init__(self, root: Path, host: Host, *, twin: bool = False) -> None:
        """Create it; a twin has a separate /sys and creates no device nodes."""
        self._host = host
        self._twin = twin
        self._fakes: dict[str, int] = {}  # by node: the index of its device in `fake_devices`
        super().__init__(root)

    def environment(self) -> dict[str, str]:
        """Return the settings to run the service against this node, inside the namespace."""
        return {"XILINX_FPGA_DP_SYSFS_ROOT": self.sysfs_root}

    def add_node(self, node: str, mode: int = 0o666) -> None:
        """Create a device node, if a case opens nodes of its kind."""
        if ("/renderD" in node or self.every_node) and not self._twin and node not in self._fakes:
            # A container without CAP_SYSLOG may not open the last one.
            count = len(fake_devices()) - self.every_node
            free = (n for n in range(count) if n not in self._fakes.values())
            number = next(free, len(self._fakes) % count)
            self._host.make_device(node, number)
            self._fakes[node] = number

    def add_class_device(
        self,
        kind: str,
        name: str,
        node: str,
        number: tuple[int, int],
        content: Mapping[str, Content],
        *,
        parent: str | None = None,
        mode: int = 0o666,
    ) -> str:
        """Add a class device, see `own_numbers`."""
        self.add_node(node, mode)
        if self.own_numbers and node in self._fakes:
            fake = self.devices()[node]
            number = os.major(fake), os.minor(fake)
        return super().add_class_device(kind, name, node, number, content, parent=parent, mode=mode)

    def remove_node(self, node: str) -> None:
        """Remove a device node."""
        if node in self._fakes:
            self._host.path(node).unlink()
            del self._fakes[node]

    def clear(self) -> None:
        """Remove all device nodes."""
        for node in list(self._fakes):
            self.remove_node(node)

    def devices(self) -> dict[str, int]:
        """Return the device number of each render node."""
        fakes = fake_devices()
        return {node: fakes[number] for node, number in self._fakes.items()}
