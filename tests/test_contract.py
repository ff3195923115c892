"""The service as kubelet meets it: a real process, real sockets, a kubelet that shares no code with it."""

import asyncio
import json
import os
import re
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import grpc
import pytest

from tests.conftest import settings_for
from tests.double import KubeletDouble
from tests.faults.wires import message, request
from tests.process import ENDS, Service, eventually, remove
from tests.wire import pb
from xilinx_fpga_dp.aio.supervise import end
from xilinx_fpga_dp.deviceplugin.instance_lock import lock_folder
from xilinx_fpga_dp.deviceplugin.messages import options
from xilinx_fpga_dp.deviceplugin.registration import register
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode

U200 = "xilinx.com/fpga-xilinx_u200_xdma_201830_2-1561465320"
U250 = "xilinx.com/fpga-xilinx_u250_xdma_201830_2-1561656294"
U55C = "xilinx.com/fpga-xilinx_u55c_gen3x16_xdma_base_3-0"


def ours(node: SampleNode) -> list[str]:
    return [name for name in os.listdir(node.socket_dir) if name.endswith("-fpga.sock")]


def lock_files(node: SampleNode) -> list[str]:
    """The lock files of instances."""
    folder = lock_folder(node.plugins_dir)
    return os.listdir(folder) if os.path.isdir(folder) else []


def refused(call: Any, *arguments: Any) -> grpc.Call:
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments)
    assert isinstance(caught.value, grpc.Call)
    return caught.value


@pytest.fixture
def cards(node: SampleNode) -> SampleNode:
    node.add_ordinary_devices()
    for index, board in enumerate(("u200", "u200", "u250")):
        node.add_card(board, f"0000:{0x10 * (index + 1) + 1:02x}:00", numa_node=index % 2)
    return node


@pytest.fixture
def registered(cards: SampleNode, kubelet: KubeletDouble, service: Service) -> KubeletDouble:
    kubelet.start()
    kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2 and kubelet.allocatable(U250) == 1)
    return kubelet


def test_one_resource_a_shell_with_its_devices(registered: KubeletDouble) -> None:
    assert registered.resources() == {
        U200: {"0000:11:00.1": "Healthy", "0000:21:00.1": "Healthy"},
        U250: {"0000:31:00.1": "Healthy"},
    }
    assert registered.topology(U200) == {"0000:11:00.1": (0,), "0000:21:00.1": (1,)}
    for registration in registered.registrations:
        assert registration.version == "v1beta1"
        assert registration.endpoint.endswith("-fpga.sock")
        assert registration.options.get_preferred_allocation_available
    assert registered.refusals == []


def test_each_list_is_sent_once(registered: KubeletDouble, service: Service) -> None:
    time.sleep(1.5)  # several scans and health checks
    assert [len(registered.lists(name)) for name in (U200, U250)] == [1, 1]


def test_allocate_gives_the_node_and_says_which(registered: KubeletDouble, cards: SampleNode) -> None:
    [container] = registered.allocate(U200, ["0000:21:00.1"]).container_responses
    render = cards.cards[1].render_node
    assert [(d.host_path, d.container_path, d.permissions) for d in container.devices] == [
        (render, render, "rw")
    ]
    assert not container.mounts
    assert not container.annotations
    variable = "PCIDEVICE_XILINX_COM_FPGA_XILINX_U200_XDMA_201830_2_1561465320"
    assert container.envs.keys() == {variable, f"{variable}_INFO"}
    assert container.envs[variable] == "0000:21:00.1"
    info = json.loads(container.envs[f"{variable}_INFO"])["0000:21:00.1"]
    assert (info["shell"], info["timestamp"], info["numa_node"], info["nodes"]) == (
        "xilinx_u200_xdma_201830_2",
        "1561465320",
        1,
        [render],
    )


def test_several_containers_and_several_devices(registered: KubeletDouble) -> None:
    both = registered.allocate(U200, ["0000:21:00.1", "0000:11:00.1"])
    [container] = both.container_responses
    assert (
        next(v for n, v in container.envs.items() if not n.endswith("_INFO")) == "0000:11:00.1,0000:21:00.1"
    )
    assert len(container.devices) == 2
    request = pb.AllocateRequest(
        container_requests=[
            pb.ContainerAllocateRequest(devices_ids=[each]) for each in ("0000:11:00.1", "0000:21:00.1")
        ]
    )
    encoded = registered._call(U200, "Allocate", request, 5)
    assert len(pb.AllocateResponse.FromString(encoded).container_responses) == 2


