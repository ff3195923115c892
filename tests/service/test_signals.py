"""Signals and the end of the service."""

import asyncio
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import grpc
import pytest

from tests.support.directory import endpoint_sockets
from tests.support.double import KubeletDouble
from tests.support.process import ENDS, Service
from tests.support.refused import refused
from tests.support.resource_names import U55C, U200, U250
from tests.support.running import settings_for
from tests.support.waiting import wait_for
from xilinx_fpga_dp.aio.supervise import end
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode


def test_pending_call_is_refused_with_reason_at_shutdown(
    registered: KubeletDouble, cards: SampleNode, service: Service
) -> None:
    cards.cards[0].hang("ready")
    os.unlink(f"{cards.root}{cards.cards[0].render_node}")  # Allocate now reads from the driver
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(refused, registered.allocate, U200, ["0000:11:00.1"])
        time.sleep(0.5)
        assert service.terminate() == 0
        status = call.result(5)
    cards.cards[0].unhang("ready")
    assert status.code() is grpc.StatusCode.UNAVAILABLE
    assert "the plugin is ending" in (status.details() or "")


def test_sighup_scans_and_registers_again(
    registered: KubeletDouble, cards: SampleNode, service: Service
) -> None:
    count = len(registered.registrations)
    before = {each.endpoint for each in registered.registrations}
    cards.add_card("u55c", "0000:41:00")
    service.hang_up()
    registered.wait_for(lambda: registered.allocatable(U55C) == 1)
    registered.wait_for(lambda: len(registered.registrations) >= count + 3)  # U55C may be one of the three
    registered.wait_for(lambda: registered.allocatable(U200) == 2)
    assert all(end.clean for end in registered.ends if end.endpoint in before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_service_cleanly(
    registered: KubeletDouble, cards: SampleNode, service: Service, number: signal.Signals
) -> None:
    service.process.send_signal(number)
    assert service.process.wait(ENDS) == 0
    registered.wait_for(lambda: len(registered.ends) == 2)
    assert all(end.clean for end in registered.ends), registered.ends
    assert [len(registered.lists(name)) for name in (U200, U250)] == [1, 1], "no empty list at shutdown"
    assert endpoint_sockets(cards) == []


def test_service_ends_during_hanging_read_and_after_second_signal(
    registered: KubeletDouble, cards: SampleNode, service: Service
) -> None:
    cards.cards[0].hang("ready")
    registered.wait_for(lambda: registered.allocatable(U200) == 1)
    service.process.terminate()
    service.process.terminate()
    assert service.process.wait(ENDS) == 0
    assert endpoint_sockets(cards) == []


def test_repeated_signals_do_not_change_exit_code(registered: KubeletDouble, service: Service) -> None:
    while service.process.poll() is None:
        service.process.send_signal(signal.SIGTERM)
        time.sleep(0.0005)
    assert service.process.returncode == 0
    assert service.raw[-1].startswith("{")


@pytest.mark.parametrize("within", [False, True])
async def test_task_that_suppresses_cancellation_ends(within: bool) -> None:
    # grpclib's Wrapper does so if the connection is lost at the same time: it raises another error.
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
        async with asyncio.timeout(20):
            await end([part])
    assert part.done()


def test_service_ends_without_kubelet(cards: SampleNode, service: Service) -> None:
    service.logged(Event.DEVICE_FOUND)
    assert service.terminate() == 0


def _blocks_signals(pid: int) -> bool:
    """Return whether a process blocks or handles the signals; between fork and exec it blocks all."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    term = 1 << (signal.SIGTERM - 1)
    handled = sum(1 << (number - 1) for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM))
    return int(status["SigBlk"], 16) == handled or bool(int(status["SigCgt"], 16) & term)


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.2, 0.3, 0.4])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_during_start_takes_effect(cards: SampleNode, delay: float, number: signal.Signals) -> None:
    with Service(settings_for(cards)) as service:
        # The service cannot change the effect of a signal during the start of the interpreter.
        wait_for(lambda: _blocks_signals(service.process.pid), "signals are blocked")
        time.sleep(delay)
        service.process.send_signal(number)
        if number is signal.SIGTERM:
            assert service.process.wait(20) == 0
        else:
            service.logged(Event.DEVICE_FOUND)
            assert service.terminate() == 0
