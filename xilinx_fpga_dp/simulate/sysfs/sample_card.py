"""The common part of all cards of a sample node.

A card has one life, whatever its driver: `plug` makes the bus show its functions and binds their drivers,
`bind` and `unbind` load and unload the driver that the pod uses, `remove` pulls the card. In between, a
test changes single attributes. `write` sets a value, `corrupt` a value that no driver prints, and `hang`
lets every read block until `unhang`. `mend` sets every attribute to the value of a healthy card.
Each driver has a subclass in a module of its own; its faults are methods there.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

from xilinx_fpga_dp.simulate.sysfs.bus import BusDevice, PciFunction, Tree
from xilinx_fpga_dp.simulate.sysfs.files import Content, Link

Damage: TypeAlias = Literal["missing", "empty", "blank", "binary", "huge", "refused", "loop"]
DAMAGES: tuple[Damage, ...] = get_args(Damage)


class SampleCard(ABC):
    """One device of a card; a U30 or an MA35D has two of them.

    Attributes:
        bus_device: the device on the bus that a pod uses; set by the subclass.
    """

    bus_device: BusDevice

    def __init__(self, node: Tree) -> None:
        self.node = node
        self._pipes: dict[str, tuple[str, bytes | None]] = {}  # by attribute: hung reads, content before

    @property
    @abstractmethod
    def title(self) -> str:
        """Its name as its driver prints it."""

    @property
    @abstractmethod
    def nodes(self) -> tuple[str, ...]:
        """The device nodes that a pod needs, ``/dev/dri/renderD128``; empty while it has none."""

    @property
    def address(self) -> str:
        """Its name on its bus; on PCI the address of the function that a pod uses."""
        return self.bus_device.name

    @property
    def user(self) -> str:
        """The directory of that device on the bus."""
        return self.bus_device.path

    @abstractmethod
    def plug(self) -> None:
        """Add it to its bus and bind its drivers."""

    @abstractmethod
    def remove(self) -> None:
        """Unbind its drivers and remove it from its bus."""

    @abstractmethod
    def bind(self) -> None:
        """Bind its driver."""

    @abstractmethod
    def unbind(self) -> None:
        """Unbind its driver."""

    @abstractmethod
    def _attributes(self) -> Mapping[str, Content]:
        """The attributes that its driver adds, with the values of a healthy card."""

    def mend(self) -> None:
        """Set every attribute to the value of a healthy card."""
        for name, content in self._attributes().items():
            self.write(name, content)

    def work(self, load: float) -> None:  # noqa: B027 - a card may have no sensors
        """Let its sensors, if it has any, show a load: 0 none, 1 full; at 2.5 it runs hot."""

    def train_link(self, lanes: int | None = None) -> None:
        """Let its PCIe link have so many lanes, None: all; and the sensors of the PCI core show it."""
        if isinstance(self.bus_device, PciFunction):
            self.bus_device.train_link(lanes)

    def path(self, attribute: str) -> str:
        """Return the path of an attribute."""
        return f"{self.bus_device.path}/{attribute}"

    def write(self, attribute: str, content: Content) -> None:
        """Set an attribute. A newline is added to a text; None makes reads fail."""
        self.node.files.put(self.path(attribute), content)

    def hang(self, attribute: str) -> None:
        """Let reads of an attribute block until `unhang`."""
        path = self.path(attribute)
        before = None
        if os.path.isfile(path):
            with open(path, "rb") as file:
                before = file.read()
        self._pipes[attribute] = (self.node.files.put_pipe(path), before)

    def unhang(self, attribute: str) -> None:
        """Restore an attribute after `hang` and release the blocked readers."""
        pipe, before = self._pipes.pop(attribute)
        path = self.path(attribute)
        end = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)  # releases readers blocked in open(2)
        if os.path.exists(path) and os.path.samefile(path, pipe):
            if before is None:
                self.node.files.drop(path)
            else:
                self.node.files.put(path, before)
        os.write(end, before or b"")
        os.close(end)  # releases readers blocked in read(2)
        self.node.files.drop(pipe)

    def corrupt(self, attribute: str, damage: Damage) -> None:
        """Set an attribute to content that no driver prints, until `mend`."""
        path = self.path(attribute)
        match damage:
            case "missing":
                self.node.files.drop(path)
            case "empty" | "blank":
                self.write(attribute, "" if damage == "empty" else "\n")
            case "binary":
                self.write(attribute, b"\xff\xfe\x00\x80" * 8)
            case "huge":
                self.write(attribute, b"")
                os.truncate(path, 1 << 30)  # a sparse file: it uses no disk space
            case "refused":
                self.write(attribute, None)
            case "loop":
                self.write(attribute, Link(os.path.basename(path)))


def serial_of(slot: str) -> str:
    """Make up the serial number of the card in a slot."""
    return f"XFL1{slot.replace(':', '')[-8:].upper()}"
