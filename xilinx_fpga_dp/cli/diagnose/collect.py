"""Collects the findings of ``diagnose``. Every read has a time limit; none changes or disturbs anything.

Device nodes are only read by stat: a pod's device cgroup forbids opening them. kubelet gets a request for a
method that it does not have. The meaning of the findings is up to `checks.py`.
"""

import asyncio
import errno
import fnmatch
import json
import os
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection
from typing import Any, TypeVar

from xilinx_fpga_dp.aio.blocking_reader import run_blocking
from xilinx_fpga_dp.cli.diagnose import rights, slices
from xilinx_fpga_dp.cli.diagnose.checks import KUBELET_ROOTS, SWITCHES, Findings, Running
from xilinx_fpga_dp.cli.diagnose.containerd import read as read_containerd
from xilinx_fpga_dp.deviceplugin.registration import greet
from xilinx_fpga_dp.deviceplugin.socket_directory import KUBELET_SOCKET, require_writable
from xilinx_fpga_dp.deviceplugin.socket_names import foreign_sockets
from xilinx_fpga_dp.discovery import pci_ids
from xilinx_fpga_dp.discovery.sysfs import module_version, read_optional
from xilinx_fpga_dp.dra.checkpoint import prepared_claims
from xilinx_fpga_dp.hostfiles import ordinary_file
from xilinx_fpga_dp.hostfiles.host_paths import resolve
from xilinx_fpga_dp.hostfiles.instance_lock import count_instances, driver_lock_folder, lock_folder
from xilinx_fpga_dp.kubelet.podresources import PodResources
from xilinx_fpga_dp.model import Offers
from xilinx_fpga_dp.observe.http_server import NAME
from xilinx_fpga_dp.resources.allocator import nodes_of
from xilinx_fpga_dp.settings import Settings, unknown_variables
from xilinx_fpga_dp.wiring import build_scanner, scan_once

T = TypeVar("T")

_TIME_LIMIT = 3.0  # seconds that a read or a request may take

# Their versions are read even if no device has such a driver.
_DRIVERS = ("xocl", "xclmgmt", "ami", "ama_transcoder", "zocl")
_MAX_PAGE = 4 << 20
_SECURE_BOOT = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"  # UEFI specification, EFI_GLOBAL_VARIABLE
_OWN_LABEL = "/proc/self/attr/current"
_LABEL = re.compile(r"\w+:\w+:(\w+)")  # of SELinux; AppArmor has another text there
_read = partial(ordinary_file.read, limit=65536)  # bytes


