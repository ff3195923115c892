"""How fast something may be done: a few times in a row, then at an even pace. Pure."""


class RateLimit:
    """Allows ``burst`` times in a row, then one every ``interval`` seconds.

    The first time after a quiet interval is never delayed.
    """

    def __init__(self, burst: int, interval: float) -> None:
        self._interval = interval
        self._span = (burst - 1) * interval
        self._next = 0.0  # when what the even pace allows would be used up

    def delay(self, now: float) -> float:
        """Seconds until it may be done; 0: now.

        Args:
            now: the time, seconds.
        """
        return max(0.0, self._next - self._span - now)

    def done(self, now: float) -> None:
        """It is done."""
        self._next = max(self._next, now) + self._interval
