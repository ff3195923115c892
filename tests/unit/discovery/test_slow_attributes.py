"""When slow attributes are read, with a clock of the test's own."""

from collections.abc import Callable, Iterator
from unittest import mock

import pytest

from xilinx_fpga_dp.discovery.schedules import BOOT, DEVICE_INFO, READY, SERIAL, TRIP, Schedule
from xilinx_fpga_dp.discovery.slow_attributes import SlowAttributes, SlowRead
from xilinx_fpga_dp.discovery.sysfs import Unreadable


class Card:
    """A card whose attributes are read at once, at a time that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.reads: list[tuple[float, str]] = []
        self.results: dict[str, str | Exception | None] = {}
        self.slow = SlowAttributes(lambda: None)

    def _read(self, name: str) -> Callable[[], str | None]:
        def read() -> str | None:
            result = self.results.get(name)
            if isinstance(result, Exception):
                raise result
            self.reads.append((self.now, name))
            return result

        return read

    def at(self, now: float, *, well: bool = True, **schedules: Schedule) -> None:
        """Ask for these attributes at a time."""
        self.now = now
        wanted = {name: SlowRead(schedule, self._read(name)) for name, schedule in schedules.items()}
        self.slow.refresh("card", wanted, frozenset(wanted), well=well)

    def each_second(self, begin: int, end: int, *, well: bool = True, **schedules: Schedule) -> None:
        for now in range(begin, end):
            self.at(now, well=well, **schedules)


def _at_once(body: Callable[[], None], _: str) -> bool:
    body()
    return True


@pytest.fixture
def card() -> Iterator[Card]:
    card = Card()
    loop = mock.Mock(time=lambda: card.now, call_soon_threadsafe=lambda call, *arguments: call(*arguments))
    room = "xilinx_fpga_dp.discovery.slow_attributes"
    with (
        mock.patch(f"{room}.start_thread", _at_once),
        mock.patch(f"{room}.asyncio", mock.Mock(get_running_loop=lambda: loop)),
    ):
        yield card


class TestSerialNumber:
    def test_is_given_up_after_8_reads(self, card: Card) -> None:
        card.each_second(0, 2000, serial=SERIAL)
        assert [now for now, _ in card.reads] == [0, 2, 6, 14, 30, 62, 126, 254]

    def test_is_read_until_it_is_known(self, card: Card) -> None:
        card.each_second(0, 10, serial=SERIAL)
        card.results["serial"] = "XFL1"
        card.each_second(10, 1000, serial=SERIAL)
        assert len(card.reads) == 4
        assert card.slow.get("card").serial == "XFL1"

    def test_is_asked_again_after_a_fault(self, card: Card) -> None:
        card.each_second(0, 400, serial=SERIAL)
        card.each_second(400, 410, well=False, serial=SERIAL)
        card.each_second(410, 1000, serial=SERIAL)
        assert len(card.reads) == 16

    def test_known_one_outlives_a_fault(self, card: Card) -> None:
        card.results["serial"] = "XFL1"
        card.each_second(0, 3, serial=SERIAL)
        card.each_second(3, 6, well=False, serial=SERIAL)
        card.each_second(6, 99, serial=SERIAL)
        assert card.slow.get("card").serial == "XFL1"
        assert len(card.reads) == 1

    def test_fault_before_it_is_given_up_changes_nothing(self, card: Card) -> None:
        for now in range(2000):
            card.at(now, well=now % 2 == 0, serial=SERIAL)
        others = [now for now, _ in card.reads if now < 300]
        assert others == [0, 2, 6, 14, 30, 62, 126, 254]

    def test_flapping_device_is_asked_once_a_minute_at_most(self, card: Card) -> None:
        for now in range(36000):
            card.at(now, well=now % 2 == 0, serial=SERIAL)
        assert len(card.reads) < 36000 / 30

    def test_another_card_is_asked_again(self, card: Card) -> None:
        card.each_second(0, 400, serial=SERIAL)
        card.slow.retain(())
        card.at(400, serial=SERIAL)
        assert len(card.reads) == 9


class TestOthers:
    def test_trip_is_read_once_while_it_is_asked_for(self, card: Card) -> None:
        card.results["trip"] = "2/1/0"
        card.each_second(0, 300, well=False, trip=TRIP)
        assert len(card.reads) == 1
        assert card.slow.get("card").trip == "2/1/0"
        card.at(300)
        assert card.slow.get("card").trip is None

    def test_trip_of_a_flapping_device_is_read_every_30_s(self, card: Card) -> None:
        for now in range(300):
            if now % 2:
                card.at(now)
            else:
                card.at(now, trip=TRIP)
        assert len(card.reads) == 10

    def test_ready_is_read_every_60_s(self, card: Card) -> None:
        card.each_second(0, 600, ready=READY)
        assert [now for now, _ in card.reads] == list(range(0, 600, 60))

    def test_ready_is_not_read_more_often_if_it_flaps(self, card: Card) -> None:
        for now in range(600):
            if now % 3:
                card.at(now, well=now % 2 == 0)
            else:
                card.at(now, well=now % 2 == 0, ready=READY)
        assert len(card.reads) <= 10

    def test_image_is_read_again_after_a_fault(self, card: Card) -> None:
        card.results["warning"] = "backup"
        card.each_second(0, 100, warning=BOOT)
        assert len(card.reads) == 1
        card.at(100, well=False, warning=BOOT)
        card.results["warning"] = None
        card.each_second(101, 200, warning=BOOT)
        assert len(card.reads) == 2
        assert card.slow.get("card").warning is None

    def test_what_cannot_be_read_now_is_not_counted(self, card: Card) -> None:
        card.results["serial"] = Unreadable("the link is down")
        card.each_second(0, 50, serial=DEVICE_INFO)
        card.results["serial"] = "XFL1"
        card.each_second(50, 400, serial=DEVICE_INFO)
        assert len(card.reads) == 1
        assert card.slow.get("card").serial == "XFL1"