@pytest.mark.parametrize("method", ["allocate_raw", "preferred_raw", "options_raw", "pre_start_raw"])
def test_answers_are_byte_for_byte_what_google_writes(registered: KubeletDouble, method: str) -> None:
    arguments: dict[str, tuple[tuple[Any, ...], Any]] = {
        "allocate_raw": ((["0000:11:00.1"],), pb.AllocateResponse),
        "preferred_raw": ((["0000:11:00.1", "0000:21:00.1"], [], 1), pb.PreferredAllocationResponse),
        "options_raw": ((), pb.DevicePluginOptions),
        "pre_start_raw": ((["0000:11:00.1"],), pb.PreStartContainerResponse),
    }
    given, message = arguments[method]
    encoded = getattr(registered, method)(U200, *given)
    assert message.FromString(encoded).SerializeToString(deterministic=True) == encoded


def test_lists_are_byte_for_byte_what_google_writes(registered: KubeletDouble) -> None:
    for name in (U200, U250):
        [only] = registered.lists(name)
        assert only.message.SerializeToString(deterministic=True) == only.encoded


def test_preferred_allocation_is_answered(registered: KubeletDouble) -> None:
    [answer] = registered.preferred(
        U200, ["0000:11:00.1", "0000:21:00.1"], ["0000:21:00.1"], 1
    ).container_responses
    assert list(answer.deviceIDs) == ["0000:21:00.1"]


@pytest.mark.parametrize(
    ("ids", "code", "says"),
    [
        (["0000:99:00.1"], grpc.StatusCode.NOT_FOUND, "0000:99:00.1"),
        (["0000:31:00.1"], grpc.StatusCode.NOT_FOUND, U200),  # there, but of another shell
        (["0000:11:00.1"] * 2, grpc.StatusCode.INVALID_ARGUMENT, "twice"),
        ([], grpc.StatusCode.INVALID_ARGUMENT, "no device id"),
    ],
)
def test_refusals_say_why(
    registered: KubeletDouble, ids: list[str], code: grpc.StatusCode, says: str
) -> None:
    status = refused(registered.allocate, U200, ids)
    assert status.code() is code
    assert says in (status.details() or "")


def test_an_unhealthy_device_is_refused_and_its_neighbour_is_not(
    registered: KubeletDouble, cards: SampleNode
) -> None:
    cards.cards[0].offline()
    registered.wait_for(lambda: registered.allocatable(U200) == 1)
    status = refused(registered.allocate, U200, ["0000:11:00.1"])
    assert status.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "offline" in (status.details() or "")
    assert registered.allocate(U200, ["0000:21:00.1"]).container_responses
    assert registered.capacity(U200) == 2


def test_a_missing_node_is_refused_at_once(registered: KubeletDouble, cards: SampleNode) -> None:
    os.unlink(f"{cards.root}{cards.cards[0].render_node}")
    status = refused(registered.allocate, U200, ["0000:11:00.1"])
    assert status.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "no-node" in (status.details() or "")


def test_garbage_on_the_wire_becomes_a_status(registered: KubeletDouble) -> None:
    channel = grpc.insecure_channel(
        f"unix://{registered.directory}/{registered.registrations[0].endpoint}",
        options=[("grpc.default_authority", "localhost")],
    )
    with channel:
        call: Any = channel.unary_unary("/v1beta1.DevicePlugin/Allocate")
        for garbage in (b"\x0a\xff", b"\x0b", b"\x0f\x00", b""):
            status = refused(lambda sent: call(sent, timeout=5), garbage)
            assert status.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT)
            assert "Allocate" in (status.details() or "")
        truncated = b"\x0a\x04\x0a\x05ab"  # betterproto2 takes it for a request for the device `ab`
        assert refused(lambda: call(truncated, timeout=5)).code() is grpc.StatusCode.NOT_FOUND
        unknown: Any = channel.unary_unary("/v1beta1.DevicePlugin/Frobnicate")
        assert refused(lambda: unknown(b"", timeout=5)).code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    "head",
    [{":method": None}, {":path": None}, {"grpc-timeout": f"1{'0' * 400}H"}, {"x-bin": "ABCDE"}],
)
def test_an_odd_head_is_refused_or_passed_over_and_is_no_error_of_ours(
    registered: KubeletDouble, service: Service, head: dict[str, str | None]
) -> None:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(5)
        peer.connect(f"{registered.directory}/{registered.registrations[0].endpoint}")
        peer.sendall(request("GetDevicePluginOptions", message(b""), head=head))
        answer = b""
        # A frame of HEADERS or RST_STREAM of stream 1, or the end: RFC 9113
        while not re.search(rb"[\x01\x03].\x00\x00\x00\x01", answer, re.DOTALL) and (some := peer.recv(4096)):
            answer += some
    registered.options(registered.registrations[0].resource)
    assert not [each for each in service.events if each["level"] == "error"]


def test_a_request_that_is_too_long_is_refused_before_it_is_read(registered: KubeletDouble) -> None:
    with grpc.insecure_channel(
        f"unix://{registered.directory}/{registered.registrations[0].endpoint}",
        options=[("grpc.default_authority", "localhost")],
    ) as channel:
        for method in ("Allocate", "ListAndWatch"):
            call: Any = channel.unary_unary(f"/v1beta1.DevicePlugin/{method}")
            status = refused(partial(call, timeout=5), bytes(2 << 20))
            assert status.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert str(2 << 20) in (status.details() or "")


