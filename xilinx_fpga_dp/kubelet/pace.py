"""How fast one resource may talk: a few messages in a row, then one a second. Pure."""


class Pace:
    """Allows ``burst`` messages in a row, then one every ``interval`` seconds.

    The first message after a quiet interval is never delayed.
    """

    def __init__(self, burst: int, interval: float) -> None:
        self._interval = interval
        self._span = (burst - 1) * interval
        self._next = 0.0  # when messages at the even pace would be used up

    def delay(self, now: float) -> float:
        """Seconds until a message may be sent; 0: now.

        Args:
            now: the time, seconds.
        """
        return max(0.0, self._next - self._span - now)

    def sent(self, now: float) -> None:
        """A message is sent."""
        self._next = max(self._next, now) + self._interval
