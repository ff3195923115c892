"""Allocate beyond device nodes: CDI, mounts, shared devices, PreStartContainer, and `explain`."""

import json
import os
import stat
import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.cdi_schema import validate_spec
from tests.support.double import KubeletDouble, NoEndpoint
from tests.support.process import Service, cli, remove
from tests.support.resource_names import U55C
from tests.support.running import settings_for
from tests.support.waiting import wait_for
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.resources.documents import cdi
from xilinx_fpga_dp.resources.naming import SHARED
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode

A, B = "0000:11:00.1", "0000:21:00.1"


@pytest.fixture
def pair(node: SampleNode) -> SampleNode:
    node.add_card("u55c", "0000:11:00")
    node.add_card("u55c", "0000:21:00")
    return node


def only(container: Any) -> tuple[str, dict[str, Any]]:
    """Return the granted addresses, and the details of each."""
    [info] = [json.loads(value) for name, value in container.envs.items() if name.endswith("_INFO")]
    [addresses] = [value for name, value in container.envs.items() if not name.endswith("_INFO")]
    return addresses, info


class TestSharing:
    @pytest.fixture
    def shared(self, pair: SampleNode, kubelet: KubeletDouble) -> Any:
        with Service(settings_for(pair, SHARED_REPLICAS="3", PREFERRED_ALLOCATION="spread")):
            kubelet.start()
            kubelet.wait_for(lambda: kubelet.allocatable(U55C + SHARED) == 6)
            yield kubelet

    def test_shared_resource_has_its_own_name(self, shared: KubeletDouble) -> None:
        assert list(shared.resources()) == [U55C + SHARED]
        assert sorted(shared.resources()[U55C + SHARED]) == [f"{a}::{k}" for a in (A, B) for k in range(3)]

    def test_replica_gives_its_device(self, shared: KubeletDouble, pair: SampleNode) -> None:
        for replica in range(3):
            [container] = shared.allocate(U55C + SHARED, [f"{A}::{replica}"]).container_responses
            assert only(container)[0] == A
            assert [each.host_path for each in container.devices] == [pair.cards[0].render_node]

    def test_container_gets_one_replica_of_a_device(self, shared: KubeletDouble) -> None:
        with pytest.raises(grpc.RpcError, match="one replica"):
            shared.allocate(U55C + SHARED, [f"{A}::0", f"{A}::1"])
        ids = [f"{a}::{k}" for a in (A, B) for k in range(3)]
        [answer] = shared.preferred(U55C + SHARED, ids, [], 2).container_responses
        assert len({each.partition("::")[0] for each in answer.deviceIDs}) == 2

    def test_spread_takes_the_least_used(self, shared: KubeletDouble) -> None:
        left = [f"{A}::0", f"{B}::0", f"{B}::1"]  # two replicas of A are in use, one of B
        [answer] = shared.preferred(U55C + SHARED, left, [], 1).container_responses
        assert answer.deviceIDs[0].startswith(B)

    def test_fault_makes_all_replicas_unhealthy(self, shared: KubeletDouble, pair: SampleNode) -> None:
        pair.cards[0].offline()
        shared.wait_for(lambda: shared.allocatable(U55C + SHARED) == 3)
        assert shared.capacity(U55C + SHARED) == 6

    def test_shared_grant_all_gives_all_cards(self, pair: SampleNode, kubelet: KubeletDouble) -> None:
        pair.add_card("u250", "0000:31:00")
        unhealthy = pair.add_card("u50", "0000:41:00")
        unhealthy.offline()
        with Service(settings_for(pair, SHARED_REPLICAS="2", SHARED_GRANT="all")):
            kubelet.start()
            kubelet.wait_for(lambda: kubelet.allocatable(U55C + SHARED) == 4)
            [container] = kubelet.allocate(U55C + SHARED, [f"{A}::1"]).container_responses
            addresses, info = only(container)
            assert addresses == f"{A},{B},0000:31:00.1"
            assert sorted(info) == addresses.split(",")
            assert len(container.devices) == 3

    def test_other_cards_that_hang_are_left_out_in_time(
        self, pair: SampleNode, kubelet: KubeletDouble
    ) -> None:
        others = [pair.add_card("u250", f"0000:{bus}1:00") for bus in (3, 4)]
        with Service(settings_for(pair, SHARED_REPLICAS="2", SHARED_GRANT="all")):
            kubelet.start()
            kubelet.wait_for(lambda: kubelet.allocatable(U55C + SHARED) == 4)
            for card in others:
                card.hang("ready")
            try:
                [container] = kubelet.allocate(U55C + SHARED, [f"{A}::1"]).container_responses
            finally:
                for card in others:
                    card.unhang("ready")
            assert only(container)[0] == f"{A},{B}"