async def collect(settings: Settings) -> Findings:
    """Collect the state of this node."""
    sysfs, host, socket_dir = settings.sysfs_root, settings.host_root.rstrip("/"), settings.socket_dir
    registry_dir = settings.plugins_registry_dir
    registry = registry_dir if settings.mode == "dra" else None
    writes_cdi = registry or settings.device_strategy != "device-specs"
    plugin_locks = lock_folder(settings.plugins_dir)
    driver_locks = driver_lock_folder(settings.plugins_dir, settings.dra_driver_name)
    data_dir = f"{settings.plugins_dir}/{settings.dra_driver_name}"
    outputs = {"PLUGINS_DIR": data_dir} if registry else {}
    if writes_cdi:
        outputs["CDI_DIR"] = settings.cdi_dir
    if settings.nfd_features_dir:
        outputs["NFD_FEATURES_DIR"] = settings.nfd_features_dir
    required = {
        "functions": _blocking(lambda: len(os.listdir(f"{sysfs}/bus/pci/devices"))),
        "scan": _scan(settings),
        "socket_dir_problem": _blocking(_require_room, registry or socket_dir),
        "kubelet_problem": _nothing() if registry else greet(f"{socket_dir}/{KUBELET_SOCKET}", _TIME_LIMIT),
        "podresources_problem": _request_podresources(settings.pod_resources_socket),
        "instances": _blocking(count_instances, driver_locks if registry else plugin_locks),
    }
    optional: dict[str, Awaitable[Any]] = {
        "fpga_functions": _blocking(_fpga_functions, sysfs),
        "xrt": _blocking(_xrt_version, host),
        "foreign_sockets": _blocking(foreign_sockets, socket_dir),
        "other_kubelets": _blocking(_other_kubelets, host, socket_dir),
        "running": _blocking(_running, settings.http_address),
        "selinux": _blocking(_selinux_enforces, sysfs),
        "selinux_type": _blocking(_selinux_type, _OWN_LABEL),
        "selinux_switches": _blocking(_selinux_switches, sysfs),
        "secure_boot": _blocking(_secure_boot, sysfs),
        "hugepages": _blocking(_hugepages, sysfs),
        "by_path": _blocking(_nodes_by_path, settings.dev_root),
        "rights": rights.ask(settings),
    }
    optional["left_claims"] = _blocking(_left_claims, data_dir, driver_locks)
    if registry:
        optional["plugins"] = _blocking(count_instances, plugin_locks)
    if writes_cdi:
        optional["containerd"] = _blocking(read_containerd, host)
    found, output_problems, mounts = await asyncio.gather(
        _results(required | optional),
        _results({name: _blocking(_require_room_above, path) for name, path in outputs.items()}),
        _results({path: _blocking(resolve, host, path) for path in settings.extra_mounts}),
    )
    offers = Offers({}) if isinstance(found["scan"], OSError) else found["scan"]
    devices = offers.devices
    nodes = {node for device in devices for node in nodes_of(device, expose_mgmt=settings.expose_mgmt)}
    names = {*_DRIVERS, *(device.driver for device in devices if device.driver)}
    drivers = await _result_of(_blocking(_driver_versions, sysfs, names))
    return Findings(
        **{name: each for name, each in found.items() if name in required or not isinstance(each, OSError)},
        drivers=drivers,
        nodes=await _results(
            {node: _blocking(os.stat, f"{settings.dev_root}{node.removeprefix('/dev')}") for node in nodes}
        ),
        socket_dir=socket_dir,
        registry=registry,
        slices=await slices.ask(settings, offers, {} if isinstance(drivers, OSError) else drivers),
        podresources=settings.pod_resources_socket,
        outputs={name: (path, output_problems[name]) for name, path in outputs.items()},
        mounts=mounts,
        unknown_variables=tuple(unknown_variables(os.environ, vars(settings))),
    )


async def _nothing() -> None:
    """Find no problem where there is nothing to check."""


async def _scan(settings: Settings) -> Offers:
    offers, _ = await scan_once(settings, build_scanner(settings))
    return offers


async def _request_podresources(path: str) -> None:
    await _blocking(os.stat, path)
    if await PodResources(path, "").held() is None:
        raise OSError(errno.EIO, "kubelet does not answer there")


def _blocking(call: Callable[..., T], *arguments: Any) -> Awaitable[T]:
    return run_blocking(partial(call, *arguments), _TIME_LIMIT)


async def _results(awaitables: Mapping[str, Awaitable[Any]]) -> dict[str, Any]:
    """Await all at once; return the result or the error of each."""
    results = await asyncio.gather(*map(_result_of, awaitables.values()))
    return dict(zip(awaitables, results, strict=True))


async def _result_of(awaitable: Awaitable[T]) -> T | OSError:
    try:
        return await awaitable
    except TimeoutError:
        return OSError(errno.ETIMEDOUT, f"no answer for {_TIME_LIMIT:g} s")
    except OSError as error:
        return OSError(error.errno, error.strerror or str(error))
    except Exception as error:  # any failure is a finding
        return OSError(None, str(error) or repr(error))


# All functions below block.


def _fpga_functions(sysfs_root: str) -> tuple[str, ...]:
    """Return the addresses of the functions that a card's maker or known id speaks for."""
    devices = f"{sysfs_root}/bus/pci/devices"
    ids = {
        address: [read_optional(f"{devices}/{address}/{name}")[2:] for name in ("vendor", "device")]
        for address in sorted(os.listdir(devices))
    }
    return tuple(
        address
        for address, (vendor, device) in ids.items()
        if vendor == pci_ids.XILINX or pci_ids.find(vendor, device)
    )


def _driver_versions(sysfs_root: str, drivers: Iterable[str]) -> dict[str, str]:
    return {
        driver: module_version(sysfs_root, driver) or ""
        for driver in drivers
        if os.path.isdir(f"{sysfs_root}/module/{driver}")
    }