def test_connections_beyond_a_few_are_closed_and_kubelets_is_not(
    registered: KubeletDouble, cards: SampleNode, service: Service
) -> None:
    before = len(os.listdir(f"/proc/{service.process.pid}/fd"))
    path = f"{cards.socket_dir}/{registered.registrations[0].endpoint}"
    with ExitStack() as peers:
        for _ in range(100):
            peer = peers.enter_context(socket.socket(socket.AF_UNIX))
            peer.settimeout(5)
            peer.connect(path)
        eventually(lambda: len(os.listdir(f"/proc/{service.process.pid}/fd")) <= before + 16, "16 at most")
        assert registered.allocate(U200, ["0000:11:00.1"]).container_responses
    eventually(lambda: len(os.listdir(f"/proc/{service.process.pid}/fd")) <= before, "none is left")
    assert registered.ends == []


def test_a_call_under_way_at_the_end_is_refused_with_a_sentence(
    registered: KubeletDouble, cards: SampleNode, service: Service
) -> None:
    cards.cards[0].hang("ready")
    os.unlink(f"{cards.root}{cards.cards[0].render_node}")  # so that its driver has to be asked
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(refused, registered.allocate, U200, ["0000:11:00.1"])
        time.sleep(0.5)
        assert service.terminate() == 0
        status = call.result(5)
    cards.cards[0].unhang("ready")
    assert status.code() is grpc.StatusCode.UNAVAILABLE
    assert "the plugin is ending" in (status.details() or "")


def test_a_directory_that_is_away_takes_nothing_from_a_kubelet_that_lives(
    registered: KubeletDouble, cards: SampleNode, service: Service
) -> None:
    os.rename(cards.socket_dir, f"{cards.socket_dir}.away")
    service.logged(Event.SOCKET_DIRECTORY_UNUSABLE, problem="No such file or directory")
    cards.cards[0].offline()
    registered.wait_for(lambda: registered.allocatable(U200) == 1)
    os.rename(f"{cards.socket_dir}.away", cards.socket_dir)
    service.logged(Event.SOCKET_DIRECTORY_USABLE)
    time.sleep(0.3)
    assert len(registered.registrations) == 2
    assert registered.ends == []


def test_a_directory_that_is_removed_file_by_file_takes_nothing_either(
    registered: KubeletDouble, cards: SampleNode, service: Service
) -> None:
    began = time.monotonic()
    for name in ours(cards):
        os.unlink(f"{cards.socket_dir}/{name}")
    time.sleep(0.005)  # it is seen
    remove(Path(cards.socket_dir))
    if time.monotonic() - began > 0.015:
        pytest.skip("this machine is too busy to remove a directory at once")
    service.logged(Event.SOCKET_DIRECTORY_UNUSABLE, problem="No such file or directory")
    time.sleep(0.3)
    assert registered.ends == []


def test_kubelet_absent_at_start_is_waited_for(
    cards: SampleNode, kubelet: KubeletDouble, service: Service
) -> None:
    hint = service.logged(Event.NO_KUBELET)  # fmt: skip
    assert hint["path"].endswith("kubelet.sock")
    assert ours(cards) == []
    kubelet.start()
    kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2)


def test_a_kubelet_restart_is_survived(registered: KubeletDouble, cards: SampleNode) -> None:
    for _ in range(3):
        before = {registration.endpoint for registration in registered.registrations}
        registered.restart(down=0.2)
        registered.wait_for(lambda: registered.allocatable(U200) == 2 and registered.allocatable(U250) == 1)
        assert len({r.endpoint for r in registered.registrations} - before) >= 2, "new names for new sockets"
    assert len(ours(cards)) == 2


def test_a_kubelet_that_dies_leaves_its_socket_and_is_waited_for(
    registered: KubeletDouble, service: Service
) -> None:
    registered.kill()
    assert os.path.exists(registered.socket)
    service.logged(Event.NOT_REGISTERED, resource=U200)
    time.sleep(1)
    registered.start()
    registered.wait_for(lambda: registered.allocatable(U200) == 2)
    complaints = [e for e in service.events if e["event"] == Event.NOT_REGISTERED and e["resource"] == U200]
    assert len(complaints) <= 3, "the same complaint is not repeated"


def test_a_lost_stream_leads_to_registering_again(registered: KubeletDouble) -> None:
    count = len(registered.registrations)
    registered.cut_stream(U200)
    registered.wait_for(lambda: len(registered.registrations) >= count + 1)
    registered.wait_for(lambda: registered.allocatable(U200) == 2)
    assert registered.registrations[-1].resource == U200
    assert len(registered.lists(U250)) == 1, "no other resource hears of it"


