"""The targets: each takes bytes and raises if they cause a forbidden result.

atheris imports this module, so that it counts the branches.
"""

import asyncio
import atexit
import json
import logging
import os
import shutil
import socket
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from http import HTTPStatus
from typing import Any, TypeVar

from grpclib.protocol import H2Protocol

from tests.support.double import is_extended_resource_name
from tests.support.metrics import NoMetrics
from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.cli.list import table
from xilinx_fpga_dp.deviceplugin.plugin import Plugin, PluginConfig
from xilinx_fpga_dp.discovery import uevents
from xilinx_fpga_dp.discovery.scanner import ScanFailed, Scanner
from xilinx_fpga_dp.model import Device, Inventory, Shell
from xilinx_fpga_dp.observe import state
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.observe.http_server import HttpServer, text
from xilinx_fpga_dp.observe.metrics import Metrics
from xilinx_fpga_dp.resources import device_rules as others
from xilinx_fpga_dp.resources import rename_rules as renames
from xilinx_fpga_dp.resources.compat_1_3_0 import names as compat
from xilinx_fpga_dp.resources.naming import Naming
from xilinx_fpga_dp.resources.offers import names_of, warnings_of
from xilinx_fpga_dp.resources.rule_file import BadRuleFile
from xilinx_fpga_dp.rpc.server import RpcServer
from xilinx_fpga_dp.settings import BadSettings
from xilinx_fpga_dp.settings_model import Settings
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleCard, SampleNode
from xilinx_fpga_dp.snapshot import Snapshot, SnapshotBuilder
from xilinx_fpga_dp.wiring import build_allocator, build_scanner

T = TypeVar("T")
Target = Callable[[bytes], None]

_DEVICES = (
    Device("0000:21:00.1", Shell("xilinx_u200_xdma_201830_2", "1561465320", None), "u200", "xocl"),
    Device("0000:31:00.0", Shell("xilinx_v80", None, None), "v80", "ami"),
)
# The files that the service reads of each card, in the order of the cards in `_node`.
_READ = {
    "u200": (
        *("rom/VBNV", "rom/timestamp", "ready", "dev_offline", "shutdown", "logic_uuids", "xmc/serial_num"),
        *("mailbox_connect_state", "device_bad_state", "firewall/status", "firewall/level", "numa_node"),
        *("firewall/detected_time", "vendor", "device", "uevent", "userbar", "vmr_status"),
        *("mgmt/dev_offline", "mgmt/rp_program", "mgmt/mfg", "mgmt/recovery"),
    ),
    "v80": ("dev_state", "logic_uuid", "board_serial", "vendor", "device", "numa_node"),
    "ma35d": ("bus_id", "device_info"),
    "kv260": ("devicetree/model", "devicetree/compatible", "xclbinid"),
}
_OF_DRIVERS = ("bus/pci/drivers/ami/devices", "module/xocl/version", "devices/system/node/online")


class _Transport(asyncio.Transport):
    """A connection that drops all bytes."""

    def __init__(self) -> None:
        super().__init__({})
        self._closing = False

    def write(self, data: object) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True


def connection(data: bytes) -> None:
    """Receive bytes of a client on a connection to the plugin, after the preface of HTTP/2.

    No bytes cause an error in the code of the plugin, and no task is left after the end of the connection.
    """
    loop, server = _server()
    errors: list[str] = []
    loop.set_exception_handler(lambda _, context: errors.append(str(context)))
    loop.run_until_complete(_converse(server, data))
    assert not errors, errors
    assert not _logged, _logged


