"""The rate limit: a burst, then an even rate."""

import asyncio
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from xilinx_fpga_dp.aio.rate_limit import RateLimit


class _Clock:
    """A clock that sleeping moves on, in place of the loop."""

    now = 0.0

    def time(self) -> float:
        return self.now

    async def sleep(self, delay: float) -> None:
        self.now += max(0.0, delay)


@given(st.lists(st.just(0.0) | st.floats(0, 3), max_size=60))
def test_five_in_a_row_then_one_a_second(waits: list[float]) -> None:
    clock = _Clock()
    sent: list[float] = []

    async def send() -> None:
        limit = RateLimit(5, 1.0)
        for wait in waits:
            clock.now += wait
            began = clock.now
            await limit.wait()
            if wait >= 1 and sent:
                assert clock.now == began, "never after a quiet second"
            sent.append(clock.now)

    with mock.patch(
        "xilinx_fpga_dp.aio.rate_limit.asyncio", sleep=clock.sleep, get_running_loop=lambda: clock
    ):
        asyncio.run(send())
    for index, start in enumerate(sent):
        within = [time for time in sent[index:] if time - start < 1 - 1e-6]
        assert len(within) <= 5 + 1
    for first, sixth in zip(sent, sent[5:], strict=False):
        assert sixth - first >= 1 - 1e-6