class TestCdi:
    def read(self, node: SampleNode) -> dict[str, Any] | None:
        try:
            with open(f"{node.root}/cdi/{cdi.FILE}") as file:
                document: dict[str, Any] = json.load(file)
        except FileNotFoundError:
            return None
        return document

    def names(self, node: SampleNode) -> list[str]:
        return [each["name"] for each in (self.read(node) or {"devices": []})["devices"]]

    def nodes(self, node: SampleNode) -> dict[str, str]:
        """Return the first device node of each device, by the name of the device."""
        devices = (self.read(node) or {"devices": []})["devices"]
        return {each["name"]: each["containerEdits"]["deviceNodes"][0]["path"] for each in devices}

    def seldom_scanned(self, node: SampleNode) -> dict[str, str]:
        """Return settings with which only Allocate and SIGHUP change the file."""
        return settings_for(
            node, DEVICE_STRATEGY="cdi", CDI_DIR=f"{node.root}/cdi", SCAN_INTERVAL="60", HEALTH_INTERVAL="60"
        )

    @pytest.mark.parametrize("strategy", ["cdi", "both"])
    def test_strategies(self, pair: SampleNode, kubelet: KubeletDouble, strategy: str) -> None:
        settings = settings_for(pair, DEVICE_STRATEGY=strategy, CDI_DIR=f"{pair.root}/cdi")
        with Service(settings) as service:
            kubelet.start()
            kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 2)
            [container] = kubelet.allocate(U55C, [A]).container_responses
            assert [each.name for each in container.cdi_devices] == [f"xilinx.com/fpga={A}"]
            assert len(container.devices) == (strategy == "both")
            document = self.read(pair)
            assert document is not None
            validate_spec(document)
            assert (document["cdiVersion"], document["kind"]) == ("0.6.0", "xilinx.com/fpga")
            assert document["devices"][0] == {
                "name": A,
                "containerEdits": {"deviceNodes": [{"path": pair.cards[0].render_node, "permissions": "rw"}]},
            }
            mode = os.stat(f"{pair.root}/cdi/{cdi.FILE}").st_mode
            assert stat.S_IMODE(mode) == 0o644
            assert service.terminate() == 0
            assert self.read(pair), "the file stays: restarted containers need it"

    def test_file_is_updated_and_restored(self, pair: SampleNode, kubelet: KubeletDouble) -> None:
        settings = settings_for(pair, DEVICE_STRATEGY="cdi", CDI_DIR=f"{pair.root}/cdi")
        with Service(settings):
            kubelet.start()
            kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 2)
            wait_for(lambda: self.names(pair) == [A, B], "both")
            pair.cards[1].remove()
            wait_for(lambda: self.names(pair) == [A], "the removed card is gone")
            os.unlink(f"{pair.root}/cdi/{cdi.FILE}")
            wait_for(lambda: self.names(pair) == [A], "written again")
            remove(Path(f"{pair.root}/cdi"))
            wait_for(lambda: self.names(pair) == [A], "written with its directory")
            pair.cards[0].remove()
            wait_for(lambda: self.read(pair) is None, "no device, no file")
            assert os.listdir(f"{pair.root}/cdi") == []

    def test_new_render_node_is_in_the_file_before_the_answer(
        self, pair: SampleNode, kubelet: KubeletDouble
    ) -> None:
        with Service(self.seldom_scanned(pair)):
            kubelet.start()
            kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 2)
            time.sleep(1.5)  # until the scan that the serial numbers cause has ended
            pair.cards[0].reset_begin()
            pair.cards[0].reset_end(render=200)
            kubelet.allocate(U55C, [A])
            assert self.nodes(pair)[A] == "/dev/dri/renderD200"

    def test_grants_since_the_last_scan_stay_in_the_file(
        self, pair: SampleNode, kubelet: KubeletDouble
    ) -> None:
        with Service(self.seldom_scanned(pair)) as service:
            kubelet.start()
            kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 2)
            time.sleep(1.5)  # until the scan that the serial numbers cause has ended
            for number, card in enumerate(pair.cards):
                card.reset_begin()
                card.reset_end(render=200 + number)
            for unit_id in (A, B):
                kubelet.allocate(U55C, [unit_id])
            assert self.nodes(pair) == {A: "/dev/dri/renderD200", B: "/dev/dri/renderD201"}

            def scanned(render: int) -> bool:
                return self.nodes(pair)[A] == f"/dev/dri/renderD{render}"

            for render in (300, 400):  # the first scan after an Allocate, and the next scan
                pair.cards[0].reset_begin()
                pair.cards[0].reset_end(render=render)
                service.hang_up()
                wait_for(partial(scanned, render), "the result of the scan")

    def test_scan_that_began_before_a_grant_does_not_undo_it(
        self, pair: SampleNode, kubelet: KubeletDouble
    ) -> None:
        with Service(self.seldom_scanned(pair)) as service:
            kubelet.start()
            kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 2)
            time.sleep(1.5)  # until the scan that the serial numbers cause has ended
            first, second = pair.cards
            second.hang("rom/VBNV")
            pair.add_card("u55c")
            # With a writer, open() returns and read() waits.
            pipe = Path(second.path("rom/VBNV"))
            with pipe.open("r+b", buffering=0):
                service.hang_up()  # this scan has read the first card and waits for the second
                wait_for(partial(self._has_open, service.process.pid, pipe), "the scan waits")
                first.reset_begin()
                first.reset_end(render=200)
                wait_for(partial(self._granted, kubelet, A), "granted")
                until = time.monotonic() + 1
                while time.monotonic() < until:
                    assert self.nodes(pair)[A] == "/dev/dri/renderD200"
                second.unhang("rom/VBNV")

    def _has_open(self, pid: int, path: Path) -> bool:
        for each in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed by now
                if each.samefile(path):
                    return True
        return False

    def _granted(self, kubelet: KubeletDouble, unit_id: str) -> bool:
        try:
            kubelet.allocate(U55C, [unit_id])
        except NoEndpoint:  # SIGHUP also registers again
            return False
        return True

    def test_newer_of_two_instances_keeps_the_file(self, pair: SampleNode, kubelet: KubeletDouble) -> None:
        """Two instances with different settings must not overwrite each other's file in turn."""
        settings = settings_for(pair, DEVICE_STRATEGY="cdi", CDI_DIR=f"{pair.root}/cdi")
        path = f"{pair.root}/cdi/{cdi.FILE}"

        def exposed() -> bool:
            return "/dev/xclmgmt" in json.dumps(self.read(pair))

        kubelet.start()
        with Service(settings) as older:
            older.logged(Event.REGISTERED)
            with Service(settings | {"EXPOSE_MGMT": "true"}) as newer:
                newer.logged(Event.REGISTERED)
                older.logged(Event.SUPERSEDED)
                wait_for(exposed, "written by the newer instance")
                before = os.stat(path)
                os.utime(path)  # wakes both
                time.sleep(0.5)
                assert exposed()
                assert os.stat(path).st_ino == before.st_ino, "the file was not written again"
            wait_for(lambda: not exposed(), "written by the older instance")

    @pytest.mark.parametrize("hangs", ["open", "read"])
    def test_hanging_file_blocks_nothing_else(
        self, pair: SampleNode, kubelet: KubeletDouble, hangs: str
    ) -> None:
        folder = Path(pair.root, "cdi")
        folder.mkdir()
        pipe = folder / "xilinx.com-fpga.json"
        os.mkfifo(pipe)  # open() waits for a writer, read() for data
        with ExitStack() as stack:
            if hangs == "read":
                stack.enter_context(pipe.open("r+b", buffering=0))
            service = stack.enter_context(
                Service(settings_for(pair, DEVICE_STRATEGY="both", CDI_DIR=str(folder), REQUEST_TIMEOUT="30"))
            )
            self._served(pair, kubelet)
            assert service.terminate() == 0, "a hanging thread does not delay the end"

    def _served(self, pair: SampleNode, kubelet: KubeletDouble) -> None:
        """Check that everything else continues."""
        kubelet.start()
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 2)
        for _ in range(3):
            pair.cards[0].offline()
            kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1)
            pair.cards[0].mend()
            kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 2)
        [container] = kubelet.allocate(U55C, [B], timeout=40).container_responses
        assert [each.host_path for each in container.devices] == [pair.cards[1].render_node]

    def test_unwritable_directory(self, pair: SampleNode, kubelet: KubeletDouble) -> None:
        with open(f"{pair.root}/file", "w"):
            pass
        for strategy in ("cdi", "both"):
            settings = settings_for(pair, DEVICE_STRATEGY=strategy, CDI_DIR=f"{pair.root}/file")
            with Service(settings) as service:
                kubelet.start()
                kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 2)
                service.logged(Event.FILE_NOT_WRITTEN)
                if strategy == "cdi":
                    with pytest.raises(grpc.RpcError, match="CDI spec"):
                        kubelet.allocate(U55C, [A])
                else:
                    [container] = kubelet.allocate(U55C, [A]).container_responses
                    assert container.devices
                    assert not container.cdi_devices
            kubelet.stop()