def test_a_vanished_own_socket_leads_to_registering_again(
    registered: KubeletDouble, cards: SampleNode
) -> None:
    [gone] = [name for name in ours(cards) if "u250" in name]
    os.unlink(f"{cards.socket_dir}/{gone}")
    registered.wait_for(
        lambda: registered.registrations[-1].resource == U250 and len(registered.lists(U250)) == 2
    )
    assert registered.registrations[-1].endpoint != gone
    assert len(registered.lists(U200)) == 1


def test_kubelets_socket_with_another_mode_or_owner_is_the_same(
    registered: KubeletDouble, cards: SampleNode
) -> None:
    """Each changes its ctime, as a relabel does; to register again would cost kubelet the stream it has."""
    path = registered.socket
    for change in (partial(path.chmod, 0o600), partial(os.chown, path, os.getuid(), os.getgid())):
        before = path.stat().st_ctime_ns
        change()
        assert path.stat().st_ctime_ns > before
        Path(cards.socket_dir, "something").touch()  # so that the directory is looked at
        time.sleep(0.7)
    assert len(registered.registrations) == 2
    assert registered.ends == []


def test_another_socket_under_the_own_name_is_not_the_own(
    registered: KubeletDouble, cards: SampleNode
) -> None:
    [name] = [name for name in ours(cards) if "u250" in name]
    path = f"{cards.socket_dir}/{name}"
    os.unlink(path)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        registered.wait_for(lambda: len(registered.lists(U250)) == 2)


def test_a_directory_made_anew_is_found(registered: KubeletDouble, cards: SampleNode) -> None:
    registered.kill()
    moved = f"{cards.socket_dir}.moved"
    os.rename(cards.socket_dir, moved)
    registered.start()  # makes the directory
    registered.wait_for(lambda: registered.allocatable(U200) == 2 and registered.allocatable(U250) == 1)
    assert len(ours(cards)) == 2


def test_a_directory_that_comes_late_is_found(cards: SampleNode, kubelet: KubeletDouble) -> None:
    os.rmdir(cards.socket_dir)
    with Service(settings_for(cards)) as service:
        service.logged(Event.SOCKET_DIRECTORY_UNUSABLE, problem="No such file or directory")
        hint = service.logged(Event.NO_KUBELET)  # fmt: skip
        assert hint["problem"] == "No such file or directory"
        kubelet.start()
        kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2)
        service.logged(Event.SOCKET_DIRECTORY_USABLE)


@pytest.mark.parametrize("fault", ["refuse", "register_hang", "list_delay"])
def test_a_kubelet_in_trouble_is_asked_again(
    cards: SampleNode, kubelet: KubeletDouble, service: Service, fault: str
) -> None:
    value: Any = {"refuse": grpc.StatusCode.UNKNOWN, "register_hang": 1.0, "list_delay": 1.0}[fault]
    setattr(kubelet.faults, fault, value)
    kubelet.start()
    if fault == "refuse":
        kubelet.wait_for(lambda: len(kubelet.refusals) >= 6)
        assert service.logged(Event.NOT_REGISTERED)["error"].startswith("kubelet refused")
        times = [refusal.time for refusal in kubelet.refusals if refusal.resource == U200]
        assert max(b - a for a, b in pairwise(times)) < 5, (
            "half a second apart at most, but for a busy machine"
        )
    setattr(kubelet.faults, fault, None if fault == "refuse" else 0.0)
    kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2 and kubelet.allocatable(U250) == 1)


@pytest.mark.parametrize(("fault", "seconds"), [("dial_hang", 11.0), ("list_delay", 6.0)])
def test_a_kubelet_that_takes_its_time_is_told_once(node: SampleNode, fault: str, seconds: float) -> None:
    """It may dial back for 10 s before it answers (client.go); to tell it again begins that anew."""
    node.add_card("u55c", "0000:41:00")
    told: list[str] = []
    kubelet = KubeletDouble(Path(node.socket_dir), on_register=told.append)
    setattr(kubelet.faults, fault, seconds)
    with kubelet, Service(settings_for(node)) as service:
        service.logged(Event.REGISTERED, limit=40)
        assert len(told) == 1
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1)
        assert Event.NOT_REGISTERED not in {each["event"] for each in service.events}


def test_a_register_that_hangs_is_given_up_when_kubelet_is_new(
    cards: SampleNode, kubelet: KubeletDouble, service: Service
) -> None:
    kubelet.faults.register_hang = 60.0
    kubelet.start()
    eventually(lambda: len(ours(cards)) == 2, "both are served and ask")
    time.sleep(0.3)
    kubelet.faults.register_hang = 0.0
    kubelet.restart()
    kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2 and kubelet.allocatable(U250) == 1)


