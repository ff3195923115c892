"""Looking at a node for ``diagnose``: every look with a time limit, none that changes or disturbs anything.

Device nodes are only looked at: a pod's device cgroup forbids opening them. kubelet is asked for a method
that it does not have. What the looks mean is known to `diagnose.py`, not here.
"""

import asyncio
import errno
import json
import os
import re
import stat
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection
from typing import Any, TypeVar

from xilinx_fpga_dp.aio.blocking_reader import BlockingReader, Pending
from xilinx_fpga_dp.cli.diagnose.checks import ROOTS, Node, Seen, Trouble
from xilinx_fpga_dp.deviceplugin.instance_lock import living
from xilinx_fpga_dp.deviceplugin.registration import greet
from xilinx_fpga_dp.deviceplugin.socket_directory import KUBELET_SOCKET, unwritable
from xilinx_fpga_dp.deviceplugin.sockets import strangers
from xilinx_fpga_dp.discovery.sysfs import module_version
from xilinx_fpga_dp.hostfiles.host_paths import look_up
from xilinx_fpga_dp.kubelet.podresources import PodResources
from xilinx_fpga_dp.model import Offers
from xilinx_fpga_dp.observe.http_server import NAME
from xilinx_fpga_dp.resources.allocator import nodes_of

T = TypeVar("T")

_PATIENCE = 3.0  # seconds that files may take, all together, and kubelet

# Drivers of cards; what speaks for a device that was found is looked at as well.
_DRIVERS = ("xocl", "xclmgmt", "ami", "zocl")
_MAX_JSON = 65536
_OUR_LABEL = "/proc/self/attr/current"
_LABEL = re.compile(r"\w+:\w+:(\w+)")  # of SELinux; AppArmor has another text there


@dataclass(frozen=True, slots=True)
class Places:
    """Where to look, as the settings say. Empty: nothing to look at."""

    sysfs_root: str
    dev_root: str
    host_root: str
    socket_dir: str
    pod_resources_socket: str
    http_address: str = ""
    written: tuple[tuple[str, str], ...] = ()
    extra_mounts: tuple[str, ...] = ()
    expose_mgmt: bool = False
    unknown: tuple[str, ...] = ()


async def look(places: Places, scan: Callable[[], Awaitable[Offers]]) -> Seen:
    """Look at everything.

    Args:
        places: where.
        scan: finds what is offered; raises what says why nothing is known.
    """
    host = places.host_root.rstrip("/")
    looks, offers, kubelet, holders = await asyncio.gather(
        _looks(
            {
                "bus": partial(_functions, places.sysfs_root),
                "xrt": partial(_xrt, host),
                "directory": partial(_writable, places.socket_dir),
                "instances": partial(living, places.socket_dir),
                "strangers": partial(strangers, places.socket_dir),
                "elsewhere": partial(_elsewhere, host, places.socket_dir),
                "enforcing": partial(_enforces, places.sysfs_root),
                "domain": partial(_domain, _OUR_LABEL),
                "unready": partial(_unready, places.http_address),
                **{path: partial(look_up, host, path) for path in places.extra_mounts},
                **{name: partial(_makeable, path) for name, path in places.written},
            }
        ),
        _outcome(scan()),
        _outcome(greet(f"{places.socket_dir}/{KUBELET_SOCKET}", _PATIENCE)),
        _outcome(_ask_holders(places.pod_resources_socket)),
    )
    devices = () if isinstance(offers, Trouble) else offers.devices
    nodes = {node for device in devices for node in nodes_of(device, expose_mgmt=places.expose_mgmt)}
    drivers = {*_DRIVERS, *(device.driver for device in devices)}
    modules = await _looks({"": partial(_modules, places.sysfs_root, drivers)})
    return Seen(
        bus=looks["bus"],
        scan=offers,
        modules=modules[""],
        xrt=_known(looks["xrt"], None),
        nodes=await _looks({node: partial(_node, places.dev_root, node) for node in nodes}),
        socket_dir=places.socket_dir,
        directory=looks["directory"],
        instances=_known(looks["instances"], 0),
        strangers=_known(looks["strangers"], ()),
        kubelet=kubelet,
        elsewhere=_known(looks["elsewhere"], ()),
        podresources=places.pod_resources_socket,
        holders=holders,
        unready=_known(looks["unready"], None),
        written={name: (path, looks[name]) for name, path in places.written},
        mounts={path: looks[path] for path in places.extra_mounts},
        enforcing=_known(looks["enforcing"], False),
        domain=_known(looks["domain"], None),
        unknown=places.unknown,
    )


