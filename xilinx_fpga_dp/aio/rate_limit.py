"""Limits how often something is done: a burst, then an even rate. Pure."""


class RateLimit:
    """Allows ``burst`` times in a row, then one every ``interval`` seconds.

    The first time after a quiet interval is never delayed.
    """

    def __init__(self, burst: int, interval: float) -> None:
        self._interval = interval
        self._span = (burst - 1) * interval
        self._next = 0.0  # when the even rate allows the next one

    def delay(self, now: float) -> float:
        """Return the seconds to wait at time ``now``; 0 if it is allowed at once."""
        return max(0.0, self._next - self._span - now)

    def done(self, now: float) -> None:
        """Count one that was done at time ``now``."""
        self._next = max(self._next, now) + self._interval
