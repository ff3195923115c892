"""What is fed: each takes bytes, and raises if something comes of them that may not.

Imported by atheris, so that the branches they take are counted.
"""

import asyncio
import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import betterproto2
from google.protobuf.message import DecodeError
from grpclib.protocol import H2Protocol

from tests.double import is_extended_resource_name
from tests.wire import pb, pods_pb
from xilinx_fpga_dp.kubelet import v1, v1beta1
from xilinx_fpga_dp.kubelet.messages import Codec
from xilinx_fpga_dp.kubelet.meter import Meter
from xilinx_fpga_dp.kubelet.plugin import Plugin, Terms
from xilinx_fpga_dp.kubelet.podresources import _by_address
from xilinx_fpga_dp.kubelet.sockets import _Server
from xilinx_fpga_dp.model import Device, Shell
from xilinx_fpga_dp.offering import Offering
from xilinx_fpga_dp.operate import listing
from xilinx_fpga_dp.operate.http import _STATUS, HttpServer, text
from xilinx_fpga_dp.operate.metrics import Metrics
from xilinx_fpga_dp.parts import grants_of, scanner_of
from xilinx_fpga_dp.resources import compat, renames
from xilinx_fpga_dp.resources.naming import Naming
from xilinx_fpga_dp.resources.offers import names_of
from xilinx_fpga_dp.settings import BadSettings, Settings
from xilinx_fpga_dp.simulate.node import SampleNode

Target = Callable[[bytes], None]

_DEVICES = (
    Device("0000:21:00.1", Shell("xilinx_u200_xdma_201830_2", "1561465320", None), "u200", "xocl"),
    Device("0000:31:00.0", Shell("xilinx_v80", None, None), "v80", "ami"),
)
_REQUESTS = ("AllocateRequest", "PreferredAllocationRequest", "PreStartContainerRequest", "Empty")
_ATTRIBUTES = (
    *(
        "rom/VBNV",
        "rom/timestamp",
        "ready",
        "dev_offline",
        "logic_uuids",
        "interface_uuids",
        "xmc/serial_num",
    ),
    *(
        "mailbox_connect_state",
        "device_bad_state",
        "firewall/status",
        "firewall/level",
        "numa_node",
        "vendor",
    ),
    *("device", "uevent", "userbar", "mgmt/dev_offline", "mgmt/rp_program", "mgmt/mfg", "mgmt/recovery"),
)


def wire(data: bytes) -> None:
    """A request, or an answer of podresources: what google refuses is refused, and nothing takes long."""
    if not data:
        return
    number, body = data[0] % (len(_REQUESTS) + 1), data[1:]
    if number < len(_REQUESTS):
        _decode(body, getattr(v1beta1, _REQUESTS[number]), getattr(pb, _REQUESTS[number]))
    else:
        answer = _decode(body, v1.ListPodResourcesResponse, pods_pb.ListPodResourcesResponse)
        if answer is not None:
            _by_address(answer.pod_resources)


def _decode(body: bytes, ours: type[betterproto2.Message], google: Any) -> Any:
    try:
        read = Codec().decode(body, ours)
    except Exception:  # plugin.py and podresources.py expect any
        return None
    try:
        google.FromString(body)
    except DecodeError:
        raise AssertionError(f"google refuses what we take for {read}") from None
    return read


class _Transport(asyncio.Transport):
    """A connection whose other end only listens."""

    def __init__(self) -> None:
        super().__init__({})
        self._closing = False

    def write(self, data: object) -> None:
        pass

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True


def connection(data: bytes) -> None:
    """What a peer sends on a connection to the plugin, after the preface of HTTP/2."""
    loop, server = _server()
    loop.run_until_complete(_converse(server, data))


async def _converse(server: _Server, data: bytes) -> None:
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
    for _ in range(4):
        await asyncio.sleep(0)


