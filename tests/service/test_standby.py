"""Scans of the socket directory: each shows what was done before it was requested."""

import asyncio
import socket
from pathlib import Path
from unittest import mock

import pytest

from tests.support.directory import socket_directory

_OURS = "a-fpga.sock"


def _make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


async def test_restart_after_a_failure_is_active(tmp_path: Path) -> None:
    directory = socket_directory(tmp_path)
    await directory.refresh()
    failing = mock.patch.object(directory, "refresh", side_effect=RuntimeError("a bug"))
    with failing, pytest.raises(RuntimeError):
        await directory.run()
    running = asyncio.create_task(directory.run())
    await asyncio.sleep(0.1)
    assert not directory.state.value.standby
    _make_socket(tmp_path / _OURS)
    async with asyncio.timeout(10):
        await directory.state.until(lambda seen: bool(seen.sockets))
    running.cancel()
    await asyncio.wait([running])
    assert (await directory.refresh()).standby, "it stands by once it has been cancelled"
