"""Files of rename rules."""

import os
from pathlib import Path

from xilinx_fpga_dp.hostfiles.watched_file import WatchedFile
from xilinx_fpga_dp.resources.rename_rules import MAX_BYTES, parse


class ConfigMap:
    """A directory like a mounted ConfigMap: files are links into ``..data``, a link that is swapped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._count = 0
        path.mkdir()
        (path / "rules.yaml").symlink_to("..data/rules.yaml")

    def publish(self, text: str) -> str:
        self._count += 1
        fresh = self.path / f"..{self._count}"
        fresh.mkdir()
        (fresh / "rules.yaml").write_text(text)
        (self.path / "..data_tmp").symlink_to(fresh.name)
        os.rename(self.path / "..data_tmp", self.path / "..data")
        return f"{self.path}/rules.yaml"


async def followed(path: Path) -> WatchedFile[tuple[object, ...]]:
    """Return the file after its first read."""
    file = WatchedFile[tuple[object, ...]](str(path), parse, MAX_BYTES)
    await file.read()
    return file