def test_hang_up_scans_and_registers_again(
    registered: KubeletDouble, cards: SampleNode, service: Service
) -> None:
    count = len(registered.registrations)
    before = {each.endpoint for each in registered.registrations}
    cards.add_card("u55c", "0000:41:00")
    service.hang_up()
    registered.wait_for(lambda: registered.allocatable(U55C) == 1)
    registered.wait_for(lambda: len(registered.registrations) >= count + 3)  # the new one may have been there
    registered.wait_for(lambda: registered.allocatable(U200) == 2)
    assert all(end.clean for end in registered.ends if end.endpoint in before)


def test_a_shell_appears(registered: KubeletDouble, cards: SampleNode) -> None:
    cards.add_card("u55c", "0000:41:00")
    registered.wait_for(lambda: registered.allocatable(U55C) == 1)
    cards.add_card("u250", "0000:51:00")
    registered.wait_for(lambda: registered.allocatable(U250) == 2)
    assert len(registered.lists(U200)) == 1, "no other resource hears of it"
    assert len(registered.lists(U250)) == 2


def test_a_shell_goes(registered: KubeletDouble, cards: SampleNode) -> None:
    cards.cards[2].remove()
    registered.wait_for(lambda: registered.capacity(U250) == 0)
    [end] = registered.wait_for(lambda: registered.ends)
    assert end.clean
    assert registered.lists(U250)[-1].health == {}
    eventually(lambda: len(ours(cards)) == 1, "its socket is gone")
    assert len(registered.lists(U200)) == 1
    cards.cards[2].plug()
    registered.wait_for(lambda: registered.allocatable(U250) == 1)


def test_a_card_pulled_shortens_the_list(registered: KubeletDouble, cards: SampleNode) -> None:
    cards.cards[0].remove()
    registered.wait_for(lambda: registered.capacity(U200) == 1)
    assert registered.ends == []
    status = refused(registered.allocate, U200, ["0000:11:00.1"])
    assert status.code() is grpc.StatusCode.NOT_FOUND


def test_a_card_reprogrammed_moves_in_one_step(registered: KubeletDouble, cards: SampleNode) -> None:
    cards.cards[0].reprogram("u250")
    registered.wait_for(lambda: registered.capacity(U250) == 2)
    registered.wait_for(lambda: registered.capacity(U200) == 1)
    registered.wait_for(lambda: registered.allocatable(U250) == 2)
    both = sorted(registered.lists(U200) + registered.lists(U250), key=lambda each: each.time)
    assert all(
        "0000:11:00.1" not in each.health for each in both if each.resource == U250 and len(each.health) < 2
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly(
    registered: KubeletDouble, cards: SampleNode, service: Service, number: signal.Signals
) -> None:
    service.process.send_signal(number)
    assert service.process.wait(ENDS) == 0
    registered.wait_for(lambda: len(registered.ends) == 2)
    assert all(end.clean for end in registered.ends), registered.ends
    assert [len(registered.lists(name)) for name in (U200, U250)] == [1, 1], "no empty list at a shutdown"
    assert ours(cards) == []


def test_it_ends_while_a_read_hangs_and_a_second_signal_changes_nothing(
    registered: KubeletDouble, cards: SampleNode, service: Service
) -> None:
    cards.cards[0].hang("ready")
    registered.wait_for(lambda: registered.allocatable(U200) == 1)
    service.process.terminate()
    service.process.terminate()
    assert service.process.wait(ENDS) == 0
    assert ours(cards) == []


def test_signals_until_the_very_end_change_nothing(registered: KubeletDouble, service: Service) -> None:
    while service.process.poll() is None:
        service.process.send_signal(signal.SIGTERM)
        time.sleep(0.0005)
    assert service.process.returncode == 0
    assert service.raw[-1].startswith("{")


@pytest.mark.parametrize("within", [False, True])
async def test_a_part_that_keeps_a_cancellation_to_itself_ends(within: bool) -> None:
    # As one does whose connection is lost in the very turn: grpclib's Wrapper makes another error of it.
    async def stubborn() -> None:
        for _ in range(3):
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                continue

    async def group() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(stubborn())

    part = asyncio.create_task(group() if within else stubborn())
    await asyncio.sleep(0.01)
    with mock.patch("xilinx_fpga_dp.aio.supervise._ENDING", 0.05):
        async with asyncio.timeout(5):
            await end([part])
    assert part.done()


def test_a_newer_instance_that_ends_lets_the_older_speak_after_its_streams_have_ended(
    cards: SampleNode, kubelet: KubeletDouble
) -> None:
    """Kubelets up to 1.36 drop the endpoint that has registered before an old stream's end."""
    with Service(settings_for(cards)) as older:
        older.logged(Event.DEVICE_FOUND)
        eventually(lambda: len(lock_files(cards)) == 1, "its lock is held")
        with Service(settings_for(cards)) as newer:
            newer.logged(Event.DEVICE_FOUND)
            kubelet.start()
            newer.logged(Event.REGISTERED, resource=U250)
            endpoint = newer.logged(Event.REGISTERED, resource=U200)["endpoint"]
            kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2)
            count = len(kubelet.registrations)
            cards.cards[0].hang("ready")
            calling = threading.Thread(target=_refused, args=(kubelet, cards.cards[0].address))
            calling.start()  # the newer waits for it a moment when it ends
            time.sleep(0.1)
            assert newer.terminate() == 0
            calling.join()
            cards.cards[0].unhang("ready")
        kubelet.wait_for(lambda: len(kubelet.registrations) > count)
        [ended] = kubelet.wait_for(lambda: [each.time for each in kubelet.ends if each.endpoint == endpoint])
        assert kubelet.registrations[count].time > ended
        kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2)


