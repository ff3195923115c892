"""Faults of the API server. While each lasts a card breaks, and kubelet has to hear of it as ever."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.faults.fault import EVER, Catalogue
from tests.faults.stage import Stage, wait_until
from tests.support.api_server import RunningApiServer
from xilinx_fpga_dp.apiserver.client import CALL_LIMIT
from xilinx_fpga_dp.simulate.api_server import Trouble

faults = Catalogue()

_PATIENCE = 10.0  # seconds until a fault has its effect on a busy machine
_HELD = 0.4  # seconds that a fault lasts after its effect


def _server(stage: Stage) -> RunningApiServer:
    assert stage.api is not None
    return stage.api


@contextmanager
def _broken_card(stage: Stage) -> Iterator[None]:
    """Break a card and mend it, so that there is something to report."""
    card = stage.cards("u250")[0]
    card.offline()
    try:
        yield
    finally:
        card.mend()


def _answers(name: str, *, back: float = 1.5, long: bool = False, **what: object) -> None:
    """Add a fault: something goes wrong with every answer."""

    def steps(stage: Stage) -> Iterator[None]:
        server = _server(stage)
        trouble: Trouble = server.trouble(**what)
        with _broken_card(stage):
            stage.expect(wait_until(lambda: trouble.hits > 0, _PATIENCE), "no call")
            yield
            server.do(lambda: server.api.troubles.remove(trouble))

    _add(name, steps, back=back, long=long)


def _add(
    name: str, steps: Callable[[Stage], Iterator[None]], *, back: float = 1.5, long: bool = False
) -> None:
    faults.fault(
        f"API server {name}",
        touches="u250",
        devices=True,
        gap=EVER,
        back=back,
        lasts=_HELD,
        place="API server",
        api=True,
        long=long,
    )(steps)


def _stopped(stage: Stage) -> Iterator[None]:
    server = _server(stage)
    server.stop()
    with _broken_card(stage):
        yield
        server.start()


def _restarted(stage: Stage) -> Iterator[None]:
    server = _server(stage)
    with _broken_card(stage):
        for _ in range(10):
            server.stop()
            server.start()
        yield


def _token_rotated(stage: Stage) -> Iterator[None]:
    server = _server(stage)
    server.rotate_token(f"token-{time.monotonic_ns()}")
    with _broken_card(stage):
        yield


def _authority_rotated(stage: Stage) -> Iterator[None]:
    server = _server(stage)
    server.stop()
    server.new_authority()
    with _broken_card(stage):
        server.start()
        yield


_add("stopped", _stopped)
_add("restarted 10 times", _restarted)
_add("with a new token", _token_rotated)
_add("with a new authority", _authority_rotated)
for _code in (401, 404, 409, 410, 422, 500):
    _answers(f"answers {_code}", code=_code)
for _code in (429, 503):
    _answers(f"answers {_code} with Retry-After", code=_code, retry_after=1, back=3.0)
# A right comes by hand, so the next attempt is a minute later.
_answers("answers 403", code=403, back=61.0, long=True)
_answers("answers nonsense", code=200)
_answers("cuts before it answers", cut="before")
_answers("cuts after it has written", cut="after")
_answers("is slow", delay=20.0, back=CALL_LIMIT + 1.5)
