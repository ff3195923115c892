"""Cards driven by XRT: `xocl` has the user function, `xclmgmt` the management function.

The source named with a step is relative to src/runtime_src/core/pcie/driver/linux/xocl in XRT.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

from xilinx_fpga_dp.simulate.sysfs import xrt_releases as releases
from xilinx_fpga_dp.simulate.sysfs.boards import XRT_BOARDS, XrtBoard
from xilinx_fpga_dp.simulate.sysfs.bus import Ids, PciFunction, Tree, device
from xilinx_fpga_dp.simulate.sysfs.files import Content, link
from xilinx_fpga_dp.simulate.sysfs.sample_card import SampleCard
from xilinx_fpga_dp.simulate.sysfs.xrt_releases import DRIVER_VERSIONS

Image: TypeAlias = Literal["shell", "golden", "recovery"]

_XRT_MAJOR = 511  # any dynamic one


class _XrtFunction(PciFunction):
    """A function of an XRT card with its sub-devices. ``side``: `u` or `m`, user or management."""

    def __init__(self, card: "XrtCard", side: str, address: str, device_id: str, above: str) -> None:
        board = card.board
        ids = Ids(board.vendor, device_id, board.pci_class, board.subsystem)
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

    def node_of(self, name: str) -> str | None:
        """The node of a sub-device, if it has one and is there."""
        directory = self.subdevice(name)
        return self._node_of(name) if directory and os.path.isdir(f"{self.path}/{directory}") else None

    def _files_of(self, name: str) -> Mapping[str, str]:
        card = self._card
        return releases.subdevice_files(card.board, card.release, name, card.serial)

    def _number(self, name: str, suffix: int | None) -> int:
        first = releases.first_number(name, self._card.release)
        if first is None:
            return self.instance
        return self.node.subdevices[self._side].take(first, None if suffix is None else first + suffix)

    def _node_of(self, name: str) -> str | None:
        return releases.subdevice_node(name, self._side, self.instance, self._card.release)

    def _glue(self, name: str) -> Mapping[str, Content]:
        if not (node := self._node_of(name)):
            return {}
        entry = node.removeprefix("/dev/").replace("/", "!")
        minor = device(_XRT_MAJOR, self._numbers[name] % (1 << 20), node)
        return {"xrt_user" if self._side == "u" else "xrt_mgmt": {entry: minor}}


class XrtCard(SampleCard):
    """One card, of a U30 one of its two devices, and what can happen to it.

    An attribute is named by its path in the user function's directory, without the number of a
    sub-device: ``ready``, ``rom/VBNV``, ``firewall/level``; in the management function's directory
    with ``mgmt/`` before it. What happens to a card changes the attributes that its release has.
    """

    def __init__(
        self,
        node: Tree,
        board: XrtBoard,
        slot: str,
        *,
        serial: str | None,
        numa_node: int,
        mgmt: bool,
        release: str,
        image: Image,
        behind: Sequence[str],
    ) -> None:
        super().__init__(node)
        self.board = board
        self.slot = slot
        self.numa_node = numa_node
        self.release = release
        self._image = image
        self._has_mgmt = mgmt
        self._behind = behind
        self._make_functions()
        self._twin = self._make_twin()
        self.serial = f"XFL1{self._user.instance:08X}" if serial is None else serial

    @property
    def title(self) -> str:
        """Its VBNV."""
        return self.board.vbnv

    @property
    def nodes(self) -> tuple[str, ...]:
        """Its render node, and that of its queues where the driver makes one."""
        queues = self._user.node_of(self.board.dma) if self.board.dma else None
        return tuple(node for node in (self.render_node, queues) if node)

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
        return self._user.render_node

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

    # The bus and the drivers

    def plug(self, board: str | XrtBoard | None = None, render: int | None = None) -> None:
        """Let the bus find it and the drivers take it, after `remove` perhaps with other ids and shell."""
        if board is not None:
            self.board = XRT_BOARDS[board] if isinstance(board, str) else board
            self._make_functions()
            self._twin = self._make_twin()
        if self._mgmt:
            self._mgmt.plug()
            self.bind_mgmt()
        if self._image != "golden":
            self._user.plug()
            if self.board.expansion_rom:
                self._user.write("rom", b"")
            self.bind(render)
        if self._beside:
            self._beside.plug()
        if self._twin:
            self._twin.plug()

    def remove(self) -> None:
        """Pull it; a hot plug and an AFI load take it off the bus the same way."""
        if self._image != "golden":
            self.unbind()
            self._user.unplug()
        if self._mgmt:
            self.unbind_mgmt()
            self._mgmt.unplug()
        if self._beside:
            self._beside.unplug()
        if self._twin:
            self._twin.remove()

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
                mgmt.add_subdevices(releases.mgmt_subdevices(self.board, self.release))
            minor = device(_XRT_MAJOR, mgmt.instance % (1 << 20), node)
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

    def reprogram(self, board: str | XrtBoard, render: int | None = None) -> None:
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
        self._user.remove_subdevices(releases.unregistered_in_reset(self.board, self.release))
        yield "sub-devices"
        self._change("mgmt/dev_offline", "1")
        yield "management"

    def returning(
        self, render: int | None = None, suffix: int | None = None, board: str | XrtBoard | None = None
    ) -> Iterator[str]:
        """The steps of `reset_end`, or with a board of `reprogram`; the last one is `drm`."""
        if board is not None:
            self.board = XRT_BOARDS[board] if isinstance(board, str) else board
        self._refresh_mgmt()
        yield "management"
        if board is not None or suffix is not None:
            self._user.destroy_subdevices()
        self._user.add_subdevices(self._subdevices, suffix)
        if self.release < "2022.2":  # a later driver keeps a trip until it is bound anew: firewall.c
            self._write_firewall("firewall", releases.NO_TRIP)
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
        self._write_firewall("mgmt/firewall", releases.TRIP)
        self._write_firewall("firewall", releases.TRIP)
        self._change("mgmt/dev_offline", "1")
        self.offline()

    def mend(self) -> None:
        """Let every attribute say what it does on a healthy card: the end of all faults but a reset."""
        self._add_attributes()
        self._refresh_mgmt()
        self._user.rewrite_subdevices()

    # Its parts

    @property
    def _drm_comes_and_goes(self) -> bool:
        """Whether a reset and a refresh take drm and most attributes away (xocl_drv.c)."""
        return self.release >= "2020.1"

    @property
    def _subdevices(self) -> list[str]:
        return releases.user_subdevices(self.board, self.release)

    def _make_functions(self) -> None:
        board = self.board
        address = f"{self.slot}.{board.user_function}"
        above = self.node.bus_above(address, self._behind)
        self._user = _XrtFunction(self, "u", address, board.user_id, above)
        self._mgmt = None
        if board.mgmt_id and self._has_mgmt:
            # devices.h XBB_MFG: a factory image's id is the board's with a D in front
            golden = board.golden_id or f"d{board.mgmt_id[1:]}"
            device_id = golden if self._image == "golden" else board.mgmt_id
            self._mgmt = _XrtFunction(self, "m", f"{self.slot}.0", device_id, above)

        self._beside = None
        if board.beside:
            beside = f"{next_slot(self.slot)}.0"
            self._beside = PciFunction(self.node, beside, board.beside, above, self.numa_node)

    def _make_twin(self) -> "XrtCard | None":
        """The other function of its slot that `xocl` takes as if it were a card of its own."""
        board = self.board
        if not board.twin_id:
            return None
        twin = replace(board, user_id=board.twin_id, twin_id=None, user_function=board.user_function + 1)
        return XrtCard(
            self.node,
            twin,
            self.slot,
            serial="",
            numa_node=self.numa_node,
            mgmt=False,
            release=self.release,
            image=self._image,
            behind=self._behind,
        )

    def _attributes(self, *, persistent: bool = True) -> dict[str, Content]:
        """The attributes of `xocl`, all of them or those that go in a reset, ``user_pf`` last."""
        texts = releases.user_attributes(self.board, self.release)
        if not self._mgmt and self.board.ready and "mailbox_connect_state" in texts:
            texts["mailbox_connect_state"] = "0x1"  # mailbox_proto.h: ready, in another domain
        if not self._user.drm and "dev_offline" in texts:
            texts["dev_offline"] = "-19"  # it asks the drm device: userpf/xocl_sysfs.c dev_offline_show
        stay = frozenset() if persistent else releases.persistent_attributes(self.release)
        names = sorted(texts.keys() - stay, key=lambda name: (name == "user_pf", name))
        return {name: texts[name] for name in names}

    def _add_attributes(self, *, persistent: bool = True) -> None:
        self._user.write("root_dev", link(f"{self.user}/root_dev", self._user.root_port))
        for name, content in self._attributes(persistent=persistent).items():
            self._user.write(name, content)

    def _mgmt_attributes(self, mgmt: _XrtFunction) -> dict[str, str | None]:
        texts = releases.mgmt_attributes(self.board, self.release, mgmt.instance)
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


def next_slot(slot: str) -> str:
    """The slot after one, on the same bus."""
    bus, _, number = slot.rpartition(":")
    return f"{bus}:{int(number, 16) + 1:02x}"


def _exhaust(steps: Iterable[str]) -> None:
    for _ in steps:
        pass
