"""A sample node: the files of /sys and /dev that cards and their drivers show, and what happens to them.

It knows what drivers do, never what the service makes of it, so it shares no code with `discovery`.
It stands for the hardware in `simulate` and in the tests. Plain blocking calls throughout.
"""

import itertools
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias, get_args

from xilinx_fpga_dp.simulate import boards
from xilinx_fpga_dp.simulate.boards import BOARDS, DRIVER_VERSIONS, Board

Image: TypeAlias = Literal["shell", "golden", "recovery"]
Damage: TypeAlias = Literal["missing", "empty", "blank", "binary", "huge", "refused", "loop"]
DAMAGES: tuple[Damage, ...] = get_args(Damage)

_SLOT = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]")
_FIRST_RENDER_MINOR = 128  # drm_drv.c drm_minor_alloc
_DRM_MAJOR = 226
_XRT_MAJOR = 511  # any dynamic one


class Link(str):
    """Where a symbolic link points, as the content of a path."""

    __slots__ = ()


# None is an attribute that cannot be read. A plain file cannot answer EINVAL, so a directory stands in,
# which answers EISDIR.
Content: TypeAlias = "str | bytes | Mapping[str, Content] | None"


class _Files:
    """Changes that are seen whole or not at all, as a driver's are: made aside, renamed into place."""

    def __init__(self, aside: str) -> None:
        os.mkdir(aside)
        self._aside = (f"{aside}/{number}" for number in itertools.count())

    def put(self, path: str, content: Content) -> None:
        """Let a path hold this, whatever it held."""
        aside = next(self._aside)
        _create(aside, content)
        self._place(aside, path)

    def put_pipe(self, path: str) -> str:
        """Let whoever opens a path to read it wait for ever; answers another name of the same pipe."""
        pipe, aside = next(self._aside), next(self._aside)
        os.mkfifo(pipe)
        os.link(pipe, aside)
        self._place(aside, path)
        return pipe

    def put_device(self, path: str) -> None:
        """Let a path be a device node, the null device whatever its name."""
        aside = next(self._aside)
        os.mknod(aside, stat.S_IFCHR, os.makedev(1, 3))
        os.chmod(aside, 0o666)  # noqa: S103 - as XRT's udev rules want it
        self._place(aside, path)

    def drop(self, path: str) -> None:
        """Take a file or a whole directory away, if it is there."""
        aside = next(self._aside)
        try:
            os.rename(path, aside)
        except FileNotFoundError:
            return
        if _is_directory(aside):
            shutil.rmtree(aside)
        else:
            os.unlink(aside)

    def _place(self, aside: str, path: str) -> None:
        if _is_directory(path) or (_is_directory(aside) and os.path.lexists(path)):
            self.drop(path)  # a rename replaces neither kind by the other
        os.rename(aside, path)


