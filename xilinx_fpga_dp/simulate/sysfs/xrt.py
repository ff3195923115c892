"""Cards of XRT: `xocl` is bound to the user function, `xclmgmt` to the management function.

`bind` creates the sub-devices, the drm device and the attributes of the user function, in this order, and
`user_pf` last. A shell with metadata (2RP) repeats a part of that when the metadata arrives. A hot reset
(`reset_begin`, `reset_end`) takes the device offline; since XRT 2020.1 it also removes the drm device, most
attributes and some sub-devices, so the render node can have another number afterwards. A reset may stop
half-way for ever. Each of these processes is an iterator over its steps (`binding`, `resetting`,
`returning`), so that a test can scan between two steps. Faults change attributes until `mend`; a fault
changes only the attributes that the release has; `xrt_releases` has the tables of them.
Source files in comments are relative to src/runtime_src/core/pcie/driver/linux/xocl in XRT.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

from xilinx_fpga_dp.simulate.sysfs import xrt_releases as releases
from xilinx_fpga_dp.simulate.sysfs import xrt_sensors as sensors
from xilinx_fpga_dp.simulate.sysfs.boards import XRT_BOARDS, XrtBoard
from xilinx_fpga_dp.simulate.sysfs.bus import Ids, PciFunction, Tree, device_files
from xilinx_fpga_dp.simulate.sysfs.files import Content, link
from xilinx_fpga_dp.simulate.sysfs.sample_card import SampleCard
from xilinx_fpga_dp.simulate.sysfs.xrt_releases import DRIVER_VERSIONS

Image: TypeAlias = Literal["shell", "golden", "recovery"]

_XRT_MAJOR = 511  # an example: the kernel assigns it


class _XrtFunction(PciFunction):
    """A function with its sub-devices; ``side`` is `u` for the user, `m` for the management function."""

    def __init__(self, card: "XrtCard", side: str, address: str, device_id: str, above: str) -> None:
        board = card.board
        ids = Ids(board.vendor, device_id, board.pci_class, board.subsystem)
        super().__init__(card.node, address, ids, above, card.numa_node)
        domain, bus, slot, function = (int(part, 16) for part in re.split("[:.]", address))
        # xocl_drv.h XOCL_DEV_ID: a C int, which cuts off the fifth digit of a domain
        self.instance = (domain & 0xFFFF) << 16 | bus << 8 | slot << 3 | function
        self._card = card
        self._side = side
        self._numbers: dict[str, int] = {}  # by sub-device; kept while a reset unregisters it
        self._hwmons: dict[str, int] = {}  # the number of its hwmon device by sub-device

    def subdevice(self, name: str) -> str | None:
        """Return the directory of a sub-device, ``rom.u.0``; None if it had none since `bind`."""
        return f"{name}.{self._side}.{self._numbers[name]}" if name in self._numbers else None

    def add_subdevices(self, names: Iterable[str], suffix: int | None = None) -> None:
        """Create the missing sub-devices and their nodes. A sub-device keeps its number."""
        for name in names:
            if name not in self._numbers:
                self._numbers[name] = self._number(name, suffix)
            if not os.path.isdir(f"{self.path}/{self.subdevice(name)}"):
                self.write(f"{self.subdevice(name)}", {**self._files_of(name), **self._glue(name)})
                if files := self._card.hwmon_files(name, self._side):
                    self._hwmons[name] = self.add_hwmon(files)
                if node := self._node_of(name):
                    self.node.add_node(node)

    def remove_subdevices(self, names: Iterable[str]) -> None:
        """Unregister sub-devices and remove their nodes."""
        for name in names:
            if node := self._node_of(name):
                self.node.remove_node(node)
            if (number := self._hwmons.pop(name, None)) is not None:
                self.remove_hwmon(number)
            if directory := self.subdevice(name):
                self.drop(directory)

    @property
    def hwmon(self) -> str | None:
        """The directory of the hwmon device with the sensors of the card; None if it has none."""
        names = [name for name in self._hwmons if name != "sysmon"]
        return f"hwmon/hwmon{self._hwmons[names[-1]]}" if names else None

    def rewrite_sensors(self, before: Mapping[str, Mapping[str, str]]) -> dict[str, Mapping[str, str]]:
        """Set the sensors to the load of the card; return their files. ``before`` are those of last time."""
        now: dict[str, Mapping[str, str]] = {}
        for name, number in self._hwmons.items():
            now[f"hwmon/hwmon{number}"] = self._card.hwmon_files(name, self._side) or {}
        for name in self._numbers.keys() & {"hwmon_sdm"}:
            now[f"{self.subdevice(name)}"] = self._files_of(name)
        for directory, files in now.items():
            known = before.get(directory, {})
            for file, text in files.items():
                if text != known.get(file) and os.path.isfile(f"{self.path}/{directory}/{file}"):
                    self.write(f"{directory}/{file}", text)
        return now

    def destroy_subdevices(self) -> None:
        """Unregister all sub-devices and free their numbers (xocl_subdev.c __xocl_subdev_destroy)."""
        self.remove_subdevices(self._numbers)
        for number in self._numbers.values():
            self.node.subdevices[self._side].free(number)
        self._numbers = {}

    def rewrite_subdevices(self) -> None:
        """Set the attributes of its sub-devices to the values of a healthy card."""
        for name in self._numbers:
            if os.path.isdir(f"{self.path}/{self.subdevice(name)}"):
                for file, text in self._files_of(name).items():
                    self.write(f"{self.subdevice(name)}/{file}", text)
                if name in self._hwmons:
                    self.rewrite_hwmon(self._hwmons[name], self._card.hwmon_files(name, self._side) or {})

    def node_of(self, name: str) -> str | None:
        """Return the node of a sub-device; None if it has none or is unregistered."""
        directory = self.subdevice(name)
        return self._node_of(name) if directory and os.path.isdir(f"{self.path}/{directory}") else None

    def _files_of(self, name: str) -> Mapping[str, str]:
        card = self._card
        files = releases.subdevice_files(card.board, card.release, name, card.serial, card.load)
        if name == "firewall":
            return files | card.firewall_files(self._side)
        return files | ({"VBNV": card.vbnv} if name == "rom" else {})

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
        minor = device_files(_XRT_MAJOR, self._numbers[name] % (1 << 20), node)
        return {"xrt_user" if self._side == "u" else "xrt_mgmt": {entry: minor}}


class XrtCard(SampleCard):
    """A card of XRT; of a U30, one of its two devices.

    An attribute is named by its path in the directory of the user function, without the number of a
    sub-device or of a hwmon device: ``ready``, ``rom/VBNV``, ``firewall/level``, ``hwmon/temp4_input``;
    ``mgmt/`` in front stands for the directory of the management function.

    Attributes:
        upper: the upper 32 bits of the user function's firewall ``level`` before 2022.2, which its driver
            does not clear.
        load: what its sensors show, see `work`.
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
        self.upper = releases.UNCLEARED
        self._trip = self._recorded = releases.NO_TRIP  # of the management function; of the user function
        self._errors: list[releases.ErrorRecord] = []
        self._boot: releases.BootImage = "default"
        self._silent = False  # whether requests of the user function through the mailbox get no answer
        self._named = False  # whether the shell has its final name
        self.load = 0.0
        self._sensors: dict[str, dict[str, Mapping[str, str]]] = {}  # the files of each function, as last set
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
        return self.vbnv

    @property
    def vbnv(self) -> str:
        """Its VBNV; on AWS F2, the one of the driver until mpd answers (feature_rom.c set_vbnv_name)."""
        return self.board.vbnv if self._named or not self.board.provisional else self.board.provisional

    @property
    def nodes(self) -> tuple[str, ...]:
        """Its render node, and the node of its DMA queues if the driver creates one."""
        queues = self._user.node_of(self.board.dma) if self.board.dma else None
        return tuple(node for node in (self.render_node, queues) if node)

    @property
    def mgmt(self) -> str | None:
        """The directory of its management function; None if it has none."""
        return self._mgmt.path if self._mgmt else None

    @property
    def render_node(self) -> str | None:
        """Its render node, ``/dev/dri/renderD128``; None while it has none."""
        return self._user.render_node

    @property
    def mgmt_node(self) -> str | None:
        """The node of its management function (mgmt-core.c), ``/dev/xclmgmt25856``; None if it has none."""
        return f"/dev/xclmgmt{self._mgmt.instance}" if self._mgmt else None

    def path(self, attribute: str) -> str:
        """Return the path of an attribute; for an unregistered sub-device, its last path."""
        function = self._user
        if self._mgmt and attribute.startswith("mgmt/"):
            function, attribute = self._mgmt, attribute.removeprefix("mgmt/")
        head, slash, rest = attribute.partition("/")
        directory = function.hwmon if head == "hwmon" else function.subdevice(head) if slash else None
        return f"{function.path}/{directory or head}{slash}{rest}"

    # Bus and drivers

    def plug(self, board: str | XrtBoard | None = None, render: int | None = None) -> None:
        """Add it to the bus and bind its drivers; with ``board``, as a card with other ids and shell."""
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
        """Unbind its drivers and remove it from the bus, as a hot plug and an AFI load also do."""
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
        """Bind `xocl` to its user function."""
        _exhaust(self.binding(render))

    def binding(self, render: int | None = None) -> Iterator[str]:
        """Bind step by step; yield the name of each finished step (userpf/xocl_drv.c xocl_userpf_probe)."""
        driver = releases.user_driver(self.board, self.release)
        self._user.bind(driver, DRIVER_VERSIONS[self.release], module="xocl")
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
        if self.board.provisional and self.board.ready:
            self.mpd_answers()
            yield "mpd"

    def unbind(self) -> None:
        """Unbind `xocl` or `vfio-pci` (dd.c __device_release_driver, xocl_userpf_remove)."""
        if self._user.driver:
            self._user.unbind()
            self._user.remove_drm()
            self._user.drop(*self._attributes(), "root_dev")
            self._user.destroy_subdevices()
            self._recorded, self._errors, self._named = releases.NO_TRIP, [], False

    def vfio(self) -> None:
        """Bind `vfio-pci` to its user function, as for a virtual machine."""
        self.unbind()
        self._user.bind("vfio-pci")

    def bind_mgmt(self) -> None:
        """Bind `xclmgmt` to its management function; the user function becomes ready."""
        if (mgmt := self._mgmt) and (node := self.mgmt_node) and not mgmt.driver:
            mgmt.bind("xclmgmt", DRIVER_VERSIONS[self.release])
            self._refresh_mgmt()
            if self._image == "shell":
                mgmt.add_subdevices(releases.mgmt_subdevices(self.board, self.release))
            minor = device_files(_XRT_MAJOR, mgmt.instance % (1 << 20), node)
            mgmt.write("xrt_mgmt", {os.path.basename(node): minor})
            self.node.add_node(node)
            self._connect("0x1", "0x3")

    def unbind_mgmt(self) -> None:
        """Unbind `xclmgmt`; the user function is no longer ready."""
        if (mgmt := self._mgmt) and (node := self.mgmt_node) and mgmt.driver:
            mgmt.unbind()
            self.node.remove_node(node)
            mgmt.drop(*self._mgmt_attributes(mgmt), "xrt_mgmt")
            mgmt.destroy_subdevices()
            self.not_ready()

    # Reset and reprogramming

    def reset_begin(self) -> None:
        """Reset it up to the point where it waits for its management function."""
        _exhaust(self.resetting())

    def reset_end(self, render: int | None = None, suffix: int | None = None) -> None:
        """Complete a reset.

        Args:
            render: the number of its render node; None: the lowest free one.
            suffix: the offset of its sub-devices' numbers from the first one; None: they keep theirs.
        """
        _exhaust(self.returning(render, suffix))

    def reprogram(self, board: str | XrtBoard, render: int | None = None) -> None:
        """Program another shell: its functions stay, its VBNV and uuids change."""
        self.reset_begin()
        _exhaust(self.returning(render, board=board))

    def resetting(self) -> Iterator[str]:
        """Begin a reset step by step; yield the name of each finished step (xocl_drv.c xocl_reset_notify).

        Before 2019.2_PU2 the drm device and the attributes stay; 2018.3 shows no sign of a reset. In
        2019.2_PU2 `user_pf` also goes.
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
        """Complete a reset, with ``board`` a reprogramming, step by step; the last step is `drm`."""
        if board is not None:
            self.board = XRT_BOARDS[board] if isinstance(board, str) else board
        self._trip = releases.NO_TRIP  # the user function of later drivers keeps it until its next bind
        self._refresh_mgmt()
        yield "management"
        if board is not None or suffix is not None:
            self._user.destroy_subdevices()
            self._recorded = releases.NO_TRIP
        self._user.add_subdevices(self._subdevices, suffix)
        self._write_firewall()
        yield "sub-devices"
        if self._drm_comes_and_goes:
            self._add_attributes(persistent=False)
            yield "attributes"
            self._user.add_drm(render)
        self._change("dev_offline", "0")
        yield "drm"

    # Faults and recovery

    def offline(self) -> None:
        """Take it offline, as its driver does."""
        self._change("dev_offline", "1")

    def shutdown(self) -> None:
        """Shut it down, as a write to ``shutdown`` does: a reset that does not complete.

        Raises:
            ValueError: the release has no ``shutdown``.
        """
        if "shutdown" not in self._attributes():
            raise ValueError(f"XRT {self.release} has no shutdown")
        self.reset_begin()
        self._change("shutdown", "1")

    def online(self) -> None:
        """Take it online again after `offline` or `shutdown` (XOCL_WORK_ONLINE)."""
        self.reset_end()
        self._change("shutdown", "0")

    def bad_state(self) -> None:
        """Report a compute unit that hangs."""
        self._change("device_bad_state", "1")

    def not_ready(self) -> None:
        """Report no connection to the management function; in a virtual machine, to mpd."""
        self._connect("0x0", "0x0")

    def shell_unknown(self) -> None:
        """Report a shell without name: the management function never sent the metadata (feature_rom.c)."""
        self.not_ready()
        self._change("rom/VBNV", "\n")
        self._change("rom/timestamp", "0")
        self._change("logic_uuids", None)
        self._change("interface_uuids", None)

    def never_connected(self) -> None:
        """Show the state before the management function, in a virtual machine mpd, has first answered."""
        if self.board.metadata:
            self.shell_unknown()
        else:
            self._named = False
            self.not_ready()
            self._change("rom/VBNV", self.vbnv)

    def firewall_trip(self, trip: releases.Trip | None = None) -> None:
        """Trip an AXI firewall, which takes it offline; a real driver starts a reset after 2 s."""
        self._trip = self._recorded = trip or releases.Trip()
        self._write_firewall()
        self._change("mgmt/dev_offline", "1")
        self.record_error(releases.ErrorRecord(releases.FIREWALL_CODE, self._trip.time))
        self.offline()

    def record_error(self, error: releases.ErrorRecord) -> None:
        """Add a record to `xocl_errors`; a reset keeps it (userpf/xocl_errors.c)."""
        self._errors.append(error)
        self._change("xocl_errors", self._errors_file)

    def work(self, load: float) -> None:
        """Let its sensors show a load."""
        self.load = load
        for function in filter(None, (self._user, self._mgmt)):
            self._sensors[function.address] = function.rewrite_sensors(
                self._sensors.get(function.address, {})
            )

    def train_link(self, lanes: int | None = None) -> None:
        """Let its PCIe link, which its functions share, have so many lanes."""
        for function in filter(None, (self._user, self._mgmt)):
            function.train_link(lanes)

    def mailbox_silent(self) -> None:
        """Let the management function leave requests unanswered, which a user function shows as zeros.

        The answers of a real driver take 20 s then (subdev/mailbox.c): `hang` plays that.
        """
        self._silent = True
        self._write_firewall()
        self._user.rewrite_subdevices()

    def mpd_answers(self) -> None:
        """Let mpd connect: the card becomes ready, and a shell of AWS F2 gets its final name."""
        self.board = replace(self.board, ready=True)
        self._named = True
        self._connect("0x1", "0x1")
        self._change("rom/VBNV", self.vbnv)

    def boot(self, image: releases.BootImage) -> None:
        """Show the image that a Versal card has booted (subdev/xgq_vmr.c).

        Raises:
            ValueError: the card has one image only, or the release does not show it.
        """
        if not (self.board.versal and "vmr_status" in self._attributes()):
            raise ValueError(f"{self.board.vbnv} with XRT {self.release} shows no {image} image")
        self._boot = image
        self._change("vmr_status", releases.vmr_status(self.release, image))

    def firewall_files(self, side: str) -> dict[str, str]:
        """Return the attributes of a firewall; ``side`` is `u` or `m`."""
        mgmt = side == "m"
        if mgmt or self.release < "2022.2":  # the user function asks the management function
            trip = releases.SILENCE if self._silent and not mgmt else self._trip
        else:
            trip = self._recorded
        return releases.firewall_files(self.release, trip, mgmt=mgmt, upper=self.upper)

    def hwmon_files(self, subdevice: str, side: str) -> dict[str, str] | None:
        """Return the files of the hwmon device of a sub-device; None if it has none."""
        if not self.node.sensors:
            return None
        files = sensors.hwmon_files(subdevice, side, self.release, self.vbnv, self.load)
        if files and self._silent and side == "u" and subdevice != "hwmon_sdm":  # which keeps the last values
            files |= dict.fromkeys(filter(sensors.is_measured, files), "0")
        return files

    def mend(self) -> None:
        """Set every attribute to the value of a healthy card; this ends all faults but a reset."""
        self._trip = self._recorded = releases.NO_TRIP
        self._errors, self._silent, self._named = [], False, self.board.ready
        self._add_attributes()
        self._refresh_mgmt()
        self._user.rewrite_subdevices()

    # Parts

    @property
    def _drm_comes_and_goes(self) -> bool:
        return releases.reset_removes_drm(self.release)

    @property
    def _errors_file(self) -> bytes:
        return releases.errors_file(self.release, self._errors)

    @property
    def _subdevices(self) -> list[str]:
        return releases.user_subdevices(self.board, self.release)

    def _make_functions(self) -> None:
        board = self.board
        address = f"{self.slot}.{board.user_function}"
        above = self.node.bus_above(address, self._behind)
        self.bus_device = self._user = _XrtFunction(self, "u", address, board.user_id, above)
        self._mgmt = None
        if board.mgmt_id and self._has_mgmt:
            # devices.h XBB_MFG: the id of a factory image is that of the board with a D as first digit
            golden = board.golden_id or f"d{board.mgmt_id[1:]}"
            device_id = golden if self._image == "golden" else board.mgmt_id
            self._mgmt = _XrtFunction(self, "m", f"{self.slot}.0", device_id, above)

        self._beside = None
        if board.beside:
            beside = f"{next_slot(self.slot)}.0"
            self._beside = PciFunction(self.node, beside, board.beside, above, self.numa_node)

    def _make_twin(self) -> "XrtCard | None":
        """Return the second function of its slot to which `xocl` binds as to a card; None if none."""
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
        """Return the attributes of `xocl`, `user_pf` last; or only those that a reset removes."""
        texts: dict[str, Content] = dict(releases.user_attributes(self.board, self.release))
        if "xocl_errors" in texts:
            texts["xocl_errors"] = self._errors_file
        if self.board.versal and "vmr_status" in texts:
            texts["vmr_status"] = releases.vmr_status(self.release, self._boot)
        if not self._mgmt and self.board.ready and "mailbox_connect_state" in texts:
            texts["mailbox_connect_state"] = "0x1"  # mailbox_proto.h: the peer is ready and in another domain
        if self.board.provisional and not self._named:
            texts |= {"ready": "0x0", "mailbox_connect_state": "0x0"}
        if not self._user.drm and "dev_offline" in texts:
            texts["dev_offline"] = (
                "-19"  # it is read from the drm device: userpf/xocl_sysfs.c dev_offline_show
            )
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
        self._silent = ready == "0x0"
        self._change("ready", ready)
        self._change("mailbox_connect_state", state)
        self._write_firewall()

    def _write_firewall(self) -> None:
        for directory, side in (("mgmt/firewall", "m"), ("firewall", "u")):
            for name, text in self.firewall_files(side).items():
                self._change(f"{directory}/{name}", text)

    def _change(self, attribute: str, content: Content) -> None:
        if os.path.lexists(self.path(attribute)):
            self.write(attribute, content)


def next_slot(slot: str) -> str:
    """Return the next slot on the same bus."""
    bus, _, number = slot.rpartition(":")
    return f"{bus}:{int(number, 16) + 1:02x}"


def _exhaust(steps: Iterable[str]) -> None:
    for _ in steps:
        pass
