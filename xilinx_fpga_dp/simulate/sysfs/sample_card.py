"""What all cards of a sample node can do, whatever driver is theirs."""

from abc import abstractmethod

from xilinx_fpga_dp.simulate.sysfs.bus import Tree
from xilinx_fpga_dp.simulate.sysfs.files import Attributes


class SampleCard(Attributes):
    """One device of a card: of a U30 or an MA35D one of its two."""

    def __init__(self, node: Tree) -> None:
        super().__init__(node.files)
        self.node = node

    @property
    @abstractmethod
    def title(self) -> str:
        """What its driver calls it."""

    @property
    @abstractmethod
    def address(self) -> str:
        """Its name on its bus; on PCI the address of the function a pod works with."""

    @property
    @abstractmethod
    def nodes(self) -> tuple[str, ...]:
        """The device nodes a pod needs to work with it, ``/dev/dri/renderD128``; none while it has none."""

    @abstractmethod
    def plug(self) -> None:
        """Let its bus find it and its drivers take it."""

    @abstractmethod
    def remove(self) -> None:
        """Pull it."""

    @abstractmethod
    def bind(self) -> None:
        """Let its driver take it."""

    @abstractmethod
    def unbind(self) -> None:
        """Let its driver go."""

    @abstractmethod
    def mend(self) -> None:
        """Let every attribute say what it does on a healthy card."""