def _refused(kubelet: KubeletDouble, address: str) -> None:
    with pytest.raises(grpc.RpcError):
        kubelet.allocate(U200, [address])


def test_it_ends_without_a_kubelet(cards: SampleNode, service: Service) -> None:
    service.logged(Event.DEVICE_FOUND)
    assert service.terminate() == 0


def test_a_dead_instances_sockets_are_swept_and_a_live_ones_are_not(
    cards: SampleNode, kubelet: KubeletDouble
) -> None:
    kubelet.start()
    with Service(settings_for(cards)) as dead:
        kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2)
        dead.process.kill()
        dead.process.wait(5)
    left = ours(cards)
    assert len(left) == 2
    no_sockets = [Path(f"{cards.socket_dir}/{name}-fpga.sock") for name in ("file", "directory")]
    no_sockets[0].touch()
    no_sockets[1].mkdir()
    alive = f"{cards.socket_dir}/somebody-elses-fpga.sock"
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(alive)
        live.listen()
        with Service(settings_for(cards)):
            kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2)
            eventually(lambda: not set(left) & set(ours(cards)), "swept")
            assert os.path.exists(alive)
            assert all(each.exists() for each in no_sockets)


def test_a_guests_stream_disturbs_nobody(registered: KubeletDouble, service: Service) -> None:
    count = len(registered.registrations)
    endpoint = next(r.endpoint for r in registered.registrations if r.resource == U250)
    with grpc.insecure_channel(
        f"unix://{registered.directory}/{endpoint}", options=[("grpc.default_authority", "x")]
    ) as channel:
        lists: Any = channel.unary_stream("/v1beta1.DevicePlugin/ListAndWatch")
        stream = lists(b"", timeout=5)
        assert next(stream) == registered.lists(U250)[0].encoded
        stream.cancel()
    time.sleep(0.3)
    assert len(registered.registrations) == count
    assert registered.allocatable(U250) == 1


def test_a_hundred_allocates_at_once(registered: KubeletDouble) -> None:
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: registered.allocate_raw(U200, ["0000:11:00.1"]), range(100)))
    assert len(set(answers)) <= 2  # the serial number may come in meanwhile


@pytest.mark.parametrize("method", ["allocate", "pre_start"])
def test_a_hanging_device_is_refused_in_time(cards: SampleNode, kubelet: KubeletDouble, method: str) -> None:
    patient = {"HEALTH_INTERVAL": "60", "SCAN_INTERVAL": "60"}
    with Service(settings_for(cards, REQUEST_TIMEOUT="2", PRESTART_CHECK="true", **patient)):
        kubelet.start()
        kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2)
        cards.cards[0].hang("ready")
        os.unlink(f"{cards.root}{cards.cards[0].render_node}")  # so that its driver has to be asked
        details = ""
        for _ in range(3):  # of a loop that is late all of the time is over, not the device's share of it
            status = refused(getattr(kubelet, method), U200, ["0000:11:00.1"])
            assert status.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            if "0000:11:00.1" in (details := status.details() or ""):
                break
        assert "0000:11:00.1" in details
        getattr(kubelet, method)(U200, ["0000:21:00.1"])


def test_two_prefixes_need_no_more_than_a_setting(cards: SampleNode, kubelet: KubeletDouble) -> None:
    with Service(settings_for(cards, RESOURCE_PREFIX="amd.com/", RESOURCE_NAME_TEMPLATE="{board}")):
        kubelet.start()
        kubelet.wait_for(lambda: kubelet.resources().keys() == {"amd.com/u200", "amd.com/u250"})


def test_a_long_socket_directory_still_fits(node: SampleNode) -> None:
    node.add_card("u55c", "0000:41:00")
    long = Path(node.root) / ("x" * (107 - len(node.root) - 1 - len("/0123456789ab-fpga.sock")))
    long.mkdir()
    kubelet = KubeletDouble(long)
    with kubelet, Service(settings_for(node, SOCKET_DIR=str(long))):
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1)


