"""What ``diagnose`` collects from a node and checks."""

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field

from xilinx_fpga_dp.model import Device, Offer, Offers


@dataclass(frozen=True, slots=True)
class Problem:
    """Why something cannot be read or used, with its errno if there is one."""

    reason: str
    number: int | None = None

    @property
    def denied(self) -> bool:
        return self.number in (errno.EACCES, errno.EPERM)

    @property
    def missing(self) -> bool:
        return self.number in (errno.ENOENT, errno.ENOTDIR)


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A device node as stat(2) reports it."""

    mode: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """The state of a node. A `Problem` stands for a failed read; a ``..._problem`` is None if all is well."""

    functions: int | Problem  # the number of PCI functions
    scan: Offers | Problem
    drivers: Mapping[str, str] | Problem  # the version of each loaded driver, empty if it has none
    nodes: Mapping[str, NodeStatus | Problem]  # the nodes that containers would get, by path under /dev
    socket_dir: str
    socket_dir_problem: Problem | None
    kubelet_problem: Problem | None
    podresources: str  # kubelet's socket for it
    podresources_problem: Problem | None
    xrt: str | None = None  # the version of XRT on the host; None if it is not installed
    instances: int = 0  # the number of live instances of this program on the node
    foreign_sockets: tuple[str, ...] = ()  # the live sockets of another plugin for these cards
    other_kubelets: tuple[tuple[str, str], ...] = ()  # other directories with a kubelet.sock, and whose
    not_ready: str | None = None  # the answer of the service at HTTP_ADDRESS; None unless it is not ready
    outputs: Mapping[str, tuple[str, Problem | None]] = field(default_factory=dict)  # directory by setting
    mounts: Mapping[str, Problem | None] = field(default_factory=dict)  # by path of EXTRA_MOUNTS
    selinux: bool = False  # it is enforcing
    selinux_type: str | None = None  # of this process; None if unknown
    unknown_variables: tuple[str, ...] = ()  # with our prefix, and no setting

    @property
    def offers(self) -> Offers:
        """The offers; none if the scan failed."""
        return self.scan if isinstance(self.scan, Offers) else Offers({})

    @property
    def devices(self) -> tuple[tuple[Offer, Device], ...]:
        """Every device with its offer."""
        return tuple((offer, each) for offer in self.offers.by_resource.values() for each in offer.devices)

    @property
    def denied(self) -> bool:
        """Return whether permission was missing anywhere."""
        kubelet = (self.socket_dir_problem, self.kubelet_problem, self.podresources_problem)
        results = (self.functions, self.scan, *kubelet, *self.nodes.values())
        return self.output_denied or any(isinstance(each, Problem) and each.denied for each in results)

    @property
    def output_denied(self) -> bool:
        """Return whether permission was missing for an output directory."""
        return any(problem.denied for _, problem in self.outputs.values() if problem)