@cache
def _server() -> tuple[asyncio.AbstractEventLoop, _Server]:
    loop = asyncio.new_event_loop()

    async def made() -> _Server:
        settings = Settings.load({})
        scanner = scanner_of(settings)

        async def written(_devices: object) -> bool:
            return True

        terms = Terms(grants_of(settings, scanner, tuple, written), 0.05)
        return _Server(Plugin("xilinx.com/fpga-x", lambda: None, terms, Meter()))

    return loop, loop.run_until_complete(made())


def sysfs(data: bytes) -> None:
    """What the files of a card hold: whatever it is, the others are offered, and all can be shown."""
    loop, node, settings = _node()
    card = node.cards[0]
    parts = data.split(b"\xff\xfe", 2)
    written = []
    for part in parts:
        if part:
            attribute = _ATTRIBUTES[part[0] % len(_ATTRIBUTES)]
            path = card.path(attribute)
            if os.path.isfile(path):
                written.append((path, _content(path)))
                with open(path, "wb") as file:
                    file.write(part[1:])
    try:
        loop.run_until_complete(_look(settings))
    finally:
        for path, before in reversed(written):
            with open(path, "wb") as file:
                file.write(before)


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


async def _look(settings: Settings) -> None:
    scanner = scanner_of(settings)
    found = await scanner.scan()
    offering = Offering(settings, patient=False)
    offers = offering.offers(found, offering.basis(found, 0))
    for name, _ in names_of(offers):
        assert is_extended_resource_name(name), name
    addresses = {device.address for offer in offers.by_resource.values() for device in offer.devices}
    assert "0000:21:00.1" in addresses, "its neighbour"
    document = json.dumps(listing.document(offers, expose_mgmt=True))
    assert document.isascii()
    table = listing.table(offers, expose_mgmt=True)
    assert all(char.isprintable() or char == "\n" for char in table)
    assert Metrics(lambda: offers, dict).text()


@cache
def _node() -> tuple[asyncio.AbstractEventLoop, SampleNode, Settings]:
    directory = tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    node = SampleNode(directory)
    for number in (1, 2):
        node.add_card("u200", f"0000:{number}1:00")
    settings = Settings.load(
        {
            "sysfs_root": node.sysfs_root,
            "dev_root": node.dev_root,
            "pod_resources_socket": f"{directory}/none",
        }
    )
    return asyncio.new_event_loop(), node, settings


def settings(data: bytes) -> None:
    """The environment: each setting is taken or refused in a line."""
    names = list(Settings.model_fields)
    flags: dict[str, str] = {}
    for part in data.split(b"\0")[:4]:
        if part:
            flags[names[part[0] % len(names)]] = part[1:].decode("utf-8", "surrogateescape")
    try:
        Settings.load(flags)
    except BadSettings as bad:
        assert all("\n" not in line for line in bad.lines), bad.lines


def http(data: bytes) -> None:
    """The head of a request: an answer with a status there is."""

    async def page() -> Any:
        return text("ok")

    method, answer = asyncio.new_event_loop().run_until_complete(
        HttpServer("127.0.0.1:0", {"/livez": page})._page(data)
    )
    assert answer.status in _STATUS, method


def rules(data: bytes) -> None:
    """A file of rules for names: refused in lines, or each device has a name that kubelet takes."""
    try:
        taken = renames.parse(data)
    except renames.BadRenames as bad:
        assert all("\n" not in each for each in bad.problems), bad.problems
        return
    base = Naming("xilinx.com/fpga-", "{shell}-{timestamp}")
    names = renames.Renaming(base, "xilinx.com/fpga-", rules=taken).among(_DEVICES)
    for device in _DEVICES:
        assert is_extended_resource_name(names.resource_name(device)), device.address


def old_rules(data: bytes) -> None:
    """A NameCustomize.json of plugin 1.3.0: taken, left out in lines, or none."""
    if customize := compat.parse(data):
        assert all("\n" not in each for each in customize.problems), customize.problems


TARGETS: Mapping[str, Target] = {
    each.__name__: each for each in (wire, connection, sysfs, settings, http, rules, old_rules)
}