def _is_directory(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _create(path: str, content: Content) -> None:
    if isinstance(content, Link):
        os.symlink(content, path)
    elif isinstance(content, str):
        # The kernel ends a text with a newline; an attribute without a text stays empty.
        text = content if content.endswith("\n") or not content else f"{content}\n"
        _create(path, text.encode())
    elif isinstance(content, bytes):
        with open(path, "wb") as file:
            file.write(content)
    else:
        os.mkdir(path)
        for name, inner in (content or {}).items():
            _create(f"{path}/{name}", inner)


class _Numbers:
    """Numbers given out lowest first, as the kernel does (lib/idr.c)."""

    def __init__(self) -> None:
        self._taken: set[int] = set()

    def take(self, first: int, wanted: int | None = None) -> int:
        """The lowest free number from ``first`` on, or the one that is wanted."""
        if wanted in self._taken:
            raise ValueError(f"number {wanted} is taken")
        free = (number for number in itertools.count(first) if number not in self._taken)
        number = next(free) if wanted is None else wanted
        self._taken.add(number)
        return number

    def free(self, number: int) -> None:
        self._taken.discard(number)


class Ids(NamedTuple):
    """What a PCI function says it is: hex digits without prefix."""

    vendor: str
    device: str
    pci_class: str
    subsystem: tuple[str, str] = ("0000", "0000")


_ROOT_PORT = Ids("8086", "2030", "060400")
_ORDINARY = (
    ("0000:00:00.0", Ids("8086", "2020", "060000"), None),  # host bridge
    ("0000:01:00.0", Ids("144d", "a808", "010802"), "nvme"),
    ("0000:02:00.0", Ids("15b3", "1017", "020000"), "mlx5_core"),
    ("0000:02:00.1", Ids("15b3", "1017", "020000"), "mlx5_core"),
    ("0000:03:00.0", Ids("1002", "73bf", "030000"), "amdgpu"),
)


class SampleNode:
    """A node's /sys and /dev in a folder, without a card at first.

    Args:
        root: a new or empty folder.
        numa_nodes: those online, as the kernel prints them.
        device_nodes: make device nodes (as root) instead of plain files. All of them are /dev/null by another
            name: the numbers sysfs shows may belong to a real device of this machine.

    Raises:
        FileExistsError: there is a sample node in ``root`` already.
    """

    def __init__(
        self, root: str | os.PathLike[str], *, numa_nodes: str = "0-1", device_nodes: bool = False
    ) -> None:
        self.root = os.path.abspath(root)
        self.sysfs_root = f"{self.root}/sys"
        self.dev_root = f"{self.root}/dev"
        self.socket_dir = f"{self.root}/device-plugins"
        self.cards: list[SampleCard] = []
        os.makedirs(self.root, exist_ok=True)
        self.files = _Files(f"{self.root}/.aside")
        self.files.put(
            self.sysfs_root,
            {
                "bus": {"pci": {"devices": {}, "drivers": {}}},
                "class": {"drm": {}},
                "devices": {"system": {"node": {"online": numa_nodes}}},
                "module": {},
            },
        )
        self.files.put(self.dev_root, {})
        self.files.put(self.socket_dir, {})
        self.drm_cards, self.drm_renders = _Numbers(), _Numbers()
        self.subdevices = {"u": _Numbers(), "m": _Numbers()}  # each driver counts for itself
        self._device_nodes = device_nodes

    def environment(self) -> dict[str, str]:
        """The settings that let the service run against this node."""
        return {
            "XILINX_FPGA_DP_SYSFS_ROOT": self.sysfs_root,
            "XILINX_FPGA_DP_DEV_ROOT": self.dev_root,
            "XILINX_FPGA_DP_SOCKET_DIR": self.socket_dir,
        }

    def add_card(
        self,
        board: str | Board,
        slot: str | None = None,
        *,
        serial: str | None = None,
        numa_node: int = 0,
        mgmt: bool = True,
        release: str | None = None,
        render: int | None = None,
        image: Image = "shell",
        behind: Sequence[str] = (),
    ) -> "SampleCard":
        """Plug a card, its drivers loaded.

        Args:
            board: a name of `BOARDS`, or a board of one's own. A U30 card is two, with one serial.
            slot: domain, bus and device, ``0000:65:00``; None: the next free one.
            serial: empty: not fetched yet, or the card has none; None: one is made up.
            numa_node: -1: the firmware does not tell.
            mgmt: whether its management function is to be seen; in a virtual machine it is not.
            release: of XRT; None: the board's. On a real node all cards have the same.
            render: the number of its render node; None: the lowest free one.
            image: `golden`: a factory image, management function only; `recovery`: no `user_pf`.
            behind: addresses of the bridges above it, root port first; none: a root port of its own.
        """
        board = BOARDS[board] if isinstance(board, str) else board
        slot = slot or self._free_slot()
        release = release or board.release
        if not _SLOT.fullmatch(slot) or release not in DRIVER_VERSIONS:
            raise ValueError(f"no slot {slot} (domain:bus:device) or no XRT release {release}")
        card = SampleCard(
            self,
            board,
            slot,
            serial=serial,
            numa_node=numa_node,
            mgmt=mgmt,
            release=release,
            image=image,
            behind=behind,
        )
        card.plug(render=render)
        self.cards.append(card)
        return card

    def add_ordinary_devices(self) -> None:
        """What a server has besides: host bridge, NVMe, network card, GPU. None of it is ours."""
        for address, ids, driver in _ORDINARY:
            function = self.add_function(address, ids, driver=driver)
            if driver in ("mlx5_core", "amdgpu"):
                function.write("rom", b"")  # the kernel's file for an expansion ROM
            if driver == "amdgpu":
                function.add_drm()

    def add_function(
        self,
        address: str,
        ids: Ids,
        *,
        driver: str | None = None,
        numa_node: int = 0,
        behind: Sequence[str] = (),
    ) -> "PciFunction":
        """Plug any PCI function, with what the PCI core shows of it."""
        function = PciFunction(self, address, ids, self.bus_above(address, behind), numa_node)
        function.plug()
        if driver:
            function.bind(driver)
        return function

    def bus_above(self, address: str, behind: Sequence[str] = ()) -> str:
        """The directory a function belongs in, with the bridges on the way to it.

        Left to itself, a root bus ends in 0, and every other bus has a root port on it; a function on a
        root bus stands beside the ports, as in a virtual machine.
        """
        domain, bus, _ = (behind[0] if behind else address).split(":")
        port = int(bus, 16) % 16
        if not behind and port:
            bus = f"{bus[0]}0"
            behind = [f"{domain}:{bus}:{port:02x}.0"]
        above = f"{self.sysfs_root}/devices/pci{domain}:{bus}"
        os.makedirs(above, exist_ok=True)
        for bridge in behind:
            if not os.path.isdir(f"{above}/{bridge}"):
                function = PciFunction(self, bridge, _ROOT_PORT, above)
                function.plug()
                function.bind("pcieport")
            above = f"{above}/{bridge}"
        return above

    def add_node(self, node: str) -> None:
        """Make a device node, ``/dev/dri/renderD128``."""
        path = self.node_path(node)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if self._device_nodes:
            self.files.put_device(path)
        else:
            self.files.put(path, b"")
            os.chmod(path, 0o666)  # noqa: S103 - as XRT's udev rules want it

    def remove_node(self, node: str) -> None:
        """Take a device node away, and its directory with the last one in it (devtmpfs.c delete_path)."""
        path = self.node_path(node)
        self.files.drop(path)
        directory = os.path.dirname(path)
        if directory != self.dev_root and os.path.isdir(directory) and not os.listdir(directory):
            os.rmdir(directory)

    def node_path(self, node: str) -> str:
        """Where a device node is, by the path it has on a real node."""
        return self.dev_root + node.removeprefix("/dev")

    def _free_slot(self) -> str:
        taken = {card.slot for card in self.cards}
        slots = (f"0000:{bus:02x}:00" for bus in range(0x65, 0x100) if bus % 16)
        return next(slot for slot in slots if slot not in taken)


class PciFunction:
    """One function on the bus: its directory under a bridge, its links, its driver, its drm device."""

    def __init__(self, node: SampleNode, address: str, ids: Ids, above: str, numa_node: int = 0) -> None:
        self.node = node
        self.address = address
        self.ids = ids
        self.path = f"{above}/{address}"
        self.driver: str | None = None
        self._numa_node = numa_node
        self.drm: dict[str, int] = {}  # its minors by name, the card first

    def write(self, name: str, content: Content) -> None:
        """Let a file in its directory hold this."""
        self.node.files.put(f"{self.path}/{name}", content)

    def drop(self, *names: str) -> None:
        """Take files or directories of it away, if they are there."""
        for name in names:
            self.node.files.drop(f"{self.path}/{name}")

    def plug(self) -> None:
        """Let the bus show it."""
        link = f"{self.node.sysfs_root}/bus/pci/devices/{self.address}"
        self.node.files.put(self.path, self._core_attributes())
        self.node.files.put(link, _link(link, self.path))

    def unplug(self) -> None:
        """Let the bus forget it."""
        self.node.files.drop(f"{self.node.sysfs_root}/bus/pci/devices/{self.address}")
        self.node.files.drop(self.path)

    def bind(self, driver: str, version: str | None = None) -> None:
        """Link it with a driver, which comes before the driver looks at it (dd.c really_probe)."""
        folder = f"{self.node.sysfs_root}/bus/pci/drivers/{driver}"
        os.makedirs(folder, exist_ok=True)
        if version:
            module = f"{self.node.sysfs_root}/module/{driver}"
            self.node.files.put(module, {"version": version})
            self.node.files.put(f"{folder}/module", _link(f"{folder}/module", module))
        self.node.files.put(f"{folder}/{self.address}", _link(f"{folder}/{self.address}", self.path))
        self.write("driver", _link(f"{self.path}/driver", folder))
        self.driver = driver
        self.write("uevent", self._uevent())

    def unbind(self) -> None:
        """Undo `bind`."""
        self.drop("driver")
        self.node.files.drop(f"{self.node.sysfs_root}/bus/pci/drivers/{self.driver}/{self.address}")
        self.driver = None
        self.write("uevent", self._uevent())

    @property
    def root_port(self) -> str:
        """The directory of the bridge at the root that it is behind; its own, if there is none."""
        sysfs, devices, way = self.path.rpartition("/devices/")
        return f"{sysfs}{devices}{'/'.join(way.split('/')[:2])}"

    def add_drm(self, render: int | None = None) -> None:
        """Give it a drm device if it has none: its directory first, then its nodes."""
        if self.drm:
            return
        card = self.node.drm_cards.take(0)
        minor = self.node.drm_renders.take(_FIRST_RENDER_MINOR, render)
        self.drm = {f"card{card}": card, f"renderD{minor}": minor}
        self.write("drm", {name: self._drm_minor(name) for name in self.drm})
        for name in self.drm:
            link = f"{self.node.sysfs_root}/class/drm/{name}"
            self.node.files.put(link, _link(link, f"{self.path}/drm/{name}"))
            self.node.add_node(f"/dev/dri/{name}")

    def remove_drm(self) -> None:
        """Take its drm device away, the nodes first; others can get its numbers then."""
        numbers = (self.node.drm_cards, self.node.drm_renders)
        for (name, minor), kind in zip(self.drm.items(), numbers, strict=False):
            self.node.remove_node(f"/dev/dri/{name}")
            self.node.files.drop(f"{self.node.sysfs_root}/class/drm/{name}")
            kind.free(minor)
        self.drop("drm")
        self.drm = {}

    def _core_attributes(self) -> Mapping[str, Content]:
        first = 16 * max(self._numa_node, 0)
        cpus = "0-31" if self._numa_node < 0 else f"{first}-{first + 15}"
        vendor, device, pci_class, (subvendor, subdevice) = self.ids
        return {
            "vendor": f"0x{vendor}",
            "device": f"0x{device}",
            "subsystem_vendor": f"0x{subvendor}",
            "subsystem_device": f"0x{subdevice}",
            "class": f"0x{pci_class}",
            "revision": "0x00",
            "numa_node": str(self._numa_node),
            "local_cpulist": cpus,
            "enable": "1",
            "irq": "0",
            "driver_override": "(null)",
            "config": bytes.fromhex(vendor)[::-1] + bytes.fromhex(device)[::-1] + bytes(60),
            "resource": "",
            "subsystem": _link(f"{self.path}/subsystem", f"{self.node.sysfs_root}/bus/pci"),
            "uevent": self._uevent(),
        }

    def _uevent(self) -> str:
        vendor, device, pci_class, subsystem = self.ids
        driver = f"DRIVER={self.driver}\n" if self.driver else ""
        ids = f"PCI_CLASS={pci_class}\nPCI_ID={vendor}:{device}\nPCI_SUBSYS_ID={':'.join(subsystem)}"
        return f"{driver}{ids.upper()}\nPCI_SLOT_NAME={self.address}"

    def _drm_minor(self, name: str) -> Mapping[str, Content]:
        minor = _device(_DRM_MAJOR, self.drm[name], f"/dev/dri/{name}")
        return {**minor, "device": Link(f"../../../{self.address}")}


def _link(path: str, target: str) -> Link:
    return Link(os.path.relpath(target, os.path.dirname(path)))


def _device(major: int, minor: int, node: str) -> dict[str, Content]:
    uevent = f"MAJOR={major}\nMINOR={minor}\nDEVNAME={node.removeprefix('/dev/')}"
    return {"dev": f"{major}:{minor}", "uevent": uevent}


class _XrtFunction(PciFunction):
    """A function of an XRT card with its sub-devices. ``side``: `u` or `m`, user or management."""

    def __init__(self, card: "SampleCard", side: str, address: str, device: str, above: str) -> None:
        board = card.board
        ids = Ids(board.vendor, device, board.pci_class, board.subsystem)
        super().__init__(card.node, address, ids, above, card.numa_node)
        domain, bus, slot, function = (int(part, 16) for part in re.split("[:.]", address))
        # xocl_drv.h XOCL_DEV_ID: a C int, so nothing is left of a domain's fifth digit
        self.instance = (domain & 0xFFFF) << 16 | bus << 8 | slot << 3 | function
        self._card = card
        self._side = side
        self._numbers: dict[str, int] = {}

    def subdevice(self, name: str) -> str | None:
        """The directory of a sub-device, ``rom.u.0``, if it has had one since the driver was bound."""
        return f"{name}.{self._side}.{self._numbers[name]}" if name in self._numbers else None

    def add_subdevices(self, names: Iterable[str], suffix: int | None = None) -> None:
        """Create those that are not there, with their nodes. A sub-device keeps the number it had."""
        for name in names:
            if name not in self._numbers:
                self._numbers[name] = self._number(name, suffix)
            if not os.path.isdir(f"{self.path}/{self.subdevice(name)}"):
                self.write(f"{self.subdevice(name)}", {**self._files_of(name), **self._glue(name)})
                if node := self._node_of(name):
                    self.node.add_node(node)

    def remove_subdevices(self, names: Iterable[str]) -> None:
        """Unregister them, with their nodes."""
        for name in names:
            if node := self._node_of(name):
                self.node.remove_node(node)
            if directory := self.subdevice(name):
                self.drop(directory)

    def destroy_subdevices(self) -> None:
        """Unregister all and give their numbers back (xocl_subdev.c __xocl_subdev_destroy)."""
        self.remove_subdevices(self._numbers)
        for number in self._numbers.values():
            self.node.subdevices[self._side].free(number)
        self._numbers = {}

    def rewrite_subdevices(self) -> None:
        """Let the attributes of its sub-devices say what they do on a healthy card."""
        for name in self._numbers:
            if os.path.isdir(f"{self.path}/{self.subdevice(name)}"):
                for file, text in self._files_of(name).items():
                    self.write(f"{self.subdevice(name)}/{file}", text)

    def _files_of(self, name: str) -> Mapping[str, str]:
        card = self._card
        return boards.subdevice_files(card.board, card.release, name, card.serial)

    def _number(self, name: str, suffix: int | None) -> int:
        first = boards.first_number(name, self._card.release)
        if first is None:
            return self.instance
        return self.node.subdevices[self._side].take(first, None if suffix is None else first + suffix)

    def _node_of(self, name: str) -> str | None:
        return boards.subdevice_node(name, self._side, self.instance, self._card.release)

    def _glue(self, name: str) -> Mapping[str, Content]:
        if not (node := self._node_of(name)):
            return {}
        entry = node.removeprefix("/dev/").replace("/", "!")
        minor = _device(_XRT_MAJOR, self._numbers[name] % (1 << 20), node)
        return {"xrt_user" if self._side == "u" else "xrt_mgmt": {entry: minor}}


class SampleCard:
    """One card, of a U30 one of its two devices, and what can happen to it.

    An attribute is named by its path in the user function's directory, without the number of a
    sub-device: ``ready``, ``rom/VBNV``, ``firewall/level``; in the management function's directory
    with ``mgmt/`` before it. What happens to a card changes the attributes that its release has.
    """

    def __init__(
        self,
        node: SampleNode,
        board: Board,
        slot: str,
        *,
        serial: str | None,
        numa_node: int,
        mgmt: bool,
        release: str,
        image: Image,
        behind: Sequence[str],
    ) -> None:
        self.node = node
        self.board = board
        self.slot = slot
        self.numa_node = numa_node
        self.release = release
        self._image = image
        self._has_mgmt = mgmt
        self._behind = behind
        self._pipes: dict[str, tuple[str, bytes | None]] = {}
        self._make_functions()
        self.serial = f"XFL1{self._user.instance:08X}" if serial is None else serial

    @property
    def address(self) -> str:
        """Of its user function."""
        return self._user.address

    @property
    def user(self) -> str:
        """The directory of its user function."""
        return self._user.path

    @property
    def mgmt(self) -> str | None:
        """The directory of its management function."""
        return self._mgmt.path if self._mgmt else None

    @property
    def render_node(self) -> str | None:
        """Its render node, ``/dev/dri/renderD128``, while it has one."""
        return next((f"/dev/dri/{name}" for name in self._user.drm if name.startswith("render")), None)

    @property
    def mgmt_node(self) -> str | None:
        """Its management function's node (mgmt-core.c), ``/dev/xclmgmt25856``."""
        return f"/dev/xclmgmt{self._mgmt.instance}" if self._mgmt else None

    def path(self, attribute: str) -> str:
        """The path of an attribute; where its sub-device is gone for the while, the one it had."""
        function = self._user
        if self._mgmt and attribute.startswith("mgmt/"):
            function, attribute = self._mgmt, attribute.removeprefix("mgmt/")
        head, slash, rest = attribute.partition("/")
        directory = function.subdevice(head) if slash else None
        return f"{function.path}/{directory or head}{slash}{rest}"

    def write(self, attribute: str, content: Content) -> None:
        """Let an attribute hold this. A text ends with a newline then; None: reading it fails."""
        self.node.files.put(self.path(attribute), content)

    # The bus and the drivers

    def plug(self, board: str | Board | None = None, render: int | None = None) -> None:
        """Let the bus find it and the drivers take it, after `remove` perhaps with other ids and shell."""
        if board is not None:
            self.board = BOARDS[board] if isinstance(board, str) else board
            self._make_functions()
        if self._mgmt:
            self._mgmt.plug()
            self.bind_mgmt()
        if self._image != "golden":
            self._user.plug()
            if self.board.expansion_rom:
                self._user.write("rom", b"")
            self.bind(render)

    def remove(self) -> None:
        """Pull it; a hot plug and an AFI load take it off the bus the same way."""
        if self._image != "golden":
            self.unbind()
            self._user.unplug()
        if self._mgmt:
            self.unbind_mgmt()
            self._mgmt.unplug()

    def bind(self, render: int | None = None) -> None:
        """Let `xocl` take its user function."""
        _exhaust(self.binding(render))

    def binding(self, render: int | None = None) -> Iterator[str]:
        """The steps of `bind`: each is done when its name comes (userpf/xocl_drv.c xocl_userpf_probe)."""
        self._user.bind("xocl", DRIVER_VERSIONS[self.release])
        yield "driver"
        if self._image == "recovery":  # the probe returns here, without an error
            return
        self._user.add_subdevices(self._subdevices)
        yield "sub-devices"
        self._user.add_drm(render)
        yield "drm"
        if self.board.metadata and self._drm_comes_and_goes:  # the shell's metadata has arrived
            self._user.remove_drm()
            yield "refresh"
            self._add_attributes(persistent=False)
            self._user.add_drm(render)
            self._change("dev_offline", "0")
            yield "drm"
        self._add_attributes()
        yield "user_pf"

    def unbind(self) -> None:
        """Let its driver, `xocl` or `vfio-pci`, go (dd.c __device_release_driver, xocl_userpf_remove)."""
        if self._user.driver:
            self._user.unbind()
            self._user.remove_drm()
            self._user.drop(*self._attributes(), "root_dev")
            self._user.destroy_subdevices()

    def vfio(self) -> None:
        """Hand its user function to a virtual machine."""
        self.unbind()
        self._user.bind("vfio-pci")

    def bind_mgmt(self) -> None:
        """Let `xclmgmt` take its management function; the user function hears of it."""
        if (mgmt := self._mgmt) and (node := self.mgmt_node) and not mgmt.driver:
            mgmt.bind("xclmgmt", DRIVER_VERSIONS[self.release])
            self._refresh_mgmt()
            if self._image == "shell":
                mgmt.add_subdevices(boards.mgmt_subdevices(self.board, self.release))
            minor = _device(_XRT_MAJOR, mgmt.instance % (1 << 20), node)
            mgmt.write("xrt_mgmt", {os.path.basename(node): minor})
            self.node.add_node(node)
            self._connect("0x1", "0x3")

    def unbind_mgmt(self) -> None:
        """Let `xclmgmt` go; the user function is not ready then."""
        if (mgmt := self._mgmt) and (node := self.mgmt_node) and mgmt.driver:
            mgmt.unbind()
            self.node.remove_node(node)
            mgmt.drop(*self._mgmt_attributes(mgmt), "xrt_mgmt")
            mgmt.destroy_subdevices()
            self.not_ready()

    # A reset, another shell

    def reset_begin(self) -> None:
        """Reset it, up to where it waits for its management function; there it may stay for ever."""
        _exhaust(self.resetting())

    def reset_end(self, render: int | None = None, suffix: int | None = None) -> None:
        """Let it come back.

        Args:
            render: the number of its render node; None: the lowest free one.
            suffix: how far from a sub-device's first number its own is; None: the one it had.
        """
        _exhaust(self.returning(render, suffix))

    def reprogram(self, board: str | Board, render: int | None = None) -> None:
        """Program another shell on its base: the same functions, another VBNV, other uuids."""
        self.reset_begin()
        _exhaust(self.returning(render, board=board))

    def resetting(self) -> Iterator[str]:
        """The steps of `reset_begin`: each is done when its name comes (xocl_drv.c xocl_reset_notify).

        Before 2020.1 drm and the attributes stay; 2018.3 shows nothing of a reset at all.
        """
        self._change("dev_offline", "1")
        yield "offline"
        if self._drm_comes_and_goes:
            self._user.remove_drm()
            self._change("dev_offline", "-19")
            yield "drm"
            self._user.drop(*self._attributes(persistent=False), "root_dev")
            yield "attributes"
        self._user.remove_subdevices(boards.unregistered_in_reset(self.board, self.release))
        yield "sub-devices"
        self._change("mgmt/dev_offline", "1")
        yield "management"

    def returning(
        self, render: int | None = None, suffix: int | None = None, board: str | Board | None = None
    ) -> Iterator[str]:
        """The steps of `reset_end`, or with a board of `reprogram`; the last one is `drm`."""
        if board is not None:
            self.board = BOARDS[board] if isinstance(board, str) else board
        self._refresh_mgmt()
        yield "management"
        if board is not None or suffix is not None:
            self._user.destroy_subdevices()
        self._user.add_subdevices(self._subdevices, suffix)
        if self.release < "2022.2":  # a later driver keeps a trip until it is bound anew: firewall.c
            self._write_firewall("firewall", boards.NO_TRIP)
        yield "sub-devices"
        if self._drm_comes_and_goes:
            self._add_attributes(persistent=False)
            yield "attributes"
            self._user.add_drm(render)
        self._change("dev_offline", "0")
        yield "drm"

    # Faults and their end

    def offline(self) -> None:
        """Its driver takes it offline."""
        self._change("dev_offline", "1")

    def shutdown(self) -> None:
        """Somebody writes to ``shutdown``, to pull it: it goes as in a reset, and stays away."""
        if "shutdown" not in self._attributes():
            raise ValueError(f"XRT {self.release} has no shutdown")
        self.reset_begin()
        self._change("shutdown", "1")

    def online(self) -> None:
        """Its driver takes it online again: the end of `offline` and `shutdown` (XOCL_WORK_ONLINE)."""
        self.reset_end()
        self._change("shutdown", "0")

    def bad_state(self) -> None:
        """A compute unit of it hangs."""
        self._change("device_bad_state", "1")

    def not_ready(self) -> None:
        """Its management function, in a virtual machine mpd, does not answer."""
        self._connect("0x0", "0x0")

    def shell_unknown(self) -> None:
        """Its management function has never answered: a shell with metadata has no name (feature_rom.c)."""
        self.not_ready()
        self._change("rom/VBNV", "\n")
        self._change("rom/timestamp", "0")
        self._change("logic_uuids", None)
        self._change("interface_uuids", None)

    def firewall_trip(self) -> None:
        """One of its AXI firewalls trips: it is offline, and a reset follows after 2 s."""
        self._write_firewall("mgmt/firewall", boards.TRIP)
        self._write_firewall("firewall", boards.TRIP)
        self._change("mgmt/dev_offline", "1")
        self.offline()

    def mend(self) -> None:
        """Let every attribute say what it does on a healthy card: the end of all faults but a reset."""
        self._add_attributes()
        self._refresh_mgmt()
        self._user.rewrite_subdevices()

    def hang(self, attribute: str) -> None:
        """Let reading an attribute not return, until `unhang`."""
        path = self.path(attribute)
        before = None
        if os.path.isfile(path):
            with open(path, "rb") as file:
                before = file.read()
        self._pipes[attribute] = (self.node.files.put_pipe(path), before)

    def unhang(self, attribute: str) -> None:
        """Let an attribute say what it did before, and let go who waits for it."""
        pipe, before = self._pipes.pop(attribute)
        path = self.path(attribute)
        end = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)  # lets go who waits in open(2)
        if os.path.exists(path) and os.path.samefile(path, pipe):
            if before is None:
                self.node.files.drop(path)
            else:
                self.node.files.put(path, before)
        os.write(end, before or b"")
        os.close(end)  # lets go who waits in read(2)
        self.node.files.drop(pipe)

    def corrupt(self, attribute: str, damage: Damage) -> None:
        """Let an attribute be what no driver makes of it, until `mend`."""
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
                os.truncate(path, 1 << 30)  # takes up nothing on the disk
            case "refused":
                self.write(attribute, None)
            case "loop":
                self.write(attribute, Link(os.path.basename(path)))

    # Its parts

    @property
    def _drm_comes_and_goes(self) -> bool:
        """Whether a reset and a refresh take drm and most attributes away (xocl_drv.c)."""
        return self.release >= "2020.1"

    @property
    def _subdevices(self) -> list[str]:
        return boards.user_subdevices(self.board, self.release)

    def _make_functions(self) -> None:
        board = self.board
        address = f"{self.slot}.{board.user_function}"
        above = self.node.bus_above(address, self._behind)
        self._user = _XrtFunction(self, "u", address, board.user_id, above)
        self._mgmt = None
        if board.mgmt_id and self._has_mgmt:
            # devices.h XBB_MFG: a factory image's id is the board's with a D in front
            device = f"d{board.mgmt_id[1:]}" if self._image == "golden" else board.mgmt_id
            self._mgmt = _XrtFunction(self, "m", f"{self.slot}.0", device, above)

    def _attributes(self, *, persistent: bool = True) -> dict[str, Content]:
        """The attributes of `xocl`, all of them or those that go in a reset, ``user_pf`` last."""
        texts = boards.user_attributes(self.board, self.release)
        if not self._mgmt and "mailbox_connect_state" in texts:
            texts["mailbox_connect_state"] = "0x1"  # mailbox_proto.h: ready, in another domain
        if not self._user.drm and "dev_offline" in texts:
            texts["dev_offline"] = "-19"  # it asks the drm device: userpf/xocl_sysfs.c dev_offline_show
        stay = frozenset() if persistent else boards.persistent_attributes(self.release)
        names = sorted(texts.keys() - stay, key=lambda name: (name == "user_pf", name))
        return {name: texts[name] for name in names}

    def _add_attributes(self, *, persistent: bool = True) -> None:
        self._user.write("root_dev", _link(f"{self.user}/root_dev", self._user.root_port))
        for name, content in self._attributes(persistent=persistent).items():
            self._user.write(name, content)

    def _mgmt_attributes(self, mgmt: _XrtFunction) -> dict[str, str | None]:
        texts = boards.mgmt_attributes(self.board, self.release, mgmt.instance)
        for image, attribute in (("golden", "mfg"), ("recovery", "recovery")):
            if self._image == image and attribute in texts:
                texts[attribute] = "1"
        return texts

    def _refresh_mgmt(self) -> None:
        if self._mgmt and self._mgmt.driver:
            for name, text in self._mgmt_attributes(self._mgmt).items():
                self._mgmt.write(name, text)
            self._mgmt.rewrite_subdevices()

    def _connect(self, ready: str, state: str) -> None:
        self._change("ready", ready)
        self._change("mailbox_connect_state", state)

    def _write_firewall(self, firewall: str, texts: Mapping[str, str]) -> None:
        for name, text in texts.items():
            self._change(f"{firewall}/{name}", text)

    def _change(self, attribute: str, content: Content) -> None:
        if os.path.lexists(self.path(attribute)):
            self.write(attribute, content)


def _exhaust(steps: Iterable[str]) -> None:
    for _ in steps:
        pass
