"""How long to wait after a failed call."""

import random

from xilinx_fpga_dp.apiserver.errors import ApiServerError, Forbidden, NoAnswer, Refused

_FIRST = 0.2  # seconds
_MOST = 30.0  # seconds
# Seconds where no connection was made: an attempt costs the server nothing, and its return is noticed soon.
_MOST_UNCONNECTED = 1.0
_WITHOUT_RIGHT = 60.0  # seconds after 403: a right comes by hand


class Backoff:
    """The waits of one loop: from 0.2 s, doubling to 30 s, with jitter."""

    def __init__(self) -> None:
        self._next = _FIRST

    def after(self, error: ApiServerError | None = None) -> float:
        """Return the seconds to wait after a failure. What the server asks for (Retry-After) is the least."""
        delay = self._next
        self._next = min(delay * 2, _MOST)
        if isinstance(error, Forbidden):
            delay = _WITHOUT_RIGHT
        elif isinstance(error, NoAnswer) and not error.connected:
            delay = min(delay, _MOST_UNCONNECTED)
        delay *= random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        return max(delay, error.retry_after) if isinstance(error, Refused) else delay

    def reset(self) -> None:
        """Begin again with the shortest wait, after a success."""
        self._next = _FIRST
