"""A file that configures the service: what makes it read it again."""

import asyncio
from pathlib import Path

import pytest

from tests.support.rule_files import ConfigMap
from tests.support.running import running
from xilinx_fpga_dp.hostfiles.watched_file import WatchedFile


async def test_swapped_config_map_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xilinx_fpga_dp.hostfiles.watched_file._CHECK_EVERY", 600.0)
    volume = ConfigMap(tmp_path / "volume")
    file = WatchedFile(volume.publish("first"), bytes.decode, 100)
    async with running(file.run()), asyncio.timeout(30):
        for text in ("first", "second", "third"):
            volume.publish(text)
            while file.state.value != text:
                await asyncio.sleep(0.01)