async def _converse(server: RpcServer, data: bytes) -> None:
    protocol: H2Protocol = server._protocol_factory()
    transport = _Transport()
    protocol.connection_made(transport)
    protocol.data_received(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    half = len(data) // 2
    for part in (data[:half], data[half:]):
        if not transport.is_closing():
            protocol.data_received(part)
        await asyncio.sleep(0)
    protocol.connection_lost(None)
    for _ in range(_TURNS):
        if len(asyncio.all_tasks()) == 1:
            return
        await asyncio.sleep(0)
    raise AssertionError(f"left: {asyncio.all_tasks()}")


class _Errors(logging.Handler):
    """Records errors of the log.

    A failed call is not an error: betterproto2 accepts some bytes that are no request, with values of other
    types.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR and record.getMessage() != Event.CALL_FAILED:
            _logged.append(record.getMessage())


_logged: list[str] = []
_TURNS = 100  # of the loop, until cancelled tasks have ended
_received = H2Protocol.data_received


def _receive(protocol: H2Protocol, data: bytes) -> None:
    """Record the errors of the plugin's code, which the connection suppresses."""
    try:
        _received(protocol, data)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        if "xilinx_fpga_dp" in frames[-1].filename:
            _logged.append(repr(error))
        raise


@cache
def _server() -> tuple[asyncio.AbstractEventLoop, RpcServer]:
    loop = asyncio.new_event_loop()

    async def made() -> RpcServer:
        settings = Settings.load({})
        scanner = build_scanner(settings)

        async def written(_devices: object) -> bool:
            return True

        terms = PluginConfig(build_allocator(settings, scanner, tuple, written), 0.05)
        return RpcServer(Plugin("xilinx.com/fpga-x", Latest(None), terms, NoMetrics()))

    logging.getLogger().addHandler(_Errors())
    H2Protocol.data_received = _receive  # type: ignore[method-assign,assignment]
    return loop, loop.run_until_complete(made())


def sysfs(data: bytes) -> None:
    """Write files of cards: the other cards are still offered, and each output is valid."""
    loop, settings, paths = _node()
    scanner = build_scanner(settings)
    good = loop.run_until_complete(scanner.scan())
    written: list[tuple[str, bytes | None]] = []
    for part in data.split(b"\xff\xfe", 2):
        if part:
            path = paths[part[0] % len(paths)]
            written.append((path, _content(path)))
            with open(path, "wb") as file:
                file.write(part[1:])
    try:
        loop.run_until_complete(_check_again(scanner, good))
        loop.run_until_complete(_scan(settings))
    finally:
        for path, before in reversed(written):
            _restore(path, before)
    assert not _raised, _raised


_raised: list[str] = []  # on threads of the service


def _content(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _restore(path: str, before: bytes | None) -> None:
    if before is None:
        os.unlink(path)
        return
    with open(path, "wb") as file:
        file.write(before)


async def _check_again(scanner: Scanner, before: Inventory) -> None:
    """Check and refresh devices: a healthy one is as a full scan finds it."""
    with suppress(ScanFailed):
        await scanner.check()
    fresh = {device.address: await scanner.refresh(device) for device in before.devices}
    found = {device.address: device for device in (await scanner.scan()).devices}
    for address, device in fresh.items():
        if device and device.healthy and found[address].healthy:
            assert device.shell == found[address].shell, address
            assert device.nodes == found[address].nodes, address


async def _scan(settings: Settings) -> None:
    scanner = build_scanner(settings)
    found = await scanner.scan()
    while not scanner.complete:  # serial numbers are read later
        await asyncio.sleep(0.001)
        found = await scanner.scan()
    offers = SnapshotBuilder(settings, patient=False).build_once(found, {}, lambda _: found, 0)
    for name, _ in names_of(offers):
        assert is_extended_resource_name(name), name
    addresses = {device.address for offer in offers.by_resource.values() for device in offer.devices}
    assert "0000:21:00.1" in addresses, "the other card"
    document = state.document(offers, expose_mgmt=True)
    assert json.dumps(document).isascii()
    assert all(char.isprintable() or char == "\n" for char in table(document, warnings_of(offers)))
    assert Metrics(Latest(Snapshot(offers)), dict).text()


@cache
def _node() -> tuple[asyncio.AbstractEventLoop, Settings, tuple[str, ...]]:
    """Return a loop, settings for a node with a card of each driver and one more, and the files to write."""
    directory = tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    threading.excepthook = lambda failure: _raised.append(repr(failure.exc_value))
    node = SampleNode(directory)
    cards: dict[str, SampleCard] = {"u200": node.add_card("u200", "0000:11:00"), "v80": node.add_card("v80")}
    cards |= {"ma35d": node.add_card("ma35d"), "kv260": node.add_card("kv260")}
    node.add_card("u200", "0000:21:00")
    paths = [card.path(name) for board, card in cards.items() for name in _READ[board]]
    paths += [f"{node.sysfs_root}/{name}" for name in _OF_DRIVERS]
    settings = Settings.load(
        {
            "sysfs_root": node.sysfs_root,
            "dev_root": node.dev_root,
            "pod_resources_socket": f"{directory}/none",
        }
    )
    for path in filter(os.path.isdir, paths):  # a directory stands for an unreadable attribute
        os.rmdir(path)
    there = tuple(path for path in paths if os.path.isdir(os.path.dirname(path)))
    return asyncio.new_event_loop(), settings, there


def event(data: bytes) -> None:
    """Receive kernel events, true or false, about cards or not: the socket is read to its end."""
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, kernel:
        ours.setblocking(False)
        for part in data.split(b"\xff\xfe")[:4]:
            kernel.send(part)
        uevents._receive(ours)
        try:
            left = ours.recv(1)
        except BlockingIOError:
            return
        raise AssertionError(left)


def settings(data: bytes) -> None:
    """Load settings: each is accepted, or refused in one line."""
    names = list(Settings.model_fields)
    flags: dict[str, str] = {}
    for part in data.split(b"\0")[:4]:
        if part:
            flags[names[part[0] % len(names)]] = part[1:].decode("utf-8", "surrogateescape")
    try:
        Settings.load(flags)
    except BadSettings as bad:
        assert all(line.startswith("XILINX_FPGA_DP_") for line in str(bad).split("\n")), bad


def http(data: bytes) -> None:
    """Receive the head of a request: the answer has a known status."""

    async def page() -> Any:
        return text("ok")

    method, answer = asyncio.new_event_loop().run_until_complete(
        HttpServer("127.0.0.1:0", {"/livez": page})._response(data)
    )
    assert HTTPStatus(answer.status), method


def _parsed(parse: Callable[[bytes], T], data: bytes) -> T | None:
    """Return the content of a file of rules; None if it is refused, with one-line problems."""
    try:
        return parse(data)
    except BadRuleFile as bad:
        assert all("\n" not in each for each in bad.args), bad.args
        return None


def rules(data: bytes) -> None:
    """Parse rename rules: they are refused with one-line problems, or each device has a valid name."""
    if (taken := _parsed(renames.parse, data)) is None:
        return
    base = Naming("xilinx.com/fpga-", "{shell}-{timestamp}")
    names = renames.Renaming(base, taken).among(_DEVICES)
    for device in _DEVICES:
        assert is_extended_resource_name(names.resource_name(device)), device.address


def device_rules(data: bytes) -> None:
    """Parse rules for other devices: refused, or each rule has one-line problems or only globs below /dev."""
    if (found := _parsed(others.parse, data)) is None:
        return
    assert all("\n" not in each for each in found.problems), found.problems
    for rule in found.rules:
        for node in rule.nodes:
            glob = node.for_address("0000:65:00.1")
            assert glob, node
            assert glob.startswith("/dev/"), node
            assert ".." not in glob.split("/"), node


def old_rules(data: bytes) -> None:
    """Parse a NameCustomize.json of plugin 1.3.0: it is refused, or has one-line problems."""
    with suppress(ValueError):
        customize = compat.parse(data)
        assert all("\n" not in each for each in customize.problems), customize.problems


TARGETS: Mapping[str, Target] = {
    each.__name__: each for each in (connection, sysfs, event, settings, http, rules, device_rules, old_rules)
}