def test_an_unknown_variable_is_a_warning(cards: SampleNode) -> None:
    with Service(settings_for(cards, SERVICE_HOST="10.0.0.1")) as service:
        assert service.logged(Event.UNKNOWN_SETTING)["variable"] == "XILINX_FPGA_DP_SERVICE_HOST"


def test_of_two_instances_the_newer_speaks(cards: SampleNode, kubelet: KubeletDouble) -> None:
    kubelet.start()
    with Service(settings_for(cards)) as older:
        kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2)
        [first] = kubelet.lists(U200)
        with Service(settings_for(cards)) as newer:
            older.logged(Event.SUPERSEDED, resource=U200)
            kubelet.wait_for(lambda: len(kubelet.lists(U200)) == 2)
            assert kubelet.ends == [], "the older keeps its stream: its end would cost the newer's endpoint"
            cards.cards[0].offline()
            kubelet.wait_for(lambda: kubelet.allocatable(U200) == 1)
            time.sleep(0.5)
            assert len(kubelet.lists(U200)) == 3, "the older is silent"
            newer.process.kill()
            newer.process.wait(5)
        died = time.monotonic()
        cards.cards[0].mend()
        kubelet.wait_for(lambda: kubelet.lists(U200)[-1].time > died and kubelet.allocatable(U200) == 2)
        assert kubelet.lists(U200)[-1].endpoint not in {each.endpoint for each in kubelet.lists(U200)[:3]}
        assert first.endpoint != kubelet.lists(U200)[-1].endpoint


def test_a_newer_instance_that_came_and_went_unseen_is_noticed(
    registered: KubeletDouble, cards: SampleNode, service: Service
) -> None:
    service.process.send_signal(signal.SIGSTOP)
    with Service(settings_for(cards)) as newer:
        for name in (U200, U250):
            newer.logged(Event.REGISTERED, resource=name)
        assert newer.terminate() == 0
    registered.wait_for(lambda: registered.allocatable(U200) == 0)
    service.process.send_signal(signal.SIGCONT)
    registered.wait_for(lambda: registered.allocatable(U200) == 2 and registered.allocatable(U250) == 1)


@pytest.mark.parametrize("remade", ["moved", "removed"])
def test_the_older_stays_silent_where_the_directory_is_made_anew(
    cards: SampleNode, kubelet: KubeletDouble, remade: str
) -> None:
    kubelet.start()
    with Service(settings_for(cards)) as older:
        kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2)
        with Service(settings_for(cards)) as newer:
            older.logged(Event.SUPERSEDED, resource=U200)
            for name in (U200, U250):
                newer.logged(Event.REGISTERED, resource=name)
            newer.process.send_signal(signal.SIGSTOP)  # so that the older is the first in the new directory
            kubelet.kill()
            if remade == "moved":
                os.rename(cards.socket_dir, f"{cards.socket_dir}.moved")
            else:
                remove(Path(cards.socket_dir))
            count = len(kubelet.registrations)
            kubelet.start()
            time.sleep(1.0)
            assert len(kubelet.registrations) == count, "the older is silent"
            newer.process.send_signal(signal.SIGCONT)
            kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2 and kubelet.allocatable(U250) == 1)
            for name in (U200, U250):
                newer.logged(Event.REGISTERED, resource=name, count=2)
            assert len(kubelet.registrations) == count + 2, "the older stays silent"


@pytest.mark.parametrize("by_socket", [False, True])
def test_a_rolling_update_leaves_no_gap_to_speak_of(cards: SampleNode, by_socket: bool) -> None:
    kubelet = KubeletDouble(Path(cards.socket_dir), by_socket=by_socket)
    with kubelet, Service(settings_for(cards)) as older:
        kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2)
        with Service(settings_for(cards)) as newer:
            kubelet.wait_for(lambda: len(kubelet.lists(U200)) == 2)
            older.logged(Event.SUPERSEDED, resource=U200)
            assert older.terminate() == 0
            kubelet.wait_for(lambda: len(kubelet.ends) >= 2)
            kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2 and kubelet.allocatable(U250) == 1)
            assert newer.terminate() == 0
    assert ours(cards) == []
    assert lock_files(cards) == []


def test_lock_files_survive_the_wipe_and_those_of_dead_instances_are_removed(
    cards: SampleNode, kubelet: KubeletDouble
) -> None:
    with Service(settings_for(cards)) as dead:
        dead.logged(Event.DEVICE_FOUND)
        eventually(lambda: lock_files(cards), "its lock is held")
        dead.process.kill()
    with Service(settings_for(cards)):
        kubelet.start()
        kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2)
        kubelet.restart()
        kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2)
        assert len(lock_files(cards)) == 1


