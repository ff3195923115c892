"""The task that scans the socket directory, after a failure."""

import asyncio
from pathlib import Path
from unittest import mock

import pytest

from tests.support.directory import make_socket, socket_directory

_OURS = "a-fpga.sock"


async def test_restart_after_a_failure_is_active(tmp_path: Path) -> None:
    directory = socket_directory(tmp_path)
    await directory.refresh()
    failing = mock.patch.object(directory, "refresh", side_effect=RuntimeError("a bug"))
    with failing, pytest.raises(RuntimeError):
        await directory.run()
    running = asyncio.create_task(directory.run())
    await asyncio.sleep(0.1)
    assert not directory.state.value.standby
    make_socket(tmp_path / _OURS)
    async with asyncio.timeout(30):
        await directory.state.until(lambda seen: bool(seen.sockets))
    running.cancel()
    await asyncio.wait([running])
    assert (await directory.refresh()).standby, "a cancelled task leaves the directory on standby"
