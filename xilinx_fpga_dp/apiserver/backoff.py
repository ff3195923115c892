"""How long to wait after a failed call."""

import random

from xilinx_fpga_dp.apiserver.errors import ApiServerError, Forbidden, NoAnswer, Refused

_FIRST = 0.2  # seconds
_MOST = 30.0  # seconds
# Seconds where no connection was made: an attempt costs the server nothing, and its return is noticed soon.
_MOST_UNCONNECTED = 1.0
# The same after 403, since a right comes by hand. The first ones are short: a server that starts refuses
# all calls until it has read the roles.
_WITHOUT_RIGHT = 60.0


class Backoff:
    """The waits of one loop: from 0.2 s, doubling to 30 s, after 403 to a minute, with jitter."""

    def __init__(self) -> None:
        self._next = _FIRST

    def after(self, error: ApiServerError | None = None) -> float:
        """Return the seconds to wait after a failure. What the server asks for (Retry-After) is the least."""
        most = _MOST
        if isinstance(error, Forbidden):
            most = _WITHOUT_RIGHT
        elif isinstance(error, NoAnswer) and not error.connected:
            most = _MOST_UNCONNECTED
        delay = min(self._next, most)
        self._next = min(delay * 2, most)
        delay *= random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        return max(delay, error.retry_after) if isinstance(error, Refused) else delay

    def reset(self) -> None:
        """Begin again with the shortest wait, after a success."""
        self._next = _FIRST