def _holds_signals_back(pid: int) -> bool:
    """Whether it does so, or heeds them already; between fork and exec all signals are held back."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    term = 1 << (signal.SIGTERM - 1)
    heeded = sum(1 << (number - 1) for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM))
    return int(status["SigBlk"], 16) == heeded or bool(int(status["SigCgt"], 16) & term)


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.2, 0.3, 0.4])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_at_start_is_heeded(cards: SampleNode, delay: float, number: signal.Signals) -> None:
    with Service(settings_for(cards)) as service:
        # The interpreter's own start is not ours.
        eventually(lambda: _holds_signals_back(service.process.pid), "it has begun")
        time.sleep(delay)
        service.process.send_signal(number)
        if number is signal.SIGTERM:
            assert service.process.wait(20) == 0
        else:
            service.logged(Event.DEVICE_FOUND)
            assert service.terminate() == 0


def test_an_unreadable_bus_is_no_evidence_that_cards_are_gone(
    registered: KubeletDouble, cards: SampleNode, service: Service
) -> None:
    os.rename(f"{cards.sysfs_root}/bus", f"{cards.sysfs_root}/away")
    service.logged(Event.SCAN_FAILED)
    time.sleep(0.5)
    os.rename(f"{cards.sysfs_root}/away", f"{cards.sysfs_root}/bus")
    time.sleep(0.5)
    assert [len(registered.lists(name)) for name in (U200, U250)] == [1, 1]
    assert registered.ends == []


FRESH_FAULTS: dict[str, Any] = {
    "offline": lambda card: card.offline(),
    "not-ready": lambda card: card.not_ready(),
    "no-driver": lambda card: os.unlink(card.path("driver")),
    "reprogrammed": lambda card: card.write("rom/VBNV", "xilinx_u250_other"),
    "resetting": lambda card: card.reset_begin(),
}


@pytest.mark.parametrize("name", FRESH_FAULTS)
def test_a_grant_looks_at_the_device_again(cards: SampleNode, kubelet: KubeletDouble, name: str) -> None:
    with Service(settings_for(cards, HEALTH_INTERVAL="60", SCAN_INTERVAL="60")):
        kubelet.start()
        kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2)
        time.sleep(1.5)  # the serial numbers are news: the scan they ask for would see a fault half begun
        FRESH_FAULTS[name](cards.cards[0])
        status = refused(kubelet.allocate, U200, ["0000:11:00.1"])
        assert status.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert name in (status.details() or "")


@pytest.mark.parametrize("there", [True, False])
def test_a_read_only_directory_is_reported_and_waited_for(
    cards: SampleNode, kubelet: KubeletDouble, *, there: bool
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount")
    if there:
        kubelet.start()
    here = cards.socket_dir
    if os.system(f"mount --bind {here} {here} && mount -o remount,ro,bind {here}") != 0:  # noqa: S605
        pytest.skip("no mounts here")
    try:
        with Service(settings_for(cards)) as service:
            assert (
                service.logged(Event.SOCKET_DIRECTORY_UNUSABLE, path=here)["problem"]
                == "Read-only file system"
            )
            if there:
                assert service.logged(Event.NOT_REGISTERED)["error"] == f"Read-only file system: {here}"
            eventually(lambda: os.system(f"umount {here}") == 0, "a look at it keeps it busy")  # noqa: S605
            if not there:
                kubelet.start()
            kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2)
    finally:
        os.system(f"umount {here} 2>/dev/null")  # noqa: S605


def test_allocates_while_devices_change(registered: KubeletDouble, cards: SampleNode) -> None:
    """Each call is answered for the card as it is, or refused with a sentence; none is lost."""

    def ask(_: int) -> str:
        try:
            [container] = registered.allocate(U200, ["0000:11:00.1"]).container_responses
            return str(container.devices[0].host_path)
        except grpc.RpcError as error:
            assert isinstance(error, grpc.Call)
            return str(error.code())

    card = cards.cards[0]
    with ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(ask, number) for number in range(100)]
        for render in (150, 151, 152):
            card.reset_begin()
            time.sleep(0.05)
            card.reset_end(render=render)
            asked += [pool.submit(ask, number) for number in range(30)]
        answers = {each.result(20) for each in asked}
    refusals = {"StatusCode.FAILED_PRECONDITION", "StatusCode.NOT_FOUND"}
    assert answers - refusals <= {f"/dev/dri/renderD{number}" for number in (128, 129, 130, 150, 151, 152)}
    registered.wait_for(lambda: registered.allocatable(U200) == 2)
    eventually(lambda: ask(0) == "/dev/dri/renderD152", "as it is now")


async def test_a_socket_that_a_new_kubelet_has_removed_is_not_named(
    node: SampleNode, kubelet: KubeletDouble
) -> None:
    kubelet.dial_limit = 0.2
    kubelet.start()
    with pytest.raises(FileNotFoundError, match=r"gone-fpga\.sock"):
        await register(str(kubelet.socket), "gone-fpga.sock", U200, options(preferred=True, pre_start=False))
    await asyncio.sleep(0.5)
    assert kubelet.refusals == [], "kubelet was not made to dial it"
