"""Faults of the API server.

While each lasts a card breaks, and kubelet has to hear of it as ever. The node's status gets its cards, so
the startup taint has to go. Afterwards the server knows all of it, and of no Event twice.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.faults.fault import EVER, Catalogue
from tests.faults.stage import SHELLS, Stage, wait_until
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
def _news(stage: Stage, *, events: bool = True) -> Iterator[None]:
    """Break a card and mend it, and count the cards, so that there is something to report.

    Args:
        stage: the stage.
        events: whether the server has to get the Events in the end.
    """
    stage.count_cards()
    card = stage.cards("u250")[0]
    card.firewall_trip()
    patience = _HELD if stage.paired else _PATIENCE  # kubelet may be down
    heard = wait_until(lambda: stage.kubelet.allocatable(SHELLS["u250"]) == 0, patience)
    stage.expect(heard, "kubelet has not heard of the card")
    try:
        yield
    finally:
        card.mend()
    if events:
        name = f"{card.address} (u250)"
        stage.told |= {f"{name}: firewall", f"{name}: healthy after firewall"}


def _answers(name: str, *, back: float = 1.5, **what: object) -> None:
    """Add a fault: something goes wrong with every answer."""

    def steps(stage: Stage) -> Iterator[None]:
        server = _server(stage)
        trouble: Trouble = server.trouble(**what)
        # Content that the server has called invalid is not sent again
        with _news(stage, events=what.get("code") != 422):
            stage.expect(wait_until(lambda: trouble.hits > 0, _PATIENCE), "no call")
            yield
            server.do(lambda: server.api.troubles.remove(trouble))

    _add(name, steps, back=back)


def _add(name: str, steps: Callable[[Stage], Iterator[None]], *, back: float = 1.5) -> None:
    faults.fault(
        f"API server {name}",
        touches="u250",
        devices=True,
        gap=EVER,
        back=back,
        lasts=_HELD,
        place="API server",
        api=True,
    )(steps)


def _stopped(stage: Stage) -> Iterator[None]:
    server = _server(stage)
    server.stop()
    with _news(stage):
        yield
        server.start()


def _restarted(stage: Stage) -> Iterator[None]:
    server = _server(stage)
    with _news(stage):
        for _ in range(10):
            server.stop()
            server.start()
        yield


def _token_rotated(stage: Stage) -> Iterator[None]:
    server = _server(stage)
    server.rotate_token(f"token-{time.monotonic_ns()}")
    with _news(stage):
        yield


def _authority_rotated(stage: Stage) -> Iterator[None]:
    server = _server(stage)
    server.stop()
    server.new_authority(identified=False)  # as of some clusters; Python 3.13 would refuse it by default
    with _news(stage):
        server.start()
        yield


def _connections_broken(stage: Stage) -> Iterator[None]:
    server = _server(stage)
    with _news(stage):
        for _ in range(20):
            server.do(server.api.break_connections)
            time.sleep(0.02)
        yield


_add("stopped", _stopped)
_add("restarted 10 times", _restarted)
_add("breaks idle connections", _connections_broken)
_add("with a new token", _token_rotated)
_add("with a new authority", _authority_rotated)
for _code in (401, 404, 409, 410, 422, 500):
    _answers(f"answers {_code}", code=_code)
for _code in (429, 503):
    _answers(f"answers {_code} with Retry-After", code=_code, retry_after=1, back=3.0)
# A right comes by hand, so the next attempt is a minute later; here two seconds.
_answers("answers 403", code=403, back=3.5)
_answers("answers nonsense", code=200)
_answers("cuts before it answers", cut="before")
_answers("cuts after it has written", cut="after")
_answers("is slow", delay=20.0, back=CALL_LIMIT + 1.5)