class TestMounts:
    def test_existing_paths_are_mounted(self, pair: SampleNode, kubelet: KubeletDouble) -> None:
        os.makedirs(f"{pair.root}/host/opt/xilinx/xrt")
        settings = settings_for(
            pair, HOST_ROOT=f"{pair.root}/host", EXTRA_MOUNTS="/opt/xilinx/xrt,/etc/OpenCL/vendors/xilinx.icd"
        )
        with Service(settings) as service:
            kubelet.start()
            kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 2)
            [container] = kubelet.allocate(U55C, [A]).container_responses
            assert [(m.host_path, m.container_path, m.read_only) for m in container.mounts] == [
                ("/opt/xilinx/xrt", "/opt/xilinx/xrt", True)
            ]
            service.logged(
                Event.EXTRA_MOUNT_LEFT_OUT, error="not on the host", path="/etc/OpenCL/vendors/xilinx.icd"
            )
            os.makedirs(f"{pair.root}/host/etc/OpenCL/vendors")
            with open(f"{pair.root}/host/etc/OpenCL/vendors/xilinx.icd", "w"):
                pass
            [container] = kubelet.allocate(U55C, [A]).container_responses
            assert len(container.mounts) == 2, "paths are checked at each Allocate"


class TestPreStart:
    def test_no_pre_start_call_when_off(
        self, pair: SampleNode, kubelet: KubeletDouble, service: Service
    ) -> None:
        kubelet.start()
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 2)
        assert not kubelet.registrations[0].options.pre_start_required
        pair.cards[0].offline()
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1)
        kubelet.pre_start(U55C, [A])

    def test_pre_start_refuses_with_the_reason(self, pair: SampleNode, kubelet: KubeletDouble) -> None:
        with Service(settings_for(pair, PRESTART_CHECK="true")):
            kubelet.start()
            kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 2)
            assert kubelet.registrations[0].options.pre_start_required
            kubelet.pre_start(U55C, [A])
            pair.cards[0].offline()
            kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1)
            with pytest.raises(grpc.RpcError, match="offline"):
                kubelet.pre_start(U55C, [A])
            pair.remove_node(str(pair.cards[1].render_node))
            with pytest.raises(grpc.RpcError, match="no-node"):
                kubelet.pre_start(U55C, [B])