async def _looks(calls: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """What each call returned, or its trouble. One that hangs holds up no other."""
    reads: BlockingReader[Any] = BlockingReader()
    answers = await reads.read_many(calls, _PATIENCE)
    return {name: _or_trouble(answer) for name, answer in answers.items()}


def _or_trouble(answer: Any) -> Any:
    if isinstance(answer, Pending):
        return Trouble(f"no answer for {_PATIENCE:g} s", errno.ETIMEDOUT)
    return _trouble(answer) if isinstance(answer, Exception) else answer


async def _outcome(wait: Awaitable[T]) -> T | Trouble:
    try:
        return await wait
    except Exception as error:  # whatever it is, it is told
        return _trouble(error)


def _trouble(error: Exception) -> Trouble:
    if isinstance(error, TimeoutError):
        return Trouble("no answer in time", errno.ETIMEDOUT)
    if isinstance(error, OSError):
        return Trouble(error.strerror or str(error), error.errno)
    return Trouble(str(error) or repr(error))


def _known(answer: Any, otherwise: T) -> T:
    known: T = otherwise if isinstance(answer, Trouble) else answer
    return known


async def _ask_holders(path: str) -> None:
    if isinstance(trouble := (await _looks({"": partial(os.stat, path)}))[""], Trouble):
        raise OSError(trouble.number or errno.EIO, trouble.why)
    if await PodResources(path).held() is None:
        raise OSError(errno.EIO, "kubelet does not answer there")


# The rest blocks.


def _functions(sysfs_root: str) -> int:
    path = f"{sysfs_root}/bus/pci/devices"
    try:
        return len(os.listdir(path))
    except OSError as error:
        raise OSError(error.errno, f"{path}: {error.strerror}") from None


def _modules(sysfs_root: str, drivers: Iterable[str]) -> dict[str, str]:
    return {
        driver: module_version(sysfs_root, driver) or ""
        for driver in drivers
        if os.path.isdir(f"{sysfs_root}/module/{driver}")
    }


def _xrt(host: str) -> str | None:
    """The version of XRT's tools on the host: BUILD_VERSION of its version.json."""
    descriptor = os.open(f"{host}/opt/xilinx/xrt/version.json", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        version = json.loads(file.read(_MAX_JSON))["BUILD_VERSION"]
    return version if isinstance(version, str) else None


def _node(dev_root: str, node: str) -> Node:
    status = os.stat(dev_root + node.removeprefix("/dev"))
    return Node(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)


def _writable(path: str) -> None:
    """Whether a file can be made in a directory, without making one.

    Raises:
        OSError: it can't.
    """
    room = os.statvfs(path)
    if not os.path.isdir(path):
        raise _error(errno.ENOTDIR)
    if refused := unwritable(path):
        raise _error(refused)
    # A file system without limits says 0 of 0.
    if (room.f_blocks and not room.f_bavail) or (room.f_files and not room.f_favail):
        raise _error(errno.ENOSPC)


def _makeable(path: str) -> None:
    """The same of a directory that is made when it is needed."""
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    _writable(path)


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _elsewhere(host: str, socket_dir: str) -> tuple[tuple[str, str], ...]:
    found = ((f"{root}/device-plugins", whose) for root, whose in ROOTS)
    return tuple(
        (path, whose)
        for path, whose in found
        if path != socket_dir and os.path.exists(f"{host}{path}/{KUBELET_SOCKET}")
    )


def _unready(address: str) -> str | None:
    """Why the service at that address says that it is not ready; None: it is, or another program answers.

    Raises:
        OSError: nobody answers. A service in a pod is not to be reached from the host by its address.
    """
    if not address:
        return None
    host, _, port = address.rpartition(":")
    connection = HTTPConnection(host.strip("[]") or "localhost", int(port), timeout=_PATIENCE)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        ours = answer.getheader("Server") == NAME and answer.status == HTTPStatus.SERVICE_UNAVAILABLE
        return answer.read(_MAX_JSON).decode(errors="replace").strip() if ours else None
    finally:
        connection.close()


def _enforces(sysfs_root: str) -> bool:
    try:
        with open(f"{sysfs_root}/fs/selinux/enforce", "rb") as file:
            return file.read(1) == b"1"
    except PermissionError:  # it is for all to read, but for a container's types where SELinux enforces
        return True


def _domain(path: str) -> str | None:
    """The type in a process' label, ``system_u:system_r:container_t:s0:c1,c2``."""
    with open(path, "rb") as file:
        label = _LABEL.match(file.read(_MAX_JSON).decode(errors="replace"))
    return label[1] if label else None