def _xrt_version(host: str) -> str | None:
    """Return BUILD_VERSION of XRT's version.json on the host; None if it is no text."""
    version = json.loads(_read(f"{host}/opt/xilinx/xrt/version.json"))["BUILD_VERSION"]
    return version if isinstance(version, str) else None


def _left_claims(data_dir: str, locks: str) -> tuple[str, ...]:
    """Return the claims that are prepared, if no driver lives."""
    claims = prepared_claims(data_dir).values()
    if not claims or count_instances(locks):
        return ()
    return tuple(sorted(f"{claim.namespace}/{claim.name}" for claim in claims))


def _require_room(path: str) -> None:
    """Check that a file can be created in a directory, without creating one; an OSError has the reason."""
    space = os.statvfs(f"{path}/")
    require_writable(path)
    # A file system without limits reports 0 of 0.
    if (space.f_blocks and not space.f_bavail) or (space.f_files and not space.f_favail):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _require_room_above(path: str) -> None:
    """Check the nearest existing parent of a directory that the service creates when it needs it."""
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    _require_room(path)


def _other_kubelets(host: str, socket_dir: str) -> tuple[tuple[str, str], ...]:
    directories = ((f"{root}/device-plugins", distribution) for root, distribution in KUBELET_ROOTS)
    return tuple(
        (path, distribution)
        for path, distribution in directories
        if path != socket_dir and os.path.exists(f"{host}{path}/{KUBELET_SOCKET}")
    )


def _running(address: str) -> Running | None:
    """Ask the service at an address; None if there is none, or another program.

    From the host, the address of a service in a pod is not reachable.
    """
    if not address or (ready := _page(address, "/readyz")) is None:
        return None
    status, text = ready
    not_ready = text.decode(errors="replace").strip() if status == HTTPStatus.SERVICE_UNAVAILABLE else None
    _, document = _page(address, "/state") or (None, b"{}")
    rows = json.loads(document).get("devices", ())
    return Running(not_ready, {row["id"]: (row["resource"], row["reason"]) for row in rows})


def _page(address: str, path: str) -> tuple[int, bytes] | None:
    """Return status and content of a page of the service at an address; None if it is another program."""
    host, _, port = address.rpartition(":")
    connection = HTTPConnection(host.strip("[]") or "localhost", int(port), timeout=_TIME_LIMIT)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        ours = answer.getheader("Server") == NAME
        return (answer.status, answer.read(_MAX_PAGE)) if ours else None
    finally:
        connection.close()


def _selinux_enforces(sysfs_root: str) -> bool:
    try:
        return _read(f"{sysfs_root}/fs/selinux/enforce").startswith(b"1")
    except PermissionError:  # any process may read it, but a container's type where SELinux enforces
        return True


def _selinux_switches(sysfs_root: str) -> dict[str, bool]:
    """Return the switches that can be read: the current value, then the one that is pending."""
    found = {}
    for name in SWITCHES:
        with suppress(OSError):
            found[name] = _read(f"{sysfs_root}/fs/selinux/booleans/{name}").startswith(b"1")
    return found


def _secure_boot(sysfs_root: str) -> bool:
    """Read UEFI's variable: four bytes of attributes, then its value."""
    return _read(f"{sysfs_root}/firmware/efi/efivars/{_SECURE_BOOT}")[4:5] == b"\1"


def _hugepages(sysfs_root: str) -> int:
    return int(_read(f"{sysfs_root}/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"))


def _nodes_by_path(dev_root: str) -> frozenset[str]:
    """Return the nodes that have a link as XRT's edge library looks for."""
    folder = f"{dev_root}/dri/by-path"
    try:
        names = fnmatch.filter(os.listdir(folder), "platform*zyxclmm_drm-render")
    except FileNotFoundError:
        return frozenset()
    return frozenset(f"/dev/dri/{os.path.basename(os.readlink(f'{folder}/{name}'))}" for name in names)


def _selinux_type(path: str) -> str | None:
    """Return the type in a process label, ``system_u:system_r:container_t:s0:c1,c2``; None if it has none."""
    label = _LABEL.match(_read(path).decode(errors="replace"))
    return label[1] if label else None