class TestPolicy:
    def test_policy_none_is_not_advertised(self, pair: SampleNode, kubelet: KubeletDouble) -> None:
        with Service(settings_for(pair, PREFERRED_ALLOCATION="none")):
            kubelet.start()
            kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 2)
            assert not kubelet.registrations[0].options.get_preferred_allocation_available


class TestExplain:
    def explain(self, node: SampleNode, *ids: str, **more: str) -> tuple[int, dict[str, Any]]:
        done = cli("explain", *ids, "--output", "json", settings=settings_for(node, **more))
        document: dict[str, Any] = json.loads(done.stdout)
        return done.returncode, document

    def granted(self, kubelet: KubeletDouble) -> dict[str, Any]:
        [container] = kubelet.allocate(U55C, [A, B]).container_responses
        return {
            "envs": dict(container.envs),
            "mounts": [
                {"container_path": m.container_path, "host_path": m.host_path, "read_only": m.read_only}
                for m in container.mounts
            ],
            "devices": [
                {"container_path": d.container_path, "host_path": d.host_path, "permissions": d.permissions}
                for d in container.devices
            ],
            "cdi_devices": [{"name": each.name} for each in container.cdi_devices],
        }

    def test_answers_as_allocate_does(self, pair: SampleNode, kubelet: KubeletDouble) -> None:
        os.makedirs(f"{pair.root}/host/opt/xilinx/xrt")
        more = {
            "DEVICE_STRATEGY": "both",
            "CDI_DIR": f"{pair.root}/cdi",
            "HOST_ROOT": f"{pair.root}/host",
            "EXTRA_MOUNTS": "/opt/xilinx/xrt",
            "EXPOSE_MGMT": "true",
        }
        code, document = self.explain(pair, B, A, **more)
        assert code == 0
        with Service(settings_for(pair, **more)):
            kubelet.start()
            kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 2)
            # Once the serial numbers are read
            wait_for(lambda: self.granted(kubelet) == document["answer"], "the same answer")

    @pytest.mark.parametrize(
        ("ids", "code", "text"),
        [
            (("0000:99:00.1",), "NOT_FOUND", "0000:99:00.1"),
            ((A, A), "INVALID_ARGUMENT", "twice"),
            ((B,), "FAILED_PRECONDITION", "offline"),
            (("0000:31:00.0",), "NOT_FOUND", "golden image"),
        ],
    )
    def test_refuses_as_allocate_does(
        self, pair: SampleNode, ids: tuple[str, ...], code: str, text: str
    ) -> None:
        pair.cards[1].offline()
        pair.add_card("u250", "0000:31:00", image="golden")
        status, document = self.explain(pair, *ids)
        assert status == 1
        assert document["refused"]["code"] == code
        assert text in document["refused"]["message"]

    def test_text(self, pair: SampleNode) -> None:
        done = cli("explain", A, settings=settings_for(pair))
        assert done.returncode == 0
        assert f"device {pair.cards[0].render_node} (rw)" in done.stdout
        refused = cli("explain", "nonsense", settings=settings_for(pair))
        assert refused.returncode == 1
        assert refused.stdout.startswith("refused, NOT_FOUND: ")
