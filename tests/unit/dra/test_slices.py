"""The waits between restorations of slices that others change."""

from xilinx_fpga_dp.dra.slices import Truces


def pauses(between: float, times: int) -> list[float]:
    """Return the waits where others change the slices so many seconds after each restoration."""
    truces, now, found = Truces(), 1000.0, []
    for _ in range(times):
        found.append(truces.next(now))
        now += found[-1] + between
    return found


def test_war_ends_in_a_write_each_half_minute() -> None:
    assert pauses(0.1, 60) == [0, 0, 0, 1, 2, 4, 8, 16, *[30] * 52]


def test_rare_changes_are_restored_at_once() -> None:
    assert pauses(31, 60) == [0] * 60


def test_peace_of_a_minute_ends_the_waits() -> None:
    truces = Truces()
    now = 0.0
    for _ in range(10):
        now += truces.next(now)
    assert truces.next(now + 60) == 0
