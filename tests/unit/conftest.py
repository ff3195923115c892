"""The rules of the unit tier: no process, no long sleep."""

import sys
import time
from collections.abc import Iterator

import pytest

_LONGEST_SLEEP = 0.05  # seconds

_in_unit_test = False


def _forbid(event: str, arguments: tuple[object, ...]) -> None:
    if _in_unit_test and event in ("subprocess.Popen", "os.fork", "os.posix_spawn"):
        raise AssertionError(f"a unit test starts a process: {arguments[:1]}; move it to tests/service")


sys.addaudithook(_forbid)


@pytest.fixture(autouse=True)
def unit_tier(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test that starts a process or sleeps too long."""
    global _in_unit_test  # noqa: PLW0603 - an audit hook cannot be removed
    sleep = time.sleep

    def short_sleep(seconds: float) -> None:
        assert seconds <= _LONGEST_SLEEP, f"a unit test sleeps {seconds} s; move it to tests/service"
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", short_sleep)
    _in_unit_test = True
    yield
    _in_unit_test = False
